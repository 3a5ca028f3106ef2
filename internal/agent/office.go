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
//
// While lists are being replaced one after the other, some nodes may vote and others go by the list. The vote comes first: as long as it has
// made somebody else the holder, the static engine does not run.
type office struct {
	self   fleet.NodeID
	ttl    time.Duration
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
	vote   vote               // guarded by mu: the last word of one, for the static engine
	before time.Time          // guarded by mu: when the engines before this one last had word of a holder
}

// vote is whom others have made the holder by one. The word is good for the ttl.
type vote struct {
	holder fleet.NodeID // zero: somebody, maybe
	epoch  fleet.Epoch
	at     time.Time
}

var _ lease.Elector = (*office)(nil)

// openOffice makes the lease. Its engine knows of every epoch that is stamped on a file before it runs: what it grants is above them.
// last is how the house before this one saw it.
func (h *house) openOffice(list fleet.Roster, last lease.View) {
	ttl := time.Duration(h.cfg.Lease.TTL)
	o := &office{
		self: h.self.ID, ttl: ttl, wanted: h.cfg.Lease.Engine, log: h.log, news: newBroadcast(), roster: list, moved: make(chan struct{}),
	}
	network := newCourier(h.mesh, ttl, rules.Tick(ttl), o.deliver, h.log)
	o.build = func(kind config.Engine, list fleet.Roster) lease.Elector {
		engine := lease.Elector(lease.NewStatic(h.self.ID, list, ttl, h.state, h.deeds))
		if kind == config.EngineRaft {
			engine = lease.NewRaft(lease.RaftConfig{
				Self: h.self.ID, Roster: list, TTL: ttl, Network: network, OpenDisk: lease.DiskIn(h.state),
				Prefers: h.prefers, Acting: h.deeds, Clock: h.edges.Clock, Log: h.log,
			})
		}
		for _, d := range h.syncer.Directories() {
			engine.Saw(d.LatestEpoch())
		}
		return engine
	}
	o.kind = engineOf(o.wanted, list)
	o.engine = o.build(o.kind, list)
	o.inheritLocked(last)
	h.elector = o
}

// Run implements lease.Elector: one engine after the other. The next begins when the one before has given up all that it had.
func (o *office) Run(ctx context.Context) error {
	for first := true; ; first = false {
		tenure, retire := context.WithCancel(ctx)
		o.mu.Lock()
		if kind := engineOf(o.wanted, o.roster); kind != o.kind || !first {
			o.replaceLocked(kind)
		}
		engine := o.engine
		o.retire = retire
		o.mu.Unlock()

		var follower sync.WaitGroup
		follower.Go(func() { o.follow(tenure, engine) })
		var err error
		if o.standAside(tenure) {
			err = engine.Run(tenure)
		}
		retire()
		follower.Wait()
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// replaceLocked has another engine take over from one that has ended, or never ran.
func (o *office) replaceLocked(kind config.Engine) {
	last := o.engine.View()
	if kind != o.kind {
		o.log.Info("the peer list wants another engine for the lease", "before", string(o.kind), "now", string(kind))
	}
	o.kind, o.engine = kind, o.build(kind, o.roster)
	o.engine.Saw(last.Epoch)
	o.engine.Saw(o.vote.epoch)
	o.inheritLocked(last)
	close(o.moved)
	o.moved = make(chan struct{})
}

// inheritLocked takes over what the engine before this one knew. Whoever leaves a vote may be missed at once, and cannot know whom it makes the
// holder then: by its list alone it acts when a right from there has run out.
func (o *office) inheritLocked(last lease.View) {
	if last.Renewed.After(o.before) {
		o.before = last.Renewed
	}
	if last.Engine != "raft" || o.kind != config.EngineStatic || time.Since(last.Renewed) >= o.ttl {
		return
	}
	o.vote = vote{at: time.Now()}
	if last.Elected != o.self {
		o.vote.holder, o.vote.epoch = last.Elected, last.ElectedUnder
	}
}

// standAside waits until no vote has made somebody else the holder, and reports whether ctx goes on.
func (o *office) standAside(ctx context.Context) bool {
	for said := false; ; said = true {
		o.mu.Lock()
		left, v := o.asideLocked(), o.vote
		o.mu.Unlock()
		if left <= 0 {
			o.news.fire()
			return ctx.Err() == nil
		}
		if !said {
			o.log.Info("nobody acts here by the peer list alone: others vote, or did a moment ago", "epoch", v.epoch.String())
		}
		if !pause(ctx, left) {
			return false
		}
	}
}

// asideLocked returns for how long the list alone makes nobody the holder.
func (o *office) asideLocked() time.Duration {
	if o.kind != config.EngineStatic {
		return 0
	}
	return o.ttl - time.Since(o.vote.at)
}

// Voted takes a voter's word for whom the vote has made the holder.
func (o *office) Voted(holder fleet.NodeID, epoch fleet.Epoch) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if holder.IsZero() || holder == o.self || o.kind != config.EngineStatic {
		return
	}
	heeded := o.asideLocked() > 0
	if heeded && epoch.Compare(o.vote.epoch) < 0 {
		return // it has not heard yet
	}
	o.vote = vote{holder, epoch, time.Now()}
	o.before = o.vote.at
	o.engine.Saw(epoch)
	if !heeded && o.retire != nil {
		o.retire()
	}
	o.news.fire()
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
	o.mu.Lock()
	defer o.mu.Unlock()
	v := o.engine.View()
	if v.Renewed.Before(o.before) {
		v.Renewed = o.before
	}
	if o.asideLocked() > 0 && (v.HeldHere || !o.vote.holder.IsZero()) {
		v.HeldHere, v.Holder, v.Epoch = false, o.vote.holder, o.vote.epoch
	}
	return v
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

// MayRecover implements lease.Elector.
func (o *office) MayRecover(ctx context.Context) error {
	engine, _ := o.current()
	return engine.MayRecover(ctx)
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
