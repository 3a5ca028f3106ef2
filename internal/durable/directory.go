package durable

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// directory is a descriptor of one directory, mostly one opened with O_PATH. Its methods take base names, are one
// system call or little more, and return bare errors.
type directory int

func (d directory) close() { _ = unix.Close(int(d)) } // an O_PATH descriptor has nothing to lose

// child opens a directory in d; a link to one is not a directory.
func (d directory) child(base string) (directory, error) {
	fd, err := d.openat(base, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w: a directory is needed, symbolic links are not followed", ErrKind)
	}
	return directory(fd), err
}

var openat2 = unix.Openat2 // another one in tests: of an older kernel

// descend opens the directory at a relative path that has no dot-dot, like child for each component: a link on the way is an error (openat2(2), Linux
// 5.6). Whatever the error, a walk may succeed: the kernel is an older one, or a filter of system calls does not know this one.
func (d directory) descend(path string) (directory, error) {
	var fd int
	err := retrying(func() (err error) {
		fd, err = openat2(int(d), path, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
		})
		return err
	})
	return directory(fd), err
}

// make makes a directory with the permissions asked for, whatever the umask, and, if sync, sees to it that it stays.
func (d directory) make(base string, perm making, sync bool) (directory, error) {
	_, err := d.newDir(base, uint32(perm), AsItIs, false)
	if err == nil && sync {
		err = d.sync()
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err // EEXIST: somebody made it in the same moment
	}
	return d.child(base)
}

func (d directory) openat(base string, flags int, perm uint32) (fd int, err error) {
	err = retrying(func() (err error) {
		fd, err = unix.Openat(int(d), base, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOCTTY, perm)
		return err
	})
	if err != nil {
		return -1, err
	}
	return fd, nil
}

// openToRead opens the file or directory at base without waiting, and examines what it opened.
func (d directory) openToRead(base string) (int, Stat, error) {
	// Looking first: opening a device can have effects. What takes its place in between is caught by the flags.
	st, err := d.lstat(base)
	if err == nil && (st.Kind == Symlink || st.Kind == Other) {
		err = fmt.Errorf("%w: a %s, which is not opened", ErrKind, st.Kind)
	}
	if err != nil {
		return -1, Stat{}, err
	}
	fd, err := d.openat(base, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, Stat{}, err
	}
	var raw unix.Stat_t
	if err := unix.Fstat(fd, &raw); err != nil {
		return -1, Stat{}, errors.Join(err, unix.Close(fd))
	}
	return fd, statOf(&raw), nil
}

func (d directory) lstat(base string) (Stat, error) {
	var raw unix.Stat_t
	if err := unix.Fstatat(int(d), base, &raw, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Stat{}, err
	}
	return statOf(&raw), nil
}

func (d directory) readlink(base string) (string, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(int(d), base, buf)
		switch {
		case errors.Is(err, unix.EINVAL):
			return "", fmt.Errorf("%w: not a symbolic link", ErrKind)
		case err != nil:
			return "", err
		case n < size:
			return string(buf[:n]), nil
		}
	}
}

// names lists d; full is for the messages of the errors only.
func (d directory) names(full string) ([]string, error) {
	fd, err := d.openat(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), full)
	defer f.Close() // nothing was written: no news in its error
	return f.Readdirnames(-1)
}

// remove removes a file, a link or an empty directory.
func (d directory) remove(base string) error {
	err := unix.Unlinkat(int(d), base, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(int(d), base, unix.AT_REMOVEDIR)
	}
	return err
}

// sync makes the names in d durable.
func (d directory) sync() error {
	fd, err := d.openat(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	err = fsync(fd)
	if errors.Is(err, unix.EINVAL) {
		err = nil // a file system whose directories need no syncing, or know none
	}
	return errors.Join(err, unix.Close(fd))
}

func fsync(fd int) error { return retrying(func() error { return unix.Fsync(fd) }) }

// futimens sets the modification time of an open file, and leaves its access time alone. It goes by the descriptor,
// so that nobody can slip another file under the name; x/sys has only the variants that take a path.
func futimens(fd int, mtime int64) error {
	times := timesFor(mtime)
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times[0])), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func timesFor(mtime int64) [2]unix.Timespec {
	return [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(mtime)}
}
