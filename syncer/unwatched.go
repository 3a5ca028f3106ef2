package syncer

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
)

// Where the kernel has no watch left for a directory it is read again and again, until there is one. All of this belongs to notice.

// unwatchedInterval is how often a directory that is not watched is read.
const unwatchedInterval = 30 * time.Second

// deaf is a Watcher where none is to be had.
type deaf struct{ why error }

// Add implements Watcher.
func (d deaf) Add(string) error { return fmt.Errorf("%w: %w", ErrWatchLimit, d.why) }

// Hints implements Watcher.
func (d deaf) Hints() <-chan Hint { return nil }

// Close implements Watcher.
func (d deaf) Close() error { return nil }

// listen makes the directory's Watcher, or does without.
func (d *Directory) listen() {
	var err error
	if d.watch, err = d.rewatch(); err != nil {
		d.watch = deaf{err}
	}
}

// watchOne watches one directory, or notes that it is not watched.
func (d *Directory) watchOne(s *survey, dir index.Path) {
	err := d.watch.Add(filepath.Join(d.Path, dir.String()))
	switch {
	case errors.Is(err, ErrWatchLimit):
		d.unwatched[dir] = err
		return
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		s.faults[dir] = err
	}
	delete(d.unwatched, dir)
}

// forgetWatches forgets which directories at or below p are not watched: what is there still is about to be walked into.
func (d *Directory) forgetWatches(s *survey, p index.Path) {
	if got, seen := s.sights[p]; seen && got.stat.Kind != durable.Directory && d.unwatched[p] == nil {
		return
	}
	for dir := range d.unwatched {
		if dir.Under(p) {
			delete(d.unwatched, dir)
		}
	}
}

// noteUnwatched says how many directories are not watched.
func (d *Directory) noteUnwatched() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noteUnwatchedLocked()
}

func (d *Directory) noteUnwatchedLocked() {
	for _, err := range d.unwatched {
		d.faultLocked(WatchLimited, index.Path{}, fmt.Errorf("%d directories are not watched but read every %s: %w", len(d.unwatched), unwatchedInterval, err))
		return
	}
	d.clearFaultLocked(WatchLimited, index.Path{})
}

// overflowMemory is for how long it is told that hints were lost; by then everything has been read again.
const overflowMemory = 15 * time.Second

// noteOverflow keeps that hints were lost, and why; "" is no news.
func (d *Directory) noteOverflow(why string) {
	if why == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.overflow == nil {
		d.overflow = &Fault{Code: WatchLimited, Since: time.Now()}
		d.log.Warn(why, "problem", string(WatchLimited))
	}
	d.overflow.Text, d.overflowed = "changes were not told of, and everything is read again: "+why, time.Now()
	d.stirLocked()
}

// forgetOverflow ends that problem when it is over.
func (d *Directory) forgetOverflow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.overflow != nil && time.Since(d.overflowed) >= overflowMemory {
		d.overflow = nil
		d.stirLocked()
	}
}

// unheard returns what is to be read because nobody would tell of a change there, when it is time for it. What is below one of them is read
// with it.
func (d *Directory) unheard(now time.Time) (paths []index.Path, all bool) {
	if len(d.unwatched) == 0 || now.Sub(d.heard) < unwatchedInterval {
		return nil, false
	}
	d.heard = now
	if _, without := d.watch.(deaf); without {
		d.listen()
	}
	for dir := range d.unwatched {
		top := true
		for above := dir; top && !above.IsZero(); {
			above = above.Parent()
			_, unwatched := d.unwatched[above]
			top = !unwatched
		}
		switch {
		case dir.IsZero():
			return nil, true
		case top:
			paths = append(paths, dir)
		}
	}
	return paths, false
}
