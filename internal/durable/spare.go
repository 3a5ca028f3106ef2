package durable

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// spare is a file without a name whose blocks are on the disk already. To overwrite them and to wait for that costs one write of the
// disk; a new file costs the search for an inode and a commit of the file system's journal, several times as much.
//
// What becomes of it once its data is synced (its length, owner, mode, and the names that it gets) is metadata, which the journal keeps
// in order: whoever finds it under a name after a power loss finds it whole. That holds for the file systems of orderly and
// not for every other; there are no spares there.
type spare struct {
	fd   int
	dir  inode // where it belongs: its security label was decided there
	size int64 // bytes on the disk
}

type inode struct{ dev, ino uint64 }

// spares are a root's, one for a directory at most.
type spares struct {
	mu     sync.Mutex
	list   []spare // guarded by mu; the one made last stands last
	closed bool    // guarded by mu
}

const (
	maxSpares    = 4
	maxSpareSize = 64 << 10 // bytes
	blockSize    = 4 << 10
)

// orderly are the types (statfs(2)) of file systems whose metadata changes survive in the order in which they were made.
var orderly = []int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC}

// Prepare makes the next Stage of a file of about size bytes directly in dir quick, if the file system is one where it can. It costs more than it
// saves: call it when there is nothing else to do. An error says that Stage will be as slow as ever, and nothing else.
func (r *Root) Prepare(dir string, size int64) error {
	if size > maxSpareSize {
		return nil
	}
	d, err := r.open(dir, never)
	if err != nil {
		return err
	}
	defer d.close()
	at, err := d.identity()
	if err != nil || !d.orderly() || r.spares.has(at) {
		return failure("examine", r.full(dir), err)
	}
	s := spare{dir: at, size: max((size+blockSize-1)/blockSize, 1) * blockSize}
	err = r.effect(Effect{Act: ActPrepare, Name: dir}, func() (err error) {
		s.fd, err = d.unnamed(s.size)
		return err
	})
	if err != nil {
		return failure("prepare a file in", r.full(dir), err)
	}
	r.spares.put(s)
	return nil
}

// unnamed makes a file of size bytes that are on the disk, and gives it no name.
func (d directory) unnamed(size int64) (int, error) {
	fd, err := d.openat(".", unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return -1, err
	}
	_, err = unix.Pwrite(fd, make([]byte, size), 0)
	if err == nil {
		err = fsync(fd)
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// adopt gives an unnamed file its name.
func (d directory) adopt(fd int, base string) error {
	err := unix.Linkat(fd, "", int(d), base, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) { // older kernels want CAP_DAC_READ_SEARCH for that
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), int(d), base, unix.AT_SYMLINK_FOLLOW)
	}
	return err
}

func (d directory) identity() (inode, error) {
	var raw unix.Stat_t
	err := unix.Fstat(int(d), &raw)
	return inode{uint64(raw.Dev), raw.Ino}, err //nolint:unconvert // narrower on some architectures
}

func (d directory) orderly() bool {
	var raw unix.Statfs_t
	return unix.Fstatfs(int(d), &raw) == nil && slices.Contains(orderly, int64(raw.Type)) //nolint:unconvert // narrower on some architectures
}

func (s *spares) has(dir inode) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.list, func(is spare) bool { return is.dir == dir })
}

// take returns the spare of a directory, which is the caller's from now on.
func (s *spares) take(d directory) (spare, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return spare{}, false
	}
	at, err := d.identity()
	i := slices.IndexFunc(s.list, func(is spare) bool { return is.dir == at })
	if err != nil || i < 0 {
		return spare{}, false
	}
	found := s.list[i]
	s.list = slices.Delete(s.list, i, i+1)
	return found, true
}

func (s *spares) put(made spare) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, made)
	for s.closed && len(s.list) > 0 || len(s.list) > maxSpares {
		_ = unix.Close(s.list[0].fd) // holds nothing that anybody wants
		s.list = slices.Delete(s.list, 0, 1)
	}
}

func (s *spares) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.drop()
}

func (s *spares) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, is := range s.list {
		_ = unix.Close(is.fd)
	}
	s.list = nil
}
