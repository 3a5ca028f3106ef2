package durable

import (
	"errors"
	"fmt"
	"os"
	"path"
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
	dir  origin // where it was made: what it inherited was decided there
	size int64  // bytes on the disk
}

type inode struct{ dev, ino uint64 }

// origin is a directory with all that a file inherits from it: owner and group (setgid), default ACL, security label.
type origin struct {
	inode
	mode, uid, gid uint32
	acl, label     string
}

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
	at, err := d.origin()
	if err != nil || at.dev != r.hold.identity().dev || !d.orderly() || r.spares.has(at) { // on another device it would keep that from being unmounted
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

func (d directory) origin() (origin, error) {
	var raw unix.Stat_t
	err := unix.Fstat(int(d), &raw)
	o := origin{inode: inode{uint64(raw.Dev), raw.Ino}, mode: raw.Mode, uid: raw.Uid, gid: raw.Gid} //nolint:unconvert // narrower on some architectures
	o.acl, o.label = d.attribute("system.posix_acl_default"), d.attribute("security.selinux")
	return o, err
}

// attribute returns an extended attribute, "" where there is none to be had.
func (d directory) attribute(name string) string {
	value := make([]byte, 4096)
	n, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d/.", int(d)), name, value) // fgetxattr(2) takes no O_PATH descriptor
	if err != nil {
		return ""
	}
	return string(value[:n])
}

// orderly reports whether metadata changes survive in the order in which they were made: on XFS, and on ext4 with a journal (ext2 has the same
// statfs(2) type).
func (d directory) orderly() bool {
	var fs unix.Statfs_t
	var raw unix.Stat_t
	if unix.Fstatfs(int(d), &fs) != nil || unix.Fstat(int(d), &raw) != nil {
		return false
	}
	switch int64(fs.Type) { //nolint:unconvert // narrower on some architectures
	case unix.XFS_SUPER_MAGIC:
		return true
	case unix.EXT4_SUPER_MAGIC:
		device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(raw.Dev)), unix.Minor(uint64(raw.Dev)))) //nolint:unconvert // likewise
		return err == nil && unix.Access("/sys/fs/ext4/"+path.Base(device)+"/journal_task", unix.F_OK) == nil
	}
	return false
}

func (s *spares) has(dir origin) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.list, func(is spare) bool { return is.dir == dir })
}

// take returns the spare of a directory, which is the caller's from now on.
func (s *spares) take(d directory, v Version) (spare, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 || v.Volatile { // what is not synced gains little, and might come back after a power loss as so many zeros
		return spare{}, false
	}
	at, err := d.origin()
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
