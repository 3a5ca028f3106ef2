package lease

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"
)

// Network carries messages between the nodes of the peer list. It proves to each end who the other is.
type Network interface {
	// Send hands over one message of at most MaxMessage bytes, which is not changed afterwards, and returns at once. It may arrive late, twice,
	// in another order or never; whatever arrives is handed to Deliver of the other node's Raft.
	Send(to fleet.NodeID, message []byte)
	// Peers tells who is connected.
	Peers() []Peer
}

// Peer is one connected node.
type Peer struct {
	ID    fleet.NodeID
	Since time.Time // connected since; another session has another Since
	List  [32]byte  // fleet.Roster.Digest of its own list
}

// RaftConfig is what a Raft is made from; every field but Prefers, Acting, Clock and Log is required.
type RaftConfig struct {
	Self    fleet.NodeID
	Roster  fleet.Roster
	TTL     time.Duration // >= 1 s
	Network Network
	// OpenDisk opens what this node knows across restarts; anew says that what is there is damaged and must be put aside.
	OpenDisk func(anew bool) (Disk, error)
	// Prefers tells with whom the lease is of use: it is given to them before all others. It is asked often, and must not wait.
	Prefers func(fleet.NodeID) bool // default: all are alike
	Acting  *Acting                 // default: nobody yet
	Clock   Clock                   // default: package time's. The machine's is SystemClock
	Log     *slog.Logger            // default: slog.Default()
}

// Raft is the engine for fleets of three issuers and more: 1, 3 or 5 of them vote, and who leads them and has said so in their log
// holds the lease. One goroutine owns the consensus and its disk; see seat.
type Raft struct {
	config RaftConfig
	hold   *hold
	inbox  chan letter
	asks   chan func(*seat)
	nudge  chan struct{}
	over   chan struct{} // closed when Run has returned

	mu      sync.Mutex
	list    listing               // guarded by mu
	saw     fleet.Epoch           // guarded by mu
	facts   facts                 // guarded by mu: what the seat said last
	heard   map[fleet.NodeID]word // guarded by mu: who told, outside the vote, that it holds the lease
	changed chan struct{}         // guarded by mu
}

// listing is the peer list, and what is asked of it all the time.
type listing struct {
	fleet.Roster
	digest     [32]byte
	electorate []fleet.Member
}

func newListing(r fleet.Roster) listing { return listing{r, r.Digest(), rules.Electorate(r)} }

// votes reports whether a node may vote, by the list.
func (l listing) votes(id fleet.NodeID) bool {
	return slices.ContainsFunc(l.electorate, func(m fleet.Member) bool { return m.ID == id })
}

type letter struct {
	from    fleet.NodeID
	message []byte
}

// facts is the part of a View that the consensus knows.
type facts struct {
	holder   fleet.NodeID // zero: nobody has renewed of late
	epoch    fleet.Epoch
	renewed  time.Time
	leader   fleet.NodeID
	voters   []Voter
	problems []Problem
}

func (f facts) equal(other facts) bool {
	return f.holder == other.holder && f.epoch == other.epoch && f.renewed.Equal(other.renewed) && f.leader == other.leader &&
		slices.Equal(f.voters, other.voters) && slices.Equal(f.problems, other.problems)
}

const inboxSize = 256 // messages; more than this are lost, which raft is used to

// mostGeneration bounds what is believed: above it there would soon be no later one.
const mostGeneration = 1 << 62

// errEnded says that Run is over.
var errEnded = errors.New("the lease's engine does not run")

// NewRaft returns the engine. It touches nothing; Run does.
func NewRaft(config RaftConfig) *Raft {
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if config.Clock == nil {
		config.Clock = plainClock()
	}
	if config.Prefers == nil {
		config.Prefers = func(fleet.NodeID) bool { return false }
	}
	if config.Acting == nil {
		config.Acting = new(Acting)
	}
	r := &Raft{
		config: config, list: newListing(config.Roster), hold: newHold(config.Clock, config.Acting),
		inbox: make(chan letter, inboxSize), asks: make(chan func(*seat)), nudge: make(chan struct{}, 1), over: make(chan struct{}),
		heard: map[fleet.NodeID]word{}, changed: make(chan struct{}),
	}
	r.hold.changed, r.hold.over = func() { r.announce(); r.wake() }, r.wake
	config.Acting.tell(r.wake)
	return r
}

// Deliver takes a message that a connected peer sent. It never waits.
func (r *Raft) Deliver(from fleet.NodeID, message []byte) {
	if r.hold.gateShut() {
		return
	}
	select {
	case r.inbox <- letter{from, message}:
	default:
	}
}

// Await implements Elector.
func (r *Raft) Await(ctx context.Context) (Grant, error) {
	for {
		changed := r.Changed()
		if grant, held := r.hold.current(); held {
			return grant, nil
		}
		select {
		case <-ctx.Done():
			return Grant{}, ctx.Err()
		case <-changed:
		}
	}
}

