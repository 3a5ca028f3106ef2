package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tempPrefix begins the base name of everything that is staged. The dot keeps it out of globs.
const tempPrefix = ".certswarm-"

// IsTemp reports whether a base name is that of a temporary of this package.
func IsTemp(base string) bool { return strings.HasPrefix(base, tempPrefix) }

// Version is what a file or a symbolic link is to become.
type Version struct {
	Kind   Kind   // File or Symlink
	Perm   uint32 // of a file; bits above the lower nine are dropped
	Owner  Owner
	Target string // of a symbolic link, written as it is
	// Volatile is for what expires: it is not synced, and may be gone, empty or torn after a power loss.
	Volatile bool
	// After is the mtime, in unix nanoseconds, of what this version replaces (0: of nothing). The new mtime is now, or
	// After's next whole second if now is not a later one: nginx >= 1.27.4 keeps serving the old object when inode and
	// whole-second mtime repeat.
	After int64
}

// mtime is the modification time, in unix nanoseconds, that v gets at now.
func (v Version) mtime(now time.Time) int64 {
	if next := time.Unix(0, v.After).Unix() + 1; v.After != 0 && now.Unix() < next {
		return time.Unix(next, 0).UnixNano()
	}
	return now.UnixNano()
}

// Stage puts a new version of name beside it, whole, owned, permitted and (unless Volatile) synced; nothing visible
// changes until Place. Parents that are missing are made first, with mode 0755. The token names the temporary: it must
// differ from the tokens of everything else that is staged in the same directory. What an earlier Stage left under the
// same token is replaced.
//
// If content ends in an error nothing is staged: a reader that verifies says so by the error with which it ends. It is
// not read for a symbolic link and may be nil then.
//
// warn says that the version is staged but could not be given to its owner (never that anything else failed); err that
// nothing is staged. A parent in name that is not a directory matches ErrKind.
func (r *Root) Stage(name, token string, v Version, content io.Reader) (warn, err error) {
	return r.stage(name, token, v, v.mtime(time.Now()), content)
}

func (r *Root) stage(name, token string, v Version, mtime int64, content io.Reader) (warn, err error) {
	if err := tokenAllowed(token); err != nil {
		return nil, err
	}
	if IsTemp(path.Base(name)) {
		return nil, fmt.Errorf("%q: %w: it is reserved", name, ErrName)
	}
	parent, _, err := r.parentOf(name, public)
	if err != nil {
		return nil, err
	}
	defer parent.close()
	v.Volatile = v.Volatile || r.loose
	err = r.effect(Effect{Act: ActStage, Name: name, Token: token, Synced: !v.Volatile}, func() (err error) {
		switch v.Kind {
		case File:
			if s, ready := r.spares.take(parent, v); ready {
				warn, err = parent.stageSpare(s, tempPrefix+token, v, mtime, content, r.full(name))
			} else {
				warn, err = parent.stageFile(tempPrefix+token, v, mtime, content, r.full(name))
			}
		case Symlink:
			warn, err = parent.stageLink(tempPrefix+token, v, mtime)
		default:
			err = fmt.Errorf("%w: a %s cannot be staged", ErrKind, v.Kind)
		}
		return err
	})
	if err != nil {
		return nil, failure("stage", r.full(name), err)
	}
	if warn != nil {
		warn = failure("give away", r.full(name), warn)
	}
	return warn, nil
}

func tokenAllowed(token string) error {
	if token == "" || len(token) > 200 || strings.ContainsAny(token, "/\x00") {
		return fmt.Errorf("token %q: %w: it must have 1 to 200 bytes and no slash", token, ErrName)
	}
	return nil
}

// replacingLeftover runs create, which wants temp not to be there, and makes room for it if it is.
func (d directory) replacingLeftover(temp string, create func() error) error {
	err := create()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := d.remove(temp); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return create()
}

