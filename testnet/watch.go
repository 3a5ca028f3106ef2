package testnet

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"certswarm/syncer"

	"golang.org/x/sys/unix"
)

// ears are the watchers of one node. They hear by inotify(7), as those of a real agent do, but never wait for the kernel, which
// would stop the bubble's clock: they are asked whenever the test changes a file, at once, and every echo of virtual time for
// what the agent itself changes.
type ears struct {
	mu       sync.Mutex
	watchers map[*watcher]bool // guarded by mu
	buf      [64 << 10]byte    // guarded by mu; one for good, for an echo is heard very often
}

// watch starts a watcher.
func (e *ears) watch() (syncer.Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &watcher{
		ears: e, fd: fd, dirs: map[int32]string{},
		hints: make(chan syncer.Hint), wake: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	w.pumping.Go(w.pump)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watchers == nil {
		e.watchers = map[*watcher]bool{}
	}
	e.watchers[w] = true
	return w, nil
}

// listen takes what the kernel has to tell by now.
func (e *ears) listen() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for w := range e.watchers {
		errs = append(errs, w.listenLocked())
	}
	return errors.Join(errs...)
}

// overflow tells every watcher that hints were lost.
func (e *ears) overflow() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for w := range e.watchers {
		w.tellLocked(overflowed)
	}
}

var overflowed = syncer.Hint{Overflow: true, Why: "the kernel's queue of events overflowed"}

// watcher is a syncer.Watcher that hears when its ears are asked to listen.
type watcher struct {
	ears    *ears
	hints   chan syncer.Hint
	wake    chan struct{}
	quit    chan struct{}
	pumping sync.WaitGroup

	fd    int              // guarded by ears.mu, -1 once closed
	dirs  map[int32]string // guarded by ears.mu, by watch descriptor
	queue []syncer.Hint    // guarded by ears.mu
}

// heard is what a real agent asks the kernel for.
const heard = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_MOVED_TO | unix.IN_MOVED_FROM |
	unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

// Add implements syncer.Watcher.
func (w *watcher) Add(dir string) error {
	w.ears.mu.Lock()
	defer w.ears.mu.Unlock()
	wd, err := unix.InotifyAddWatch(w.fd, dir, heard)
	if errors.Is(err, unix.ENOSPC) {
		return syncer.ErrWatchLimit
	}
	if err != nil {
		return &os.PathError{Op: "watch", Path: dir, Err: err}
	}
	w.dirs[int32(wd)] = dir
	return nil
}

// Hints implements syncer.Watcher.
func (w *watcher) Hints() <-chan syncer.Hint { return w.hints }

// Close implements syncer.Watcher.
func (w *watcher) Close() error {
	close(w.quit)
	w.pumping.Wait()
	w.ears.mu.Lock()
	defer w.ears.mu.Unlock()
	delete(w.ears.watchers, w)
	return unix.Close(w.fd)
}

func (w *watcher) tellLocked(h syncer.Hint) {
	w.queue = append(w.queue, h)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// listenLocked reads events until there are none.
func (w *watcher) listenLocked() error {
	buf := w.ears.buf[:]
	for {
		n, err := unix.Read(w.fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return os.NewSyscallError("read inotify", err)
		}
		for events := buf[:n]; len(events) > 0; {
			events = w.takeLocked(events)
		}
	}
}

// takeLocked takes the first event, a struct inotify_event and its name, and returns the others.
func (w *watcher) takeLocked(events []byte) []byte {
	wd := int32(binary.NativeEndian.Uint32(events))
	mask := binary.NativeEndian.Uint32(events[4:])
	end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
	base := strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00")
	dir, known := w.dirs[wd]
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0:
		w.tellLocked(overflowed)
	case mask&unix.IN_IGNORED != 0:
		delete(w.dirs, wd)
	case known:
		w.tellLocked(syncer.Hint{Path: filepath.Join(dir, base)})
	}
	return events[end:]
}

// pump hands out what is queued until the watcher is closed.
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
