package syncer

import (
	"maps"
	"slices"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// Jobs: entries on their way to this node's disk, which of them goes next, and what becomes of one that failed.

// work returns the next job for the disk, nil if there is none now.
func (r *replica) work(now time.Time) *job {
	if r.away {
		return nil
	}
	r.planReverts(now)
	for _, j := range r.jobs {
		if !j.flying && !now.Before(j.notTill) && !r.early(j) && r.hasPlace(j) {
			j.flying = true
			r.absorb(j)
			return j
		}
	}
	return nil
}

// hasPlace reports whether a job may begin. One whose content must be fetched first may take long, or for ever where a peer is slow: it leaves a place
// to those that need not wait for the network, and those of one peer leave one to another peer's.
func (r *replica) hasPlace(j *job) bool {
	if !j.fetches {
		return true
	}
	all, its := 0, 0
	for _, other := range r.jobs {
		if other.flying && other.fetches {
			all++
			if other.from == j.from {
				its++
			}
		}
	}
	return all < appliers-1 && its < appliers-2
}

// needsFetch reports whether some content of a job did not come with it.
func (j *job) needsFetch() bool {
	return slices.ContainsFunc(j.entries, func(e *index.Entry) bool {
		f, file := e.Content.(index.File)
		_, here := j.inline[f.Digest]
		return file && f.Size > 0 && !here
	})
}

// absorb makes one job of those of an origin that wait one after the other, where more wait than can be done at a time: what lands together is synced
// together. Fewer are quicker side by side.
func (r *replica) absorb(j *job) {
	waiting := 0
	for _, other := range r.jobs {
		if !other.flying && other.tries == 0 {
			waiting++
		}
	}
	if waiting < appliers || j.isRevert() || j.tries > 0 {
		return
	}
	frame := j.inline
	j.inline = map[index.Digest][]byte{}
	maps.Copy(j.inline, frame)
	early := map[*job]bool{}
	for _, next := range r.jobs {
		early[next] = r.mustWait(next, j)
	}
	r.jobs = slices.DeleteFunc(r.jobs, func(next *job) bool {
		if early[next] || next.flying || next.tries > 0 || next.isRevert() || next.from != j.from || next.cover.origin != j.cover.origin ||
			next.cover.after != j.cover.through || next.cover.volatile != j.cover.volatile ||
			len(j.entries)+len(next.entries) > wire.MaxEntries || j.bytes+next.bytes > wire.InlineBudget {
			return false
		}
		j.entries = append(j.entries, next.entries...)
		maps.Copy(j.inline, next.inline)
		j.bytes += next.bytes
		j.cover.through = next.cover.through
		j.fetches = j.fetches || next.fetches
		return true
	})
}

// early reports whether a job must wait for those before it: jobs overtake each other, but a link is never seen before what its origin wrote
// earlier, for that may be what it leads to. A job that failed once holds nobody up but the links that do lead to what is in it.
func (r *replica) early(j *job) bool { return r.mustWait(j, j) }

// mustWait reports whether a job must wait for those before a certain one.
func (r *replica) mustWait(j, until *job) bool {
	if !slices.ContainsFunc(j.entries, func(e *index.Entry) bool { _, link := e.Content.(index.Symlink); return link }) {
		return false
	}
	for _, before := range r.jobs {
		if before == until {
			return false
		}
		if before.cover.origin == j.cover.origin && !before.isRevert() && (before.tries == 0 || j.leadsTo(before)) {
			return true
		}
	}
	return false
}

// leadsTo reports whether a link of one job leads to what another one brings, or to where that stands.
func (j *job) leadsTo(other *job) bool {
	return slices.ContainsFunc(j.entries, func(e *index.Entry) bool {
		link, _ := e.Content.(index.Symlink)
		to, inside := e.Path.Resolve(link.Target)
		return inside && link.Target != "" && slices.ContainsFunc(other.entries, func(o *index.Entry) bool { return o.Path.Under(to) })
	})
}

func (j *job) isRevert() bool { return j.reverts != nil }

// plan says what a job means for the disk as the index is now: entries that have lost meanwhile are not in it.
func (r *replica) plan(j *job) index.Plan {
	if !j.isRevert() {
		plan := r.planAnew(j)
		r.noteUndoubted(plan)
		return plan
	}
	var known []*index.Entry
	for _, e := range j.entries {
		if r.x.Live(e.Path) == e || e.Deleted() && r.x.Live(e.Path) == nil {
			known = append(known, e)
		}
	}
	return index.MakeRevert(known)
}

// planAnew is plan for a disk of which nothing is believed but what the index says.
func (r *replica) planAnew(j *job) index.Plan {
	plan := index.MakePlan(r.x, j.entries, r.reserved)
	r.noteDisplaced(plan)
	return plan
}

// land takes entries that the disk shows now into the index, in the same moment.
func (r *replica) land(e *index.Entry) {
	r.x.Merge(e)
	delete(r.deletes, e.Path)
	delete(r.lost, e.Path)
	delete(r.lacks, e.Path)
	r.note(e.Stamp)
}

// landLoosely is land for what is not synced yet; see settleDone.
func (r *replica) landLoosely(e *index.Entry) {
	before := r.x.Lookup(e.Path)
	if known, is := r.loose[e.Path]; is {
		before = known.before
	}
	r.land(e)
	r.loose[e.Path] = loose{now: e, before: before}
}

// firm notes that an entry, if nothing else has landed there since, is on the disk for good.
func (r *replica) firm(e *index.Entry) {
	known, is := r.loose[e.Path]
	switch {
	case is && known.now == e:
		delete(r.loose, e.Path)
	case is:
		r.loose[e.Path] = loose{now: known.now, before: e}
	}
	r.dirty[e.Path] = true
}

// note keeps up with a stamp: this node's next ones must be later.
func (r *replica) note(s index.Stamp) {
	r.clock = max(r.clock, s.HLC)
	if s.Epoch.Compare(r.epoch) > 0 {
		r.epoch = s.Epoch
	}
}

// finish takes the outcome of a job: done are the entries that the disk now shows. If something failed the job waits and
// is tried again, longer each time.
//
// It comes after land, when the disk keeps what it shows: only then may the state on disk say so too.
func (r *replica) finish(now time.Time, j *job, done []*index.Entry, failed bool) {
	if failed {
		j.flying = false
		j.tries++
		j.notTill = now.Add(min(time.Second<<min(j.tries-1, 5), 30*time.Second))
		r.split(j)
		return
	}
	r.drop(j)
	r.settleDone(now, j, done)
	if !j.isRevert() {
		r.complete(now, j.cover)
	}
}

// settleDone takes what a job has brought to the disk for good.
func (r *replica) settleDone(now time.Time, j *job, done []*index.Entry) {
	for _, e := range done {
		switch {
		case !j.isRevert():
			r.firm(e)
		case j.reverts[e.Path]:
			r.reverted[e.Path] = now
		}
		delete(r.lost, e.Path)
	}
}

// abandon gives a job up because the content of an entry is nowhere to be had; the peer is asked to start again, by when it may know better.
func (r *replica) abandon(now time.Time, j *job, lost *index.Entry) {
	if j.isRevert() {
		r.giveUp(now, j, lost)
		return
	}
	j.flying, j.notTill = false, now
	if r.split(j) {
		return
	}
	r.drop(j)
	if v := r.peers[j.from]; v != nil {
		v.again, v.haveAt = true, now.Add(time.Second)
	}
}

// split makes of a job that failed one for each of its batches: what belongs together shares a fate, not what travelled together. It reports whether
// there was more than one.
func (r *replica) split(j *job) bool {
	if j.isRevert() || len(j.landed) > 0 || len(j.entries) == 0 || j.entries[0].Batch == j.entries[len(j.entries)-1].Batch {
		return false
	}
	var parts []*job
	after := j.cover.after
	for entries := j.entries; len(entries) > 0; {
		n := 1
		for n < len(entries) && entries[n].Batch == entries[0].Batch {
			n++
		}
		part := *j
		part.entries, part.bytes, part.tries = entries[:n], 0, max(j.tries, 1)
		part.cover.after = after
		if entries = entries[n:]; len(entries) > 0 {
			part.cover.through = min(part.entries[n-1].Seq, j.cover.through)
		}
		part.cover.volatile = !slices.ContainsFunc(part.entries, func(e *index.Entry) bool { return e.Expires == 0 })
		after = part.cover.through
		parts = append(parts, &part)
	}
	parts[0].bytes = j.bytes
	at := slices.Index(r.jobs, j)
	r.jobs = slices.Replace(r.jobs, at, at+1, parts...)
	return true
}

// flying reports whether any job is under way.
func (r *replica) flying() bool {
	return slices.ContainsFunc(r.jobs, func(j *job) bool { return j.flying })
}

func (r *replica) drop(j *job) {
	r.jobs = slices.DeleteFunc(r.jobs, func(other *job) bool { return other == j })
}

// loose is an entry whose disk a power cut may still undo: the state on disk must not be ahead of what it is the state of, or what is back then
// would be taken for a change.
type loose struct{ now, before *index.Entry }

// job is entries on their way to this node's disk.
type job struct {
	from    fleet.NodeID
	entries []*index.Entry
	inline  map[index.Digest][]byte
	bytes   int // of what is inline
	cover   cover
	reverts map[index.Path]bool // of a job that puts back what the fleet has and merges nothing; see replica.reverts
	flying  bool                // somebody is at it
	fetches bool                // not all of its content came with it
	tries   int

	stuck    index.Path          // could not be replaced at the last try
	unsynced map[index.Path]bool // directories whose names were changed by tries that failed
	landed   []*index.Entry      // and what landed there: the state on disk must not say so before they are synced
	notTill  time.Time
}
