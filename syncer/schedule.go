package syncer

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// What a replica wants done, and when. Nothing here changes what is known; only what has been said and begun.

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

// plan says what a job means for the disk as the index is now: entries that have lost meanwhile are not in it.
func (r *replica) plan(j *job) index.Plan {
	if !j.isRevert() {
		plan := index.MakePlan(r.x, j.entries, r.reserved)
		r.noteDisplaced(plan)
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
func (r *replica) seekLost() {
	for p := range r.lost {
		r.reverts[p] = true
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

// next returns the next frame for a peer, nil if there is nothing to say now. What a peer is offered depends only on what it
// was offered before and on the index as it is now: a slow peer skips what has lost meanwhile, and no queue grows.
func (r *replica) next(now time.Time, to fleet.NodeID) wire.Frame {
	v := r.peers[to]
	if v == nil {
		return nil
	}
	if !v.haveAt.IsZero() && !now.Before(v.haveAt) {
		return r.sayHave(v)
	}
	if len(v.repair) > 0 {
		return r.offerRepair(v)
	}
	if o := r.offer(now, to, v, r.self); o != nil {
		return *o
	}
	for _, origin := range r.x.Held().Origins() {
		if origin == r.self {
			continue
		}
		if o := r.offer(now, to, v, origin); o != nil {
			return *o
		}
	}
	return nil
}

func (r *replica) sayHave(v *view) wire.Frame {
	h := wire.Have{Directory: r.scope.Directory, Held: index.Summary{}, Again: v.again, Refused: v.refusals}
	for o, seq := range r.durable {
		if v.told[o] < seq {
			h.Held[o] = seq
			v.told[o] = seq
		}
	}
	if r.settled() {
		h.Fingerprint = r.x.Fingerprint()
	}
	v.haveAt, v.again, v.refusals = time.Time{}, false, nil
	return h
}

// offer returns what the peer lacks of one origin, as much as one frame holds; nil if nothing, or if somebody else should
// be quicker.
func (r *replica) offer(now time.Time, to fleet.NodeID, v *view, origin index.Origin) *wire.Offer {
	after, held := v.sent[origin], r.x.Held()[origin]
	key, known := r.keys[origin.Node]
	if after >= held || !known {
		delete(v.lagging, origin)
		return nil
	}
	// A relay: the origin had better do it, if it is there to do it. To the origin itself nobody else can give back
	// what it lost.
	if origin != r.self && origin.Node != to && r.peers[origin.Node] != nil {
		if v.acked[origin] >= held {
			v.sent[origin] = held
			return nil
		}
		since, lagging := v.lagging[origin]
		if !lagging {
			since = now
			v.lagging[origin] = now
		}
		if now.Before(since.Add(relayDelay)) {
			return nil
		}
	}
	o := &wire.Offer{Directory: r.scope.Directory, Origin: origin, Key: key, After: after, Through: held}
	entries := r.x.Since(origin, after, held)
	n := frameful(entries)
	o.Entries = entries[:n]
	if n < len(entries) { // a batch's number may be a lie; this frame must not vouch for the next, nor for nothing
		o.Through = max(entries[n-1].Seq, min(entries[n-1].Batch, entries[n].Seq-1))
	}
	v.sent[origin] = o.Through
	delete(v.lagging, origin)
	return o
}

// frameful returns how many of the entries fit one offer: never a part of a batch, unless there is no border.
func frameful(entries []*index.Entry) int {
	var inline int64
	fits := 0
	for i, e := range entries {
		if f, ok := e.Content.(index.File); ok && f.Size <= wire.MaxInline {
			inline += f.Size
		}
		if i == wire.MaxEntries && fits == 0 {
			return i
		}
		if i == wire.MaxEntries || inline > wire.InlineBudget && fits > 0 {
			return fits
		}
		if i+1 == len(entries) || entries[i+1].Batch != e.Batch {
			fits = i + 1
		}
	}
	return fits
}

func (r *replica) offerRepair(v *view) wire.Frame {
	origin := v.repair[0].Origin
	o := wire.Offer{Directory: r.scope.Directory, Origin: origin, Key: r.keys[origin.Node]}
	var rest []*index.Entry
	for _, e := range v.repair {
		if e.Origin == origin && len(o.Entries) < wire.MaxBatch {
			o.Entries = append(o.Entries, e)
		} else {
			rest = append(rest, e)
		}
	}
	v.repair = rest
	return o
}

// tick does what time alone brings about. It returns the entries whose life has ended, for the disk to follow.
func (r *replica) tick(now time.Time) []*index.Entry {
	r.mendClock(now)
	r.judgeDeletes(now)
	expired := r.x.Expire(now)
	for _, e := range expired {
		r.dirty[e.Path] = true
	}
	for p, at := range r.reverted {
		if now.Sub(at) > revertMemory {
			delete(r.reverted, p)
		}
	}
	return expired
}

// revertMemory is for how long a reverted edit is reported.
const revertMemory = time.Hour

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
			r.reverts[p] = true
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
	if index.Suspicious(r.x, paths, recent, r.maxDelete) {
		r.stop(now, fmt.Sprintf("%d of %d files are gone at once; max_delete is %d%%", recent+lost, recent+r.x.Files(), r.maxDelete))
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

// wake returns when tick, work or next will have something to do by themselves; zero: never. What work and next could do
// already is not counted: whoever calls them has been woken.
func (r *replica) wake(now time.Time) time.Time {
	var first time.Time
	at := func(t time.Time) {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	later := func(t time.Time) {
		if t.After(now) {
			at(t)
		}
	}
	at(r.judgement())
	at(r.x.NextExpiry())
	for _, v := range r.peers {
		later(v.haveAt)
		for _, since := range v.lagging {
			later(since.Add(relayDelay))
		}
	}
	for _, j := range r.jobs {
		if !j.flying {
			later(j.notTill)
		}
	}
	return first
}

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

// State is how a directory stands on this node.
type State string

// The states, as CONTRACT's status spells them.
const (
	InSync  State = "in_sync" // holds all that any connected peer has announced
	Behind  State = "behind"
	Halted  State = "halted"  // receives, but sends no changes of its own
	Joining State = "joining" // behind, and was never in sync in this incarnation
)

func (r *replica) state() State {
	if r.halt != "" {
		return Halted
	}
	behind := len(r.jobs) > 0 || len(r.deletes) > 0 || len(r.reverts) > 0 && r.joined
	for _, v := range r.peers {
		behind = behind || !r.x.Held().Covers(v.announced)
	}
	switch {
	case !behind && r.seeded:
		return InSync
	case r.fresh && !r.joined:
		return Joining
	}
	return Behind
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
