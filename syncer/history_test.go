package syncer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
)

// written publishes each text at p, one after the other, so that all but the last are in the archive.
func written(t *testing.T, d *Directory, p index.Path, perm index.Perm, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, err := d.Publish(fleet.Epoch{}, Write{Path: p, Data: []byte(text), Perm: perm}); err != nil {
			t.Fatal(err)
		}
	}
}

func historyOf(t *testing.T, d *Directory, p index.Path) []Kept {
	t.Helper()
	kept, err := d.History(p)
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

// texts returns what the versions of p hold, newest first.
func texts(t *testing.T, d *Directory, p index.Path) []string {
	t.Helper()
	var out []string
	for _, k := range historyOf(t, d, p) {
		data, err := d.ReadKept(p, k.Version, 100)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(data))
	}
	return out
}

func TestHistoryIsWhatTheArchiveHas(t *testing.T) {
	d := openAlone(t)
	p, link := index.MustPath("dir/a.pem"), index.MustPath("dir/link")
	before := time.Now()
	written(t, d, p, 0o640, "1", "22", "333")
	for _, target := range []string{"a.pem", "b.pem"} {
		if _, err := d.Publish(fleet.Epoch{}, Write{Path: link, Link: target}); err != nil {
			t.Fatal(err)
		}
	}
	kept := historyOf(t, d, p)
	if len(kept) != 2 {
		t.Fatalf("%+v", kept)
	}
	for i, size := range []int64{2, 1} {
		f, file := kept[i].Content.(index.File)
		text, err := os.ReadFile(kept[i].Place)
		if !file || f.Size != size || f.Perm != 0o640 || f.Owner == "" || err != nil || int64(len(text)) != size {
			t.Errorf("%+v, %v", kept[i], err)
		}
		if kept[i].Replaced.Before(before) || kept[i].Replaced.After(time.Now()) {
			t.Errorf("replaced at %v", kept[i].Replaced)
		}
	}
	if kept := historyOf(t, d, link); len(kept) != 1 || kept[0].Content != (index.Symlink{Target: "a.pem"}) {
		t.Errorf("%+v", kept)
	}
	paths, err := d.KeptPaths()
	if err != nil || len(paths) != 2 || paths[0].Path != p || paths[0].Versions != 2 || !paths[0].Newest.Equal(kept[0].Replaced) || paths[1].Path != link {
		t.Errorf("%+v, %v", paths, err)
	}
}

// A version that is restored is written anew: it has the content and the mode of then, a stamp of now, and what it replaces is in the archive.
func TestARestoredVersionIsANewWrite(t *testing.T) {
	d := openAlone(t)
	p := index.MustPath("a.pem")
	var told []index.Path
	d.Observed = func(paths []index.Path) { told = append(told, paths...) }
	written(t, d, p, 0o640, "good")
	written(t, d, p, 0o600, "bad")
	was := d.Lookup(p)

	paths, err := d.Restore(Pick{p, historyOf(t, d, p)[0].Version})
	if err != nil || !slices.Equal(paths, []index.Path{p}) {
		t.Fatal(paths, err)
	}
	now := d.Lookup(p)
	if f := now.Content.(index.File); f.Perm != 0o640 || now.Stamp.Compare(was.Stamp) <= 0 || !now.Stamp.Epoch.IsZero() || !now.Stamp.Written || now.Seq <= was.Seq {
		t.Errorf("%+v", now)
	}
	info, err := os.Lstat(filepath.Join(d.Path, "a.pem"))
	if text, readErr := d.ReadFile(p, 100); err != nil || readErr != nil || string(text) != "good" || info.Mode().Perm() != 0o640 {
		t.Errorf("%q, %v, %v, %v", text, info.Mode(), err, readErr)
	}
	if got := texts(t, d, p); !slices.Equal(got, []string{"bad", "good"}) {
		t.Errorf("the archive has %q", got)
	}
	if !slices.Equal(told, []index.Path{p}) {
		t.Errorf("nginx would be told of %v", told)
	}
}

