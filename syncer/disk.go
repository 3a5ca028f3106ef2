package syncer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"

	"golang.org/x/sys/unix"
)

// disk reads one replicated directory. What it says of a file it saw whole: nobody had it open for writing, and it was the
// same before and after it was read.
type disk struct {
	root    *durable.Root
	ignored matcher
	owners  *owners
	maxFile int64 // bytes

	// unasked is called when the kernel does not tell this process whether a file is open for writing, which it ought to.
	unasked func()
}

// sight is one thing on the disk as it was at one moment.
type sight struct {
	found index.Found
	stat  durable.Stat
	data  []byte // of a file small enough to travel inside an offer
}

// errBusy says that somebody is writing the file; it must be looked at again shortly.
var errBusy = errors.New("it is being written")

// strange is the error of what is on the disk but cannot be replicated, and why.
type strange struct{ why string }

func (s strange) Error() string { return s.why }

// look examines one path. The error is fs.ErrNotExist where nothing is, errBusy, strange, or the disk's own.
func (d *disk) look(p index.Path) (sight, error) {
	stat, err := d.root.Lstat(p.String())
	if errors.Is(err, durable.ErrKind) { // a parent is no directory (any more): nothing can be below it
		err = fs.ErrNotExist
	}
	if err != nil {
		return sight{}, err
	}
	s := sight{stat: stat, found: index.Found{Modified: time.Unix(0, stat.Mtime), Changed: time.Unix(0, stat.Ctime)}}
	switch stat.Kind {
	case durable.Directory:
		s.found.Content = index.Directory{Perm: index.Perm(stat.Perm), Owner: d.owners.user(stat.UID), Group: d.owners.group(stat.GID)}
		return s, nil
	case durable.Symlink:
		target, err := d.root.Readlink(p.String())
		if err != nil {
			return sight{}, err
		}
		to, err := p.Follow(target)
		if err != nil {
			return sight{}, strange{fmt.Sprintf("a link (to %s) is not replicated: %v", shortened(target), err)}
		}
		if d.ignored.match(to) {
			return sight{}, fs.ErrNotExist // a link to what is not replicated is not either
		}
		s.found.Content = index.Symlink{Target: target}
		return s, nil
	case durable.File:
		return d.read(p, s)
	}
	return sight{}, strange{"a device, socket or pipe is not replicated"}
}

// shortened is a link's target in a sentence.
func shortened(target string) string {
	if len(target) > maxTold {
		return target[:maxTold] + "..."
	}
	return target
}

const maxTold = 200 // bytes

// read hashes a regular file that nobody writes to.
func (d *disk) read(p index.Path, s sight) (sight, error) {
	if s.stat.Size > d.maxFile {
		return sight{}, strange{fmt.Sprintf("%d bytes; max_file_size is %d", s.stat.Size, d.maxFile)}
	}
	f, err := d.root.Open(p.String())
	if err != nil {
		return sight{}, err
	}
	defer f.Close()
	if d.beingWritten(f, s.stat) {
		return sight{}, errBusy
	}
	var digest index.Digest
	var n int64
	if s.stat.Size <= wire.MaxInline {
		data := make([]byte, s.stat.Size+1)
		got, err := io.ReadFull(f, data)
		if err != io.ErrUnexpectedEOF && err != io.EOF {
			return sight{}, errBusy // it grew
		}
		s.data, n = data[:got], int64(got)
		digest = sha256.Sum256(s.data)
	} else {
		hash := sha256.New()
		if n, err = io.Copy(hash, io.LimitReader(f, s.stat.Size+1)); err != nil {
			return sight{}, err
		}
		digest = index.Digest(hash.Sum(nil))
	}
	if after, err := d.root.Lstat(p.String()); err != nil || after != s.stat || n != s.stat.Size {
		return sight{}, errBusy
	}
	s.found.Content = index.File{
		Digest: digest, Size: n, Perm: index.Perm(s.stat.Perm),
		Owner: d.owners.user(s.stat.UID), Group: d.owners.group(s.stat.GID),
	}
	return s, nil
}

// quiet is for how long a file must have been left alone where the kernel will not say whether it is open for writing.
const quiet = 50 * time.Millisecond

// beingWritten asks the kernel: a read lease is refused while anybody has the file open for writing (fcntl(2), F_SETLEASE).
// Leases are for a file's owner and for who has CAP_LEASE, root being nobody without it, and not on every file system; elsewhere a recent
// change counts as a writer, and one who pauses is taken for one who is done.
func (d *disk) beingWritten(f *os.File, stat durable.Stat) bool {
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	switch {
	case err == nil:
		// Given back at once: its being granted is the answer, and to keep it would make the next writer wait.
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		return err != nil
	case errors.Is(err, unix.EAGAIN):
		return true
	case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
		d.unasked()
	}
	return time.Since(time.Unix(0, stat.Mtime)).Abs() < quiet
}

// sayUnasked says, for an agent that was meant to ask, that it may not. Who is not root was not.
func (d *Directory) sayUnasked() {
	if os.Geteuid() == 0 {
		d.log.Warn("whether files of other owners are open for writing cannot be told: half of one may be replicated while it is written",
			"next", "give the agent CAP_LEASE")
	}
}
