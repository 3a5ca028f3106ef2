package testnet

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"certswarm/internal/durable"

	"golang.org/x/sys/unix"
)

// losses is what a power cut may take from a disk: a file system that keeps the order of its changes of names and modes (ext4, xfs) loses some of
// the latest of those that were not synced, and whatever content was not. A sync of one directory is taken to make all earlier
// changes durable, a sync of a file's content no name at all.
type losses struct {
	dir     string // for what is replaced or removed, on the same file system
	made    int
	changes []change          // in the order in which they were made, since the last sync
	content []int             // descriptors of what was staged and not synced, good for nothing but to name the file
	intents map[string][]byte // what was last synced of those that were overwritten since
	before  standing
}

// change is one of names or modes, and how to take it back.
type change struct {
	effect durable.Effect
	undo   func() error
}

// standing is what stood at a name before an effect.
type standing struct {
	info fs.FileInfo // nil: nothing
	kept string      // a second name of what was a file or a link
}

func (l *losses) in(dir string) { l.dir = dir }

func (e standing) directory() bool { return e.info != nil && e.info.IsDir() }

func full(e durable.Effect) string { return filepath.Join(e.Dir, e.Name) }

func tempOf(e durable.Effect) string {
	return filepath.Join(filepath.Dir(full(e)), ".certswarm-"+e.Token)
}

// expect is called before an effect.
func (l *losses) expect(e durable.Effect) {
	l.before = standing{}
	switch e.Act {
	case durable.ActPlace, durable.ActRemove, durable.ActMakeDirectory, durable.ActSetMode, durable.ActOpen:
	case durable.ActWriteIntent:
		if _, known := l.intents[full(e)]; !known {
			if l.intents == nil {
				l.intents = map[string][]byte{}
			}
			l.intents[full(e)], _ = os.ReadFile(full(e)) // one that is not there is empty
		}
		return
	default:
		return
	}
	info, err := os.Lstat(full(e))
	if err != nil {
		return
	}
	l.before.info = info
	if (e.Act == durable.ActPlace || e.Act == durable.ActRemove) && !info.IsDir() && os.MkdirAll(l.dir, 0o700) == nil {
		l.made++
		l.before.kept = filepath.Join(l.dir, strconv.Itoa(l.made))
		if os.Link(full(e), l.before.kept) != nil {
			l.before.kept = ""
		}
	}
}

// note is called after an effect.
func (l *losses) note(e durable.Effect, err error) {
	if err != nil {
		return
	}
	before := l.before
	switch e.Act {
	case durable.ActStage:
		l.change(e, func() error { return os.Remove(tempOf(e)) })
		if !e.Synced {
			l.hold(tempOf(e))
		}
	case durable.ActPlace:
		l.change(e, func() error {
			return errors.Join(os.Rename(full(e), tempOf(e)), before.restore(full(e)))
		})
	case durable.ActRemove:
		l.change(e, func() error { return before.restore(full(e)) })
	case durable.ActKeep:
		l.change(e, func() error { return os.Remove(full(e)) })
	case durable.ActMakeDirectory, durable.ActSetMode:
		l.change(e, func() error {
			if before.info == nil {
				return os.Remove(full(e))
			}
			return before.dress(full(e))
		})
	case durable.ActOpen:
		if before.info == nil {
			l.change(e, func() error { return os.Remove(full(e)) })
		}
	case durable.ActWriteIntent:
		if e.Synced {
			delete(l.intents, full(e))
		}
		return
	case durable.ActCommit:
		return
	}
	if e.Synced && e.Act != durable.ActStage {
		l.changes = nil
	}
	if e.Act == durable.ActSyncAll {
		l.letGo()
	}
}

func (l *losses) change(e durable.Effect, undo func() error) {
	l.changes = append(l.changes, change{e, undo})
}

// restore puts back what stood at a name.
func (e standing) restore(at string) error {
	switch {
	case e.info == nil:
		return nil
	case e.directory():
		return errors.Join(os.Mkdir(at, 0o700), e.dress(at))
	}
	return os.Link(e.kept, at)
}

// dress gives back mode and owner.
func (e standing) dress(at string) error {
	owner := e.info.Sys().(*syscall.Stat_t)
	return errors.Join(os.Chmod(at, e.info.Mode().Perm()), os.Lchown(at, int(owner.Uid), int(owner.Gid)))
}

// hold remembers a file whose content is not synced. It is not opened for writing, which others could tell.
func (l *losses) hold(file string) {
	info, err := os.Lstat(file)
	if err != nil || !info.Mode().IsRegular() {
		return
	}
	if fd, err := unix.Open(file, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
		l.content = append(l.content, fd)
	}
}

func (l *losses) letGo() {
	for _, fd := range l.content {
		_ = unix.Close(fd)
	}
	l.content = nil
}

// take does to the disk what the power cut did.
func (l *losses) take(survive float64) error {
	var errs []error
	for _, fd := range l.content {
		errs = append(errs, os.Truncate("/proc/self/fd/"+strconv.Itoa(fd), 0))
	}
	if survive < 1 {
		for file, synced := range l.intents {
			errs = append(errs, os.WriteFile(file, synced, 0o600))
		}
	}
	for n := len(l.changes) - 1; n >= int(survive*float64(len(l.changes))); n-- {
		if err := l.changes[n].undo(); err != nil {
			errs = append(errs, errors.New(string(l.changes[n].effect.Act)+" "+l.changes[n].effect.Name), err)
		}
	}
	return errors.Join(errs...)
}

// forget begins anew.
func (l *losses) forget() error {
	l.letGo()
	l.changes, l.intents = nil, nil
	return os.RemoveAll(l.dir)
}

// tear does half of an effect, as far as that can be told from all or nothing.
func (l *losses) tear(e durable.Effect, do func() error) {
	before, _ := os.ReadFile(full(e)) // of an intent
	info, err := os.Lstat(full(e))
	full := full(e)
	switch {
	case e.Act == durable.ActStage:
		if do() == nil {
			if staged, err := os.Lstat(tempOf(e)); err == nil && staged.Mode().IsRegular() {
				_ = os.Truncate(tempOf(e), staged.Size()/2)
			}
		}
	case e.Act == durable.ActWriteIntent:
		if do() == nil {
			after, _ := os.ReadFile(full)
			half := len(after) / 2
			_ = os.WriteFile(full, append(after[:half:half], before[min(half, len(before)):]...), 0o600)
		}
	case e.Act == durable.ActMakeDirectory && err != nil: // it has its name last
		_ = os.Mkdir(filepath.Join(filepath.Dir(full), ".certswarm-torn"), 0o700)
	case e.Act == durable.ActPlace && err == nil && info.IsDir():
		if do() == nil && !strings.HasSuffix(full, "/") {
			_ = os.Mkdir(tempOf(e), info.Mode().Perm()) // between the exchange and the removal
		}
	}
}
