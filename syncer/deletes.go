package syncer

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"certswarm/syncer/index"
)

// Deletions wait, are judged together, and halt what goes out if they are too many to believe.

// judgement returns when the pending deletions are judged, all together: when no other has joined them for deleteDelay, and at the
// latest after deleteWindow. Zero: there are none.
func (r *replica) judgement() time.Time {
	var first, last time.Time
	for _, since := range r.deletes {
		if first.IsZero() || since.Before(first) {
			first = since
		}
		if since.After(last) {
			last = since
		}
	}
	if first.IsZero() {
		return first
	}
	if latest := first.Add(deleteWindow); latest.Before(last.Add(deleteDelay)) {
		return latest
	}
	return last.Add(deleteDelay)
}

// judgeDeletes sends out the deletions that have waited long enough, or halts if they are too many to believe.
func (r *replica) judgeDeletes(now time.Time) {
	var due []index.Change
	var paths []index.Path
	if at := r.judgement(); at.IsZero() || now.Before(at) {
		return
	}
	for p := range r.deletes {
		delete(r.deletes, p)
		switch {
		case r.x.Live(p) == nil:
		case r.precious(p) && len(r.members()) > 1: // somebody has it still
			r.reverts[p], r.diverted[p] = true, now
		default:
			due = append(due, index.Change{Path: p, Content: index.Tombstone{}})
			paths = append(paths, p)
		}
	}
	if len(due) == 0 || r.halt != "" || !r.room(len(due)) {
		return
	}
	r.recent = slices.DeleteFunc(r.recent, func(d deletion) bool { return now.Sub(d.at) > deleteWindow })
	recent := 0
	for _, d := range r.recent {
		recent += d.files
	}
	lost := index.Lost(r.x, paths)
	maps.DeleteFunc(r.diverted, func(_ index.Path, since time.Time) bool { return now.Sub(since) > deleteWindow })
	all := slices.AppendSeq(slices.Clone(paths), maps.Keys(r.diverted)) // whoever empties a directory does not ask whose the files are
	if index.Suspicious(r.x, all, recent, r.maxDelete) {
		r.stop(now, fmt.Sprintf("%d of %d files are gone at once; max_delete is %d%%", recent+index.Lost(r.x, all), recent+r.x.Files(), r.maxDelete))
		return
	}
	slices.SortFunc(due, func(a, b index.Change) int { return cmp.Compare(b.Path.String(), a.Path.String()) })
	r.author(due, func(c index.Change) index.Stamp {
		stamp := index.Stamp{Written: true, Node: r.self.Node}
		if r.unseen[c.Path] { // no later than need be: what was written there since stands
			stamp.HLC = r.x.Live(c.Path).Stamp.HLC + 1
			r.note(stamp)
		} else {
			stamp.HLC = r.tickClock(now)
		}
		return stamp
	})
	r.recent = append(r.recent, deletion{now, lost})
}

// resume ends a halt, with a scan of everything as it is now.
func (r *replica) resume(now time.Time, scan index.Scan, accept bool) {
	r.halt, r.agreed = "", len(r.reverts) > 0
	clear(r.deletes)
	if accept {
		r.observe(now, scan)
		for p := range r.deletes {
			r.deletes[p] = now.Add(-deleteDelay)
		}
		limit := r.maxDelete
		r.maxDelete = 100
		r.judgeDeletes(now)
		r.maxDelete = limit
		return
	}
	for _, c := range index.Observe(r.x, scan, r.same) {
		if !r.reserved(c.Path) && r.x.Live(c.Path) != nil {
			r.reverts[c.Path] = false
		}
	}
	r.joined = r.joined || len(r.peers) > 0
	r.observe(now, index.Scan{Found: r.onlyNew(scan.Found)}) // what is new here was never in question
}

// onlyNew returns what was found at paths of which the index knows nothing.
func (r *replica) onlyNew(found map[index.Path]index.Found) map[index.Path]index.Found {
	out := map[index.Path]index.Found{}
	for p, f := range found {
		if r.x.Live(p) == nil {
			out[p] = f
		}
	}
	return out
}

type deletion struct {
	at    time.Time
	files int
}

// doubtStart halts before anything goes out if too much is gone since the last run: what else changed is part of that decision.
func (r *replica) doubtStart(now time.Time, changes []index.Change) {
	var gone []index.Path
	goesOut := false // else all of it is put back
	for _, c := range changes {
		if _, dead := c.Content.(index.Tombstone); dead && !r.reserved(c.Path) {
			gone = append(gone, c.Path)
			goesOut = goesOut || !r.ownedByOthers(c.Path)
		}
	}
	if goesOut && index.Suspicious(r.x, gone, 0, r.maxDelete) {
		r.stop(now, fmt.Sprintf("%d of %d files are gone since the last run; max_delete is %d%%", index.Lost(r.x, gone), r.x.Files(), r.maxDelete))
	}
}

// stop halts: this node receives, but sends no change of its own until a person says so.
func (r *replica) stop(now time.Time, why string) {
	if r.halt == "" {
		r.halt, r.haltedAt = why, now
	}
}
