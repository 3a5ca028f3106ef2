package durable

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// everyOperation is each way to name something, as a call that must not go through a link.
func everyOperation(r *Root, archive *Archive) map[string]func(name string) error {
	second := func(_ any, err error) error { return err }
	return map[string]func(string) error{
		"Lstat":          func(n string) error { return second(r.Lstat(n)) },
		"ReadDir":        func(n string) error { return second(r.ReadDir(n)) },
		"Readlink":       func(n string) error { return second(r.Readlink(n)) },
		"Open":           func(n string) error { return second(r.Open(n)) },
		"ReadFile":       func(n string) error { return second(r.ReadFile(n, 100)) },
		"Stage":          func(n string) error { return second(r.Stage(n, "t", public644(), strings.NewReader("x"))) },
		"Stage link":     func(n string) error { return second(r.Stage(n, "t", Version{Kind: Symlink, Target: "x"}, nil)) },
		"Place":          func(n string) error { return r.Place(n, "t") },
		"Unstage":        func(n string) error { return r.Unstage(n, "t") },
		"Staged":         func(n string) error { return second(r.Staged(n, "t")) },
		"MkDir":          func(n string) error { return second(r.MkDir(n, 0o755, AsItIs)) },
		"SetMode":        func(n string) error { return second(r.SetMode(n, 0o777, AsItIs)) },
		"Remove":         func(n string) error { return r.Remove(n) },
		"SyncDir":        func(n string) error { return r.SyncDir(n) },
		"WriteFile":      func(n string) error { return r.WriteFile(n, []byte("x"), 0o644) },
		"CleanTemps":     func(n string) error { return r.CleanTemps(n, nil) },
		"ReplaceSymlink": func(n string) error { return r.ReplaceSymlink(n, "x") },
		"Keep":           func(n string) error { return archive.Keep(r, n) },
		"OpenIntent":     func(n string) error { return second(OpenIntent(r, n)) },
	}
}

func TestNoOperationGoesThroughALink(t *testing.T) {
	base := t.TempDir()
	outside := filepath.Join(base, "outside")
	root := filepath.Join(base, "root")
	put(t, filepath.Join(outside, "b/c/file"), "secret", 0o600)
	put(t, filepath.Join(outside, "b/c/.certswarm-t"), "theirs", 0o600)
	put(t, filepath.Join(root, "real/b/c/file"), "inside", 0o600)
	must(t, os.Symlink("target", filepath.Join(outside, "b/c/link")))
	must(t, os.Symlink("../outside", filepath.Join(root, "first")))
	must(t, os.Symlink(outside, filepath.Join(root, "absolute")))
	must(t, os.Symlink("real", filepath.Join(root, "inside"))) // os.Root would follow this one
	must(t, os.MkdirAll(filepath.Join(root, "second/b"), 0o755))
	must(t, os.Symlink("../real/b", filepath.Join(root, "second/a")))
	must(t, os.Symlink(outside+"/b/c", filepath.Join(root, "second/b/c")))
	must(t, os.Symlink("first", filepath.Join(root, "chain")))
	r := openRoot(t, root)
	operations := everyOperation(r, OpenArchive(openRoot(t, t.TempDir()), 1))
	before := tree(t, base)
	for _, name := range []string{
		"first/b/c/file", "absolute/b/c/file", "inside/b/c/file", "second/a/c/file", "second/b/c/file", "chain/b/c/file",
		"first/new", "absolute/new/new", "inside/new", "second/a/new", "second/b/c/new", "second/b/c/link",
	} {
		for what, do := range operations {
			wants(t, what+" "+name, do(name), ErrKind)
		}
	}
	if after := tree(t, base); !maps.Equal(before, after) {
		t.Errorf("something changed:\n%v\n%v", before, after)
	}
}

// Kernels before 5.6 have no openat2(2), and filters of system calls may not know it.
func TestNamesOnAnOlderKernel(t *testing.T) {
	for _, refused := range []error{unix.ENOSYS, unix.EPERM} {
		openat2 = func(int, string, *unix.OpenHow) (int, error) { return -1, refused }
		t.Cleanup(func() { openat2 = unix.Openat2 })
		t.Run("links in the middle", TestNoOperationGoesThroughALink)
		t.Run("links at the end", TestALinkAtTheEndIsThatLink)
		t.Run("names that are not clean", TestNamesThatAreNotCleanAreRefused)
	}
}

