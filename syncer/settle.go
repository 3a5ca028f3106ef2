package syncer

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
	"certswarm/syncer/pairs"
	"certswarm/syncer/wire"
)

// A change that is not whole, or whose other half does not go with it yet (package pairs), is held: to the fleet it has not happened. Nothing is
// remembered of it; the disk is the truth. See decisions/0015.

// holding is a change on this disk that is not told to the fleet, and since when.
type holding struct {
	pairs.Hold
	since time.Time    // when it was first seen, whatever it looked like then
	stat  durable.Stat // as it was last seen
	moved time.Time    // when it became so
	with  []index.Path // it is judged again when one of these was looked at
	told  bool         // that it is held
}

// reportable reports whether a change has been held for so long that people should know.
func (h holding) reportable(now time.Time) bool {
	return h.Why != "" && !now.Before(h.since.Add(pairs.Patience))
}

// maxPEM is up to how many bytes a file is judged; a larger one is no key and no certificate.
const maxPEM = 1 << 20

// settling is one survey being judged: which of the changes that it found go out now.
type settling struct {
	*Directory
	s      *survey
	now    time.Time
	looked map[index.Path]bool
	listed map[index.Path]bool
	first  map[index.Path]time.Time // by directory: when the first of its changed links was seen
	moved  map[index.Path]time.Time // and when one of them was last moved
	held   map[index.Path]holding
}

// settleLocked holds what must wait. It adds to the survey what belongs to what it found, so that all of a set is observed together.
//
// What this node may not change is not judged: it is put back, and need not be whole for that. Nor is what comes from peers, for its
// origin has judged it: it is in the index already when it is seen here.
func (d *Directory) settleLocked(s *survey) {
	j := &settling{
		Directory: d, s: s, now: time.Now(), looked: map[index.Path]bool{}, listed: map[index.Path]bool{},
		moved: map[index.Path]time.Time{}, first: map[index.Path]time.Time{}, held: map[index.Path]holding{},
	}
	for _, p := range s.Looked {
		j.looked[p] = true
	}
	for _, dir := range s.Listed {
		j.listed[dir] = true
	}
	j.recallLocked()
	changed := j.changesLocked()
	done := map[pairs.Set]bool{}
	for _, p := range changed {
		of, _ := pairs.SetOf(p)
		if done[of] {
			continue
		}
		done[of] = true
		j.judgeLocked(of)
	}
	for _, p := range s.busy {
		j.keep(p, pairs.Hold{Why: errBusy.Error()}, nil)
	}
	j.followLinksLocked()
	j.concludeLocked()
}

// recallLocked looks again at what is held and has to do with something that was looked at.
func (j *settling) recallLocked() {
	for again := len(j.holds) > 0; again; {
		again = false
		for p, h := range j.holds {
			if !j.looked[p] && slices.ContainsFunc(h.with, func(q index.Path) bool { return j.looked[q] }) {
				j.lookLocked(p)
				again = true
			}
		}
	}
}

// lookLocked adds one path to the survey.
func (j *settling) lookLocked(p index.Path) {
	if j.looked[p] {
		return
	}
	j.looked[p] = true
	j.lookInto(j.s, p)
	if got, ok := j.s.sights[p]; ok {
		j.verifySightLocked(j.s, p, got)
	}
}

// changesLocked returns what the survey found of PEM-like names that is not what the fleet has, in order.
func (j *settling) changesLocked() (out []index.Path) {
	links := map[index.Path]bool{}
	for p, got := range j.s.sights {
		if !pairs.IsPEMName(p.Base()) || !j.judgedLocked(p, got) {
			continue
		}
		out = append(out, p)
		if got.stat.Kind == durable.Symlink {
			links[p.Parent()] = true
		}
	}
	for p, h := range j.holds { // the links of one directory settle together
		if h.stat.Kind == durable.Symlink && links[p.Parent()] && !j.looked[p] {
			j.lookLocked(p)
			if got, ok := j.s.sights[p]; ok && j.judgedLocked(p, got) {
				out = append(out, p)
			}
		}
	}
	for _, p := range out {
		got := j.s.sights[p]
		if dir := p.Parent(); got.stat.Kind == durable.Symlink {
			since, moved := j.timesOf(p, got)
			if first, some := j.first[dir]; !some || since.Before(first) {
				j.first[dir] = since
			}
			if moved.After(j.moved[dir]) {
				j.moved[dir] = moved
			}
		}
	}
	slices.SortFunc(out, func(a, b index.Path) int { return cmp.Compare(a.String(), b.String()) })
	return out
}

// judgedLocked reports whether a sight is a change that may have to wait.
func (j *settling) judgedLocked(p index.Path, got sight) bool {
	return j.changedLocked(p, got) && !j.r.reserved(p) && !j.r.ownedByOthers(p)
}

