package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Arrivals tells when files get their names in some directories. A replicated file is whole when it gets its name, so that is
// when it can be read. Whoever has it closes it.
type Arrivals struct {
	file  *os.File
	dirs  map[int32]string // by watch descriptor
	seen  chan arrival
	ended chan struct{} // closed when nothing is read any more
	quit  chan struct{}
	err   error // why, once ended is closed
}

type arrival struct {
	path string
	at   time.Time
}

// Watch begins to watch.
func Watch(dirs ...string) (*Arrivals, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("no watching for files that arrive: %w", err)
	}
	a := &Arrivals{
		file: os.NewFile(uintptr(fd), "inotify"), dirs: map[int32]string{}, seen: make(chan arrival, 1024),
		ended: make(chan struct{}), quit: make(chan struct{}),
	}
	for _, dir := range dirs {
		wd, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s cannot be watched: %w", dir, err), a.file.Close())
		}
		a.dirs[int32(wd)] = dir
	}
	go a.read()
	return a, nil
}

// Close ends the watch.
func (a *Arrivals) Close() {
	close(a.quit)
	_ = a.file.Close() // wakes the reader
	<-a.ended
}

func (a *Arrivals) read() {
	defer close(a.ended)
	events := make([]byte, 64<<10)
	for {
		n, err := a.file.Read(events)
		if err != nil {
			a.err = err
			return
		}
		now := time.Now()
		for rest := events[:n]; len(rest) > 0; {
			watch := int32(binary.NativeEndian.Uint32(rest))
			mask := binary.NativeEndian.Uint32(rest[4:])
			end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
			name := strings.TrimRight(string(rest[unix.SizeofInotifyEvent:end]), "\x00")
			rest = rest[end:]
			if mask&unix.IN_Q_OVERFLOW != 0 {
				a.err = errors.New("the kernel's queue of events overflowed")
				return
			}
			select {
			case a.seen <- arrival{filepath.Join(a.dirs[watch], name), now}:
			case <-a.quit:
				return
			}
		}
	}
}

// Await returns when the last of the paths got its name.
func (a *Arrivals) Await(ctx context.Context, paths []string) (last time.Time, err error) {
	last, _, err = a.await(ctx, paths)
	return last, err
}

// await counts what else arrived, too.
func (a *Arrivals) await(ctx context.Context, paths []string) (last time.Time, strays int, err error) {
	missing := make(map[string]bool, len(paths))
	for _, path := range paths {
		missing[path] = true
	}
	for len(missing) > 0 {
		select {
		case got := <-a.seen:
			if !missing[got.path] {
				strays++
				continue
			}
			delete(missing, got.path)
			last = got.at
		case <-a.ended:
			return last, strays, fmt.Errorf("no watching for files that arrive: %w", a.err)
		case <-ctx.Done():
			for path := range missing {
				return last, strays, fmt.Errorf("%s did not arrive, nor did %d others: %w", path, len(missing)-1, context.Cause(ctx))
			}
		}
	}
	return last, strays, nil
}
