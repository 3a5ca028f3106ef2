package syncer

import (
	"time"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
	"certswarm/syncer/state"
)

// takeDirty hands over what is to be persisted; persisted is told when it is.
func (r *replica) takeDirty() state.Changes {
	c := state.Changes{Stopgaps: map[index.Path]durable.Owner{}}
	for p := range r.dirty {
		e := r.x.Lookup(p)
		if known, is := r.loose[p]; is {
			e = known.before
		}
		if e != nil {
			c.Put = append(c.Put, e)
		} else {
			c.Remove = append(c.Remove, p)
		}
		if now := r.x.Live(p); now == nil && r.doubt.content[p] == nil {
			delete(r.stopgaps, p)
		} else if owner, stands := r.stopgaps[p]; stands {
			c.Stopgaps[p] = owner
		}
	}
	clear(r.dirty)
	if r.raised {
		c.Held = r.x.Held().Clone()
		c.Forgotten, c.Doubtless = r.forgotten.Clone(), len(r.doubt.content) == 0
		r.raised = false
	}
	return c
}

// untake puts back what could not be persisted.
func (r *replica) untake(c state.Changes) {
	for _, e := range c.Put {
		r.dirty[e.Path] = true
	}
	for _, p := range c.Remove {
		r.dirty[p] = true
	}
	r.raised = r.raised || c.Held != nil
}

// persisted notes what is durable now; the fleet is told.
func (r *replica) persisted(now time.Time, c state.Changes) {
	for o, seq := range c.Held {
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
