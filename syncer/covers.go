package syncer

import (
	"slices"
	"time"

	"certswarm/syncer/index"
)

// Covers: which numbers of an origin are here once jobs have landed, in whatever order.

// cover says that whoever holds after of the origin now holds through.
type cover struct {
	origin         index.Origin
	after, through uint64
	volatile       bool // all of its entries expire: visible is as good as durable
}

// expected returns how far an origin will have been heard once all that is under way has landed.
func (r *replica) expected(o index.Origin) uint64 {
	coming := slices.Clone(r.covers)
	for _, j := range r.jobs {
		coming = append(coming, j.cover)
	}
	seq := r.x.Held()[o]
	for progress := true; progress; { // what waits for a job stands before it here
		progress = false
		for _, c := range coming {
			if c.origin == o && c.after <= seq && c.through > seq {
				seq, progress = c.through, true
			}
		}
	}
	return seq
}

// await keeps a cover until what comes before it is here. Those in a row are one: however much follows on what is missing, it takes no room.
func (r *replica) await(c cover) {
	for i, before := range r.covers {
		if before.origin == c.origin && before.through == c.after && before.volatile == c.volatile {
			r.covers[i].through = c.through
			return
		}
	}
	r.covers = append(r.covers, c)
}

// complete notes that everything a cover speaks of is here, and whatever had waited for that.
func (r *replica) complete(now time.Time, c cover) {
	r.await(c)
	for progress := true; progress; {
		progress = false
		for i, c := range r.covers {
			held := r.x.Held()[c.origin]
			if c.after > held {
				continue
			}
			if c.volatile && r.durable[c.origin] >= c.after && c.through > r.durable[c.origin] {
				r.durable[c.origin] = c.through
				r.owe(now, c.origin)
			}
			if c.through > held {
				r.x.Hold(c.origin, c.through)
				r.raised = true
			} else {
				r.owe(now, c.origin) // said again because our answer was not heard
			}
			r.covers = append(r.covers[:i], r.covers[i+1:]...)
			progress = true
			break
		}
	}
	r.noteJoined()
}

// owe has the peers told what is held: an origin at once, for somebody may be waiting there; the others soon.
func (r *replica) owe(now time.Time, origin index.Origin) {
	for id, v := range r.peers {
		at := now.Add(ackDelay)
		if id == origin.Node {
			at = now
		}
		if v.haveAt.IsZero() || at.Before(v.haveAt) {
			v.haveAt = at
		}
	}
}