// stageFile is the order that the package comment promises. A crash anywhere in it leaves a temporary that only its
// creator can read, or that is as private as it will be.
func (d directory) stageFile(temp string, v Version, mtime int64, content io.Reader, full string) (warn, err error) {
	var fd int
	err = d.replacingLeftover(temp, func() (err error) {
		fd, err = d.openat(temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
		return err
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), full)
	defer func() {
		if err != nil {
			err = errors.Join(err, d.remove(temp))
		}
	}()
	_, err = io.Copy(f, content)
	if err == nil {
		warn, err = dress(fd, v, mtime)
	}
	if err == nil && !v.Volatile {
		err = fsync(fd)
	}
	return warn, errors.Join(err, f.Close())
}

// stageSpare does the same with a file that is there already: the data is synced first, and what follows is metadata. It has its name last, so
// that nobody who watches the directory is told of more than a new name; a crash before leaves nothing.
func (d directory) stageSpare(s spare, temp string, v Version, mtime int64, content io.Reader, full string) (warn, err error) {
	f := os.NewFile(uintptr(s.fd), full)
	defer func() { err = errors.Join(err, f.Close()) }()
	n, err := io.Copy(f, content)
	if err == nil {
		err = retrying(func() error { return unix.Fdatasync(s.fd) })
	}
	if err == nil && n < s.size {
		err = retrying(func() error { return unix.Ftruncate(s.fd, n) })
	}
	if err == nil {
		warn, err = dress(s.fd, v, mtime)
	}
	if err != nil {
		return nil, err
	}
	err = d.replacingLeftover(temp, func() error { return d.adopt(s.fd, temp) })
	if err != nil { // protected_hardlinks without CAP_FOWNER; a mount that came over the directory; no /proc: it costs a moment
		return d.stageFile(temp, v, mtime, io.NewSectionReader(f, 0, n), full)
	}
	return warn, err
}

// dress gives an open file its owner, then the mode that its owner is to have, and its age.
func dress(fd int, v Version, mtime int64) (warn, err error) {
	warn, err = give(fd, v.Owner)
	if err == nil {
		err = unix.Fchmod(fd, v.Perm&0o777)
	}
	if err == nil {
		err = futimens(fd, mtime)
	}
	return warn, err
}

// stageLink has no descriptor to sync: a link's content is durable when its directory is.
func (d directory) stageLink(temp string, v Version, mtime int64) (warn, err error) {
	err = d.replacingLeftover(temp, func() error { return unix.Symlinkat(v.Target, int(d), temp) })
	if err != nil {
		return nil, err
	}
	times := timesFor(mtime)
	err = unix.UtimesNanoAt(int(d), temp, times[:], unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return nil, errors.Join(err, d.remove(temp))
	}
	if v.Owner == AsItIs {
		return nil, nil
	}
	err = unix.Fchownat(int(d), temp, v.Owner.UID, v.Owner.GID, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && notAllowed(err) {
		return fmt.Errorf("a link cannot be given to %d:%d: %w", v.Owner.UID, v.Owner.GID, err), nil
	}
	if err != nil {
		return nil, errors.Join(err, d.remove(temp))
	}
	return nil, nil
}

// give changes the owner of an open file as far as this process may. warn says how far that was not.
func give(fd int, to Owner) (warn, err error) {
	if to == AsItIs {
		return nil, nil
	}
	refused := unix.Fchown(fd, to.UID, to.GID)
	if refused == nil {
		return nil, nil
	}
	if !notAllowed(refused) {
		return nil, refused
	}
	// Somebody without the right to give files away may still choose among the groups it belongs to.
	if to.UID != -1 && to.GID != -1 {
		if err := unix.Fchown(fd, -1, to.GID); err != nil && !notAllowed(err) {
			return nil, err
		}
	}
	var raw unix.Stat_t
	if err := unix.Fstat(fd, &raw); err != nil {
		return nil, err
	}
	is := statOf(&raw)
	return fmt.Errorf("cannot be given to %d:%d and belongs to %d:%d: %w; run with CAP_CHOWN, or name an owner that this process may give files to",
		to.UID, to.GID, is.UID, is.GID, refused), nil
}

// notAllowed tells a lack of rights from a broken disk. EINVAL is an id that the user namespace does not know.
func notAllowed(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

// Place makes what was staged under token visible at name, in one rename: whoever opens name gets the old version or
// the new one. A directory in the way must be empty (else ErrNotEmpty, and nothing changed); it is exchanged with the
// new version and then removed. Durable only after SyncDir of the directory that holds name.
//
// A crash between exchange and removal leaves the empty directory under the temporary's name; Place called again
// finishes. If nothing is staged the error matches fs.ErrNotExist.
func (r *Root) Place(name, token string) error {
	if err := tokenAllowed(token); err != nil {
		return err
	}
	parent, base, err := r.parent(name)
	if err != nil {
		return err
	}
	defer parent.close()
	err = r.effect(Effect{Act: ActPlace, Name: name, Token: token}, func() error { return parent.place(tempPrefix+token, base, r.full(name)) })
	return failure("replace", r.full(name), err)
}

func (d directory) place(temp, base, full string) error {
	staged, err := d.lstat(temp)
	if err != nil {
		return err
	}
	if staged.Kind == Directory {
		return d.remove(temp) // a crash came after the exchange
	}
	err = unix.Renameat(int(d), temp, int(d), base)
	if errors.Is(err, unix.EISDIR) {
		return d.exchange(temp, base, full)
	}
	return err
}

// exchange puts temp where an empty directory stands. There is no moment without a version under base.
func (d directory) exchange(temp, base, full string) error {
	inTheWay, err := d.child(base)
	if err != nil {
		return err
	}
	names, err := inTheWay.names(full)
	inTheWay.close()
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return ErrNotEmpty
	}
	swap := func() error { return unix.Renameat2(int(d), temp, int(d), base, unix.RENAME_EXCHANGE) }
	err = swap()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// A file system that cannot exchange (NFS, some FUSE): a moment without either is all it offers.
		if err := unix.Unlinkat(int(d), base, unix.AT_REMOVEDIR); err != nil {
			return err
		}
		return unix.Renameat(int(d), temp, int(d), base)
	}
	if err != nil {
		return err
	}
	// Crash here: see Place.
	if err := unix.Unlinkat(int(d), temp, unix.AT_REMOVEDIR); err != nil {
		return errors.Join(err, swap()) // somebody put a file into it just now: that is theirs
	}
	return nil
}

// Unstage removes what was staged under token, if it is there.
func (r *Root) Unstage(name, token string) error {
	temp, err := tempOf(name, token)
	if err != nil {
		return err
	}
	return r.Remove(temp)
}

// Staged examines what was staged under token.
func (r *Root) Staged(name, token string) (Stat, error) {
	temp, err := tempOf(name, token)
	if err != nil {
		return Stat{}, err
	}
	return r.Lstat(temp)
}

func tempOf(name, token string) (string, error) {
	if err := tokenAllowed(token); err != nil {
		return "", err
	}
	parts, err := split(name)
	if err == nil && len(parts) == 0 {
		err = notTheRoot(name)
	}
	if err != nil {
		return "", err
	}
	return path.Join(dirOf(name), tempPrefix+token), nil
}

// CleanTemps removes the temporaries that crashes left in one directory, except those whose token is to be kept (nil
// keeps none). A missing directory is clean. A full directory under a temporary's name is somebody's doing and stays.
func (r *Root) CleanTemps(name string, keep func(token string) bool) error {
	d, err := r.open(name, never)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.close()
	names, err := d.names(r.full(name))
	if err != nil {
		return failure("list", r.full(name), err)
	}
	var failed []error
	for _, base := range names {
		token, isTemp := strings.CutPrefix(base, tempPrefix)
		if !isTemp || keep != nil && keep(token) {
			continue
		}
		err := r.effect(Effect{Act: ActRemove, Name: path.Join(name, base)}, func() error { return d.remove(base) })
		if err != nil && !errors.Is(err, unix.ENOENT) {
			failed = append(failed, failure("remove", r.full(name)+"/"+base, err))
		}
	}
	return errors.Join(failed...)
}
