package syncer

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
)

// rootInterval is how often it is made sure that Path still leads to the directory that is open: a mount over it, or a rename above it, is
// told by nobody.
const rootInterval = 2 * time.Second

// absence is a root that is not where it should be: removed, renamed, replaced, unmounted, or hidden by a mount. Meanwhile nothing is read, written,
// deleted or let expire, so that what comes back is compared with what was there when it went.
type absence struct {
	since    time.Time
	halts    bool         // the halt is for this alone
	other    durable.Stat // of the directory that was compared last with the one that went
	compared time.Time
}

// strangerInterval is how often another directory in the root's place is compared again: somebody may be bringing the files back.
const strangerInterval = 10 * time.Second

// rootIsThere makes sure that the directory is where Path leads, before anything is concluded from what is in it. One that went is taken
// up again: the same one as it is, for it is judged like a disk at the start of a run; another one if it holds all that was there. Anything else waits
// for a decision. Only notice asks.
func (d *Directory) rootIsThere() bool {
	lost := d.disk.root.Replaced()
	if lost == nil && d.absent == nil {
		return true
	}
	if d.absent == nil {
		d.rootLost(lost)
	}
	if lost != nil && !d.anotherWillDo(lost) {
		return false
	}
	if err := d.takeRoot(); err != nil {
		d.stillLost(err.Error())
		return false
	}
	s := newScan()
	s.sweep = true // of what was being staged when it went
	d.walkInto(s, index.Path{})
	d.noteUnwatched()
	d.mu.Lock()
	if d.absent.halts {
		d.r.halt = ""
	}
	d.rootBackLocked()
	var touched []index.Path
	d.r.asAtStart(func() { touched = d.takeScanLocked(s) })
	d.mu.Unlock()
	if len(s.busy) > 0 {
		d.rescan.wake()
	}
	if d.Observed != nil && len(touched) > 0 {
		d.Observed(touched)
	}
	return true
}

// rootLost halts and lets nothing reach the directory any more: a root that is gone or another one says nothing about the files that
// were in it, and nobody would find there what is written now.
func (d *Directory) rootLost(why error) {
	d.disk.root.Detach()
	d.mu.Lock()
	d.absent = &absence{since: time.Now(), halts: d.r.halt == ""}
	d.r.away = true
	clear(d.r.deletes) // it was not the files that were deleted
	d.mu.Unlock()
	d.stillLost(why.Error())
}

// stillLost says why the directory is not there.
func (d *Directory) stillLost(why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	why = fmt.Sprintf("%s (since %s)", why, d.absent.since.UTC().Format(time.RFC3339))
	d.faultLocked(DirectoryUnreadable, index.Path{}, errors.New(why))
	if d.absent.halts {
		d.r.halt, d.r.haltedAt = why, d.absent.since
	}
	d.stirLocked()
}

// takeRoot opens and watches the directory that Path leads to now.
func (d *Directory) takeRoot() error {
	if err := d.disk.root.Reopen(); err != nil {
		return err
	}
	if err := d.watch.Close(); err != nil { // it watches what went
		d.log.Warn("a watcher did not end well", "error", err)
	}
	d.listen()
	clear(d.unwatched)
	return nil
}

func (d *Directory) rootBackLocked() {
	d.log.Info("the directory is taken up again", "path", d.Path, "absent_since", d.absent.since)
	d.absent, d.r.away = nil, false
	d.clearFaultLocked(DirectoryUnreadable, index.Path{})
	clear(d.seen)
}

// anotherWillDo compares the directory that stands in the root's place, if one does, with what was there. What differs is for a person
// to judge, not for max_delete: this may be the mount point without its volume, or a backup of last year.
func (d *Directory) anotherWillDo(lost error) bool {
	other, err := durable.OpenRoot(d.Path)
	if err != nil {
		d.absent.other = durable.Stat{}
		d.stillLost(lost.Error())
		return false
	}
	defer other.Close() // nothing was written: no news in its error
	is, err := other.Lstat(".")
	if err != nil {
		d.stillLost(err.Error())
		return false
	}
	a := d.absent
	if is.Dev == a.other.Dev && is.Ino == a.other.Ino && time.Since(a.compared) < strangerInterval {
		return false
	}
	missing, changed, of := d.compareWith(other)
	a.other, a.compared = is, time.Now()
	if missing+changed > 0 {
		d.stillLost(fmt.Sprintf("%s: of %d files and directories %d are missing and %d differ", lost, of, missing, changed))
		return false
	}
	return true
}

// compareWith counts what is not in another directory as it was in this one. What expires and what is Reserved says nothing.
func (d *Directory) compareWith(other *durable.Root) (missing, changed, of int) {
	var known []*index.Entry
	d.mu.Lock()
	for e := range d.r.x.All {
		if !e.Deleted() && e.Expires == 0 && !d.Reserved(e.Path) {
			known = append(known, e)
		}
	}
	d.mu.Unlock()
	there := *d.disk
	there.root = other
	for _, e := range known {
		s, err := there.look(e.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing++
		case err != nil || !d.isKnown(e, s):
			changed++
		}
	}
	return missing, changed, len(known)
}

func (d *Directory) isKnown(e *index.Entry, s sight) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.isContentLocked(e.Path, e.Content, s)
}

// inspectNow surveys everything for an inspection and has it do its work.
func (d *Directory) inspectNow(i inspection) (s *survey, touched []index.Path, err error) {
	if !d.rootIsThere() && i.decides {
		if err := d.takeRoot(); err != nil {
			return nil, nil, err
		}
		d.mu.Lock()
		d.rootBackLocked()
		d.mu.Unlock()
	}
	s = d.survey(nil, true)
	d.mu.Lock()
	defer d.mu.Unlock()
	if i.decides && d.absent != nil {
		return nil, nil, fmt.Errorf("there is nothing to decide about: %s", d.r.halt)
	}
	return s, i.do(s), nil
}

// asAtStart has look observe a disk that was out of sight, as at the start of a run: what is gone is doubted, and what changed
// is dated by the kernel.
func (r *replica) asAtStart(look func()) {
	seeded, fresh := r.seeded, r.fresh
	r.seeded, r.fresh = false, false
	look()
	r.seeded, r.fresh = seeded, fresh
}
