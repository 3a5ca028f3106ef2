// Package lease says which one node may act for the fleet, and until when. A right to act is a Grant: a value with an end
// and an epoch, never a boolean to be polled.
//
// It carries no data and moves no files: everything that is done under a Grant travels over the replication, stamped with the
// Grant's epoch. Which engine decides is hidden behind Elector.
package lease

import (
	"context"
	"errors"
	"time"

	"certswarm/internal/fleet"
)

// Elector is one node's part in deciding who may act. Its methods may be called from any goroutine.
type Elector interface {
	// Run takes part until ctx ends; every Grant has ended when it returns.
	Run(ctx context.Context) error

	// Await returns when this node holds the lease. The error is ctx's.
	Await(ctx context.Context) (Grant, error)

	// View tells what this node knows of the lease.
	View() View

	// Changed returns a channel that is closed when View may next tell something else.
	Changed() <-chan struct{}

	// SetRoster replaces the peer list.
	SetRoster(fleet.Roster)

	// Heard takes a peer's word that it holds the lease under epoch.
	Heard(from fleet.NodeID, epoch fleet.Epoch)

	// Saw takes an epoch under which something was written, whoever held the lease then: later grants must be above it.
	Saw(epoch fleet.Epoch)
}

// View is what one node knows of the lease.
type View struct {
	Engine   string       // "static"
	Holder   fleet.NodeID // zero while nobody is known to hold it
	Epoch    fleet.Epoch  // of the holder; zero while that is unknown
	HeldHere bool
	Renewed  time.Time // when this node last had word of the holder
}

// Grant is the right to act, from Await until its context ends.
type Grant struct {
	ctx   context.Context
	epoch fleet.Epoch
}

// Context ends when the right does; its cause says why.
func (g Grant) Context() context.Context { return g.ctx }

// Epoch grows with every grant; what is written under it carries it.
func (g Grant) Epoch() fleet.Epoch { return g.epoch }

// Check is asked immediately before a step that cannot be taken back. Its error says why the step may not be taken.
func (g Grant) Check() error { return context.Cause(g.ctx) }

// ErrLost is the cause with which a Grant's context ends when the lease moved on.
var ErrLost = errors.New("the lease is no longer held here")