// Where there is one, it is what opens a directory: in one call, however deep.
func TestADirectoryIsOpenedInOneCall(t *testing.T) {
	r := openRoot(t, t.TempDir())
	must(t, os.MkdirAll(filepath.Join(r.Dir(), "a/b/c"), 0o755))
	must(t, os.Symlink("a", filepath.Join(r.Dir(), "link")))
	must(t, os.Symlink("b", filepath.Join(r.Dir(), "a/inside")))
	for name, want := range map[string]error{"a/b/c": nil, "a": nil, "link/b": unix.ELOOP, "a/inside/c": unix.ELOOP, "a/inside": unix.ENOTDIR, "no": unix.ENOENT} {
		err := r.hold.use(func(top directory) error {
			d, err := top.descend(name)
			if err != nil {
				return err
			}
			defer d.close()
			is, err := d.lstat(".")
			if there, e := os.Stat(filepath.Join(r.Dir(), name)); err != nil || e != nil || there.Sys().(*syscall.Stat_t).Ino != is.Ino {
				t.Errorf("%s is another directory: %v, %v", name, err, e)
			}
			return nil
		})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, not %v", name, err, want)
		}
	}
}

func TestALinkAtTheEndIsThatLink(t *testing.T) {
	base := t.TempDir()
	put(t, filepath.Join(base, "outside"), "secret", 0o600)
	must(t, os.Mkdir(filepath.Join(base, "directory"), 0o755))
	must(t, os.Mkdir(filepath.Join(base, "root"), 0o755))
	r := openRoot(t, filepath.Join(base, "root"))
	for _, target := range []string{"../outside", "../directory", "nowhere", filepath.Join(base, "outside")} {
		relink := func() {
			must(t, r.Remove("link"))
			must(t, os.Symlink(target, filepath.Join(r.Dir(), "link")))
		}
		before := tree(t, filepath.Join(base))
		relink()
		if st, err := r.Lstat("link"); err != nil || st.Kind != Symlink {
			t.Errorf("Lstat: %+v, %v", st, err)
		}
		if got, err := r.Readlink("link"); err != nil || got != target {
			t.Errorf("Readlink: %q, %v", got, err)
		}
		_, err := r.Open("link")
		wants(t, "Open", err, ErrKind)
		_, err = r.SetMode("link", 0o777, AsItIs)
		wants(t, "SetMode", err, ErrKind)
		_, err = r.MkDir("link", 0o777, AsItIs)
		wants(t, "MkDir", err, ErrKind)
		_, err = OpenIntent(r, "link")
		wants(t, "OpenIntent", err, ErrKind)
		must(t, r.WriteFile("link", []byte("a file now"), 0o600))
		if data, err := r.ReadFile("link", 100); err != nil || string(data) != "a file now" {
			t.Errorf("WriteFile: %q, %v", data, err)
		}
		relink()
		must(t, r.ReplaceSymlink("link", "elsewhere"))
		must(t, r.Remove("link"))
		if after := tree(t, base); !maps.Equal(before, after) {
			t.Errorf("%s: more than the link changed:\n%v\n%v", target, before, after)
		}
	}
}

func TestNamesThatAreNotCleanAreRefused(t *testing.T) {
	base := t.TempDir()
	root := filepath.Join(base, "root")
	put(t, filepath.Join(base, "x"), "outside", 0o600)
	must(t, os.Mkdir(root, 0o755))
	r := openRoot(t, root)
	for _, name := range []string{"../x", "/x", "a/../../x", "a/..", "..", "./x", "a//b", "a/", "x\x00y", "a/./b"} {
		for what, do := range everyOperation(r, OpenArchive(r, 1)) {
			wants(t, what+" "+name, do(name), ErrName)
		}
	}
	for _, do := range []func() error{
		func() error { return r.Remove("") },
		func() error { return r.WriteFile(".", nil, 0o600) },
		func() error { return r.WriteFile("a/.certswarm-x", nil, 0o600) },
		func() error { _, err := r.SetMode("", 0o700, AsItIs); return err },
		func() error { _, err := r.Stage("a", "", public644(), nil); return err },
		func() error { _, err := r.Stage("a", "../t", public644(), nil); return err },
		func() error { return r.Place("a", "t/t") },
		func() error { return r.Unstage("a", strings.Repeat("t", 201)) },
		func() error { _, err := r.Staged("a", "\x00"); return err },
	} {
		wants(t, "a reserved name", do(), ErrName)
	}
	if got := tree(t, root); len(got) != 1 {
		t.Errorf("something was made: %v", got)
	}
}

