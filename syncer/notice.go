package syncer

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
)

// Watcher is the kernel's word that something changed; the disk itself is the truth. Add watches one directory, not what is
// below it; adding again what is watched already loses nothing, and is how a directory that was renamed or made anew is
// heard by the name that it has now. Hints names the paths of what may have changed, absolute; Overflow says that hints were lost, and
// perhaps watches with them: everything must be added again and then looked at. Adding fails with an error that matches ErrWatchLimit when
// the kernel has no more watches to give.
type Watcher interface {
	Add(dir string) error
	Hints() <-chan Hint
	Close() error
}

// Hint is one word of a Watcher.
type Hint struct {
	Path     string
	Overflow bool
	Why      string // of Overflow: what people should know of it; "" if that is how the kernel works
}

// ErrWatchLimit is the error of a Watcher that may not watch one directory more.
var ErrWatchLimit = errors.New("the kernel's limit of watches is reached (sysctl fs.inotify.max_user_watches)")

// survey is a scan under way, with what the shell wants to know beyond it.
type survey struct {
	index.Scan
	sights map[index.Path]sight
	busy   []index.Path             // cannot be told yet: to be looked at again soon
	until  map[index.Path]time.Time // or not sooner than then
	faults map[index.Path]error
	fine   []index.Path                // nothing wrong here (any more)
	sweep  bool                        // nothing is being staged: temporaries are what a crash left
	whole  bool                        // everything is looked at
	hinted bool                        // whoever asks was told of changes: below a directory only what looks otherwise than before is read
	listed map[index.Path]durable.Stat // what is there besides directories, how it looks, and not yet read
	same   map[index.Path]bool         // what is not read, for it looks as it did
}

func newScan() *survey {
	return &survey{
		Scan:   index.Scan{Found: map[index.Path]index.Found{}},
		sights: map[index.Path]sight{},
		faults: map[index.Path]error{},
		until:  map[index.Path]time.Time{},
		listed: map[index.Path]durable.Stat{},
		same:   map[index.Path]bool{},
	}
}

// lookInto looks at one path and notes in the survey what is there, or that nothing is. It reports whether a directory is.
func (d *Directory) lookInto(s *survey, p index.Path) (directory bool) {
	s.Looked = append(s.Looked, p)
	if d.disk.ignored.match(p) {
		s.Found[p] = index.Found{Held: true} // not ours to say anything about, not even that it is gone
		return false
	}
	got, err := d.disk.look(p)
	var odd strange
	switch {
	case err == nil:
		s.Found[p] = got.found
		s.sights[p] = got
		s.fine = append(s.fine, p)
		_, directory = got.found.Content.(index.Directory)
	case errors.Is(err, fs.ErrNotExist):
		s.fine = append(s.fine, p)
	case errors.Is(err, errBusy):
		s.Found[p] = index.Found{Held: true}
		s.busy = append(s.busy, p)
	case errors.As(err, &odd):
		s.Found[p] = index.Found{Held: true}
		s.faults[p] = err
	default: // unreadable is not deleted
		s.Found[p] = index.Found{Held: true}
		s.faults[p] = err
	}
	return directory
}

