package syncer

import (
	"crypto/ed25519"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// openAlone opens one directory on a node without peers.
func openAlone(t testing.TB) *Directory { return openAloneOn(t, nil) }

// openAloneOn does it on a disk that somebody stands before.
func openAloneOn(t testing.TB, disk durable.Interposer) *Directory {
	t.Helper()
	return openSyncer(t, disk).Directories()[0]
}

func openSyncer(t testing.TB, disk durable.Interposer) *Syncer {
	t.Helper()
	base := t.TempDir()
	for _, dir := range []string{"state", "certs"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s, abandon := openSyncerIn(t, base, disk)
	t.Cleanup(abandon)
	return s
}

// openSyncerIn opens what may have been open there before.
func openSyncerIn(t testing.TB, base string, disk durable.Interposer) (s *Syncer, abandon func()) {
	t.Helper()
	state, err := durable.OpenRoot(filepath.Join(base, "state"))
	if err != nil {
		t.Fatal(err)
	}
	state.Interpose(disk)
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	public := key.Public().(ed25519.PublicKey)
	self := fleet.IDOf(public)
	all := func(fleet.NodeID) bool { return true }
	s, err = Open(Config{
		Self: self, Key: public, Sign: func(m []byte) []byte { return ed25519.Sign(key, m) }, Cluster: "test", State: state,
		NameOf: fleet.NodeID.Short, Watch: NewInotify, Log: slog.New(slog.DiscardHandler),
	}, []DirectoryConfig{{
		Name: "certs", Path: filepath.Join(base, "certs"), MaxFile: 1 << 20, MaxDelete: 50,
		Members: func() []fleet.NodeID { return []fleet.NodeID{self} }, MayWrite: all, MayLease: all,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s, func() {
		if err := errors.Join(s.Abandon(), state.Close()); err != nil {
			t.Error(err)
		}
	}
}

// A directory listed before something was published into it, and judged after it, says nothing about it.
func TestASurveyOlderThanAPublicationDeletesNothing(t *testing.T) {
	d := openAlone(t)
	p := index.MustPath("journal.json")
	before := newScan()
	d.walkInto(before, index.Path{})
	if _, err := d.Publish(fleet.Epoch{Term: 1, Index: 1}, Write{Path: p, Data: []byte("{}"), Perm: 0o600}); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takeScanLocked(before)
	if len(d.r.reverts) > 0 || len(d.r.deletes) > 0 {
		t.Errorf("reverts %v, deletes %v", d.r.reverts, d.r.deletes)
	}
}

func TestNobodyPublishesWhereHeMayNotWrite(t *testing.T) {
	d := openAlone(t)
	d.MayWrite = func(fleet.NodeID) bool { return false }
	if _, err := d.Publish(fleet.Epoch{}, Write{Path: index.MustPath("a"), Data: []byte("1"), Perm: 0o600}); err == nil {
		t.Error("published")
	}
	if _, err := os.Lstat(filepath.Join(d.Path, "a")); err == nil {
		t.Error("and left on the disk")
	}
}

// A publication that fails half-way leaves nothing that a scan could take for somebody's work.
func TestAPublicationThatFailsIsTakenBack(t *testing.T) {
	d := openAlone(t)
	// Something that cannot be replaced stands in the way of the second file: a full directory.
	if err := os.MkdirAll(filepath.Join(d.Path, "b", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := d.Publish(fleet.Epoch{Term: 1},
		Write{Path: index.MustPath("new/a"), Data: []byte("1"), Perm: 0o600},
		Write{Path: index.MustPath("b"), Data: []byte("2"), Perm: 0o600})
	if err == nil {
		t.Fatal("published over a full directory")
	}
	for _, name := range []string{"new/a", "new"} {
		if _, err := os.Lstat(filepath.Join(d.Path, name)); err == nil {
			t.Errorf("%s was left behind", name)
		}
	}
	if d.Lookup(index.MustPath("new/a")) != nil {
		t.Error("the fleet would be told")
	}
}

// What is not replicated does not keep a directory from being given up.
func TestAPublishedDeletionLeavesAFullDirectory(t *testing.T) {
	d := openAlone(t)
	if err := os.MkdirAll(filepath.Join(d.Path, "old"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Path, "old", "note.bak"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Publish(fleet.Epoch{Term: 1}, Write{Path: index.MustPath("old"), Delete: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(d.Path, "old", "note.bak")); err != nil {
		t.Error("somebody's file is gone")
	}
}

// A real directory makes way for a link only by way of the archive.
func TestADisplacedDirectoryIsInTheArchive(t *testing.T) {
	d := openAlone(t)
	if err := os.MkdirAll(filepath.Join(d.Path, "live", "www", "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"privkey.pem", "sub/dhparam"} {
		if err := os.WriteFile(filepath.Join(d.Path, "live", "www", name), []byte("only here"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Displace(index.MustPath("live/www"), "../archive/www/1"); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(filepath.Join(d.Path, "live", "www")); err != nil || target != "../archive/www/1" {
		t.Errorf("live/www leads to %q, %v", target, err)
	}
	for _, name := range []string{"live/www/privkey.pem", "live/www/sub/dhparam"} {
		if versions, err := d.archive.Versions(name); err != nil || len(versions) != 1 {
			t.Errorf("%s: %d versions are kept, %v", name, len(versions), err)
		}
	}
}

// A disk that hangs in the middle of a change keeps nobody from hearing so, and from hearing when it is over.
func TestStatusDoesNotWaitForADisk(t *testing.T) {
	hangs, over := make(chan bool), make(chan bool)
	d := openAloneOn(t, func(e durable.Effect, do func() error) error {
		if e.Act == durable.ActPlace && e.Name == "b" {
			close(hangs)
			<-over
		}
		return do()
	})
	publish(t, d, "a")
	if s := d.Status(); s.State != InSync || len(s.Faults) > 0 || s.Files != 1 {
		t.Fatalf("%+v", s)
	}
	published := make(chan bool)
	go func() {
		publish(t, d, "b")
		close(published)
	}()
	<-hangs
	answers := make(chan DirectoryStatus)
	for range 3 {
		go func() { answers <- d.Status() }()
	}
	for range 3 {
		s := <-answers
		if f := s.Faults; len(f) != 1 || f[0].Code != DirectoryUnreadable || s.Files != 1 || s.State == InSync || s.Name != "certs" {
			t.Errorf("while it hangs: %+v", s)
		}
	}
	close(over)
	<-published
	if s := d.Status(); len(s.Faults) > 0 || s.Files != 2 {
		t.Errorf("after it: %+v", s)
	}
}

// What nobody has cannot be put back. That is said, and nothing waits for it; whoever is met later may have it.
func TestWhatNobodyHasIsNotPutBackForEver(t *testing.T) {
	d := openAlone(t)
	publish(t, d, "lost") // under a lease: not this node's to delete
	publish(t, d, "left")
	lost := index.MustPath("lost")
	d.cache = contentCache{}
	for _, name := range []string{"lost", "left"} {
		if err := os.Remove(filepath.Join(d.Path, name)); err != nil {
			t.Fatal(err)
		}
	}
	d.cache.put(d.Lookup(index.MustPath("left")).Content.(index.File).Digest, []byte("left"))
	d.r.joined = true
	try := func() (tries int) {
		d.lookAt([]index.Path{lost, index.MustPath("left")}, false, postponed{})
		for j := d.r.work(time.Now()); j != nil; j = d.r.work(time.Now()) {
			d.apply(t.Context(), d.intents[0], j)
			tries++
		}
		return tries
	}
	if tries := try(); tries == 0 || tries > 2 {
		t.Errorf("tried %d times", tries)
	}
	if _, err := os.Lstat(filepath.Join(d.Path, "left")); err != nil {
		t.Error("what is at hand is not put back either")
	}
	if s := d.Status(); s.State != InSync || !slices.ContainsFunc(s.Faults, func(f Fault) bool { return f.Code == EditReverted && f.Path == "lost" }) {
		t.Errorf("%s: %+v", s.State, s.Faults)
	}
	d.r.hello(time.Now(), fleet.NodeID{7}, time.Now(), wire.Greeting{}, nil)
	if !d.r.reverts[lost] {
		t.Error("whoever is met is not asked")
	}
	if err := os.WriteFile(filepath.Join(d.Path, "lost"), []byte("lost"), 0o600); err != nil {
		t.Fatal(err)
	}
	clear(d.r.reverts)
	d.lookAt([]index.Path{lost}, false, postponed{})
	if len(d.r.lost) > 0 {
		t.Error("it is there again, and taken for lost")
	}
}
