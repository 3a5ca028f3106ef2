package syncer

import (
	"time"

	"certswarm/syncer/index"
)

// unsaved is what the state on disk lacks.
type unsaved struct {
	put    []*index.Entry
	remove []index.Path
	held   index.Summary // nil: as it was, and so is the rest

	forgotten index.Summary
	doubtless bool // nothing is in doubt any more
}

func (u unsaved) empty() bool { return len(u.put) == 0 && len(u.remove) == 0 && u.held == nil }

// takeDirty hands over what is to be persisted; persisted is told when it is.
func (r *replica) takeDirty() unsaved {
	var u unsaved
	for p := range r.dirty {
		e := r.x.Lookup(p)
		if known, is := r.loose[p]; is {
			e = known.before
		}
		if e != nil {
			u.put = append(u.put, e)
		} else {
			u.remove = append(u.remove, p)
		}
	}
	clear(r.dirty)
	if r.raised {
		u.held = r.x.Held().Clone()
		u.forgotten, u.doubtless = r.forgotten.Clone(), len(r.doubt.content) == 0
		r.raised = false
	}
	return u
}

// untake puts back what could not be persisted.
func (r *replica) untake(u unsaved) {
	for _, e := range u.put {
		r.dirty[e.Path] = true
	}
	for _, p := range u.remove {
		r.dirty[p] = true
	}
	r.raised = r.raised || u.held != nil
}

// persisted notes what is durable now; the fleet is told.
func (r *replica) persisted(now time.Time, u unsaved) {
	for o, seq := range u.held {
		if r.durable[o] < seq {
			r.durable[o] = seq
			r.owe(now, o)
		}
	}
	r.forget()
	r.adoptForgotten()
}

// saveAll makes everything that is known part of what is to be saved next.
func (r *replica) saveAll() {
	for e := range r.x.All {
		r.dirty[e.Path] = true
	}
	r.raised = true
}
