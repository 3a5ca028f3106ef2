package lease

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime/debug"
	"slices"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// seat is this node's part in the consensus. It belongs to the one goroutine that runs it.
//
// The order of effects is that of raft: what is promised is on the disk before anybody hears of it (flush). Whatever goes wrong,
// the way out is one: forget what is in memory and begin again from the disk (boot), as after a power cut; or, when the disk itself has
// forgotten what it promised, begin again on another seat (rebirth).
type seat struct {
	r     *Raft
	ctx   context.Context // of the grants
	self  fleet.NodeID
	ttl   time.Duration
	clock Clock
	log   *slog.Logger

	disk    Disk
	broken  error         // why the disk does not serve; nil while it does
	retryAt time.Duration // boot clock
	damaged string        // what was put aside, for the operator; "" nothing

	me      rules.Seat
	id      uint64 // me.ID()
	started time.Duration
	reborn  time.Duration // boot clock: when this node sat down on another seat; 0: not in this process
	rn      *raft.RawNode // nil while the disk is broken, or raft panicked twice within a ttl
	book    *raft.MemoryStorage
	hard    *raftpb.HardState // the latest; what only moved its commit may not be on the disk
	unsaved bool              // hard is not on the disk
	state   rules.State       // through applied
	conf    *raftpb.ConfState // through applied
	applied uint64
	out     bool   // by a later log than this one, this seat is not in conf any more
	old     uint64 // entries up to here were committed before this boot: they tell nothing about now

	list    listing
	peers   map[fleet.NodeID]*neighbour
	attests map[uint64]progress            // by seat: how far its consensus had come, by its own messages, over all sessions
	heeded  map[fleet.NodeID]time.Duration // boot clock: when its word last said that epochs must go higher, over all sessions
	ledAt   time.Duration                  // boot clock: when a leader spoke last
	renewed time.Time                      // when a renewal was last known of
	holder  fleet.NodeID                   // who renewed then, as far as peers told
	ticks   uint64
	logged  [2][]string    // who voted and who learned when that was last looked at
	untold  bool           // View should tell something else
	told    rules.Standing // what was said to everybody last
	toldAt  time.Duration

	promise      fleet.NodeID  // see rules.Favourite
	promiseUntil time.Duration // boot clock

	lead leading
}

func newSeat(r *Raft, ctx context.Context) *seat {
	return &seat{
		r: r, ctx: ctx, self: r.config.Self, ttl: r.config.TTL, clock: r.config.Clock, log: r.config.Log,
		started: r.config.Clock().Boot, list: r.listed(), peers: map[fleet.NodeID]*neighbour{}, attests: map[uint64]progress{},
		heeded: map[fleet.NodeID]time.Duration{},
	}
}

// random draws from the one source that raft draws from, too: a test that fixes it has the same story twice.
func random() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // documented never to fail
	return binary.BigEndian.Uint64(b[:])
}

// run takes part until done is closed and the lease is handed over.
func (s *seat) run(done <-chan struct{}) error {
	tick := rules.Tick(s.ttl)
	ticker := time.NewTicker(1 + time.Duration(random()%uint64(tick))) // nodes that started at one moment must not stand for election at one moment
	defer ticker.Stop()
	var hurry, limit <-chan time.Time
	departed := false
	s.open()
	for {
		if s.turn(); departed {
			break
		}
		ticks := ticker.C
		if s.idle() {
			ticks = nil
		}
		if !s.lead.departing {
			hurry = nil
		} else if hurry == nil {
			hurry = time.After(letGo(s.ttl))
		}
		select { // a flood of messages holds up neither the time nor what was decided here
		case <-s.r.nudge:
			continue
		case <-ticks:
			ticker.Reset(s.pass(tick))
			continue
		default:
		}
		select {
		case <-done:
			done, limit = nil, time.After(s.r.partingTime())
			s.leave(func(error) { departed = true })
		case <-limit:
			departed = true
		case l := <-s.r.inbox:
			s.receive(l)
		case f := <-s.r.asks:
			f(s)
		case <-hurry:
			hurry = nil
			s.hurry()
		case <-s.r.nudge:
		case <-ticks:
			ticker.Reset(s.pass(tick))
		}
	}
	if s.disk == nil {
		return nil
	}
	return s.disk.Close()
}