// changedLocked reports whether a file or link says something else than what the fleet has there.
func (j *settling) changedLocked(p index.Path, got sight) bool {
	e := j.r.x.Live(p)
	switch found := got.found.Content.(type) {
	case index.File:
		if e != nil {
			known, file := e.Content.(index.File)
			return !file || known.Digest != found.Digest
		}
	case index.Symlink:
		return e == nil || e.Content != got.found.Content
	default:
		return false
	}
	return true
}

// timesOf returns since when a change is known, and when it was last another.
func (j *settling) timesOf(p index.Path, got sight) (since, moved time.Time) {
	h, known := j.holds[p]
	switch {
	case !known:
		return j.now, j.now
	case h.stat != got.stat:
		return h.since, j.now
	}
	return h.since, h.moved
}

// judgeLocked judges one set.
func (j *settling) judgeLocked(of pairs.Set) {
	snapshot := pairs.Snapshot{Started: j.r.seeded}
	var with []index.Path
	for _, p := range of.Members() {
		if j.disk.ignored.match(p) {
			continue
		}
		if !j.looked[p] && (!j.listed[of.Dir()] || j.s.same[p]) {
			j.lookLocked(p)
		}
		e := j.r.x.Live(p)
		found, there := j.s.Found[p]
		got, seen := j.s.sights[p]
		switch {
		case !there:
			snapshot.Absent = snapshot.Absent || e != nil
			continue
		case found.Held:
			snapshot.Members = append(snapshot.Members, pairs.Member{Path: p, Busy: true, New: e == nil})
			with = append(with, p)
			continue
		case !seen || got.stat.Kind == durable.Directory:
			continue
		}
		m := pairs.Member{Path: p, Changed: j.judgedLocked(p, got), New: e == nil}
		var by []index.Path
		m.File, m.Busy, by = j.readLocked(p, got)
		m.Since, _ = j.timesOf(p, got)
		if m.Changed && got.stat.Kind == durable.Symlink {
			snapshot.LinksSince, snapshot.LinksMoved = j.first[of.Dir()], j.moved[of.Dir()]
		}
		snapshot.Members = append(snapshot.Members, m)
		with = append(append(with, p), by...)
	}
	held := snapshot.Judge(j.now)
	for p, h := range held {
		j.keep(p, h, with)
	}
	j.dateLocked(snapshot, held)
}

// dateLocked gives the files of a pair that were found at start-up, and so get the disk's dates, one date: against the fleet they win or lose
// together.
func (j *settling) dateLocked(snapshot pairs.Snapshot, held map[index.Path]pairs.Hold) {
	if j.r.seeded {
		return
	}
	var latest index.Found
	var free []index.Path
	for _, m := range snapshot.Members {
		if _, waits := held[m.Path]; waits || !m.Changed {
			continue
		}
		free = append(free, m.Path)
		found := j.s.Found[m.Path]
		if found.Modified.After(latest.Modified) {
			latest.Modified = found.Modified
		}
		if found.Changed.After(latest.Changed) {
			latest.Changed = found.Changed
		}
	}
	for _, p := range free {
		found := j.s.Found[p]
		found.Modified, found.Changed = latest.Modified, latest.Changed
		j.s.Found[p] = found
	}
}

// readLocked returns what a file says, or the file that a link leads to; by is what else was looked at for that.
func (j *settling) readLocked(p index.Path, got sight) (f pairs.File, busy bool, by []index.Path) {
	link := p
	for range 8 {
		target, isLink := got.found.Content.(index.Symlink)
		if !isLink {
			break
		}
		to, inside := p.Resolve(target.Target)
		if !inside {
			return pairs.File{}, false, by
		}
		by = append(by, to)
		next, known := j.s.sights[to]
		if !known {
			var err error
			next, err = j.disk.look(to)
			if errors.Is(err, errBusy) {
				return pairs.File{}, true, by
			}
			if err != nil {
				return pairs.File{}, false, by // it leads nowhere; that is not for us to judge
			}
		}
		p, got = to, next
	}
	file, ok := got.found.Content.(index.File)
	if !ok || file.Size > maxPEM {
		return pairs.File{}, false, by
	}
	content := got.data
	if file.Size > wire.MaxInline {
		var err error
		content, err = j.disk.root.ReadFile(p.String(), maxPEM)
		if err != nil || sha256.Sum256(content) != file.Digest {
			return pairs.File{}, true, by
		}
	}
	f = pairs.Read(link.Base(), content)
	if f.Broken != "" && link != p {
		f.Broken = "it leads to " + p.String() + ", and there " + f.Broken
	}
	return f, false, by
}

