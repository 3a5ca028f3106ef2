package syncer

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
)

// What a replica does about clocks that are wrong, its own among them. A stamp in the far future would win for as long as that future takes, so
// nobody takes one; a node whose clock is right again dates anew what it had dated too late, and has again what it took for too early.

// skew is a clock that is wrong.
type skew struct {
	ahead   time.Duration // of the clocks that agree
	certain bool          // more than half of the clocks agree on that; else it is ahead of this node's
	since   time.Time
}

// hearClock takes a connected peer's word of what time it is.
func (r *replica) hearClock(now time.Time, from fleet.NodeID, clock time.Time) {
	r.clocks[from] = clock.Sub(now)
	if r.clockWasAhead(now) {
		r.heardSince[from] = true
	} else {
		delete(r.heardSince, from)
	}
	r.judgeClocks(now)
}

// judgeClocks finds out who is wrong, and keeps since when.
func (r *replica) judgeClocks(now time.Time) {
	all := maps.Clone(r.clocks)
	all[r.self.Node] = 0
	wrong, certain := wrongClocks(all, r.self.Node)
	before := r.skews
	r.skews = map[fleet.NodeID]skew{}
	for id, ahead := range wrong {
		since := now
		if known, was := before[id]; was {
			since = known.since
		}
		r.skews[id] = skew{ahead: ahead, certain: certain, since: since}
	}
}

// wrongClocks returns which of the clocks differ by more than futureLimit from the one in the middle, and by how much, if more than half of them agree
// with that one. Else nobody knows who is right, and it is self that they are compared with.
func wrongClocks(ahead map[fleet.NodeID]time.Duration, self fleet.NodeID) (wrong map[fleet.NodeID]time.Duration, certain bool) {
	sorted := slices.Sorted(maps.Values(ahead))
	right, agree := sorted[(len(sorted)-1)/2], 0
	off := func(a time.Duration) bool { return (a - right).Abs() > futureLimit }
	for _, a := range sorted {
		if !off(a) {
			agree++
		}
	}
	if certain = 2*agree > len(sorted); !certain {
		right = ahead[self]
	}
	wrong = map[fleet.NodeID]time.Duration{}
	for id, a := range ahead {
		if off(a) {
			wrong[id] = a - right
		}
	}
	return wrong, certain
}

// premature is what was refused because its stamp lay in the future.
type premature struct {
	node fleet.NodeID
	path index.Path
}

// maxEarly bounds how many of them are told apart.
const maxEarly = 1024

func (r *replica) noteEarly(e *index.Entry) {
	key := premature{e.Origin.Node, e.Path}
	if len(r.tooEarly) >= maxEarly {
		key = premature{}
	}
	r.tooEarly[key] = max(r.tooEarly[key], e.Stamp.HLC)
}

// clockWasAhead reports whether this node knows of stamps that nobody whose clock is right would take.
func (r *replica) clockWasAhead(now time.Time) bool {
	return r.clock > index.HLCOf(now.Add(futureLimit))
}

// clockIsRight reports whether others are there to agree with this node's clock, and most do. Alone, a clock that was put back looks like one that was
// ahead before. What was heard before it was put back says nothing: who has spoken is to speak again, as all do every minute.
func (r *replica) clockIsRight() bool {
	if len(r.heardSince) < len(r.clocks) {
		return false
	}
	all := maps.Clone(r.clocks)
	all[r.self.Node] = 0
	wrong, certain := wrongClocks(all, r.self.Node)
	_, self := wrong[r.self.Node]
	return certain && !self && len(all) > 1
}

// mendClock makes good what a clock that was wrong has done, once it is right. What this node dated in the future it dates anew; what others did is theirs to
// mend. What was refused for coming too early is not early any more: the fingerprint, which speaks again, has the peers offer it. It
// reports whether there was anything to mend.
func (r *replica) mendClock(now time.Time) (mended bool) {
	limit := index.HLCOf(now.Add(futureLimit))
	for key, hlc := range r.tooEarly {
		if hlc <= limit {
			delete(r.tooEarly, key)
			mended = true
		}
	}
	if mended {
		for _, v := range r.peers {
			v.haveAt = now
		}
	}
	if r.clockWasAhead(now) && r.clockIsRight() {
		mended = r.redate(now, limit) || mended
	}
	return mended
}

func (r *replica) redate(now time.Time, limit index.HLC) bool {
	var mine []*index.Entry
	var latest index.HLC
	for e := range r.x.All {
		switch {
		case e.Stamp.HLC <= limit:
			latest = max(latest, e.Stamp.HLC)
		case e.Origin.Node == r.self.Node:
			mine = append(mine, e)
		}
	}
	if !r.room(len(mine)) {
		return false
	}
	r.clock = latest
	for _, e := range mine {
		r.x.Remove(e.Path)
		r.dirty[e.Path] = true
	}
	slices.SortFunc(mine, func(a, b *index.Entry) int {
		return cmp.Or(a.Stamp.Compare(b.Stamp), cmp.Compare(a.Path.String(), b.Path.String()))
	})
	again := make([]*index.Entry, len(mine))
	for i, e := range mine {
		stamp := e.Stamp
		stamp.HLC = r.tickClock(now)
		again[i] = &index.Entry{Path: e.Path, Stamp: stamp, Origin: r.self, Content: e.Content, Expires: e.Expires}
	}
	r.number(again)
	r.adopt(again)
	return true
}

// mendClock looks whether the clock was put right: nothing wakes anybody when it is.
func (d *Directory) mendClock() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if d.r.clockWasAhead(now) {
		d.reserveLocked(d.r.x.Len())
	}
	if d.r.mendClock(now) {
		d.stirLocked()
	}
}