// idle reports whether this node has no part in the vote, so that nothing need wake it.
func (s *seat) idle() bool { return s.rn != nil && s.state.Line.IsZero() && !s.candidate() }

// pass lets the time of a tick pass, or of as many as there are to a heartbeat: each time that a node at rest wakes costs more than what it does then.
// It returns when to come again.
func (s *seat) pass(tick time.Duration) (again time.Duration) {
	n := 1
	if s.rn != nil && !s.state.Line.IsZero() {
		n = rules.HeartbeatTicks
	}
	for range n {
		s.tick()
	}
	return time.Duration(n) * tick
}

// tick lets time pass for the consensus.
func (s *seat) tick() {
	s.ticks++
	s.untold = s.untold || s.ticks%lookEvery == 0 // who is connected, what lasts too long
	if s.rn == nil {
		if s.clock().Boot >= s.retryAt {
			s.open()
		}
		return
	}
	now := s.clock().Boot
	s.rn.Tick()
	if s.ticks%rules.HeartbeatTicks == 0 || s.state.Line.IsZero() && now-s.started < rules.PromiseFor(s.ttl) {
		s.meet() // more often at first: a fleet that begins waits for it
	}
}

// turn does everything that can be done now.
func (s *seat) turn() {
	s.list = s.r.listed()
	for more := true; more; {
		if s.r.hold.gateShut() {
			s.log.Warn("the lease was not renewed for its whole time; this node begins anew as a follower")
			s.boot()
			s.r.hold.reopen()
		}
		if more = s.rn != nil; more {
			s.guard(func() {
				s.flush()
				more = s.rn == nil && s.r.hold.gateShut() || s.rn != nil && s.duty()
			})
		}
	}
	if s.untold {
		s.untold = false
		s.publish()
	}
}

// open begins from whatever the disk holds.
func (s *seat) open() {
	if s.disk != nil {
		_ = s.disk.Close() // it is being opened again because it did not serve
		s.disk = nil
	}
	var err error
	if s.disk, err = s.r.config.OpenDisk(false); errors.Is(err, ErrDamaged) {
		s.disk, err = s.openAnew(err)
	}
	if err != nil {
		s.disk = nil // no interface around a nil
		s.fail(err)
		return
	}
	s.boot()
}

// openAnew gives up a disk that cannot be read, and with it the seat whose promises it held.
func (s *seat) openAnew(why error) (Disk, error) {
	s.damaged = why.Error()
	s.log.Error("the lease's state is damaged; this node joins again as if its disk were new", "error", why)
	return s.r.config.OpenDisk(true)
}

// boot begins from the disk, as after a power cut.
func (s *seat) boot() {
	s.stepDown(ErrLost)
	s.rn, s.untold = nil, true
	if s.disk == nil {
		return
	}
	kept, err := s.disk.Load()
	if errors.Is(err, ErrDamaged) {
		_ = s.disk.Close() // of what is damaged, and set aside next
		if s.disk, err = s.openAnew(err); err == nil {
			kept, err = s.disk.Load()
		}
	}
	if err == nil && kept.Incarnation == 0 {
		kept = Kept{Incarnation: random() | 1}
		err = s.disk.Save(Change{Incarnation: kept.Incarnation})
	} else if err == nil && s.broken != nil {
		err = s.disk.Save(Change{Hard: kept.Hard}) // does it write again?
	}
	if err != nil {
		s.fail(err)
		return
	}
	s.broken = nil
	s.guard(func() { s.sit(kept) })
}

