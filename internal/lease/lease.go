// Package lease says which one node may act for the fleet, and until when. A right to act is a Grant: a value with an end
// and an epoch, never a boolean to be polled.
//
// It carries no data and moves no files: everything that is done under a Grant travels over the replication, stamped with the
// Grant's epoch. Which engine decides is hidden behind Elector. What the engine of a vote decides is in package rules; here is
// what it does.
package lease

import (
	"context"
	"errors"
	"time"

	"certswarm/internal/fleet"
)

// Elector is one node's part in deciding who may act. Its methods may be called from any goroutine.
type Elector interface {
	// Run takes part until ctx ends; every Grant has ended when it returns, and the lease was handed over if that could be done within a
	// second. It can be called once.
	Run(ctx context.Context) error

	// Await returns when this node holds the lease. The error is ctx's.
	Await(ctx context.Context) (Grant, error)

	// View tells what this node knows of the lease.
	View() View

	// Changed returns a channel that is closed when View may next tell something else.
	Changed() <-chan struct{}

	// SetRoster replaces the peer list.
	SetRoster(fleet.Roster)

	// Heard takes a peer's word that it holds the lease under epoch; zero: that it does not.
	Heard(from fleet.NodeID, epoch fleet.Epoch)

	// Saw takes an epoch under which something was written, whoever held the lease then: later grants must be above it.
	Saw(epoch fleet.Epoch)

	// Resign gives the lease away and returns when another node has it, or has at least been asked to. It fails where this node does
	// not hold it or nobody else can.
	Resign(ctx context.Context) error

	// Standings tells where every reachable node is that could rebuild the lease, this one first.
	Standings(ctx context.Context) ([]Standing, error)

	// MayRecover says why Recover would fail now, nil if it would not.
	MayRecover(ctx context.Context) error

	// Recover rebuilds the lease from this node's state alone. It fails while anybody reachable sees a majority, or has more of the
	// state than this node.
	Recover(ctx context.Context) error

	// Confirm is a person's word that the peer list drops most of the voters on purpose. It fails when nothing waits for it.
	Confirm(ctx context.Context) error
}

// View is what one node knows of the lease.
type View struct {
	Engine   string       // "static" or "raft"
	Holder   fleet.NodeID // zero while nobody is known to hold it
	Epoch    fleet.Epoch  // of the holder; zero while that is unknown
	HeldHere bool
	Renewed  time.Time // when this node last had word of the holder: directly or from a peer

	Acting fleet.Epoch // of a right that has ended, while somebody here still acts under it; zero also where the vote takes care of that

	Elected      fleet.NodeID // the holder by the vote alone, whatever is said outside it
	ElectedUnder fleet.Epoch

	Leader   fleet.NodeID // of the vote; zero: none is known, or there is no vote
	Voters   []Voter      // who votes now, and who is on the way to it
	Wished   int          // how many should vote, by this node's list
	Problems []Problem
}

// Voter is one seat of the vote.
type Voter struct {
	Node      fleet.NodeID
	Learner   bool // receives, and does not vote yet
	Connected bool
	Listed    bool // by this node's list it may vote
}

// Problem is what keeps the lease from being as it should.
type Problem struct {
	Code ProblemCode
	Text string // what, where, why
	Next string // what to do; "" when it ends by itself
}

// ProblemCode is one of the operator's.
type ProblemCode string

// The problems of a lease.
const (
	NoHolder     ProblemCode = "no-lease-holder"
	TwoClusters  ProblemCode = "two-clusters"
	StateDamaged ProblemCode = "state-damaged"
	WriteFailed  ProblemCode = "write-failed"
	ListRefused  ProblemCode = "config-refused"
)

// Standing is how far one node is with the lease.
type Standing struct {
	Node   fleet.NodeID
	State  bool        // it has some
	Epoch  fleet.Epoch // its generation, and the last tenure that it knows of
	Term   uint64      // of the end of its log
	Index  uint64
	Leader fleet.NodeID // whom it sees lead; zero: nobody
	Heard  bool         // it answered
}

// Grant is the right to act, from Await until its context ends.
type Grant struct {
	ctx   context.Context
	epoch fleet.Epoch
	check func() error // asks the clocks; nil: only the context ends the right
	begin func() error
	users *Acting // nil: nobody waits for them
}

// Context ends when the right does; its cause says why.
func (g Grant) Context() context.Context { return g.ctx }

// Epoch grows with every grant; what is written under it carries it.
func (g Grant) Epoch() fleet.Epoch { return g.epoch }

// Check is asked immediately before a step that cannot be taken back. Its error says why the step may not be taken. It reads the
// clocks: a process that was stopped may have lost the right before anybody could end the context.
func (g Grant) Check() error {
	if err := context.Cause(g.ctx); err != nil {
		return err
	}
	if g.check != nil {
		return g.check()
	}
	return nil
}

// Enter says that something acts under the right from now until leave is called, and cannot stop the moment that the right ends. A lease that is
// given away is not released before; but that is waited for no longer than two seconds, and after that the next holder waits for a ttl. Whether the
// right is still good must be asked after Enter.
func (g Grant) Enter() (leave func()) {
	if g.users == nil {
		return func() {}
	}
	return g.users.enter(g.epoch)
}

// Begin is asked before something new is started that will take a while. It says no earlier than Check does: what is under way may
// still be finished.
func (g Grant) Begin() error {
	if err := g.Check(); err != nil || g.begin == nil {
		return err
	}
	return g.begin()
}

// ErrLost is the cause with which a Grant's context ends when the lease moved on.
var ErrLost = errors.New("the lease is no longer held here")
