package lease

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
)

// epochFile holds the latest epoch that this node granted or saw. Without it a restarted holder would act under an epoch that was used.
const epochFile = "lease-epoch"

// Static is the engine for fleets of one or two issuers: the first issuer of the peer list holds the lease, always. It
// needs no messages and no quorum; when the holder is down nobody acts. Where lists differ in their order each of two nodes is the first: whoever
// is heard to hold the lease already goes on, and of two that do the one with the lower id.
type Static struct {
	self  fleet.NodeID
	ttl   time.Duration
	state *durable.Root

	mu      sync.Mutex
	roster  fleet.Roster            // guarded by mu
	latest  fleet.Epoch             // guarded by mu: granted or seen, on disk if granted
	grant   Grant                   // guarded by mu: valid while end is not nil
	end     context.CancelCauseFunc // guarded by mu
	failed  error                   // guarded by mu: why there is no grant although there should be
	heard   map[fleet.NodeID]word   // guarded by mu: who said to hold the lease
	changed chan struct{}           // guarded by mu
	again   chan struct{}           // wakes Run
	acting  *Acting
}

type word struct {
	epoch fleet.Epoch
	at    time.Time
}

// NewStatic returns the engine; state is the state directory, acting may be nil. A peer's word that it holds the lease is good for ttl.
func NewStatic(self fleet.NodeID, roster fleet.Roster, ttl time.Duration, state *durable.Root, acting *Acting) *Static {
	if acting == nil {
		acting = new(Acting)
	}
	s := &Static{
		self: self, roster: roster, ttl: ttl, state: state, acting: acting,
		heard: map[fleet.NodeID]word{}, changed: make(chan struct{}), again: make(chan struct{}, 1),
	}
	acting.tell(func() {
		s.mu.Lock()
		s.announceLocked()
		s.mu.Unlock()
		s.wake()
	})
	return s
}

// Run implements Elector.
func (s *Static) Run(ctx context.Context) error {
	defer func() {
		s.mu.Lock()
		s.endLocked(ErrLost)
		s.mu.Unlock()
		s.acting.wait() // whoever holds it next may be this node
	}()
	for {
		s.mu.Lock()
		s.settleLocked(ctx)
		waits := s.failed != nil || s.end == nil && s.holderLocked() == s.self
		s.mu.Unlock()
		var retry <-chan time.Time
		if waits {
			retry = time.After(s.ttl / 3)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.again:
		case <-retry:
		}
	}
}

// settleLocked makes the grant what the list and the epochs demand.
func (s *Static) settleLocked(ctx context.Context) {
	rank := s.holderLocked() == s.self
	rival := s.rivalLocked()
	givesWay := !rival.IsZero() && rival.Compare(s.self) < 0
	if s.end != nil && (!rank || givesWay || s.grant.epoch.Compare(s.latest) < 0) {
		s.endLocked(ErrLost)
	}
	s.failed = nil
	if !rank || s.end != nil || !rival.IsZero() || s.acting.anybody() {
		return
	}
	epoch, err := s.nextEpochLocked()
	if err != nil {
		s.failed = err
		return
	}
	granted, end := context.WithCancelCause(ctx)
	s.grant, s.end = Grant{ctx: granted, epoch: epoch, users: s.acting}, end
	s.announceLocked()
}

// nextEpochLocked returns an epoch above all others, which is on disk before anybody acts under it.
func (s *Static) nextEpochLocked() (fleet.Epoch, error) {
	text, err := s.state.ReadFile(epochFile, 1024)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fleet.Epoch{}, fmt.Errorf("the last epoch of the lease cannot be read: %w", err)
	}
	kept, err := fleet.ParseEpoch(strings.TrimSpace(string(text)))
	if err != nil {
		return fleet.Epoch{}, fmt.Errorf("%s is damaged: %w", epochFile, err)
	}
	next := kept
	if s.latest.Compare(next) > 0 {
		next = s.latest
	}
	next.Term++
	next.Index = uint64(binary.BigEndian.Uint32(s.self[:])) // two nodes that follow on the same epoch do not act under one
	if err := s.state.WriteFile(epochFile, []byte(next.String()+"\n"), 0o600); err != nil {
		return fleet.Epoch{}, fmt.Errorf("the epoch of the lease cannot be kept: %w", err)
	}
	s.latest = next
	return next, nil
}