// sit starts the consensus from what was kept.
func (s *seat) sit(kept Kept) {
	s.me = rules.Seat{Node: s.self, Incarnation: kept.Incarnation}
	s.id = s.me.ID()
	s.book = raft.NewMemoryStorage()
	s.state, s.conf, s.applied, s.out = rules.State{}, &raftpb.ConfState{}, 0, false
	if kept.Snapshot != nil {
		state, err := rules.DecodeState(kept.Snapshot.GetData())
		if err != nil {
			panic(violation(err.Error()))
		}
		if err := s.book.ApplySnapshot(kept.Snapshot); err != nil {
			panic(violation(err.Error()))
		}
		meta := kept.Snapshot.GetMetadata()
		s.state, s.conf, s.applied = state, raftpb.EnsureConfState(meta.GetConfState()), meta.GetIndex()
	}
	s.hard, s.unsaved = kept.Hard, false
	if s.hard == nil {
		s.hard = &raftpb.HardState{}
	}
	s.old = s.hard.GetCommit()
	if err := errors.Join(s.book.SetHardState(s.hard), s.book.Append(kept.Entries)); err != nil {
		panic(violation(err.Error()))
	}
	if kept.Promise != s.promise {
		s.promise, s.promiseUntil = kept.Promise, s.clock().Boot+rules.PromiseFor(s.ttl)
	}
	rn, err := raft.NewRawNode(&raft.Config{
		ID: s.id, ElectionTick: rules.ElectionTicks, HeartbeatTick: rules.HeartbeatTicks,
		Storage: snapshotsNow{s.book, s}, Applied: s.applied,
		MaxSizePerMsg: MaxMessage / 4, MaxInflightMsgs: 64, MaxUncommittedEntriesSize: MaxMessage,
		CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, StepDownOnRemoval: true,
		Logger: raftLog{s.log},
	})
	if err != nil {
		panic(fmt.Sprintf("lease: raft refuses its configuration: %v", err))
	}
	s.rn = rn
	if slices.Equal(s.conf.GetVoters(), []uint64{s.id}) && len(s.conf.GetVotersOutgoing()) == 0 {
		_ = rn.Campaign() // there is nobody to wait for
	}
}

// fail gives up until the disk serves again. What is in memory may be ahead of what is on the disk, so it is forgotten.
func (s *seat) fail(err error) {
	s.stepDown(fmt.Errorf("%w: %w", ErrLost, err))
	if s.broken == nil {
		s.log.Error("the lease's state cannot be kept; this node does not vote until it can", "error", err)
	}
	s.rn, s.broken, s.untold = nil, err, true
	s.retryAt = s.clock().Boot + rules.RenewEvery(s.ttl)
	s.departed(err)
}

// rebirth gives up the seat: this disk no longer holds what was promised on it, or nobody counts on it any more. It does so once per ttl and
// not sooner, then it returns false: whatever is wrong, a fleet whose voters all keep changing seats has no majority.
func (s *seat) rebirth(why string) bool {
	if s.reborn != 0 && s.clock().Boot-s.reborn < s.ttl {
		return false
	}
	s.log.Warn("this node leaves its seat in the vote and joins again as a new one", "why", why)
	s.rn = nil
	if !s.state.Epoch.IsZero() {
		s.r.Saw(s.state.Epoch) // wherever this node joins
	}
	// A crash here leaves the old seat, which will be given up for the same reason.
	if err := s.disk.Save(Change{Incarnation: random() | 1}); err != nil {
		s.fail(err)
		return true
	}
	s.started = s.clock().Boot // whoever has state may be on the way
	s.reborn = s.started
	s.boot()
	return true
}

// violation is what raft says when its storage or its messages contradict each other. It has panics of other types, too.
type violation string

// guard runs f, which calls raft. If raft panics, this seat's log contradicts what others hold committed, or cannot be gone on with for
// another reason that a restart would only find again: the seat is given up. So soon after the last that this helps nothing, the
// node has no part in the vote for a while.
func (s *seat) guard(f func()) {
	defer func() {
		fault := recover()
		if fault == nil {
			return
		}
		why := fmt.Sprintf("raft: %v", fault)
		if _, said := fault.(violation); !said {
			s.log.Error("raft cannot go on", "error", fault, "stack", string(debug.Stack()))
		}
		if !s.rebirth(why) {
			s.stepDown(fmt.Errorf("%w: %s", ErrLost, why))
			s.rn, s.retryAt = nil, s.reborn+s.ttl
			s.departed(errors.New(why))
		}
		s.damaged = why
	}()
	f()
}

// flush carries out what the consensus wants done.
func (s *seat) flush() {
	for s.rn != nil && s.rn.HasReady() {
		ready := s.rn.Ready()
		if err := s.keep(ready); err != nil {
			s.fail(err)
			return
		}
		// COMMIT: a crash before this line promised nothing, one after it can be asked to keep the promise.
		if s.r.hold.gateShut() {
			s.rn = nil // the disk took longer than the lease lasts; turn begins anew
			return
		}
		unreachable := s.send(ready.Messages)
		s.apply(ready.CommittedEntries)
		s.rn.Advance(ready)
		for _, id := range unreachable {
			s.rn.ReportUnreachable(id)
		}
		s.compact()
	}
}

