package durable

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMkDirMakesOrAdjusts(t *testing.T) {
	r := openRoot(t, t.TempDir())
	for _, perm := range []uint32{0o750, 0o700, 0o755} {
		warn, err := r.MkDir("a/b", perm, AsItIs)
		must(t, err)
		must(t, warn)
		if st, err := r.Lstat("a/b"); err != nil || st.Perm != perm || st.Kind != Directory {
			t.Errorf("%o: %+v, %v", perm, st, err)
		}
	}
	must(t, r.WriteFile("a/f", []byte("x"), 0o600))
	before := tree(t, r.Dir())
	_, err := r.MkDir("a/f", 0o755, AsItIs)
	wants(t, "over a file", err, ErrKind)
	_, err = r.MkDir("a/f/g", 0o755, AsItIs)
	wants(t, "below a file", err, ErrKind)
	if after := tree(t, r.Dir()); !maps.Equal(before, after) {
		t.Errorf("%v became %v", before, after)
	}
}

func TestSetModeChangesNothingElse(t *testing.T) {
	r := openRoot(t, t.TempDir())
	must(t, r.WriteFile("f", []byte("x"), 0o644))
	was, err := r.Lstat("f")
	must(t, err)
	warn, err := r.SetMode("f", 0o6600, AsItIs)
	must(t, err)
	must(t, warn)
	is, err := r.Lstat("f")
	must(t, err)
	was.Perm, was.Ctime = 0o600, is.Ctime
	if is != was {
		t.Errorf("%+v, not %+v", is, was)
	}
	_, err = r.SetMode("missing", 0o600, AsItIs)
	wants(t, "missing", err, fs.ErrNotExist)
}

func TestRemove(t *testing.T) {
	r := openRoot(t, t.TempDir())
	must(t, r.WriteFile("d/f", nil, 0o600))
	must(t, os.Symlink("d", filepath.Join(r.Dir(), "link")))
	for _, name := range []string{"link", "d/f", "d", "d", "d/f", "no/such/parent"} {
		must(t, r.Remove(name))
	}
	must(t, r.SyncDir("d")) // gone: the root is what remembers that
	must(t, r.SyncDir("no/such/parent"))
	must(t, r.SyncDir(""))
	if names, _ := r.ReadDir(""); len(names) != 0 {
		t.Errorf("left %v", names)
	}
	must(t, r.WriteFile("f", nil, 0o600))
	wants(t, "SyncDir of a file", r.SyncDir("f"), ErrKind)
}

func TestReplaceSymlinkSwitchesOneLink(t *testing.T) {
	r := openRoot(t, t.TempDir())
	must(t, os.MkdirAll(filepath.Join(r.Dir(), "live/www"), 0o755)) // an empty directory may be in the way
	for _, target := range []string{"../archive/www/1", "../archive/www/2"} {
		must(t, r.ReplaceSymlink("live/www", target))
		if got, err := r.Readlink("live/www"); err != nil || got != target {
			t.Errorf("%q, %v", got, err)
		}
	}
	if names, _ := r.ReadDir("live"); len(names) != 1 {
		t.Errorf("left %v", names)
	}
}

// A mode may come that locks out the agent itself, where it is not root; the next one lets it in again.
func TestTheOwnerUnlocksWhatItMayNotRead(t *testing.T) {
	withoutRights(t, 1<<unix.CAP_DAC_OVERRIDE|1<<unix.CAP_DAC_READ_SEARCH, func() {
		r := openRoot(t, t.TempDir())
		must(t, r.WriteFile("dir/file", []byte("x"), 0o600))
		for _, perm := range []uint32{0, 0o300} {
			_, err := r.SetMode("dir/file", perm, AsItIs)
			must(t, err)
			_, err = r.MkDir("dir", perm, AsItIs)
			must(t, err)
			if _, err := r.ReadDir("dir"); !errors.Is(err, fs.ErrPermission) {
				t.Fatalf("it is read all the same: %v", err)
			}
			_, err = r.MkDir("dir", 0o750, AsItIs)
			must(t, err)
			_, err = r.SetMode("dir/file", 0o640, AsItIs)
			must(t, err)
			dir, err := r.Lstat("dir")
			must(t, err)
			file, err := r.Lstat("dir/file")
			must(t, err)
			if dir.Perm != 0o750 || file.Perm != 0o640 {
				t.Errorf("after %o: %o and %o", perm, dir.Perm, file.Perm)
			}
		}
	})
}