func (s *Static) endLocked(why error) {
	if s.end != nil {
		s.end(why)
		s.end = nil
		s.announceLocked()
	}
}

func (s *Static) announceLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Static) wake() {
	select {
	case s.again <- struct{}{}:
	default:
	}
}

func (s *Static) holderLocked() fleet.NodeID {
	if issuers := s.roster.Issuers(); len(issuers) > 0 {
		return issuers[0].ID
	}
	return fleet.NodeID{}
}

// rivalLocked returns the other issuer that was heard to hold the lease within its ttl, the one with the lowest id if there are several; zero: none.
func (s *Static) rivalLocked() (rival fleet.NodeID) {
	for _, m := range s.roster.Issuers() {
		w := s.heard[m.ID]
		if m.ID != s.self && !w.epoch.IsZero() && time.Since(w.at) < s.ttl && (rival.IsZero() || m.ID.Compare(rival) < 0) {
			rival = m.ID
		}
	}
	return rival
}

// Await implements Elector.
func (s *Static) Await(ctx context.Context) (Grant, error) {
	for {
		s.mu.Lock()
		grant, held, changed := s.grant, s.end != nil && s.grant.ctx.Err() == nil, s.changed
		s.mu.Unlock()
		if held {
			return grant, nil
		}
		select {
		case <-ctx.Done():
			return Grant{}, ctx.Err()
		case <-changed:
		}
	}
}

// View implements Elector. Whoever holds by the list counts as the holder only while it is heard from.
func (s *Static) View() View {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := View{Engine: "static"}
	holder, rival := s.holderLocked(), s.rivalLocked()
	if holder == s.self && !rival.IsZero() {
		v.Problems = []Problem{{TwoClusters,
			s.roster.NameOf(rival) + " holds the lease by its own peer list, in which it comes first, as this node does in its own",
			"certswarm config show; give peers: the same order on every node, and reload"}}
		holder = rival
	}
	if s.end != nil {
		v.Holder, v.Epoch, v.HeldHere, v.Renewed = s.self, s.grant.epoch, true, time.Now()
		return v
	}
	v.Acting = s.acting.epoch()
	if w, known := s.heard[holder]; known {
		v.Renewed = w.at
		if time.Since(w.at) < s.ttl && !w.epoch.IsZero() {
			v.Holder, v.Epoch = holder, w.epoch
		}
	}
	return v
}

// Changed implements Elector.
func (s *Static) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// SetRoster implements Elector.
func (s *Static) SetRoster(roster fleet.Roster) {
	s.mu.Lock()
	s.roster = roster
	s.announceLocked()
	s.mu.Unlock()
	s.wake()
}

// Heard implements Elector.
func (s *Static) Heard(from fleet.NodeID, epoch fleet.Epoch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.heard[from]
	news := before.epoch != epoch || time.Since(before.at) >= s.ttl
	if epoch.IsZero() {
		s.heard[from] = word{at: before.at} // it holds it no more
	} else {
		s.heard[from] = word{epoch, time.Now()}
	}
	if s.end == nil && epoch.Compare(s.latest) > 0 {
		s.latest = epoch // whoever holds after it does so under a later one
	}
	if news {
		s.announceLocked()
		s.wake()
	}
}

// Saw implements Elector.
func (s *Static) Saw(epoch fleet.Epoch) {
	s.mu.Lock()
	later := epoch.Compare(s.latest) > 0
	if later {
		s.latest = epoch
	}
	s.mu.Unlock()
	if later {
		s.wake()
	}
}

// Resign implements Elector.
func (s *Static) Resign(context.Context) error {
	return errors.New("the lease follows the peer list here (lease.engine static): put another issuer first")
}

// Standings implements Elector.
func (s *Static) Standings(context.Context) ([]Standing, error) {
	v := s.View()
	return []Standing{{Node: s.self, State: true, Epoch: v.Epoch, Leader: v.Holder, Heard: true}}, nil
}

// MayRecover implements Elector.
func (s *Static) MayRecover(ctx context.Context) error { return s.Recover(ctx) }

// Recover implements Elector.
func (s *Static) Recover(context.Context) error {
	return errors.New("nothing to recover: the lease follows the peer list here (lease.engine static), without a vote")
}

// Confirm implements Elector.
func (s *Static) Confirm(context.Context) error {
	return errors.New("nothing to confirm: the lease follows the peer list here (lease.engine static), without a vote")
}
