package syncer

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// inotify is the real Watcher, on fsnotify. A kernel watch is of an inode, while fsnotify remembers paths: after a directory was
// renamed it tells wrong names for what is below it, or nothing at all. So at such a rename, which is rare, it is replaced by a new one
// that knows nothing, and everything is to be watched and looked at again.
type inotify struct {
	hints   chan Hint
	quit    chan struct{}
	pumping sync.WaitGroup
	make    func() (*fsnotify.Watcher, error)

	mu   sync.Mutex
	w    *fsnotify.Watcher   // guarded by mu; replaced only by pump
	dirs map[string]struct{} // guarded by mu: what w was told to watch
}

// NewInotify starts a Watcher on inotify(7). It ends, with its goroutine, when it is closed.
func NewInotify() (Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	n := &inotify{w: w, make: fsnotify.NewWatcher, dirs: map[string]struct{}{}, hints: make(chan Hint, 1024), quit: make(chan struct{})}
	n.pumping.Go(n.pump)
	return n, nil
}

// Add implements Watcher.
func (n *inotify) Add(dir string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.w.Add(dir)
	if errors.Is(err, unix.ENOSPC) {
		return ErrWatchLimit
	}
	if err == nil {
		n.dirs[dir] = struct{}{}
	}
	return err
}

// Hints implements Watcher.
func (n *inotify) Hints() <-chan Hint { return n.hints }

// Close implements Watcher.
func (n *inotify) Close() error {
	close(n.quit)
	n.pumping.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.w.Close()
}

// renewInterval is how soon another fsnotify watcher is tried to be had where there was none.
const renewInterval = 30 * time.Second

func (n *inotify) pump() {
	n.mu.Lock()
	w := n.w
	n.mu.Unlock()
	retry := time.NewTimer(0)
	retry.Stop()
	defer retry.Stop()
	renew := func() Hint {
		fresh, err := n.renew()
		if err != nil {
			retry.Reset(renewInterval)
			return Hint{Overflow: true, Why: fmt.Sprintf("a directory was renamed, and it cannot be watched anew (sysctl fs.inotify.max_user_instances): %v", err)}
		}
		w = fresh
		return Hint{Overflow: true}
	}
	for {
		var hint Hint
		select {
		case <-n.quit:
			return
		case <-retry.C:
			hint = renew()
		case event, open := <-w.Events:
			switch {
			case !open:
				return
			case event.Has(fsnotify.Rename) && n.watched(event.Name):
				hint = renew()
			default:
				if event.Has(fsnotify.Remove) {
					n.forget(event.Name)
				}
				hint.Path = event.Name
			}
		case err, open := <-w.Errors:
			if !open {
				return
			}
			hint = Hint{Overflow: true, Why: fmt.Sprintf("events cannot be read: %v", err)}
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				hint.Why = "the kernel's queue of events overflowed (sysctl fs.inotify.max_queued_events)"
			}
		}
		select {
		case n.hints <- hint:
		case <-n.quit:
			return
		}
	}
}

func (n *inotify) watched(dir string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, yes := n.dirs[dir]
	return yes
}

// forget is told that something is gone; the kernel's watch of it went with it.
func (n *inotify) forget(path string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.dirs, path)
}

// renew replaces the fsnotify watcher by one without memory. Without one to be had (the limit of instances) the old one stays: the rescan
// that follows, the next ones, and the periodic one, find what it misses.
func (n *inotify) renew() (*fsnotify.Watcher, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fresh, err := n.make()
	if err != nil {
		return nil, err
	}
	_ = n.w.Close() // nobody reads it any more
	n.w, n.dirs = fresh, map[string]struct{}{}
	return fresh, nil
}
