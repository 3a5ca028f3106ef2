package syncer

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"certswarm/syncer/index"
)

// Reverts: changes on this disk that are not this node's to make, and are put back.

// planReverts makes a job of the local edits that must be put back, once this node knows what the fleet has.
func (r *replica) planReverts(now time.Time) {
	if !r.joined {
		return
	}
	met := !r.fresh || r.contacted // what is found at first contact is no question
	r.contacted = true
	if len(r.reverts) == 0 || met && !r.agreed && r.doubtReverts(now) {
		return
	}
	r.agreed = false
	j := &job{reverts: maps.Clone(r.reverts)}
	for p := range r.reverts {
		e := r.x.Live(p)
		if e == nil { // the fleet knows nothing there
			e = &index.Entry{Path: p, Content: index.Tombstone{}}
		}
		j.entries = append(j.entries, e)
	}
	clear(r.reverts)
	slices.SortFunc(j.entries, func(a, b *index.Entry) int { return cmp.Compare(a.Path.String(), b.Path.String()) })
	j.fetches = j.needsFetch()
	r.jobs = append(r.jobs, j)
}

// manyReverts is how many files that the fleet does not know are put away without a question.
const manyReverts = 20

// doubtReverts halts, and reports that, where putting back what the fleet has would take more than max_delete of the files from this disk: to have put
// them where only others may write may be a mistake of the configuration.
func (r *replica) doubtReverts(now time.Time) bool {
	gone := 0
	for p, rule := range r.reverts {
		if rule && r.x.Live(p) == nil {
			gone++
		}
	}
	if gone <= manyReverts || gone*100 <= (gone+r.x.Files())*r.maxDelete {
		return false
	}
	r.stop(now, fmt.Sprintf("%d of %d files here are not the fleet's and would be put into the archive; max_delete is %d%%", gone, gone+r.x.Files(), r.maxDelete))
	return true
}

// giveUp leaves one path as it is on this disk, for nobody has what the fleet had there. It is tried again when the path is looked at the next time, or
// when somebody else is met. While a member is away it is tried again and again, for that one may have it.
func (r *replica) giveUp(now time.Time, j *job, lost *index.Entry) {
	if _, known := r.lost[lost.Path]; !known {
		r.lost[lost.Path] = now
	}
	everybody := len(r.peers)+1 >= len(r.members())
	if !everybody && len(j.entries) == 1 {
		r.finish(now, j, nil, true)
		return
	}
	alone := &job{reverts: map[index.Path]bool{lost.Path: j.reverts[lost.Path]}, entries: []*index.Entry{lost}, fetches: true}
	delete(j.reverts, lost.Path)
	j.entries = slices.DeleteFunc(j.entries, func(e *index.Entry) bool { return e == lost })
	j.flying, j.notTill = false, now
	if len(j.entries) == 0 {
		r.drop(j)
	}
	if !everybody {
		r.jobs = append(r.jobs, alone)
		r.finish(now, alone, nil, true)
	}
}

// seekLost has what was lost looked for again.
func (r *replica) seekLost(now time.Time) {
	waits := map[index.Path]bool{}
	for _, j := range r.jobs {
		for p := range j.reverts {
			if _, lost := r.lost[p]; lost {
				waits[p], j.notTill = true, now
			}
		}
	}
	for p := range r.lost {
		if !waits[p] {
			r.reverts[p] = true
		}
	}
}

// revertMemory is for how long a reverted edit is reported.
const revertMemory = time.Hour
