package lease

import (
	"context"
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
// needs no messages and no quorum; when the holder is down nobody acts.
type Static struct {
	self  fleet.NodeID
	ttl   time.Duration
	state *durable.Root

	mu      sync.Mutex
	running bool                    // guarded by mu
	roster  fleet.Roster            // guarded by mu
	latest  fleet.Epoch             // guarded by mu: granted or seen, on disk if granted
	grant   Grant                   // guarded by mu: valid while end is not nil
	end     context.CancelCauseFunc // guarded by mu
	failed  error                   // guarded by mu: why there is no grant although there should be
	heard   map[fleet.NodeID]word   // guarded by mu: who said to hold the lease
	changed chan struct{}           // guarded by mu
	again   chan struct{}           // wakes Run
}

type word struct {
	epoch fleet.Epoch
	at    time.Time
}

// NewStatic returns the engine; state is the state directory. A peer's word that it holds the lease is good for ttl.
func NewStatic(self fleet.NodeID, roster fleet.Roster, ttl time.Duration, state *durable.Root) *Static {
	return &Static{
		self: self, roster: roster, ttl: ttl, state: state,
		heard: map[fleet.NodeID]word{}, changed: make(chan struct{}), again: make(chan struct{}, 1),
	}
}

// Run implements Elector.
func (s *Static) Run(ctx context.Context) error {
	s.mu.Lock()
	s.running = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running = false
		s.endLocked(ErrLost)
	}()
	for {
		s.mu.Lock()
		s.settleLocked(ctx)
		failed := s.failed
		s.mu.Unlock()
		var retry <-chan time.Time
		if failed != nil {
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
	if s.end != nil && (!rank || s.grant.epoch.Compare(s.latest) < 0) {
		s.endLocked(ErrLost)
	}
	s.failed = nil
	if !rank || s.end != nil {
		return
	}
	epoch, err := s.nextEpochLocked()
	if err != nil {
		s.failed = err
		return
	}
	granted, end := context.WithCancelCause(ctx)
	s.grant, s.end = Grant{ctx: granted, epoch: epoch}, end
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
	next.Index = 1
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

// Await implements Elector.
func (s *Static) Await(ctx context.Context) (Grant, error) {
	for {
		s.mu.Lock()
		grant, held, changed := s.grant, s.end != nil, s.changed
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
	if s.end != nil {
		v.Holder, v.Epoch, v.HeldHere, v.Renewed = s.self, s.grant.epoch, true, time.Now()
		return v
	}
	holder := s.holderLocked()
	if w, known := s.heard[holder]; known {
		v.Renewed = w.at
		if time.Since(w.at) < s.ttl {
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
	news := s.heard[from].epoch != epoch || time.Since(s.heard[from].at) >= s.ttl
	s.heard[from] = word{epoch, time.Now()}
	if news {
		s.announceLocked()
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