func TestLongAndStrangeNames(t *testing.T) {
	r := openRoot(t, t.TempDir())
	archive := OpenArchive(openRoot(t, t.TempDir()), 2)
	long := strings.Repeat("n", 255)
	for _, name := range []string{
		"-rf", " ", "new\nline", "\xff\xfe", "e\u0301", "\u00e9", "*", "~", "\\", "...", long,
		strings.Repeat(strings.Repeat("d", 255)+"/", 20) + long, // far past PATH_MAX: no system call ever sees the whole name
	} {
		must(t, r.WriteFile(name, []byte(name), 0o600))
		must(t, archive.Keep(r, name))
		data, err := r.ReadFile(name, int64(len(name)))
		if err != nil || string(data) != name {
			t.Errorf("%q reads as %q, %v", name, data, err)
		}
		if versions, err := archive.Versions(name); err != nil || len(versions) != 1 {
			t.Errorf("%q has the versions %v, %v", name, versions, err)
		}
	}
	names, err := r.ReadDir("")
	if err != nil || len(names) != 12 || !slices.IsSorted(names) || !slices.Contains(names, "\xff\xfe") {
		t.Errorf("ReadDir = %q, %v", names, err)
	}
	wants(t, "a component of 256 bytes", r.WriteFile(long+"n", nil, 0o600), unix.ENAMETOOLONG)
}

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	r := openRoot(t, t.TempDir())
	must(t, unix.Mkfifo(filepath.Join(r.Dir(), "pipe"), 0o600))
	must(t, os.Mkdir(filepath.Join(r.Dir(), "directory"), 0o755))
	for _, name := range []string{"pipe", "directory"} { // a pipe without a writer must not make us wait either
		_, err := r.Open(name)
		wants(t, name, err, ErrKind)
	}
	_, err := r.SetMode("pipe", 0o666, AsItIs)
	wants(t, "mode of a pipe", err, ErrKind)
	_, err = r.Readlink("directory")
	wants(t, "target of a directory", err, ErrKind)
	_, err = r.Open("missing")
	wants(t, "missing", err, fs.ErrNotExist)
	_, err = r.Open("missing/too")
	wants(t, "missing parent", err, fs.ErrNotExist)
	if st, err := r.Lstat("pipe"); err != nil || st.Kind != Other {
		t.Errorf("a pipe is %v, %v", st.Kind, err)
	}
	if st, err := r.Lstat(""); err != nil || st.Kind != Directory {
		t.Errorf("the root is %v, %v", st.Kind, err)
	}
}

func TestReadFileIsBounded(t *testing.T) {
	r := openRoot(t, t.TempDir())
	put(t, filepath.Join(r.Dir(), "f"), "12345", 0o600)
	if data, err := r.ReadFile("f", 5); err != nil || string(data) != "12345" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := r.ReadFile("f", 4); err == nil {
		t.Error("5 bytes were read with a limit of 4")
	}
}

func TestStatTellsVersionsApart(t *testing.T) {
	r := openRoot(t, t.TempDir())
	path := filepath.Join(r.Dir(), "f")
	put(t, path, "one", 0o640)
	first, err := r.Lstat("f")
	must(t, err)
	if again, _ := r.Lstat("f"); again != first {
		t.Error("nothing happened, and the Stats differ")
	}
	if first.Perm != 0o640 || first.Special || first.Size != 3 || first.UID != os.Geteuid() || first.Kind != File {
		t.Errorf("%+v", first)
	}
	must(t, os.Chmod(path, 0o640|fs.ModeSetgid))
	if st, _ := r.Lstat("f"); st == first || !st.Special || st.Perm != 0o640 {
		t.Errorf("setgid: %+v", st)
	}
	must(t, r.WriteFile("f", []byte("two"), 0o640))
	if st, _ := r.Lstat("f"); st.Ino == first.Ino && st.Ctime == first.Ctime {
		t.Error("a replaced file looks the same")
	}
}

func TestReplacedNoticesWhatBecameOfTheRoot(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "certs")
	for what, change := range map[string]func() error{
		"gone":                func() error { return nil },
		"another directory":   func() error { return os.Mkdir(dir, 0o755) },
		"a file stands there": func() error { return os.WriteFile(dir, nil, 0o600) },
		"on another device":   func() error { return os.Symlink("/proc", dir) },
	} {
		must(t, os.Mkdir(dir, 0o755))
		r := openRoot(t, dir)
		must(t, r.Replaced())
		must(t, os.Rename(dir, dir+".old"))
		must(t, change())
		if err := r.Replaced(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
		must(t, errors.Join(os.RemoveAll(dir), os.Remove(dir+".old")))
	}
}

func TestOpenRootNeedsADirectory(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "", 0o600)
	_, err := OpenRoot(filepath.Join(dir, "missing"))
	wants(t, "missing", err, fs.ErrNotExist)
	_, err = OpenRoot(filepath.Join(dir, "f"))
	wants(t, "a file", err, unix.ENOTDIR)
}

func TestAClosedRootRefuses(t *testing.T) {
	r, err := OpenRoot(t.TempDir())
	must(t, err)
	must(t, r.Close())
	_, err = r.Lstat("f")
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Lstat of a closed root: %v", err)
	}
}