// keep brings to the disk what must be there before the messages go out, in one transaction. A commit index alone need not be: it is
// found out again. But it goes along with the next entries, and is there before what it commits is applied in two cases. Of a change of the
// voters: a voter that acknowledges under the new voters must not fall back to the old ones. And until the lease was first acquired: a cluster
// in which somebody acted is given up only on a person's word, see rules.Forsaken.
func (s *seat) keep(ready raft.Ready) error {
	if !raft.IsEmptyHardState(ready.HardState) {
		s.hard, s.unsaved = ready.HardState, true
	}
	s.out = s.out && len(ready.Entries) == 0 && raft.IsEmptySnap(ready.Snapshot)
	snapshot := ready.Snapshot
	if raft.IsEmptySnap(snapshot) {
		snapshot = nil
	}
	matters := len(ready.CommittedEntries) > 0 && s.state.Epoch.IsZero() ||
		slices.ContainsFunc(ready.CommittedEntries, func(e *raftpb.Entry) bool { return e.GetType() != raftpb.EntryNormal })
	if ready.MustSync || snapshot != nil || matters && s.unsaved {
		if err := s.disk.Save(Change{Hard: s.hard, Snapshot: snapshot, Reset: snapshot != nil, Entries: ready.Entries}); err != nil {
			return err
		}
		s.unsaved = false
	}
	if snapshot != nil {
		state, err := rules.DecodeState(snapshot.GetData())
		if err != nil {
			return err
		}
		if err := s.book.ApplySnapshot(snapshot); err != nil {
			return err
		}
		s.state, s.conf, s.applied = state, snapshot.GetMetadata().GetConfState(), snapshot.GetMetadata().GetIndex()
		s.old = max(s.old, s.applied)
	}
	return errors.Join(s.book.SetHardState(s.hard), s.book.Append(ready.Entries))
}

// apply takes in what is committed.
func (s *seat) apply(entries []*raftpb.Entry) {
	s.untold = s.untold || len(entries) > 0
	for _, e := range entries {
		switch {
		case e.GetType() != raftpb.EntryNormal:
			s.applyVoters(e)
		case len(e.GetData()) > 0:
			s.applyCommand(e)
		}
		s.applied = e.GetIndex() // not before: raft may ask for a snapshot while the voters change
	}
}

func (s *seat) applyCommand(e *raftpb.Entry) {
	c, err := rules.DecodeCommand(e.GetData())
	if err != nil {
		s.passOver(e, err)
		return
	}
	s.state = s.state.Apply(e.GetTerm(), e.GetIndex(), c)
	if e.GetIndex() > s.old && (c.Verb == rules.Acquire || c.Verb == rules.Renew) {
		s.renewed, s.holder = time.Now(), s.state.Seats[s.state.Holder].Node
	}
	if c.Verb == rules.Release && s.state.Holder == 0 {
		s.holder = fleet.NodeID{}
	}
	if c.By == s.id {
		s.committed(c)
	}
}

func (s *seat) passOver(e *raftpb.Entry, err error) {
	s.log.Error("a committed entry is passed over, here as on every node", "index", e.GetIndex(), "error", err)
}

func (s *seat) applyVoters(e *raftpb.Entry) {
	from, err := changer(s.conf)
	if err != nil {
		panic(violation(err.Error())) // this seat's own matter, not that of the entry
	}
	change, seats, err := decodeChange(e, from)
	if err != nil {
		s.passOver(e, err)
		return
	}
	s.conf = s.rn.ApplyConfChange(change)
	s.state = s.state.Reseat(seats, sitting(s.conf))
	who := [2][]string{s.names(s.conf.GetVoters()), s.names(s.conf.GetLearners())}
	if e.GetIndex() > s.old && !reflect.DeepEqual(who, s.logged) { // what the log on the disk tells again is no news
		s.log.Info("who votes has changed", "voters", who[0], "learners", who[1])
	}
	s.logged = who
}