// followLinksLocked holds the links to what is held, or to a directory in which something is: to the others they would lead nowhere.
func (j *settling) followLinksLocked() {
	if len(j.held)+len(j.holds) == 0 {
		return
	}
	for p, got := range j.s.sights {
		link, ok := got.found.Content.(index.Symlink)
		if _, held := j.held[p]; !ok || held || !j.judgedLocked(p, got) {
			continue
		}
		to, inside := p.Resolve(link.Target)
		if !inside {
			continue
		}
		if q := j.heldUnder(to); !q.IsZero() {
			j.keep(p, pairs.Hold{Why: "it leads to " + to.String() + ", and " + q.String() + " is held"}, []index.Path{q})
			j.holdBesideLocked(p)
		}
	}
}

// holdBesideLocked holds what changed in the set of a link that is held.
func (j *settling) holdBesideLocked(link index.Path) {
	of, ok := pairs.SetOf(link)
	if !ok {
		return
	}
	for _, p := range of.Members() {
		got, seen := j.s.sights[p]
		if _, held := j.held[p]; seen && !held && j.judgedLocked(p, got) {
			j.keep(p, pairs.Hold{Why: "it waits for " + link.String() + ", which is held"}, []index.Path{link})
		}
	}
}

// heldUnder returns a PEM-like file that is held at or below p, the zero Path if there is none.
func (j *settling) heldUnder(p index.Path) (q index.Path) {
	note := func(h index.Path) {
		if pairs.IsPEMName(h.Base()) && h.Under(p) && (q.IsZero() || h.String() < q.String()) {
			q = h
		}
	}
	for h := range j.held {
		note(h)
	}
	for h := range j.holds {
		if !j.looked[h] {
			note(h)
		}
	}
	return q
}

// keep holds one path.
func (j *settling) keep(p index.Path, h pairs.Hold, with []index.Path) {
	got := j.s.sights[p]
	now := holding{Hold: h, with: with, stat: got.stat, told: j.holds[p].told}
	now.since, now.moved = j.timesOf(p, got)
	j.held[p] = now
	j.s.Found[p] = index.Found{Held: true}
}

// concludeLocked keeps what is held from here on, and makes appointments: for the moment at which something goes by time alone, and for
// the one at which people should know of it. Otherwise there is news to wait for.
func (j *settling) concludeLocked() {
	for p := range j.holds {
		if _, still := j.held[p]; !still && j.goneLocked(p) {
			delete(j.holds, p)
		}
	}
	writing := map[index.Path]bool{}
	for _, p := range j.s.busy {
		writing[p] = true
	}
	for p, h := range j.held {
		if !writing[p] {
			delete(j.seen, p) // so that whoever is about to replace it looks first
		}
		report := h.since.Add(pairs.Patience)
		if h.reportable(j.now) && !h.told {
			h.told = true
			j.log.Warn("held: "+h.Why, "problem", string(HeldFile), "path", p.String())
		}
		j.holds[p] = h
		if writing[p] {
			continue // it is looked at again and again
		}
		at := h.Until
		if j.now.Before(report) {
			j.s.busy = append(j.s.busy, p) // whoever wants to replace it should wait a moment
			if at.IsZero() || report.Before(at) {
				at = report
			}
		}
		if at.After(j.now) {
			j.s.until[p] = at
		}
	}
}

// goneLocked reports whether the survey says that what was held at p is not held any more: it looked there, or saw that nothing is.
func (j *settling) goneLocked(p index.Path) bool {
	if j.looked[p] || j.listed[p.Parent()] {
		return true
	}
	for dir := p.Parent(); !dir.IsZero(); dir = dir.Parent() {
		if found, there := j.s.Found[dir]; j.looked[dir] {
			_, directory := found.Content.(index.Directory)
			return !there || !found.Held && !directory
		}
	}
	return false
}

// isAwaitedLocked reports whether something of the set of p is held, and has not been for long.
func (d *Directory) isAwaitedLocked(now time.Time, p index.Path) bool {
	of, ok := pairs.SetOf(p)
	return ok && slices.ContainsFunc(of.Members(), func(q index.Path) bool {
		h, held := d.holds[q]
		return held && now.Before(h.since.Add(pairs.Patience))
	})
}

// momentLocked returns how long it may take yet until nothing of what was held by then is held for a moment only.
func (d *Directory) momentLocked(then time.Time) (most time.Duration) {
	for _, h := range d.holds {
		if !h.since.After(then) {
			most = max(most, time.Until(h.since.Add(pairs.Patience)))
		}
	}
	return most
}

// heldFaultsLocked lists what has been held for too long.
func (d *Directory) heldFaultsLocked(now time.Time) (out []Fault) {
	for p, h := range d.holds {
		if h.reportable(now) {
			out = append(out, Fault{Code: HeldFile, Path: p.String(), Since: h.since, Text: h.Why})
		}
	}
	return out
}
