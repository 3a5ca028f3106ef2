// Package durable holds files that survive power loss. It is the only package that creates, renames or removes files:
// new versions are staged beside their targets, placed by one rename, and what they replace goes to an archive.
//
// Every name is slash-separated, clean and relative to a [Root], and no name can leave it. os.Root keeps that promise
// too, but follows symbolic links that stay inside; here a link in the middle of a name is refused, and one at its end
// is read, replaced or removed as the link that it is. Names are walked one component at a time, each opened relative
// to the descriptor before it, so there is no moment at which swapping a directory for a link would help anybody.
//
// What a file costs (Linux), for a version that does not expire:
//
//	openat(parent, ".certswarm-TOKEN", O_CREAT|O_EXCL|O_NOFOLLOW, 0600)   Stage: nothing visible changes
//	write, fchown, fchmod, futimens, fsync
//	renameat(".certswarm-TOKEN", name)                                   Place: visible, whole
//	fsync(parent)                                                        SyncDir: once for all names of a directory
//
// Unless its comment says otherwise, what a method did is durable when it returns.
//
// Package durable is not a policy: it does not decide what may be written where, in which order a batch becomes
// visible, how much may be deleted, or what a file means. It knows no peers and no certificates.
package durable

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Errors that callers decide by; test with errors.Is. What is missing matches fs.ErrNotExist.
var (
	// ErrKind says that something of another kind stands at a name, or that a parent in it is not a real directory.
	ErrKind = errors.New("something of another kind stands there")
	// ErrNotEmpty says that a directory with something in it would have to be removed.
	ErrNotEmpty = errors.New("the directory there is not empty")
	// ErrName says that a name is not clean and relative, or that it or a token is reserved.
	ErrName = errors.New("not a usable name")
)

// Kind is what stands at a name.
type Kind uint8

// The kinds. Other is a device, a socket or a named pipe: never opened, never written.
const (
	Other Kind = iota
	File
	Symlink
	Directory
)

// String returns the kind in the words of an error message.
func (k Kind) String() string {
	switch k {
	case File:
		return "file"
	case Symlink:
		return "symbolic link"
	case Directory:
		return "directory"
	}
	return "special file"
}

// Stat identifies one version of one name: two equal Stats are the same inode with nothing written to it, renamed onto
// it, or changed about it in between (as far as the file system's clock resolves, typically 1 to 4 ms).
type Stat struct {
	Kind     Kind
	Perm     uint32 // the lower nine mode bits
	Special  bool   // setuid, setgid or sticky is set
	Size     int64  // bytes
	UID, GID int
	Dev, Ino uint64
	Links    uint64 // how many names it has
	Mtime    int64  // unix nanoseconds
	Ctime    int64  // unix nanoseconds
}

func statOf(raw *unix.Stat_t) Stat {
	s := Stat{
		Perm:    raw.Mode & 0o777,
		Special: raw.Mode&(unix.S_ISUID|unix.S_ISGID|unix.S_ISVTX) != 0,
		Size:    raw.Size,
		UID:     int(raw.Uid),
		GID:     int(raw.Gid),
		Dev:     uint64(raw.Dev), //nolint:unconvert // narrower on some architectures
		Ino:     raw.Ino,
		Links:   uint64(raw.Nlink), //nolint:unconvert // as well
		Mtime:   raw.Mtim.Nano(),
		Ctime:   raw.Ctim.Nano(),
	}
	switch raw.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		s.Kind = File
	case unix.S_IFLNK:
		s.Kind = Symlink
	case unix.S_IFDIR:
		s.Kind = Directory
	}
	return s
}

// Owner is whom a file is given to; -1 leaves that half as it is. Note that the zero Owner is root.
type Owner struct{ UID, GID int }

// AsItIs changes no ownership.
var AsItIs = Owner{UID: -1, GID: -1}

// retrying is what os does: some file systems answer EINTR whatever SA_RESTART promises.
func retrying(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// failure is one refused step. The errno stays visible to errors.Is, the advice does not hide it.
func failure(op, path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST) && op == "remove":
		err = fmt.Errorf("%w (%w)", ErrNotEmpty, err)
	case errors.Is(err, unix.EBUSY):
		err = fmt.Errorf("%w: it is a mount point, which cannot be replaced or removed; mount the directory that holds it instead", err)
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}
