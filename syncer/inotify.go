package syncer

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// inotify is the real Watcher, on inotify(7) itself: a watch is of an inode, and whoever adds a path learns which. Libraries that
// remember paths lose what is below a directory that was renamed, and what was made anew under an old name.
type inotify struct {
	file    *os.File // non-blocking: its reader waits in the runtime, and is woken by Close
	raw     syscall.RawConn
	hints   chan Hint
	quit    chan struct{}
	pumping sync.WaitGroup

	mu   sync.Mutex       // held over adding a watch: no event of it may be taken before its path is known
	dirs map[int32]string // guarded by mu, by watch descriptor; the name by which each was added last
}

// heard are the events of which a Hint is made.
const heard = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_MOVED_TO | unix.IN_MOVED_FROM |
	unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

// NewInotify starts a Watcher on inotify(7). It ends, with its goroutine, when it is closed.
func NewInotify() (Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	n := &inotify{
		file: os.NewFile(uintptr(fd), "inotify"), hints: make(chan Hint, 1024), quit: make(chan struct{}), dirs: map[int32]string{},
	}
	if n.raw, err = n.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, n.file.Close())
	}
	n.pumping.Go(n.pump)
	return n, nil
}

// Add implements Watcher.
func (n *inotify) Add(dir string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var wd int
	var err error
	if closed := n.raw.Control(func(fd uintptr) { wd, err = unix.InotifyAddWatch(int(fd), dir, heard) }); closed != nil {
		return closed
	}
	if errors.Is(err, unix.ENOSPC) {
		return ErrWatchLimit
	}
	if err != nil {
		return &os.PathError{Op: "watch", Path: dir, Err: err}
	}
	n.dirs[int32(wd)] = dir
	return nil
}

// Hints implements Watcher.
func (n *inotify) Hints() <-chan Hint { return n.hints }

// Close implements Watcher.
func (n *inotify) Close() error {
	close(n.quit)
	err := n.file.Close()
	n.pumping.Wait()
	return err
}

func (n *inotify) pump() {
	buf := make([]byte, 64<<10)
	for {
		size, err := n.file.Read(buf)
		if err != nil {
			return // closed: nothing else fails while the descriptor is good
		}
		for events := buf[:size]; len(events) >= unix.SizeofInotifyEvent; {
			hint, some, rest := n.take(events)
			events = rest
			if !some {
				continue
			}
			select {
			case n.hints <- hint:
			case <-n.quit:
				return
			}
		}
	}
}

// take makes a Hint of the first event, a struct inotify_event and its name, if it is one to tell of.
func (n *inotify) take(events []byte) (hint Hint, some bool, rest []byte) {
	wd := int32(binary.NativeEndian.Uint32(events))
	mask := binary.NativeEndian.Uint32(events[4:])
	end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
	base := strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00")
	rest = events[end:]

	n.mu.Lock()
	defer n.mu.Unlock()
	dir, known := n.dirs[wd]
	switch {
	case mask&(unix.IN_Q_OVERFLOW|unix.IN_UNMOUNT) != 0:
		return Hint{Overflow: true}, true, rest
	case mask&unix.IN_IGNORED != 0:
		delete(n.dirs, wd)
	case known:
		return Hint{Path: filepath.Join(dir, base)}, true, rest
	}
	return Hint{}, false, rest
}
