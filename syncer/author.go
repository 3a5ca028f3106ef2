package syncer

import (
	"time"

	"certswarm/syncer/index"
	"certswarm/syncer/pairs"
	"certswarm/syncer/wire"
)

// What this node writes: how it is dated, numbered and signed.

// tickClock gives the next reading of the hybrid clock: the wall's, or one more than the latest where the wall stands still
// or went back.
func (r *replica) tickClock(now time.Time) index.HLC {
	r.clock = max(r.clock+1, index.HLCOf(now))
	return r.clock
}

// ownedByOthers reports whether a change made here to p must be put back: this node may not write, or the path belongs to
// whoever holds the lease.
func (r *replica) ownedByOthers(p index.Path) bool {
	if !r.mayWrite(r.self.Node) {
		return true
	}
	e := r.x.Live(p)
	return e != nil && !e.Stamp.Epoch.IsZero()
}

// stampFor dates a change. What a new incarnation finds was only found; what changed while the agent was down is dated by
// the kernel's ctime, so that a stale file does not beat what the fleet wrote since. A directory that was not known then was only found too: it
// may be what a crash left of one that was being made here for the fleet, with no mode of anybody's choice.
func (r *replica) stampFor(now time.Time, c index.Change) index.Stamp {
	stamp := index.Stamp{Written: true, Node: r.self.Node}
	_, directory := c.Content.(index.Directory)
	switch {
	case r.seeded:
		stamp.HLC = r.tickClock(now)
	case r.fresh || directory && r.x.Lookup(c.Path) == nil:
		stamp.Written = false
		stamp.HLC = min(index.HLCOf(c.Found.Modified), index.HLCOf(now))
	default:
		stamp.HLC = min(index.HLCOf(c.Found.Changed), index.HLCOf(now))
		if known := r.x.Lookup(c.Path); known != nil {
			stamp.HLC = max(stamp.HLC, known.Stamp.HLC+1)
		}
		r.clock = max(r.clock, stamp.HLC)
	}
	return stamp
}

// author makes entries of changes that this node makes: numbered, signed, in the index, and owed to the fleet. Without
// reserved numbers (a disk that cannot be written) nothing is made; the next scan finds the changes again.
func (r *replica) author(changes []index.Change, stamp func(index.Change) index.Stamp) {
	if !r.room(len(changes)) {
		return
	}
	entries := make([]*index.Entry, len(changes))
	for i, c := range changes {
		if owner, group, ok := namesOf(c.Content); ok && r.x.Live(c.Path) != nil {
			if o, g, _ := namesOf(r.x.Live(c.Path).Content); o != owner || g != group {
				delete(r.stopgaps, c.Path) // somebody has given it to whom it belongs to now
			}
		}
		entries[i] = &index.Entry{Path: c.Path, Stamp: stamp(c), Origin: r.self, Content: c.Content}
	}
	r.number(entries)
	r.adopt(entries)
}

// room reports whether n more sequence numbers are reserved on disk.
func (r *replica) room(n int) bool { return r.seq+uint64(n) <= r.ceiling }

// number gives entries their sequence numbers, batches and seals. A batch ends where it has MaxBatch entries, or half of
// that at the border of a directory, for what stands in one directory belongs together; and before it would part a key from its certificate.
func (r *replica) number(entries []*index.Entry) {
	if !r.room(len(entries)) {
		panic("syncer: sequence numbers were not reserved")
	}
	start := 0
	var reach []int
	if len(entries) > wire.MaxBatch/2 {
		reach = pairs.Together(entries)
	}
	for i, e := range entries {
		r.seq++
		e.Seq = r.seq
		n := i + 1 - start
		last := i+1 == len(entries)
		border := n >= wire.MaxBatch/2 && !last && reach[i] == i && (n >= wire.MaxBatch*7/8 || entries[i+1].Path.Parent() != e.Path.Parent())
		if last || border || n == wire.MaxBatch {
			for _, member := range entries[start : i+1] {
				member.Batch = r.seq
			}
			start = i + 1
		}
	}
	r.scope.Seal(entries, r.sign)
}

// adopt takes this node's own new entries into the index.
func (r *replica) adopt(entries []*index.Entry) {
	for _, e := range entries {
		r.land(e)
		delete(r.loose, e.Path)
		r.dirty[e.Path] = true
	}
	if len(entries) > 0 {
		r.x.Hold(r.self, r.seq)
		r.raised = true
	}
}
