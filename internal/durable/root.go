package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is one directory, held open; every name is relative to it. Its methods may be used from several goroutines.
// While it is open the file system that holds it cannot be unmounted, other than lazily.
type Root struct {
	path   string
	hold   *hold // shared with what Loose returns, as the spares are
	spares *spares
	loose  bool // see Loose

	interposer Interposer // see Interpose
}

// OpenRoot opens dir, which must be a directory already; dir itself may be reached through symbolic links.
func OpenRoot(dir string) (*Root, error) {
	g, err := takeHold(dir)
	if err != nil {
		return nil, err
	}
	return &Root{path: dir, hold: &hold{grip: g}, spares: &spares{}}, nil
}

// Close lets go of the directory. Calls that are under way finish; later ones fail.
func (r *Root) Close() error {
	r.spares.close()
	return r.hold.close()
}

// Loose returns the same root for work in bulk: what is staged, made or given another mode through it is durable only after SyncAll. The two
// are closed together.
func (r *Root) Loose() *Root {
	loose := *r
	loose.loose = true
	return &loose
}

// Dir returns the path by which the root was opened.
func (r *Root) Dir() string { return r.path }

// Replaced returns nil while Dir still leads to the opened directory, else an error that says what became of it:
// removed, another directory in its place, or another file system mounted over it.
func (r *Root) Replaced() error {
	var raw unix.Stat_t
	if err := unix.Stat(r.path, &raw); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("directory %s is gone: it was removed, renamed or unmounted: %w", r.path, err)
		}
		return fmt.Errorf("directory %s can no longer be reached: %w", r.path, err)
	}
	now, is := statOf(&raw), r.hold.identity()
	switch {
	case now.Kind != Directory:
		return fmt.Errorf("directory %s was replaced: a %s stands there now", r.path, now.Kind)
	case now.Dev != is.dev:
		return fmt.Errorf("directory %s is on another device now: something was mounted over it, or unmounted from it", r.path)
	case now.Ino != is.ino:
		return fmt.Errorf("directory %s was replaced by another directory", r.path)
	}
	return nil
}

// Lstat examines name without following a link at its end; "" or "." is the root itself. The error matches
// fs.ErrNotExist when nothing is there, and ErrKind when a parent in name is not a directory.
func (r *Root) Lstat(name string) (Stat, error) {
	if isRoot(name) {
		d, err := r.walk(nil, never)
		if err != nil {
			return Stat{}, err
		}
		defer d.close()
		st, err := d.lstat(".")
		return st, failure("examine", r.path, err)
	}
	parent, base, err := r.parent(name)
	if err != nil {
		return Stat{}, err
	}
	defer parent.close()
	st, err := parent.lstat(base)
	return st, failure("examine", r.full(name), err)
}

// ReadDir returns the base names in a directory, sorted by their bytes; "" or "." is the root itself. Temporaries are
// among them: see IsTemp.
func (r *Root) ReadDir(name string) ([]string, error) {
	d, err := r.open(name, never)
	if err != nil {
		return nil, err
	}
	defer d.close()
	names, err := d.names(r.full(name))
	if err != nil {
		return nil, failure("list", r.full(name), err)
	}
	slices.Sort(names)
	return names, nil
}

// Readlink returns the target of a symbolic link, as it is written. Anything else matches ErrKind.
func (r *Root) Readlink(name string) (string, error) {
	parent, base, err := r.parent(name)
	if err != nil {
		return "", err
	}
	defer parent.close()
	target, err := parent.readlink(base)
	return target, failure("read link", r.full(name), err)
}

// Open opens a regular file for reading and never waits (for the writer of a pipe, say). Anything but a regular file,
// a symbolic link above all, matches ErrKind.
func (r *Root) Open(name string) (*os.File, error) {
	parent, base, err := r.parent(name)
	if err != nil {
		return nil, err
	}
	defer parent.close()
	fd, st, err := parent.openToRead(base)
	if err == nil && st.Kind != File {
		err = errors.Join(fmt.Errorf("%w: a %s, not a file", ErrKind, st.Kind), unix.Close(fd))
	}
	if err != nil {
		return nil, failure("open", r.full(name), err)
	}
	return os.NewFile(uintptr(fd), r.full(name)), nil
}

// ReadFile returns the whole of a regular file, which must not have more than limit bytes.
func (r *Root) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing was written: no news in its error
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	if err != nil {
		return nil, failure("read", r.full(name), err)
	}
	return data, nil
}

// full is name as a person finds it, for messages.
func (r *Root) full(name string) string { return filepath.Join(r.path, name) }

func isRoot(name string) bool { return name == "" || name == "." }

// split cuts name into its components; the root itself has none.
func split(name string) ([]string, error) {
	if isRoot(name) {
		return nil, nil
	}
	parts := strings.Split(name, "/")
	for _, part := range parts {
		if part == "" || part == "." || part == ".." || strings.IndexByte(part, 0) >= 0 {
			return nil, fmt.Errorf("%q: %w: it must be relative and clean", name, ErrName)
		}
	}
	return parts, nil
}

func notTheRoot(name string) error { return fmt.Errorf("%q: %w: it is the root itself", name, ErrName) }

// dirOf is the name of the directory that holds name.
func dirOf(name string) string { return name[:max(strings.LastIndexByte(name, '/'), 0)] }

// making says which permissions missing directories are made with.
type making uint32

const (
	never   making = 0 // they stay missing: fs.ErrNotExist
	public  making = 0o755
	private making = 0o700
)

// open opens the directory name.
func (r *Root) open(name string, missing making) (directory, error) {
	parts, err := split(name)
	if err != nil {
		return -1, err
	}
	return r.reach(name, parts, missing)
}

// parent opens the directory that holds name, which cannot be the root itself.
func (r *Root) parent(name string) (directory, string, error) { return r.parentOf(name, never) }

func (r *Root) parentOf(name string, missing making) (directory, string, error) {
	parts, err := split(name)
	if err == nil && len(parts) == 0 {
		err = notTheRoot(name)
	}
	if err != nil {
		return -1, "", err
	}
	last := len(parts) - 1
	d, err := r.reach(dirOf(name), parts[:last], missing)
	return d, parts[last], err
}

// reach opens the directory name, of which parts are the components: in one call of the kernel where that knows how, else in one for each of
// them, which also finds out what is wrong, or makes what is missing.
func (r *Root) reach(name string, parts []string, missing making) (at directory, err error) {
	if len(parts) == 0 {
		return r.walk(nil, missing)
	}
	err = r.hold.use(func(top directory) (err error) {
		at, err = top.descend(name)
		return err
	})
	if err != nil {
		return r.walk(parts, missing)
	}
	return at, nil
}

// walk is where no name leaves the root, as in descend: each component is opened relative to the one before, and must itself be a
// directory.
func (r *Root) walk(parts []string, missing making) (directory, error) {
	var at directory
	err := r.hold.use(func(top directory) (err error) {
		at, err = top.child(".")
		return err
	})
	if err != nil {
		return -1, failure("open directory", r.path, err)
	}
	for i, part := range parts {
		next, err := at.child(part)
		if missing != never && errors.Is(err, unix.ENOENT) {
			e := Effect{Act: ActMakeDirectory, Name: strings.Join(parts[:i+1], "/"), Synced: !r.loose}
			err = r.effect(e, func() error {
				next, err = at.make(part, missing, !r.loose)
				return err
			})
		}
		at.close()
		if err != nil {
			return -1, failure("open directory", r.full(strings.Join(parts[:i+1], "/")), err)
		}
		at = next
	}
	return at, nil
}
