package syncer

import (
	"fmt"
	"slices"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// What a replica believes and takes of what peers say. A signature proves who wrote an entry; what a peer says of numbers is only
// its word, and it costs nobody but the two of them if it is a lie.

// believable is what a peer says it holds, as far as that can be: nobody holds more of this node's writes than it has made.
func (r *replica) believable(held index.Summary) index.Summary {
	held = held.Clone()
	if held[r.self] > r.seq {
		held[r.self] = r.seq
	}
	return held
}

// believableOffer lowers an offer's Through to what this peer may vouch for. Of an origin that is here to speak for itself, and of this node
// itself, a relay proves no more than what it brings signed; a lie would keep everybody from ever sending the rest.
func (r *replica) believableOffer(from fleet.NodeID, o wire.Offer) wire.Offer {
	var proven uint64
	for _, e := range o.Entries {
		proven = max(proven, e.Seq)
	}
	if o.Origin == r.self {
		r.seq = max(r.seq, proven) // this node's state is older than what it once wrote: those numbers are given
		o.Through = min(o.Through, r.seq)
	} else if v := r.peers[o.Origin.Node]; v != nil && from != o.Origin.Node {
		o.Through = min(o.Through, max(proven, v.announced[o.Origin]))
	}
	return o
}

// full reports whether as much is under way as this node can keep in mind.
func (r *replica) full() bool {
	waiting := 0
	for _, j := range r.jobs {
		waiting += j.bytes
	}
	return len(r.jobs)+len(r.covers) >= maxJobs || waiting >= maxWaiting
}

// refuse says why this node will not take an entry from a peer, or "". What a node wrote before it left the fleet stays valid on the word of
// a writer: a newcomer could not have it otherwise.
func (r *replica) refuse(now time.Time, from fleet.NodeID, e *index.Entry) string {
	retired := !slices.Contains(r.members(), e.Origin.Node)
	switch file, _ := e.Content.(index.File); {
	case !r.mayWrite(e.Origin.Node) && !(retired && r.mayWrite(from)):
		return fmt.Sprintf("%s is not one of the writers of %s", r.nameOf(e.Origin.Node), r.scope.Directory)
	case !e.Stamp.Epoch.IsZero() && !r.mayLease(e.Origin.Node) && !(retired && r.mayLease(from)):
		return fmt.Sprintf("%s may not hold the lease, yet wrote under one", r.nameOf(e.Origin.Node))
	case isEarly(now, e):
		return fmt.Sprintf("the clock of %s is %s ahead", r.nameOf(e.Origin.Node), roughly(e.Stamp.HLC.Time().Sub(now)))
	case file.Size > r.maxFile:
		return fmt.Sprintf("%d bytes; max_file_size is %d", file.Size, r.maxFile)
	case r.x.Len() >= maxEntries && r.x.Lookup(e.Path) == nil:
		return fmt.Sprintf("%s has %d entries already", r.scope.Directory, maxEntries)
	case r.takesPrecious(e):
		return reasonPrecious
	}
	return ""
}

func isEarly(now time.Time, e *index.Entry) bool {
	return e.Stamp.HLC > index.HLCOf(now.Add(futureLimit))
}

// reasonPrecious is what both ends of a refusal know it by: who took the thing away takes its tombstone back, and has it again.
const reasonPrecious = "a certificate that is declared and still valid is not deleted by a replicated delete"

// takesPrecious reports whether an entry would take away what is precious, itself or by what it puts above it. The holder of the lease may do that.
func (r *replica) takesPrecious(e *index.Entry) bool {
	live := r.x.Live(e.Path)
	if live == nil || !e.Stamp.Epoch.IsZero() || !r.precious(e.Path) {
		return false
	}
	_, was := live.Content.(index.Directory)
	_, is := e.Content.(index.Directory)
	return e.Deleted() || was && !is
}

// noteRefused keeps that an entry was refused, and has its origin told.
func (r *replica) noteRefused(now time.Time, e *index.Entry, reason string) {
	switch {
	case reason == reasonPrecious: // its origin gives it up
	case isEarly(now, e) && r.mayWrite(e.Origin.Node):
		r.noteEarly(e)
	default:
		r.lacks[e.Path] = true
	}
	r.tellRefusal(now, wire.Refusal{Origin: e.Origin, Seq: e.Seq, Path: e.Path, Reason: reason})
}

// tellRefusal has an origin told that its entry is not taken, once it is here; a relay can do nothing about it.
func (r *replica) tellRefusal(now time.Time, refusal wire.Refusal) {
	v := r.peers[refusal.Origin.Node]
	switch {
	case v == nil && len(r.untold[refusal.Origin.Node]) < wire.MaxRefusals:
		r.untold[refusal.Origin.Node] = append(r.untold[refusal.Origin.Node], refusal)
	case v != nil && len(v.refusals) < wire.MaxRefusals:
		v.refusals = append(v.refusals, refusal)
		v.haveAt = now
		if kept := r.x.Live(refusal.Path); kept != nil && refusal.Reason == reasonPrecious {
			v.repair = append(v.repair, kept) // it is said before this is offered: see next
		}
	}
}

// objection is a peer's refusal of what this node wrote.
type objection struct {
	wire.Refusal
	since time.Time
}

// hearRefusal takes a peer's word that it will not take what this node wrote. Where that was the deletion of something precious, it is given up.
func (r *replica) hearRefusal(now time.Time, from fleet.NodeID, refusal wire.Refusal) {
	e := r.x.Lookup(refusal.Path)
	if e == nil || e.Origin != refusal.Origin || e.Seq != refusal.Seq || e.Origin.Node != r.self.Node {
		return // there is another version by now
	}
	if refusal.Reason == reasonPrecious && e.Deleted() && r.mayWrite(from) {
		r.x.Remove(e.Path) // what they kept is on its way
		r.dirty[e.Path] = true
		r.reverted[e.Path] = now
		return
	}
	same := func(o objection) bool { return o.Refusal == refusal }
	if len(r.refusedBy[from]) < wire.MaxRefusals && !slices.ContainsFunc(r.refusedBy[from], same) {
		r.refusedBy[from] = append(r.refusedBy[from], objection{refusal, now})
	}
}

// dropRefusals forgets who would not take what does not stand any more, and whoever has left.
func (r *replica) dropRefusals() {
	for id, objections := range r.refusedBy {
		r.refusedBy[id] = slices.DeleteFunc(objections, func(o objection) bool {
			e := r.x.Lookup(o.Path)
			return e == nil || e.Origin != o.Origin || e.Seq != o.Seq
		})
		if len(r.refusedBy[id]) == 0 || !slices.Contains(r.members(), id) {
			delete(r.refusedBy, id)
		}
	}
}

// refuses reports whether a peer has said that it will not take something of a batch: then it does not have it, whatever its summary says.
func (r *replica) refuses(id fleet.NodeID, batch Receipt) bool {
	return slices.ContainsFunc(r.refusedBy[id], func(o objection) bool {
		e := r.x.Lookup(o.Path)
		return o.Origin == batch.Origin && e != nil && e.Origin == o.Origin && e.Seq == o.Seq && e.Batch == batch.Seq
	})
}
