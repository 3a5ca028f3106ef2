package syncer

import (
	"time"

	"certswarm/syncer/index"
)

// What a replica wants done, and when. Nothing here changes what is known; only what has been said and begun.

// tick does what time alone brings about. It returns the entries whose life has ended, for the disk to follow.
func (r *replica) tick(now time.Time) []*index.Entry {
	r.mendClock(now)
	r.judgeDeletes(now)
	expired := r.x.Expire(now)
	for _, e := range expired {
		r.dirty[e.Path] = true
	}
	for p, at := range r.reverted {
		if now.Sub(at) > revertMemory {
			delete(r.reverted, p)
		}
	}
	return expired
}

// wake returns when tick, work or next will have something to do by themselves; zero: never. What work and next could do
// already is not counted: whoever calls them has been woken.
func (r *replica) wake(now time.Time) time.Time {
	var first time.Time
	at := func(t time.Time) {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	later := func(t time.Time) {
		if t.After(now) {
			at(t)
		}
	}
	at(r.judgement())
	at(r.x.NextExpiry())
	for _, v := range r.peers {
		later(v.haveAt)
		for _, since := range v.lagging {
			later(since.Add(relayDelay))
		}
	}
	for _, j := range r.jobs {
		if !j.flying {
			later(j.notTill)
		}
	}
	return first
}

// State is how a directory stands on this node.
type State string

// The states, as CONTRACT's status spells them.
const (
	InSync  State = "in_sync" // holds all that any connected peer has announced
	Behind  State = "behind"
	Halted  State = "halted"  // receives, but sends no changes of its own
	Joining State = "joining" // behind, and was never in sync in this incarnation
)

func (r *replica) state() State {
	if r.halt != "" {
		return Halted
	}
	behind := len(r.jobs) > 0 || len(r.deletes) > 0 || len(r.reverts) > 0 && r.joined
	for _, v := range r.peers {
		behind = behind || !r.x.Held().Covers(v.announced)
	}
	switch {
	case !behind && r.seeded:
		return InSync
	case r.fresh && !r.joined:
		return Joining
	}
	return Behind
}