// walkInto looks at everything below dir; the zero Path is the root. The watch comes first, the listing after it: what is made in
// between is in the one or the other.
func (d *Directory) walkInto(s *survey, dir index.Path) {
	d.watchOne(s, dir)
	s.whole = s.whole || dir.IsZero() && !s.hinted
	if s.sweep {
		if err := d.disk.root.CleanTemps(rootOr(dir), nil); err != nil {
			s.faults[dir] = err
		}
	}
	names, err := d.disk.root.ReadDir(rootOr(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return // gone again: its parent's watch will say so
	}
	if err != nil {
		s.faults[dir] = err
		return
	}
	s.Listed = append(s.Listed, dir)
	s.fine = append(s.fine, dir)
	for _, name := range names {
		p, err := dir.Join(name)
		if err != nil {
			s.faults[dir] = strange{err.Error()}
			continue
		}
		if durable.IsTemp(name) {
			continue
		}
		if s.hinted {
			if stat, err := d.disk.root.Lstat(p.String()); err == nil && stat.Kind != durable.Directory {
				s.listed[p] = stat
				continue
			}
		}
		if d.lookInto(s, p) {
			d.walkInto(s, p)
		}
	}
}

// readListed looks at what a walk left for later.
func (d *Directory) readListed(s *survey) {
	d.mu.Lock()
	for p, stat := range s.listed {
		if d.looksKnownLocked(p, stat) {
			s.Found[p] = index.Found{Held: true}
			s.same[p] = true
		}
	}
	d.mu.Unlock()
	for p := range s.listed {
		if !s.same[p] {
			d.lookInto(s, p)
		}
	}
}

// lookAtTwins looks at the other names of the files that were looked at: whoever writes through one of them writes to all, and the kernel tells of one.
func (d *Directory) lookAtTwins(s *survey) {
	type inode struct{ dev, ino uint64 }
	shared := map[inode]bool{}
	for _, got := range s.sights {
		if got.stat.Kind == durable.File && got.stat.Links > 1 {
			shared[inode{got.stat.Dev, got.stat.Ino}] = true
		}
	}
	if len(shared) == 0 {
		return
	}
	var twins []index.Path
	d.mu.Lock()
	for p, known := range d.seen {
		if _, looked := s.sights[p]; !looked && shared[inode{known.Dev, known.Ino}] {
			twins = append(twins, p)
		}
	}
	d.mu.Unlock()
	for _, p := range twins {
		d.lookInto(s, p)
	}
}

// takeScanLocked has the replica observe a survey. What changed on the disk since it was looked at is left for the next
// look: the hint for it is on its way.
func (d *Directory) takeScanLocked(s *survey) (touched []index.Path) {
	d.verifyScanLocked(s)
	d.settleLocked(s)
	d.noteSurveyLocked(s)
	d.reserveLocked(len(s.Found))
	touched = d.r.observe(time.Now(), s.Scan)
	d.stirLocked()
	return touched
}

// verifyScanLocked leaves in a survey only what is true in this moment.
func (d *Directory) verifyScanLocked(s *survey) {
	for p, got := range s.sights {
		d.verifySightLocked(s, p, got)
	}
	d.doubtAbsenceLocked(s)
}

func (d *Directory) verifySightLocked(s *survey, p index.Path, got sight) {
	if stat, err := d.disk.root.Lstat(p.String()); err != nil || stat != got.stat {
		s.Found[p] = index.Found{Held: true}
		s.busy = append(s.busy, p)
		delete(s.sights, p)
		return
	}
	d.seen[p] = got.stat
	d.excuseLocked(s, p, got)
	if d.scaffold[p] && got.stat.Kind == durable.Directory && d.r.x.Live(p) == nil {
		s.Found[p] = index.Found{Held: true} // nobody made it here
	}
	if file, ok := got.found.Content.(index.File); ok && got.data != nil && d.r.seeded {
		d.cache.put(file.Digest, got.data)
	}
}

// doubtAbsenceLocked looks once more for what the survey did not see although it should be there: it may have been put there
// since, by the replication itself.
func (d *Directory) doubtAbsenceLocked(s *survey) {
	doubt := func(p index.Path) {
		if _, found := s.Found[p]; found {
			return
		}
		if _, err := d.disk.look(p); errors.Is(err, fs.ErrNotExist) { // also what is there and is not replicated
			delete(d.seen, p)
			return
		}
		s.Found[p] = index.Found{Held: true}
		s.busy = append(s.busy, p)
	}
	for _, p := range s.Looked {
		doubt(p)
	}
	for _, dir := range s.Listed {
		for e := range d.r.x.Children(dir) {
			doubt(e.Path)
		}
	}
}

// notice turns hints into surveys until ctx ends.
func (d *Directory) notice(ctx context.Context) {
	defer close(d.ended)
	rehash := time.NewTimer(rehashInterval)
	retry := time.NewTimer(time.Hour)
	root := time.NewTicker(rootInterval)
	defer root.Stop()
	defer rehash.Stop()
	defer retry.Stop()
	later := postponed{}
	d.followStart(later)
	for {
		if wait, some := later.next(time.Now()); some {
			retry.Reset(wait)
		}
		all := false
		var paths []index.Path
		select {
		case <-ctx.Done():
			return
		case <-rehash.C:
			all = true
			rehash.Reset(rehashInterval)
		case <-d.rescan:
			all = true
		case <-root.C:
			d.rootIsThere()
			d.watchState()
			d.forgetOverflow()
			d.mendClock()
			later.keepUnread(d.unread(), time.Now())
			paths, all = d.unheard(time.Now())
			all = all || d.canGive(time.Now())
		case i := <-d.inspections:
			s, touched, err := d.inspectNow(i)
			d.giveOwed()
			i.done <- err
			if err == nil {
				d.follow(s, touched, later)
			}
		case <-retry.C:
			paths = later.due(time.Now())
		case hint := <-d.watch.Hints():
			paths, all = d.gather(hint)
			paths = d.news(d.finished(paths, later))
		}
		if all || len(paths) > 0 {
			d.lookAt(paths, all, later)
		}
	}
}

// lookAt surveys and observes; what it was too early for is postponed.
func (d *Directory) lookAt(paths []index.Path, all bool, later postponed) {
	s := d.survey(paths, all)
	var touched []index.Path
	if len(s.Looked)+len(s.Listed)+len(s.faults) > 0 {
		d.mu.Lock()
		touched = d.takeScanLocked(s)
		d.mu.Unlock()
	}
	d.giveOwed()
	d.follow(s, touched, later)
	now := time.Now()
	for _, p := range paths {
		switch a, waits := later[p]; {
		case !waits || now.Before(a.at):
		case a.unread:
			later.stillUnread(p, now)
		default:
			later.again(p, now) // the directory is not there to be looked at
		}
	}
}

// followStart postpones what could not be told at the start.
func (d *Directory) followStart(later postponed) {
	later.keepUnread(d.unread(), time.Now())
	d.mu.Lock()
	defer d.mu.Unlock()
	for p := range d.holds {
		later.again(p, time.Now())
	}
}

// unread returns what could not be read when it was looked at last, whoever looked. No error is told apart: nobody tells that a want of descriptors or
// memory is over, nor of rights that somebody gave above the root, and a look a minute costs nothing.
func (d *Directory) unread() map[index.Path]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[index.Path]bool{}
	for _, f := range d.faults {
		if f.Code != DirectoryUnreadable {
			continue
		}
		if p, err := index.ParsePath(f.Path); err == nil || f.Path == "" {
			out[p] = true
		}
	}
	return out
}

