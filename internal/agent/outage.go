package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"certswarm/acmeclient"
	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/internal/lease"
)

const (
	outagePatience = time.Minute      // for how long at least the CA answers a holder nothing before the lease is given away
	outageMemory   = time.Hour        // for how long a node that could not reach the CA comes after the others; and gives the lease away once
	outageHold     = 10 * time.Minute // for how long an order that is under way keeps the lease here, although the CA answers nothing
)

// outage is what this node knows of its own way to the CA, for itself and for the others. It outlives the house: a reload must not have the lease
// go round.
type outage struct {
	mu     sync.Mutex
	failed time.Time // guarded by mu: when the CA last answered this node nothing while it held the lease; zero: it has answered since
	gave   time.Time // guarded by mu: when the lease was last given away for that
	why    string    // guarded by mu
}

// note takes in how the way to the CA is for whoever has held the lease since begun, and reports whether it cannot be reached.
func (o *outage) note(r acmeclient.Reach, begun time.Time) (out bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case r.Tries >= 2 && r.Last.After(begun) && time.Since(r.Since) >= outagePatience:
		o.failed, o.why = r.Last, r.Error
		return true
	case r.Answered.After(o.failed):
		o.failed = time.Time{}
	}
	return false
}

// mayGive reports whether the lease was not given away for this within outageMemory.
func (o *outage) mayGive() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.gave.IsZero() || time.Since(o.gave) >= outageMemory
}

func (o *outage) give() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gave = time.Now()
}

// lasts reports whether this node comes after the others. It says nothing of the CA itself once outageMemory is over.
func (o *outage) lasts() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lastsLocked()
}

func (o *outage) lastsLocked() bool { return !o.failed.IsZero() && time.Since(o.failed) < outageMemory }

// withoutCA reports whether a node is known to have failed to reach the CA of late, as the holder of the lease.
func (h *house) withoutCA(id fleet.NodeID) bool {
	if id == h.self.ID {
		return h.outage.lasts()
	}
	rep, _ := h.reports.get(id)
	return rep.CutOff
}

// reaches reports whether the lease may be of use with another node: it obtains certificates, and is not known to be cut off from the CA.
func (h *house) reaches(id fleet.NodeID) bool {
	return id != h.self.ID && h.isIssuer(id) && h.obtains(id) && !h.withoutCA(id)
}

// prefers says to whom the lease is given first: where all are cut off, to one that has at least what it takes.
func (h *house) prefers(id fleet.NodeID) bool {
	return h.reaches(id) ||
		h.obtains(id) && !slices.ContainsFunc(h.roster.Load().Issuers(), func(m fleet.Member) bool { return h.reaches(m.ID) })
}

// relieve looks after the way to the CA while this node acts under right. A holder that cannot reach the CA gives the lease to a voter that may, as long
// as there is one; when all have failed the CA itself is down, and the lease stays. It tries once more just before it does, and whoever relieves it
// tries at once, whatever the schedule says: the wait that the one came to is none for the other. The schedule itself stays as it was.
func (h *house) relieve(ctx, right context.Context) {
	if h.elector.View().Engine != "raft" { // the list alone says who holds it
		return
	}
	begun := time.Now()
	look := time.NewTicker(reportInterval)
	defer look.Stop()
	tookOver, repeated := false, time.Time{}
	for {
		changed := h.changed.wait()
		r := h.acme.Reach()
		was := h.outage.lasts()
		out := h.outage.note(r, begun)
		if h.outage.lasts() != was {
			h.changed.fire() // others learn it before the lease is theirs
		}
		fresh, view := !r.Last.After(begun), h.elector.View()
		switch {
		case right.Err() != nil:
		case fresh && !tookOver && time.Since(begun) < outagePatience && h.relieved(view):
			tookOver = h.tryAgain(right)
		case fresh || time.Since(r.Since) < outagePatience || !h.outage.mayGive() || !h.anotherReaches(view):
		case out && time.Since(r.Last) < outagePatience && !h.ordering(r):
			h.giveAway(ctx, r)
		case time.Since(repeated) >= outagePatience && h.tryAgain(right):
			repeated = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-right.Done():
			return
		case <-look.C:
		case <-changed:
		}
	}
}

// relieved reports whether this node holds the lease because another one could not reach the CA.
func (h *house) relieved(view lease.View) bool {
	return !h.outage.lasts() && slices.ContainsFunc(view.Voters, func(v lease.Voter) bool {
		return v.Node != h.self.ID && v.Connected && h.withoutCA(v.Node)
	})
}

// anotherReaches reports whether some other voter could take the lease over, and may reach the CA. The engine prefers it.
func (h *house) anotherReaches(view lease.View) bool {
	return slices.ContainsFunc(view.Voters, func(v lease.Voter) bool { return v.Connected && !v.Learner && h.reaches(v.Node) })
}

// ordering reports whether an order is under way that may yet come to its end here. The next holder would go on with it; so it is not waited for
// for long.
func (h *house) ordering(r acmeclient.Reach) bool {
	return time.Since(r.Since) < outageHold && slices.ContainsFunc(h.acme.Snapshot(), func(s acmeclient.Status) bool {
		return s.State == acmeclient.StateIssuing && s.Step != "" && s.Step != acmeclient.StepIntent
	})
}

func (h *house) giveAway(ctx context.Context, r acmeclient.Reach) {
	h.outage.give()
	h.log.Warn("this node cannot reach the CA: it gives the lease to one that may", "since", r.Since, "tries", r.Tries, "error", r.Error)
	if err := h.elector.Resign(ctx); err != nil && ctx.Err() == nil {
		h.log.Warn("the lease is not given away", "error", err)
	}
}

// tryAgain asks for one more attempt at whatever the CA was last not reached for, and reports whether somebody took the question.
func (h *house) tryAgain(right context.Context) (asked bool) {
	for _, s := range h.acme.Snapshot() {
		if s.State != acmeclient.StateFailed || s.Code != acmeclient.CodeUnreachable {
			continue
		}
		_, err := h.acme.Obtain(right, s.Name, acmeclient.Request{Again: true})
		if errors.Is(err, acmeclient.ErrNotActing) || right.Err() != nil {
			return false
		}
		if err != nil {
			h.log.Debug("the CA is not tried again yet", "certificate", s.Name, "error", err)
		}
		asked = true
	}
	return asked
}

// outageProblems says on a node that it has given the lease away, and why.
func (h *house) outageProblems() []control.Problem {
	h.outage.mu.Lock()
	defer h.outage.mu.Unlock()
	if h.acme == nil || h.outage.gave.IsZero() || !h.outage.lastsLocked() || h.elector.View().HeldHere {
		return nil
	}
	return []control.Problem{h.problem(control.CAUnreachable, h.outage.failed,
		fmt.Sprintf("%s could not reach the CA, and gave the lease away for it: %s", h.self.Name, h.outage.why),
		"for an hour the lease goes to others first", fmt.Sprintf("on %s: curl -v %s", h.self.Name, quoted(h.cfg.ACME.Directory)))}
}
