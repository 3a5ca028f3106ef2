package durable

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	_ "certswarm/internal/bubble"
)

// otherDevice is a directory on a file system that t.TempDir is not on.
func otherDevice(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "durable")
	if err != nil {
		t.Fatalf("needs a second file system: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func archived(t *testing.T, a *Archive, name string) []string {
	t.Helper()
	versions, err := a.Versions(name)
	must(t, err)
	var texts []string
	for _, version := range versions {
		f, err := a.Open(name, version)
		must(t, err)
		data, err := io.ReadAll(f)
		must(t, err)
		must(t, f.Close())
		texts = append(texts, string(data))
	}
	return texts
}

func TestTheReplacedInodeStaysAlive(t *testing.T) {
	r, shelf := openRoot(t, t.TempDir()), openRoot(t, t.TempDir())
	archive := OpenArchive(shelf, 9)
	must(t, r.WriteFile("live/key.pem", []byte("0"), 0o640))
	for i, text := range []string{"1", "2", "3", "4"} {
		replaced, err := r.Lstat("live/key.pem")
		must(t, err)
		must(t, archive.Keep(r, "live/key.pem"))
		must(t, archive.Keep(r, "live/key.pem")) // a crash may have come before the replacement
		must(t, r.WriteFile("live/key.pem", []byte(text), 0o640))
		versions, err := archive.Versions("live/key.pem")
		if err != nil || len(versions) != i+1 {
			t.Fatalf("%v, %v", versions, err)
		}
		kept, err := shelf.Lstat("live/key.pem/" + versions[0])
		must(t, err)
		placed, err := r.Lstat("live/key.pem")
		must(t, err)
		if kept.Ino != replaced.Ino || kept.Dev != replaced.Dev || placed.Ino == replaced.Ino {
			t.Errorf("replaced %d, kept %d, placed %d", replaced.Ino, kept.Ino, placed.Ino)
		}
	}
}

func TestKeepingChangesOnlyTheOriginalsCtimeAndLinks(t *testing.T) {
	r := openRoot(t, t.TempDir())
	must(t, r.WriteFile("f", []byte("x"), 0o640))
	before, err := r.Lstat("f")
	must(t, err)
	must(t, OpenArchive(openRoot(t, t.TempDir()), 1).Keep(r, "f"))
	after, err := r.Lstat("f")
	must(t, err)
	after.Ctime, after.Links = before.Ctime, before.Links
	if before != after {
		t.Errorf("%+v became %+v", before, after)
	}
}

func TestTheNewestVersionsAreKept(t *testing.T) {
	for where, dir := range map[string]string{"linked": t.TempDir(), "copied to another device": otherDevice(t)} {
		r, shelf := openRoot(t, t.TempDir()), openRoot(t, dir)
		synctest.Test(t, func(t *testing.T) { // no time passes
			archive := OpenArchive(shelf, 3)
			for _, text := range []string{"1", "2", "3", "4", "5"} {
				must(t, r.WriteFile("a/key.pem", []byte(text), 0o600))
				must(t, archive.Keep(r, "a/key.pem"))
			}
			must(t, archive.Trim())
			if got := archived(t, archive, "a/key.pem"); !slices.Equal(got, []string{"5", "4", "3"}) {
				t.Errorf("%s: %q", where, got)
			}
			if versions, _ := archive.Versions("a/key.pem"); versions[0] != time.Now().UTC().Add(4).Format(stampLayout) {
				t.Errorf("%s: %v", where, versions)
			}
		})
	}
}

func TestWhatACrashLeftUntrimmedGoesAfterTheNextKeep(t *testing.T) {
	r, shelf := openRoot(t, t.TempDir()), openRoot(t, t.TempDir())
	for _, text := range []string{"1", "2", "3", "4"} {
		must(t, r.WriteFile("f", []byte(text), 0o600))
		must(t, OpenArchive(shelf, 2).Keep(r, "f")) // a new life each time, and never the time to trim
	}
	archive := OpenArchive(shelf, 2)
	must(t, r.WriteFile("f", []byte("5"), 0o600))
	must(t, archive.Keep(r, "f"))
	must(t, archive.Trim())
	if got := archived(t, archive, "f"); !slices.Equal(got, []string{"5", "4"}) {
		t.Errorf("%q", got)
	}
}

func TestOneVersionIsKeptAtLeast(t *testing.T) {
	r := openRoot(t, t.TempDir())
	archive := OpenArchive(openRoot(t, t.TempDir()), 0)
	for _, text := range []string{"1", "2"} {
		must(t, r.WriteFile("f", []byte(text), 0o600))
		must(t, archive.Keep(r, "f"))
	}
	must(t, archive.Trim())
	if got := archived(t, archive, "f"); !slices.Equal(got, []string{"2"}) {
		t.Errorf("%q", got)
	}
}

func TestACopyIsAsGoodAsALink(t *testing.T) {
	r, shelf := openRoot(t, t.TempDir()), openRoot(t, otherDevice(t))
	archive := OpenArchive(shelf, 3)
	must(t, r.WriteFile("key.pem", []byte("secret"), 0o640))
	must(t, os.Chtimes(filepath.Join(r.Dir(), "key.pem"), time.Time{}, time.Unix(1234567, 89)))
	must(t, os.Symlink("../nowhere", filepath.Join(r.Dir(), "link")))
	must(t, archive.Keep(r, "key.pem"))
	must(t, archive.Keep(r, "link"))
	for _, name := range []string{"key.pem", "link"} {
		original, err := r.Lstat(name)
		must(t, err)
		versions, err := archive.Versions(name)
		if err != nil || len(versions) != 1 {
			t.Fatalf("%v, %v", versions, err)
		}
		kept, err := shelf.Lstat(name + "/" + versions[0])
		must(t, err)
		kept.Dev, kept.Ino, kept.Ctime = original.Dev, original.Ino, original.Ctime
		if kept != original {
			t.Errorf("%+v is kept as %+v", original, kept)
		}
	}
	if got := archived(t, archive, "key.pem"); got[0] != "secret" {
		t.Errorf("%q", got)
	}
}

// Somebody else's link to a file that was replaced leads to the old content still, and may be written through.
func TestWhatHasAnotherNameIsCopied(t *testing.T) {
	r := openRoot(t, t.TempDir())
	archive := OpenArchive(openRoot(t, t.TempDir()), 3)
	must(t, r.WriteFile("key.pem", []byte("first"), 0o600))
	must(t, os.Link(filepath.Join(r.Dir(), "key.pem"), filepath.Join(r.Dir(), "backup")))
	must(t, archive.Keep(r, "key.pem"))
	must(t, r.WriteFile("key.pem", []byte("second"), 0o600))
	must(t, os.WriteFile(filepath.Join(r.Dir(), "backup"), []byte("in place"), 0o600))
	if got := archived(t, archive, "key.pem"); !slices.Equal(got, []string{"first"}) {
		t.Errorf("%q", got)
	}
}

func TestAnArchiveThatWasRemovedBeginsAnew(t *testing.T) {
	r := openRoot(t, t.TempDir())
	dir := filepath.Join(t.TempDir(), "archive")
	must(t, os.Mkdir(dir, 0o700))
	archive := OpenArchive(openRoot(t, dir), 3)
	must(t, r.WriteFile("f", []byte("1"), 0o600))
	must(t, archive.Keep(r, "f"))
	must(t, os.RemoveAll(dir))
	must(t, r.WriteFile("f", []byte("2"), 0o600))
	if err := archive.Keep(r, "f"); err == nil || !archive.Replaced() {
		t.Errorf("kept in no place: %v", err)
	}
	must(t, os.Mkdir(dir, 0o700))
	must(t, archive.Reopen())
	must(t, archive.Keep(r, "f"))
	if got := archived(t, archive, "f"); !slices.Equal(got, []string{"2"}) || archive.Replaced() {
		t.Errorf("%q", got)
	}
}

func TestACopyThatCannotBeGivenAwayIsForItsOwnerOnly(t *testing.T) {
	r, shelf := openRoot(t, t.TempDir()), openRoot(t, otherDevice(t))
	must(t, r.WriteFile("key.pem", []byte("secret"), 0o640))
	st, err := r.Lstat("key.pem")
	must(t, err)
	withoutChown(t, func(int) {
		st.UID, st.GID = 54321, 54322
		stamp := nextStamp(nil, time.Now())
		d, err := shelf.open("key.pem", private)
		must(t, err)
		d.close()
		must(t, OpenArchive(shelf, 1).copy(r, "key.pem", st, "key.pem/"+stamp))
		if kept, err := shelf.Lstat("key.pem/" + stamp); err != nil || kept.Perm != 0o600 {
			t.Errorf("%+v, %v", kept, err)
		}
	})
}

func TestLinksAreArchivedAsLinks(t *testing.T) {
	r, shelf := openRoot(t, t.TempDir()), openRoot(t, t.TempDir())
	archive := OpenArchive(shelf, 3)
	must(t, r.ReplaceSymlink("live/www", "/etc/passwd"))
	must(t, archive.Keep(r, "live/www"))
	versions, err := archive.Versions("live/www")
	must(t, err)
	if got, err := shelf.Readlink("live/www/" + versions[0]); err != nil || got != "/etc/passwd" {
		t.Errorf("%q, %v", got, err)
	}
	_, err = archive.Open("live/www", versions[0])
	wants(t, "Open", err, ErrKind)
}

func TestWhatHasNoContentIsNotKept(t *testing.T) {
	r, shelf := openRoot(t, t.TempDir()), openRoot(t, t.TempDir())
	archive := OpenArchive(shelf, 3)
	must(t, os.Mkdir(filepath.Join(r.Dir(), "d"), 0o755))
	for _, name := range []string{"d", "missing", "missing/too"} {
		must(t, archive.Keep(r, name))
		if versions, err := archive.Versions(name); err != nil || len(versions) != 0 {
			t.Errorf("%s: %v, %v", name, versions, err)
		}
	}
	if names, _ := shelf.ReadDir(""); len(names) != 0 {
		t.Errorf("made %v", names)
	}
}

func TestAPathThatWasAFileAndThenADirectory(t *testing.T) {
	r, shelf := openRoot(t, t.TempDir()), openRoot(t, t.TempDir())
	archive := OpenArchive(shelf, 3)
	must(t, r.WriteFile("a", []byte("file"), 0o600))
	must(t, archive.Keep(r, "a"))
	stamp, _ := archive.Versions("a")
	must(t, r.Remove("a"))
	// Below it, on purpose, files that are called like its versions, and like the names that avoid them.
	for _, name := range []string{"a/" + stamp[0], "a/" + stamp[0] + "~", "a/x"} {
		must(t, r.WriteFile(name, []byte(name), 0o600))
		must(t, archive.Keep(r, name))
	}
	for _, name := range []string{"a/" + stamp[0], "a/" + stamp[0] + "~", "a/x"} {
		if got := archived(t, archive, name); !slices.Equal(got, []string{name}) {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := archived(t, archive, "a"); !slices.Equal(got, []string{"file"}) {
		t.Errorf("a: %q", got)
	}
}

func TestTheArchiveIsPrivateAndOpensOnlyVersions(t *testing.T) {
	r, shelf := openRoot(t, t.TempDir()), openRoot(t, t.TempDir())
	archive := OpenArchive(shelf, 3)
	must(t, r.WriteFile("a/b/key.pem", []byte("x"), 0o600))
	must(t, archive.Keep(r, "a/b/key.pem"))
	for _, name := range []string{"a", "a/b", "a/b/key.pem"} {
		if st, err := shelf.Lstat(name); err != nil || st.Perm != 0o700 {
			t.Errorf("%s: %o, %v", name, st.Perm, err)
		}
	}
	for _, version := range []string{"", ".", "..", "../key.pem", "x", strings.Repeat("0", len(stampLayout))} {
		_, err := archive.Open("a/b/key.pem", version)
		wants(t, "version "+version, err, ErrName)
	}
}

func TestHalfACopyIsNoVersionAndGoesAway(t *testing.T) {
	r, shelf := openRoot(t, t.TempDir()), openRoot(t, t.TempDir())
	archive := OpenArchive(shelf, 3)
	put(t, filepath.Join(shelf.Dir(), "f/.certswarm-half"), "ha", 0o600)
	must(t, os.Mkdir(filepath.Join(shelf.Dir(), "f/.certswarm-shelf"), 0o700))
	if versions, err := archive.Versions("f"); err != nil || len(versions) != 0 {
		t.Errorf("%v, %v", versions, err)
	}
	must(t, r.WriteFile("f", []byte("x"), 0o600))
	must(t, archive.Keep(r, "f"))
	if names, _ := shelf.ReadDir("f"); len(names) != 2 || names[0] != ".certswarm-shelf" {
		t.Errorf("%v", names)
	}
}