// follow postpones what was busy or is held or could not be read, and tells who cares of what is not as it was.
func (d *Directory) follow(s *survey, touched []index.Path, later postponed) {
	now := time.Now()
	busy := map[index.Path]bool{}
	for _, p := range s.busy {
		busy[p] = true
	}
	unread := d.unread()
	for _, p := range s.Looked {
		if !busy[p] && !(unread[p] && later[p].unread) {
			delete(later, p)
		}
	}
	for p := range busy {
		if at, set := s.until[p]; set {
			later.at(p, at)
		} else {
			later.again(p, now)
		}
	}
	later.keepUnread(unread, now)
	if d.Observed != nil && len(touched) > 0 {
		d.Observed(touched)
	}
}

// news returns the paths without the files and links that look as they did when they were last looked at or written here: mostly what the
// replication itself just put there. Only hints are judged so; everything is read again from time to time.
func (d *Directory) news(paths []index.Path) []index.Path {
	stats := make(map[index.Path]durable.Stat, len(paths))
	for _, p := range paths {
		if stat, err := d.disk.root.Lstat(p.String()); err == nil && stat.Kind != durable.Directory {
			stats[p] = stat
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.DeleteFunc(paths, func(p index.Path) bool {
		stat, stands := stats[p]
		return stands && d.looksKnownLocked(p, stat)
	})
}

// looksKnownLocked reports whether a file or link looks as what is known of it, down to the inode and the ctime. What could not be read is not
// known, however it looks: a directory above it can be what changed.
func (d *Directory) looksKnownLocked(p index.Path, stat durable.Stat) bool {
	known, ok := d.seen[p]
	_, held := d.holds[p]
	// Where the two times are the same, a write in the same tick of the clock would not show.
	return ok && known == stat && stat.Mtime != stat.Ctime && !held && !d.doubtedLocked(p) && d.r.x.Live(p) != nil
}

// finished returns those of the paths that may be looked at now; the others get their time to become something else.
func (d *Directory) finished(paths []index.Path, later postponed) []index.Path {
	return slices.DeleteFunc(paths, func(p index.Path) bool {
		if !looksUnfinished(p.Base()) || d.knows(p) {
			return false
		}
		later.leave(p, time.Now())
		return true
	})
}

func (d *Directory) knows(p index.Path) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.x.Live(p) != nil
}

// gather takes all the hints that are there already, so that what was written together is surveyed together.
func (d *Directory) gather(first Hint) (paths []index.Path, all bool) {
	seen := map[string]bool{}
	take := func(h Hint) {
		if h.Overflow || h.Path == d.Path { // news of the root itself: it may be another one
			all = true
			d.noteOverflow(h.Why)
			return
		}
		name, below := strings.CutPrefix(h.Path, d.Path+"/")
		if !below || seen[name] {
			return
		}
		seen[name] = true
		p, err := index.ParsePath(name)
		if err != nil { // too long, perhaps: whoever holds it is where that is said, and no more when it is gone
			p, err = index.ParsePath(filepath.Dir(name))
		}
		if err == nil && !durable.IsTemp(p.Base()) {
			paths = append(paths, p)
		}
	}
	take(first)
	for {
		select {
		case h := <-d.watch.Hints():
			take(h)
		default:
			return paths, all
		}
	}
}

// survey looks at the given paths and at everything below those that are directories, or at all. A hint names a directory
// when it was made, moved or given another mode, never for what happens in it.
func (d *Directory) survey(paths []index.Path, all bool) *survey {
	if !d.rootIsThere() {
		return newScan()
	}
	if all {
		clear(d.unwatched)
		d.disk.owners.forget()
	}
	s := newScan()
	s.hinted = !all
	if all {
		d.walkInto(s, index.Path{})
	}
	for _, p := range paths {
		if p.IsZero() { // the root is there, and could not be read
			d.walkInto(s, p)
			continue
		}
		directory := d.lookInto(s, p)
		d.forgetWatches(s, p)
		if directory {
			d.walkInto(s, p) // it may be another one than before, though the inode be the same
		}
	}
	d.readListed(s)
	if !all {
		d.lookAtTwins(s)
	}
	d.noteUnwatched()
	return s
}
