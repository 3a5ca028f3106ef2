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
	case e.Stamp.HLC > index.HLCOf(now.Add(futureLimit)):
		return fmt.Sprintf("the clock of %s is %s ahead", r.nameOf(e.Origin.Node), e.Stamp.HLC.Time().Sub(now).Round(time.Second))
	case file.Size > r.maxFile:
		return fmt.Sprintf("%d bytes; max_file_size is %d", file.Size, r.maxFile)
	case r.x.Len() >= maxEntries && r.x.Lookup(e.Path) == nil:
		return fmt.Sprintf("%s has %d entries already", r.scope.Directory, maxEntries)
	}
	return ""
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
	}
}

// dropRefusals forgets who would not take the version that was at p: there is another one now.
func (r *replica) dropRefusals(p index.Path) {
	for id, refusals := range r.refusedBy {
		r.refusedBy[id] = slices.DeleteFunc(refusals, func(refusal wire.Refusal) bool { return refusal.Path == p })
	}
}
