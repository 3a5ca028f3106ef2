package syncer

import (
	"errors"
	"sync"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// inotify is the real Watcher.
type inotify struct {
	w     *fsnotify.Watcher
	hints chan Hint
	done  sync.WaitGroup
	quit  chan struct{}
}

// NewInotify starts a Watcher on inotify(7). It ends, with its goroutine, when it is closed.
func NewInotify() (Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	n := &inotify{w: w, hints: make(chan Hint, 1024), quit: make(chan struct{})}
	n.done.Go(n.pump)
	return n, nil
}

func (n *inotify) pump() {
	send := func(h Hint) {
		select {
		case n.hints <- h:
		case <-n.quit:
		}
	}
	for {
		select {
		case event, ok := <-n.w.Events:
			if !ok {
				return
			}
			send(Hint{Path: event.Name})
		case _, ok := <-n.w.Errors:
			if !ok {
				return
			}
			// Whatever went wrong with reading events, some may have been lost (ErrEventOverflow among them).
			send(Hint{Overflow: true})
		}
	}
}

// Add implements Watcher.
func (n *inotify) Add(dir string) error {
	// fsnotify remembers paths, not inodes: without the removal a directory that was made anew stays unwatched.
	if err := n.w.Remove(dir); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
		return err
	}
	err := n.w.Add(dir)
	if errors.Is(err, unix.ENOSPC) {
		return ErrWatchLimit
	}
	return err
}

// Hints implements Watcher.
func (n *inotify) Hints() <-chan Hint { return n.hints }

// Close implements Watcher.
func (n *inotify) Close() error {
	close(n.quit)
	err := n.w.Close()
	n.done.Wait()
	return err
}
