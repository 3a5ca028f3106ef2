package syncer

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
)

// While the directory is away nothing reaches it, not even by a descriptor that is still open.
func TestNothingIsPublishedIntoARootThatIsAway(t *testing.T) {
	d := openAlone(t)
	away := d.Path + ".away"
	rename(t, d.Path, away)
	if d.rootIsThere() {
		t.Fatal("the directory is said to be there")
	}
	if _, err := d.Publish(fleet.Epoch{Term: 1}, Write{Path: index.MustPath("a"), Data: []byte("1"), Perm: 0o600}); err == nil {
		t.Error("published")
	}
	if names, err := os.ReadDir(away); err != nil || len(names) > 0 {
		t.Errorf("what is away holds %v (%v)", names, err)
	}
	rename(t, away, d.Path)
	if !d.rootIsThere() {
		t.Fatal("the directory is back, and said not to be")
	}
	if _, err := d.Publish(fleet.Epoch{Term: 1}, Write{Path: index.MustPath("a"), Data: []byte("1"), Perm: 0o600}); err != nil {
		t.Error(err)
	}
}

// What was changed while the directory was out of sight is as old as the kernel says, so that it does not beat what the fleet wrote since.
func TestWhatChangedOutOfSightIsDatedByTheKernel(t *testing.T) {
	d := openAlone(t)
	away := d.Path + ".away"
	rename(t, d.Path, away)
	d.rootIsThere()
	file := filepath.Join(away, "a")
	if err := os.WriteFile(file, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	changed := time.Now()
	for time.Since(changed) < 20*time.Millisecond { // a few ticks of the file system's clock
	}
	rename(t, away, d.Path)
	if !d.rootIsThere() {
		t.Fatal("the directory is back, and said not to be")
	}
	e := d.Lookup(index.MustPath("a"))
	if e == nil || e.Stamp.HLC.Time().After(changed) || !e.Stamp.Written {
		t.Errorf("written before %s, and known as %+v", changed, e)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
