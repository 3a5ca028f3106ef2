package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"certswarm/internal/agent/config"
	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/internal/lease/rules"
)

// fewestVoters is how many must be able to vote for a vote to survive the loss of one.
const fewestVoters = 3

// engineOf resolves lease.engine for a peer list. Every node that has the list comes to the same.
func engineOf(wanted config.Engine, list fleet.Roster) config.Engine {
	switch {
	case wanted != config.EngineAuto:
		return wanted
	case len(rules.Electorate(list)) >= fewestVoters:
		return config.EngineRaft
	}
	return config.EngineStatic
}

// office is the lease as a house sees it, whatever engine is in it: a peer list that wants another one gets it without the
// sessions, or anything else of the house, being given up.
type office struct {
	wanted config.Engine
	build  func(config.Engine, fleet.Roster) lease.Elector
	log    *slog.Logger
	news   *broadcast

	mu     sync.Mutex
	roster fleet.Roster       // guarded by mu: of the engine, or of the next one
	kind   config.Engine      // guarded by mu: of engine
	engine lease.Elector      // guarded by mu
	retire context.CancelFunc // guarded by mu: ends engine; nil while Run does not run
	moved  chan struct{}      // guarded by mu: closed when another engine takes over
}

var _ lease.Elector = (*office)(nil)

// openOffice makes the lease. Its engine knows of every epoch that is stamped on a file before it runs: what it grants is above them.
func (h *house) openOffice(list fleet.Roster) {
	ttl := time.Duration(h.cfg.Lease.TTL)
	o := &office{wanted: h.cfg.Lease.Engine, log: h.log, news: newBroadcast(), roster: list, moved: make(chan struct{})}
	network := newCourier(h.mesh, ttl, rules.Tick(ttl), o.deliver, h.log)
	o.build = func(kind config.Engine, list fleet.Roster) lease.Elector {
		engine := lease.Elector(lease.NewStatic(h.self.ID, list, ttl, h.state))
		if kind == config.EngineRaft {
			engine = lease.NewRaft(lease.RaftConfig{
				Self: h.self.ID, Roster: list, TTL: ttl, Network: network, OpenDisk: lease.DiskIn(h.state), Clock: h.edges.Clock, Log: h.log,
			})
		}
		for _, d := range h.syncer.Directories() {
			engine.Saw(d.LatestEpoch())
		}
		return engine
	}
	o.kind = engineOf(o.wanted, list)
	o.engine = o.build(o.kind, list)
	h.elector = o
}

// Run implements lease.Elector: one engine after the other. The next begins when the one before has given up all that it had.
func (o *office) Run(ctx context.Context) error {
	for first := true; ; first = false {
		tenure, retire := context.WithCancel(ctx)
		o.mu.Lock()
		if kind := engineOf(o.wanted, o.roster); kind != o.kind || !first {
			last := o.engine.View().Epoch
			o.log.Info("the peer list wants another engine for the lease", "before", string(o.kind), "now", string(kind))
			o.kind, o.engine = kind, o.build(kind, o.roster)
			o.engine.Saw(last)
			close(o.moved)
			o.moved = make(chan struct{})
		}
		engine := o.engine
		o.retire = retire
		o.mu.Unlock()

		var follower sync.WaitGroup
		follower.Go(func() { o.follow(tenure, engine) })
		err := engine.Run(tenure)
		retire()
		follower.Wait()
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// follow passes on that an engine may tell something else.
func (o *office) follow(ctx context.Context, engine lease.Elector) {
	for {
		changed := engine.Changed()
		o.news.fire()
		select {
		case <-ctx.Done():
			o.news.fire()
			return
		case <-changed:
		}
	}
}

func (o *office) current() (lease.Elector, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.engine, o.moved
}

// deliver takes a message of the vote; other engines have none.
func (o *office) deliver(from fleet.NodeID, message []byte) {
	engine, _ := o.current()
	if raft, votes := engine.(*lease.Raft); votes {
		raft.Deliver(from, message)
	}
}

// Await implements lease.Elector.
func (o *office) Await(ctx context.Context) (lease.Grant, error) {
	for {
		engine, moved := o.current()
		patience, stop := context.WithCancel(ctx)
		go func() {
			select {
			case <-moved:
				stop()
			case <-patience.Done():
			}
		}()
		grant, err := engine.Await(patience)
		stop()
		if err == nil || ctx.Err() != nil {
			return grant, err
		}
	}
}

// SetRoster implements lease.Elector.
func (o *office) SetRoster(roster fleet.Roster) {
	o.mu.Lock()
	o.roster = roster
	another := engineOf(o.wanted, roster) != o.kind
	engine, retire := o.engine, o.retire
	o.mu.Unlock()
	switch {
	case !another:
		engine.SetRoster(roster)
	case retire != nil:
		retire()
	}
}

// View implements lease.Elector.
func (o *office) View() lease.View {
	engine, _ := o.current()
	return engine.View()
}

// Changed implements lease.Elector.
func (o *office) Changed() <-chan struct{} { return o.news.wait() }

// Heard implements lease.Elector.
func (o *office) Heard(from fleet.NodeID, epoch fleet.Epoch) {
	engine, _ := o.current()
	engine.Heard(from, epoch)
}

// Saw implements lease.Elector.
func (o *office) Saw(epoch fleet.Epoch) {
	engine, _ := o.current()
	engine.Saw(epoch)
}

// Resign implements lease.Elector.
func (o *office) Resign(ctx context.Context) error {
	engine, _ := o.current()
	return engine.Resign(ctx)
}

// Standings implements lease.Elector.
func (o *office) Standings(ctx context.Context) ([]lease.Standing, error) {
	engine, _ := o.current()
	return engine.Standings(ctx)
}

// Recover implements lease.Elector.
func (o *office) Recover(ctx context.Context) error {
	engine, _ := o.current()
	return engine.Recover(ctx)
}

// Confirm implements lease.Elector.
func (o *office) Confirm(ctx context.Context) error {
	engine, _ := o.current()
	return engine.Confirm(ctx)
}

// votedElsewhere reports whether this node holds the lease by its peer list alone while somebody who is connected was voted to: while lists are
// being replaced one after the other, the vote comes first.
func (h *house) votedElsewhere() bool {
	if h.elector.View().Engine != "static" {
		return false
	}
	for _, s := range h.mesh.Sessions() {
		if rep, _ := h.reports.get(s.Peer()); !rep.Holds.IsZero() && rep.Engine == "raft" {
			return true
		}
	}
	return false
}
