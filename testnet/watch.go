package testnet

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"certswarm/syncer"
)

// ears are the watchers of one node. Whoever changes its files tells the ears what the kernel would have told them; see change.
//
// What the agent itself changes is not heard, as it would be in real life: a hint of one's own write must be harmless, not
// necessary.
type ears struct {
	mu       sync.Mutex
	watchers map[*watcher]bool // guarded by mu
}

// watch starts a watcher.
func (e *ears) watch() (syncer.Watcher, error) {
	w := &watcher{ears: e, watched: map[string]inode{}, hints: make(chan syncer.Hint), wake: make(chan struct{}, 1), quit: make(chan struct{})}
	w.done.Go(w.pump)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watchers == nil {
		e.watchers = map[*watcher]bool{}
	}
	e.watchers[w] = true
	return w, nil
}

// change does something to the disk, and tells of these paths whoever watched the directories in which they stand: before it
// was done, for it may have removed them, or after it, for the watch may have come in between.
func (e *ears) change(do func() error, paths ...string) error {
	before := e.hearing(paths)
	err := do()
	after := e.hearing(paths)
	e.mu.Lock()
	defer e.mu.Unlock()
	for w := range e.watchers {
		for _, p := range paths {
			if before[heard{w, p}] || after[heard{w, p}] {
				w.tellLocked(syncer.Hint{Path: p})
			}
		}
		w.dropGoneLocked()
	}
	return err
}

// overflow tells every watcher that hints were lost.
func (e *ears) overflow() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for w := range e.watchers {
		w.tellLocked(syncer.Hint{Overflow: true})
	}
}

type heard struct {
	watcher *watcher
	path    string
}

func (e *ears) hearing(paths []string) map[heard]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[heard]bool{}
	for w := range e.watchers {
		for _, p := range paths {
			if id, ok := inodeOf(filepath.Dir(p)); ok && w.watched[filepath.Dir(p)] == id {
				out[heard{w, p}] = true
			}
		}
	}
	return out
}

// watcher is a syncer.Watcher that hears what it is told. Like the kernel's it knows directories by inode and looses sight
// of one that is removed.
type watcher struct {
	ears  *ears
	hints chan syncer.Hint
	wake  chan struct{}
	quit  chan struct{}
	done  sync.WaitGroup
	once  sync.Once

	watched map[string]inode // guarded by ears.mu
	queue   []syncer.Hint    // guarded by ears.mu
}

type inode struct{ dev, ino uint64 }

func inodeOf(path string) (inode, bool) {
	info, err := os.Lstat(path)
	if err != nil {
		return inode{}, false
	}
	stat := info.Sys().(*syscall.Stat_t)
	return inode{stat.Dev, stat.Ino}, true
}

// Add implements syncer.Watcher.
func (w *watcher) Add(dir string) error {
	w.ears.mu.Lock()
	defer w.ears.mu.Unlock()
	id, ok := inodeOf(dir)
	if !ok {
		return &os.PathError{Op: "watch", Path: dir, Err: syscall.ENOENT}
	}
	w.watched[dir] = id
	return nil
}

// Hints implements syncer.Watcher.
func (w *watcher) Hints() <-chan syncer.Hint { return w.hints }

// Close implements syncer.Watcher.
func (w *watcher) Close() error {
	w.once.Do(func() {
		w.ears.mu.Lock()
		delete(w.ears.watchers, w)
		w.ears.mu.Unlock()
		close(w.quit)
		w.done.Wait()
	})
	return nil
}

func (w *watcher) tellLocked(h syncer.Hint) {
	w.queue = append(w.queue, h)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// dropGoneLocked forgets the directories that are not there any more; one that is made anew may get the same inode.
func (w *watcher) dropGoneLocked() {
	for dir, id := range w.watched {
		if now, ok := inodeOf(dir); !ok || now != id {
			delete(w.watched, dir)
		}
	}
}

// pump hands out what is queued, as the kernel's queue would, until the watcher is closed.
func (w *watcher) pump() {
	for {
		select {
		case <-w.quit:
			return
		case <-w.wake:
		}
		w.ears.mu.Lock()
		queue := w.queue
		w.queue = nil
		w.ears.mu.Unlock()
		for _, h := range queue {
			select {
			case <-w.quit:
				return
			case w.hints <- h:
			}
		}
	}
}
