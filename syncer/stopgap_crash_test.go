package syncer

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"certswarm/internal/durable"
	"certswarm/internal/need"
	"certswarm/syncer/index"
)

// A change of the owner alone that a crash interrupted is no change that was made here.
func TestAnOwnerThatACrashKeptFromItsFile(t *testing.T) {
	need.Root(t)
	base := newPlaces(t)
	d, abandon := housed(t, base, withBackup())
	arrive(t, d, map[string]index.Content{"file": fileOf("root", "root", 0o600)})
	if err := d.persist(); err != nil {
		t.Fatal(err)
	}
	e := *d.Lookup(index.MustPath("file"))
	e.Content = fileOf("4242", "4243", 0o600)
	e.Seq, e.Batch = e.Seq+1, e.Seq+1
	e.Stamp.HLC++
	if err := d.intents[0].Write(intentOf(newToken(), []*index.Entry{&e}), true); err != nil {
		t.Fatal(err)
	}
	abandon()
	d, abandon = housed(t, base, withBackup())
	defer abandon()
	expectOwner(t, d, backup, "file")
	if d.r.x.Held()[d.r.self] > 0 || d.Lookup(e.Path).Seq != e.Seq {
		t.Errorf("the fleet has %+v", d.Lookup(e.Path))
	}
}

// Nor is one that was given, if a crash kept that from being remembered; nor one that a power cut took back.
func TestACrashBetweenGivingAndRemembering(t *testing.T) {
	need.Root(t)
	base := newPlaces(t)
	d, abandon := housed(t, base, here)
	d.disk.owners.policy = &durable.Owner{}
	arrive(t, d, map[string]index.Content{"file": fileOf("4242", "4243", 0o600), "dir": index.Directory{Perm: 0o700, Owner: "4242", Group: "4243"}})
	if err := d.persist(); err != nil {
		t.Fatal(err)
	}
	abandon()
	for range 2 {
		d, abandon = housed(t, base, here)
		expectOwner(t, d, backup, "file", "dir")
		if d.r.x.Held()[d.r.self] > 0 {
			t.Error("the fleet is told")
		}
		abandon()
	}
	if err := os.Chown(filepath.Join(base, "certs", "file"), 0, 0); err != nil {
		t.Fatal(err)
	}
	s, abandon := openSyncerIn(t, base, nil)
	defer abandon()
	d = s.Directories()[0]
	expectOwner(t, d, backup, "file")
	if d.r.x.Held()[d.r.self] > 0 {
		t.Error("the fleet is told")
	}
}

// Where nothing was remembered yet, no difference is anybody's wish that can be told from a stopgap. Once.
func TestAnUpgradeTellsNobody(t *testing.T) {
	need.Root(t)
	base := newPlaces(t)
	d, abandon := housed(t, base, here)
	d.disk.owners.policy = &durable.Owner{}
	arrive(t, d, map[string]index.Content{"file": fileOf("4242", "4243", 0o600)})
	if err := d.persist(); err != nil {
		t.Fatal(err)
	}
	if !d.forgetful {
		t.Error("what is remembered of nothing?")
	}
	clear(d.r.stopgaps) // as the version before, and started anew
	d.disk.owners.policy, d.r.seeded = nil, false
	if err := d.takeUp(); err != nil {
		t.Fatal(err)
	}
	d.giveOwed()
	expectOwner(t, d, backup, "file")
	if d.r.x.Held()[d.r.self] > 0 {
		t.Error("the fleet is told")
	}
	for _, uid := range []int{56, 57} {
		if err := os.Chown(filepath.Join(d.Path, "file"), uid, 55); err != nil {
			t.Fatal(err)
		}
		d.lookAt(nil, true, postponed{})
		if f := d.Lookup(index.MustPath("file")).Content.(index.File); f.Owner != strconv.Itoa(uid) {
			t.Errorf("what somebody does since is lost: it belongs to %s", f.Owner)
		}
	}
	if err := errors.Join(d.persist(), os.Chown(filepath.Join(d.Path, "file"), 55, 55)); err != nil {
		t.Fatal(err)
	}
	abandon()
	d, abandon = housed(t, base, here)
	defer abandon()
	if d.forgetful {
		t.Error("nothing is remembered")
	}
	if f := d.Lookup(index.MustPath("file")).Content.(index.File); f.Owner != "55" {
		t.Errorf("what somebody did while the agent was away is lost: it belongs to %s", f.Owner)
	}
}
