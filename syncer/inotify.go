package syncer

import (
	"errors"
	"sync"

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
	n := &inotify{w: w, dirs: map[string]struct{}{}, hints: make(chan Hint, 1024), quit: make(chan struct{})}
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

func (n *inotify) pump() {
	n.mu.Lock()
	w := n.w
	n.mu.Unlock()
	for {
		var hint Hint
		select {
		case <-n.quit:
			return
		case event, open := <-w.Events:
			switch {
			case !open:
				return
			case event.Has(fsnotify.Rename) && n.watched(event.Name):
				w = n.renew()
				hint.Overflow = true
			default:
				if event.Has(fsnotify.Remove) {
					n.forget(event.Name)
				}
				hint.Path = event.Name
			}
		case _, open := <-w.Errors:
			if !open {
				return
			}
			hint.Overflow = true // whatever went wrong with reading events (ErrEventOverflow above all), some may be lost
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

// renew replaces the fsnotify watcher by one without memory. Without one to be had (the limit of instances) the old one stays; the rescan
// that follows, and the periodic one, still find what it misses.
func (n *inotify) renew() *fsnotify.Watcher {
	n.mu.Lock()
	defer n.mu.Unlock()
	fresh, err := fsnotify.NewWatcher()
	if err != nil {
		return n.w
	}
	_ = n.w.Close() // nobody reads it any more
	n.w, n.dirs = fresh, map[string]struct{}{}
	return fresh
}
