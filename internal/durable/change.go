package durable

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// MkDir makes a directory, its missing parents (mode 0755) first, or adjusts one that is there. Anything else that
// stands there matches ErrKind. warn says that it is there but could not be given to its owner.
func (r *Root) MkDir(name string, perm uint32, o Owner) (warn, err error) {
	parent, base, err := r.parentOf(name, public)
	if err != nil {
		return nil, err
	}
	defer parent.close()
	err = r.effect(Effect{Act: ActMakeDirectory, Name: name, Synced: !r.loose}, func() error {
		warn, err = parent.newDir(base, perm, o, !r.loose)
		switch {
		case errors.Is(err, unix.EEXIST):
			warn, err = parent.adjust(base, perm, o, !r.loose, Directory)
		case err == nil && !r.loose:
			err = parent.sync()
		}
		return err
	})
	return failure("give away", r.full(name), warn), failure("make directory", r.full(name), err)
}

// newDir makes a directory; EEXIST says that something stands there. It has its name last, for nobody could tell one that a crash left half made,
// private whatever it was to be, from one that is as somebody wants it.
func (d directory) newDir(base string, perm uint32, o Owner, sync bool) (warn, err error) {
	if _, err := d.lstat(base); err == nil {
		return nil, unix.EEXIST
	}
	temp := tempPrefix + rand.Text()
	if perm&0o777 == 0o700 && o == AsItIs {
		temp = base
	}
	if err := unix.Mkdirat(int(d), temp, 0o700); err != nil {
		return nil, err
	}
	warn, err = d.adjust(temp, perm, o, sync, Directory)
	if temp == base {
		return warn, err
	}
	if err == nil {
		err = d.name(temp, base)
	}
	if err != nil {
		_ = d.remove(temp) // the error that counts is the other
	}
	return warn, err
}

// name gives a directory its name if nothing else has it.
func (d directory) name(temp, base string) error {
	err := unix.Renameat2(int(d), temp, int(d), base, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // NFS, some FUSE: it replaces an empty directory at most
		err = unix.Renameat(int(d), temp, int(d), base)
	}
	return err
}

// SetMode changes the permissions and the owner of an existing file or directory, nothing else about it; anything else
// there, a symbolic link above all, matches ErrKind. What loses a permission loses it before the owner changes, what
// gains one gains it after. warn says that it could not be given to its owner.
func (r *Root) SetMode(name string, perm uint32, o Owner) (warn, err error) {
	parent, base, err := r.parent(name)
	if err != nil {
		return nil, err
	}
	defer parent.close()
	err = r.effect(Effect{Act: ActSetMode, Name: name, Synced: !r.loose}, func() (err error) {
		warn, err = parent.adjust(base, perm, o, !r.loose, File, Directory)
		return err
	})
	return failure("give away", r.full(name), warn), failure("change the mode of", r.full(name), err)
}

// unlock lets the owner read what has a mode that does not. Only root opens such a thing otherwise; its owner may change the mode all the same.
func (d directory) unlock(base string) (err error) {
	fd, err := d.openat(base, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	var raw unix.Stat_t
	if err := unix.Fstat(fd, &raw); err != nil {
		return err
	}
	if st := statOf(&raw); st.Kind != File && st.Kind != Directory {
		return fmt.Errorf("%w: a %s", ErrKind, st.Kind)
	}
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), raw.Mode&0o7777|unix.S_IRUSR) // fchmod(2) takes no O_PATH
}

