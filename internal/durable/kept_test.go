package durable

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestShelvesAreTheNamesThatHaveVersions(t *testing.T) {
	r, shelf := openRoot(t, t.TempDir()), openRoot(t, t.TempDir())
	archive := OpenArchive(shelf, 3)
	stamp := time.Now().UTC().Format(stampLayout)
	names := []string{"a.pem", "b/a.pem", "b/" + stamp, "b/" + stamp + "~", "c\xff", "c~"}
	for _, name := range names {
		for _, text := range []string{"1", "2"} {
			must(t, r.WriteFile(name, []byte(text), 0o600))
			must(t, archive.Keep(r, name))
		}
	}
	// A path that was a file and then a directory has versions of its own and others below it.
	must(t, r.Remove("a.pem"))
	must(t, r.WriteFile("a.pem/inside", []byte("1"), 0o600))
	must(t, archive.Keep(r, "a.pem/inside"))
	// What is not the archive's own is not told of.
	put(t, filepath.Join(shelf.Dir(), "note"), "mine", 0o600)
	put(t, filepath.Join(shelf.Dir(), "b/.certswarm-half"), "ha", 0o600)
	must(t, os.Mkdir(filepath.Join(shelf.Dir(), "empty"), 0o700))

	shelves, err := archive.Shelves()
	must(t, err)
	var got []string
	for _, s := range shelves {
		got = append(got, s.Name)
		if versions, err := archive.Versions(s.Name); err != nil || !slices.Equal(versions, s.Versions) {
			t.Errorf("%q has the versions %v, not %v (%v)", s.Name, versions, s.Versions, err)
		}
	}
	want := append([]string{"a.pem/inside"}, names...)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestAVersionCanBeExamined(t *testing.T) {
	r, shelf := openRoot(t, t.TempDir()), openRoot(t, t.TempDir())
	archive := OpenArchive(shelf, 3)
	before := time.Now()
	must(t, r.WriteFile("key.pem", []byte("secret"), 0o640))
	must(t, r.ReplaceSymlink("link", "key.pem"))
	for name, target := range map[string]string{"key.pem": "", "link": "key.pem"} {
		original, err := r.Lstat(name)
		must(t, err)
		must(t, archive.Keep(r, name))
		versions, err := archive.Versions(name)
		must(t, err)
		st, to, err := archive.Examine(name, versions[0])
		if err != nil || st.Kind != original.Kind || st.Perm != original.Perm || st.Size != original.Size || to != target {
			t.Errorf("%s: %+v, %q, %v", name, st, to, err)
		}
		at, err := ReplacedAt(versions[0])
		if err != nil || at.Before(before) || at.After(time.Now()) {
			t.Errorf("%s: replaced at %v, %v", name, at, err)
		}
		if _, err := os.Lstat(archive.Where(name, versions[0])); err != nil {
			t.Error(err)
		}
	}
	for _, version := range []string{"", "..", "../link/x", "x"} {
		_, _, err := archive.Examine("key.pem", version)
		wants(t, "Examine "+version, err, ErrName)
		_, err = ReplacedAt(version)
		wants(t, "ReplacedAt "+version, err, ErrName)
		wants(t, "Drop "+version, archive.Drop("key.pem", version), ErrName)
	}
}

func TestADroppedVersionIsGone(t *testing.T) {
	r, shelf := openRoot(t, t.TempDir()), openRoot(t, t.TempDir())
	archive := OpenArchive(shelf, 3)
	for _, text := range []string{"1", "2", "3"} {
		must(t, r.WriteFile("f", []byte(text), 0o600))
		must(t, archive.Keep(r, "f"))
	}
	versions, err := archive.Versions("f")
	must(t, err)
	must(t, archive.Drop("f", versions[0]))
	must(t, archive.Drop("f", versions[0]))
	if got := archived(t, archive, "f"); !slices.Equal(got, []string{"2", "1"}) {
		t.Errorf("%q", got)
	}
	must(t, archive.Keep(r, "f")) // what it says is the newest must not be believed any more
	if got := archived(t, archive, "f"); !slices.Equal(got, []string{"3", "2", "1"}) {
		t.Errorf("%q", got)
	}
}
