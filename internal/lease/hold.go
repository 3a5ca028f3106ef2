package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"
)

// hold is the right that this node has, if any, and the watch over it. The watch does not go through the goroutine
// that talks and writes: a disk that hangs holds that one up, and the right must end all the same.
type hold struct {
	clock   Clock
	changed func() // called without mu, after a grant began or ended
	over    func() // called without mu, after the gate closed
	acting  *Acting

	mu     sync.Mutex
	tenure rules.Tenure // guarded by mu: zero while this node leads nothing
	grant  Grant        // guarded by mu: valid while end is not nil
	end    context.CancelCauseFunc
	last   fleet.Epoch // guarded by mu: of the last grant
	closed bool        // guarded by mu: no grant begins any more
	shut   bool        // guarded by mu: the tenure is over, nothing may be sent or heard until the consensus began anew
	kick   chan struct{}
}

func newHold(clock Clock, acting *Acting) *hold {
	return &hold{clock: clock, acting: acting, kick: make(chan struct{}, 1)}
}

// current returns the grant, false if there is none.
func (h *hold) current() (Grant, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.grant, h.end != nil
}

// gateShut reports whether the network is closed to this node's consensus.
func (h *hold) gateShut() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.shut
}

// reopen lets the consensus talk again, after it has forgotten that it led.
func (h *hold) reopen() {
	h.mu.Lock()
	h.shut = false
	h.mu.Unlock()
}

// extend takes in that the lease was renewed. The zero Tenure ends the watch.
func (h *hold) extend(t rules.Tenure) {
	h.mu.Lock()
	h.tenure = t
	h.mu.Unlock()
	h.wake()
}

// begin grants the right under epoch, if there is none yet, nobody acts under the one before, and the tenure allows it.
func (h *hold) begin(ctx context.Context, epoch fleet.Epoch) {
	now := h.clock()
	h.mu.Lock()
	if h.closed || h.end != nil || h.acting.anybody() || h.last == epoch || h.tenure.TTL == 0 || !h.tenure.MayBegin(now) {
		h.mu.Unlock()
		return
	}
	granted, end := context.WithCancelCause(ctx)
	h.end, h.last = end, epoch
	h.grant = Grant{ctx: granted, epoch: epoch, check: h.mayAct, begin: h.mayBegin, users: h.acting}
	h.mu.Unlock()
	h.changed()
	h.wake()
}

// spent reports whether there was a grant under epoch, and it ended.
func (h *hold) spent(epoch fleet.Epoch) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.end == nil && h.last == epoch
}

// close ends the right for good.
func (h *hold) close(why error) {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.finish(why)
}

// finish ends the right, if there is one.
func (h *hold) finish(why error) {
	h.mu.Lock()
	ended := h.finishLocked(why)
	h.mu.Unlock()
	if ended {
		h.changed()
	}
}

func (h *hold) finishLocked(why error) bool {
	if h.end == nil {
		return false
	}
	h.end(why)
	h.end = nil
	return true
}

// mayAct is Grant.Check. Whoever asks after the deadline ends the grant, even if the watch sleeps: a process that was stopped wakes up
// in any order.
func (h *hold) mayAct() error {
	now := h.clock()
	h.mu.Lock()
	late := !h.tenure.MayAct(now)
	ended := late && h.finishLocked(ErrExpired)
	h.mu.Unlock()
	if ended {
		h.changed()
	}
	if late {
		return ErrExpired
	}
	return nil
}

func (h *hold) mayBegin() error {
	now := h.clock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.tenure.MayBegin(now) {
		return fmt.Errorf("%w: nothing new is started until it is renewed", ErrExpired)
	}
	return nil
}

func (h *hold) wake() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// watch ends the right when it expires, and shuts the gate when others may be acting, until ctx ends.
func (h *hold) watch(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := h.clock()
		h.mu.Lock()
		var ended, shut bool
		wait := time.Hour
		switch t := h.tenure; {
		case t.TTL == 0:
		case t.Over(now):
			ended, shut = h.finishLocked(ErrExpired), !h.shut
			h.shut = true
			h.tenure = rules.Tenure{}
		case !t.MayAct(now):
			ended = h.finishLocked(ErrExpired)
			wait = t.TTL - (now.Boot - t.From.Boot)
		default:
			wait = t.Left(now)
		}
		h.mu.Unlock()
		if ended {
			h.changed()
		}
		if shut {
			h.over()
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-h.kick:
		case <-timer.C:
		}
	}
}

// Errors with which a Grant's context ends, besides ErrLost.
var (
	ErrExpired  = errors.New("the lease was not renewed in time")
	ErrResigned = errors.New("the lease was given away")
)