// View implements Elector.
func (r *Raft) View() View {
	grant, held := r.hold.current()
	r.mu.Lock()
	defer r.mu.Unlock()
	v := View{
		Engine: "raft", Renewed: r.facts.renewed, Leader: r.facts.leader,
		Voters: r.facts.voters, Problems: r.facts.problems, Wished: rules.Votes(len(r.list.electorate)),
	}
	if held {
		v.Holder, v.Epoch, v.HeldHere = r.config.Self, grant.Epoch(), true
		v.Elected, v.ElectedUnder = v.Holder, v.Epoch
		return v
	}
	if time.Since(r.facts.renewed) < r.config.TTL {
		v.Holder, v.Epoch = r.facts.holder, r.facts.epoch
		v.Elected, v.ElectedUnder = v.Holder, v.Epoch
	}
	for id, w := range r.heard {
		if w.at.After(v.Renewed) {
			v.Renewed = w.at
		}
		if id != r.config.Self && time.Since(w.at) < r.config.TTL && w.epoch.Compare(v.Epoch) > 0 {
			v.Holder, v.Epoch = id, w.epoch
		}
	}
	return v
}

// Changed implements Elector.
func (r *Raft) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *Raft) announce() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *Raft) wake() {
	select {
	case r.nudge <- struct{}{}:
	default:
	}
}

// SetRoster implements Elector.
func (r *Raft) SetRoster(roster fleet.Roster) {
	r.mu.Lock()
	r.list = newListing(roster)
	r.mu.Unlock()
	r.announce()
	r.wake()
}

// listed returns the peer list.
func (r *Raft) listed() listing {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list
}

// Heard implements Elector.
func (r *Raft) Heard(from fleet.NodeID, epoch fleet.Epoch) {
	r.mu.Lock()
	old := r.heard[from]
	if epoch.IsZero() { // what it said before ends by itself
		r.mu.Unlock()
		return
	}
	r.heard[from] = word{epoch, time.Now()}
	r.mu.Unlock()
	if old.epoch != epoch || time.Since(old.at) >= r.config.TTL {
		r.announce()
	}
}

// Saw implements Elector.
func (r *Raft) Saw(epoch fleet.Epoch) {
	r.mu.Lock()
	later := epoch.Compare(r.saw) > 0 && epoch.Generation <= mostGeneration
	if later {
		r.saw = epoch
	}
	r.mu.Unlock()
	if later {
		r.wake()
	}
}

func (r *Raft) seen() fleet.Epoch {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.saw
}

// ask has f run by the goroutine that owns the consensus, and returns what it answers.
func ask[T any](ctx context.Context, r *Raft, f func(*seat, func(T, error))) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answered := make(chan answer, 1)
	var none T
	select {
	case r.asks <- func(s *seat) {
		f(s, func(value T, err error) { answered <- answer{value, err} })
	}:
	case <-ctx.Done():
		return none, ctx.Err()
	case <-r.over:
		return none, errEnded
	}
	select {
	case a := <-answered:
		return a.value, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-r.over:
		return none, errEnded
	}
}

// Resign implements Elector.
func (r *Raft) Resign(ctx context.Context) error {
	_, err := ask(ctx, r, func(s *seat, reply func(struct{}, error)) {
		s.resign(func(err error) { reply(struct{}{}, err) })
	})
	return err
}

// Standings implements Elector.
func (r *Raft) Standings(ctx context.Context) ([]Standing, error) {
	return ask(ctx, r, func(s *seat, reply func([]Standing, error)) { reply(s.standings(), nil) })
}

// MayRecover implements Elector.
func (r *Raft) MayRecover(ctx context.Context) error {
	_, err := ask(ctx, r, func(s *seat, reply func(struct{}, error)) { reply(struct{}{}, s.mayRecover()) })
	return err
}

// Recover implements Elector.
func (r *Raft) Recover(ctx context.Context) error {
	_, err := ask(ctx, r, func(s *seat, reply func(struct{}, error)) { reply(struct{}{}, s.recover()) })
	return err
}

// Confirm implements Elector.
func (r *Raft) Confirm(ctx context.Context) error {
	_, err := ask(ctx, r, func(s *seat, reply func(struct{}, error)) { reply(struct{}{}, s.confirm()) })
	return err
}

// departWithin is for how long a node that ends tries to hand the lease over, once nobody acts under it any more or lingering has passed.
const departWithin = time.Second

// partingTime is for how long this node, when it ends, tries to hand the lease over.
func (r *Raft) partingTime() time.Duration {
	if r.hold.acting.anybody() {
		return departWithin + lingering
	}
	return departWithin
}

// Run implements Elector.
func (r *Raft) Run(ctx context.Context) error {
	defer close(r.over)
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	var watch sync.WaitGroup
	watch.Go(func() { r.hold.watch(watching) })
	defer watch.Wait()
	defer stop()
	defer r.hold.close(ErrLost)

	s := newSeat(r, watching)
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx.Done()) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	r.hold.close(ErrResigned)
	limit := time.NewTimer(departWithin + r.partingTime())
	defer limit.Stop()
	select {
	case err := <-ended:
		return err
	case <-limit.C:
		return errors.New("the lease's disk does not answer; it is left as it is, which is as good as a power cut")
	}
}