func (d directory) adjust(base string, perm uint32, o Owner, sync bool, kinds ...Kind) (warn, err error) {
	fd, st, err := d.openToRead(base)
	if errors.Is(err, unix.EACCES) && d.unlock(base) == nil {
		fd, st, err = d.openToRead(base)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if !slices.Contains(kinds, st.Kind) {
		return nil, fmt.Errorf("%w: a %s", ErrKind, st.Kind)
	}
	perm &= 0o777
	if narrowed := st.Perm & perm; narrowed != st.Perm {
		if err := unix.Fchmod(fd, narrowed); err != nil {
			return nil, err
		}
	}
	warn, err = give(fd, o)
	if err == nil {
		err = unix.Fchmod(fd, perm)
	}
	if err == nil && sync {
		err = fsync(fd)
	}
	if errors.Is(err, unix.EINVAL) && st.Kind == Directory {
		err = nil // see sync
	}
	return warn, err
}

// Remove removes a file, a symbolic link (never what it points to) or an empty directory; a full one matches
// ErrNotEmpty. What is missing already is removed. Durable only after SyncDir of the directory that held name.
func (r *Root) Remove(name string) error {
	parent, base, err := r.parent(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.close()
	err = r.effect(Effect{Act: ActRemove, Name: name}, func() error { return parent.remove(base) })
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return failure("remove", r.full(name), err)
	}
	return nil
}

// SyncDir makes durable which names a directory holds. If it was removed, its nearest parent that is still there is
// synced instead: that is where its removal is written.
func (r *Root) SyncDir(name string) error {
	parts, err := split(name)
	if err != nil {
		return err
	}
	d, err := r.reach(name, parts, never)
	for errors.Is(err, fs.ErrNotExist) && len(parts) > 0 {
		parts = parts[:len(parts)-1]
		d, err = r.walk(parts, never)
	}
	if err != nil {
		return err
	}
	defer d.close()
	err = r.effect(Effect{Act: ActSync, Name: name, Synced: true}, d.sync)
	return failure("sync", r.full(name), err)
}

// SyncAll makes durable whatever was done on the file systems that hold the root and these directories: one syncfs(2) for each of them, which
// also waits for what others wrote there. It is for bulk; a few files are cheaper one by one.
func (r *Root) SyncAll(dirs ...string) error {
	return r.effect(Effect{Act: ActSyncAll, Synced: true}, func() error { return r.syncAll(dirs) })
}

func (r *Root) syncAll(dirs []string) error {
	top := -1 // the same open file: it remembers which errors it has reported
	err := r.hold.use(func(d directory) (err error) {
		top, err = unix.FcntlInt(uintptr(d), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err == nil {
		err = errors.Join(retrying(func() error { return unix.Syncfs(top) }), unix.Close(top))
	}
	if err != nil {
		return failure("sync", r.path, err)
	}
	synced := []uint64{r.hold.identity().dev}
	for _, name := range dirs { // something may be mounted below the root
		at, err := r.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrKind) || slices.Contains(synced, at.Dev) {
			continue
		}
		if err == nil {
			err = r.syncFileSystem(name)
		}
		if err != nil {
			return err
		}
		synced = append(synced, at.Dev)
	}
	return nil
}

func (r *Root) syncFileSystem(name string) error {
	d, err := r.open(name, never)
	if err != nil {
		return err
	}
	defer d.close()
	fd, err := d.openat(".", unix.O_RDONLY|unix.O_DIRECTORY, 0) // d is O_PATH
	if err == nil {
		err = errors.Join(retrying(func() error { return unix.Syncfs(fd) }), unix.Close(fd))
	}
	return failure("sync", r.full(name), err)
}

// WriteFile replaces a whole file: for state files. After a crash it holds the old data or the new.
func (r *Root) WriteFile(name string, data []byte, perm uint32) error {
	token := rand.Text()
	if _, err := r.Stage(name, token, Version{Kind: File, Perm: perm, Owner: AsItIs}, bytes.NewReader(data)); err != nil {
		return err
	}
	return r.settle(name, token)
}

// ReplaceSymlink makes name a symbolic link to target, in one rename. What it replaces is a file, a link, an empty
// directory or nothing; a full directory matches ErrNotEmpty and stays.
func (r *Root) ReplaceSymlink(name, target string) error {
	token := rand.Text()
	if _, err := r.Stage(name, token, Version{Kind: Symlink, Target: target, Owner: AsItIs}, nil); err != nil {
		return err
	}
	return r.settle(name, token)
}

// SetAside gives what stands at name, which somebody may have open, another name: the same with suffix behind it, which it returns. It fails
// where something has that name.
func (r *Root) SetAside(name, suffix string) (string, error) {
	if _, err := split(name + suffix); err != nil {
		return "", err
	}
	parent, base, err := r.parent(name)
	if err != nil {
		return "", err
	}
	defer parent.close()
	err = r.effect(Effect{Act: ActSetAside, Name: name, Synced: true}, func() error {
		if err := unix.Renameat2(int(parent), base, int(parent), base+suffix, unix.RENAME_NOREPLACE); err != nil {
			return err
		}
		return parent.sync()
	})
	return name + suffix, failure("set aside", r.full(name), err)
}

func (r *Root) settle(name, token string) error {
	if err := r.Place(name, token); err != nil {
		return errors.Join(err, r.Unstage(name, token))
	}
	return r.SyncDir(dirOf(name))
}