func TestWhatStandsIsNotRestored(t *testing.T) {
	d := openAlone(t)
	p := index.MustPath("a.pem")
	written(t, d, p, 0o600, "same", "other", "same")
	oldest := historyOf(t, d, p)[1].Version
	if paths, err := d.Restore(Pick{p, oldest}); err != nil || len(paths) != 0 {
		t.Error(paths, err)
	}
	// Unless somebody has just changed it on the disk, which nobody noticed yet.
	if err := os.WriteFile(filepath.Join(d.Path, "a.pem"), []byte("edit"), 0o600); err != nil {
		t.Fatal(err)
	}
	if paths, err := d.Restore(Pick{p, oldest}); err != nil || len(paths) != 1 {
		t.Error(paths, err)
	}
	if got := texts(t, d, p); got[0] != "edit" {
		t.Errorf("the edit is not in the archive: %q", got)
	}
}

// A deleted file comes back with the directories above it, a link as the link that it was; both in one batch.
func TestABatchOfDeletedThingsComesBack(t *testing.T) {
	d := openAlone(t)
	key, link := index.MustPath("gone/sub/a.key"), index.MustPath("gone/sub/current")
	if _, err := d.Publish(fleet.Epoch{}, Write{Path: key, Data: []byte("k"), Perm: 0o600}, Write{Path: link, Link: "a.key"}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"gone/sub/current", "gone/sub/a.key", "gone/sub", "gone"} {
		if _, err := d.Publish(fleet.Epoch{}, Write{Path: index.MustPath(p), Delete: true}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Restore(Pick{key, historyOf(t, d, key)[0].Version}, Pick{link, historyOf(t, d, link)[0].Version}); err != nil {
		t.Fatal(err)
	}
	if d.Lookup(key).Batch != d.Lookup(link).Batch {
		t.Error("they are not one batch")
	}
	if target, err := os.Readlink(filepath.Join(d.Path, "gone/sub/current")); err != nil || target != "a.key" {
		t.Errorf("%q, %v", target, err)
	}
	if text, err := d.ReadFile(key, 10); err != nil || string(text) != "k" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestWhatMayNotBeRestored(t *testing.T) {
	p := index.MustPath("dir/a.pem")
	for name, c := range map[string]struct {
		spoil func(*testing.T, *Directory)
		want  error
		text  string
	}{
		"not a writer": {func(_ *testing.T, d *Directory) {
			d.MayWrite = func(fleet.NodeID) bool { return false }
		}, ErrNotWriter, ""},
		"reserved":               {func(_ *testing.T, d *Directory) { d.Reserved = func(index.Path) bool { return true } }, ErrReserved, ""},
		"halted":                 {func(_ *testing.T, d *Directory) { d.r.stop(time.Now(), "too much is gone") }, ErrHalted, ""},
		"written under a lease":  {underALease(Write{Path: p, Data: []byte("3"), Perm: 0o600}), ErrLeased, ""},
		"deleted under a lease":  {underALease(Write{Path: p, Delete: true}), ErrLeased, ""},
		"ignored":                {func(_ *testing.T, d *Directory) { d.disk.ignored, _ = newMatcher([]string{"*.pem"}) }, nil, "ignores"},
		"larger than is taken":   {func(_ *testing.T, d *Directory) { d.MaxFile = 0 }, nil, "max_file_size is 0"},
		"a directory in the way": {inTheWay("dir/a.pem/inside"), nil, "a directory stands there now"},
		"a file above it":        {inTheWay("dir"), nil, "dir"},
		"a version that is none": {func(*testing.T, *Directory) {}, os.ErrNotExist, "20060102T150405.000000000Z"},
		"a link that leads outside": {func(t *testing.T, d *Directory) {
			if err := d.disk.root.Remove(p.String()); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/etc/passwd", filepath.Join(d.Path, p.String())); err != nil {
				t.Fatal(err)
			}
			if err := d.archive.Keep(d.disk.root, p.String()); err != nil {
				t.Fatal(err)
			}
		}, nil, "outside"},
	} {
		t.Run(name, func(t *testing.T) {
			d := openAlone(t)
			written(t, d, p, 0o600, "1", "2")
			c.spoil(t, d)
			version := historyOf(t, d, p)[0].Version
			if strings.Contains(name, "none") {
				version = c.text
			}
			before, had := historyOf(t, d, p), d.Lookup(p)
			_, err := d.Restore(Pick{p, version})
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("refused with: %v", err)
			}
			if after := historyOf(t, d, p); !slices.Equal(after, before) || d.Lookup(p) != had {
				t.Errorf("the archive had %+v and has %+v", before, after)
			}
		})
	}
}

func underALease(w Write) func(*testing.T, *Directory) {
	return func(t *testing.T, d *Directory) {
		if _, err := d.Publish(fleet.Epoch{Term: 1}, w); err != nil {
			t.Fatal(err)
		}
	}
}

// inTheWay has the fleet hold a file at place instead of dir/a.pem.
func inTheWay(place string) func(*testing.T, *Directory) {
	return func(t *testing.T, d *Directory) {
		writes := []Write{{Path: index.MustPath("dir/a.pem"), Delete: true}}
		if place == "dir" {
			writes = append(writes, Write{Path: index.MustPath("dir"), Delete: true})
		}
		for _, w := range append(writes, Write{Path: index.MustPath(place), Data: []byte("x"), Perm: 0o600}) {
			if _, err := d.Publish(fleet.Epoch{}, w); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A restoration that fails changes nothing: neither the files of the batch nor what is kept of them.
func TestAFailedRestorationChangesNothing(t *testing.T) {
	d := openAlone(t)
	p, link, q := index.MustPath("a.pem"), index.MustPath("a"), index.MustPath("b.pem")
	written(t, d, p, 0o640, "0", "1", "2", "3", "4", "5")
	written(t, d, q, 0o600, "1", "2")
	for _, target := range []string{"a.pem", "b.pem"} {
		if _, err := d.Publish(fleet.Epoch{}, Write{Path: link, Link: target}); err != nil {
			t.Fatal(err)
		}
	}
	// The last of the batch cannot be placed: what stands there on the disk is a full directory that nobody noticed yet.
	if err := errors.Join(os.Remove(filepath.Join(d.Path, "b.pem")), os.MkdirAll(filepath.Join(d.Path, "b.pem", "full"), 0o700)); err != nil {
		t.Fatal(err)
	}
	before := [][]Kept{historyOf(t, d, p), historyOf(t, d, link)}
	oldest := before[0][len(before[0])-1].Version
	if paths, err := d.Restore(Pick{p, oldest}, Pick{link, before[1][0].Version}, Pick{q, historyOf(t, d, q)[0].Version}); err == nil {
		t.Fatalf("a full directory was replaced, and %v", paths)
	}
	info, err := os.Lstat(filepath.Join(d.Path, "a.pem"))
	if text, readErr := d.ReadFile(p, 10); err != nil || readErr != nil || string(text) != "5" || info.Mode().Perm() != 0o640 {
		t.Errorf("half of the batch is visible: %q, %v, %v, %v", text, info.Mode(), err, readErr)
	}
	if target, err := os.Readlink(filepath.Join(d.Path, "a")); err != nil || target != "b.pem" {
		t.Errorf("half of the batch is visible: a leads to %q, %v", target, err)
	}
	for i, p := range []index.Path{p, link} {
		if after := historyOf(t, d, p); !slices.Equal(after, before[i]) {
			t.Errorf("%s had %+v and has %+v", p, before[i], after)
		}
	}
	if names, err := os.ReadDir(d.Path); err != nil || len(names) != 3 {
		t.Errorf("%v, %v", names, err)
	}
}
