package syncer

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/internal/need"
	"certswarm/syncer/index"
)

func TestWhoseWishAnOwnerIs(t *testing.T) {
	root, backup, person, policy := durable.Owner{}, durable.Owner{UID: 34, GID: 34}, durable.Owner{UID: 7, GID: 7}, durable.Owner{UID: 1, GID: 1}
	nobody, half := durable.AsItIs, durable.Owner{UID: 34, GID: -1}
	for name, c := range map[string]struct {
		o             ownership
		excused, give bool
	}{
		"it belongs to whom it names":                    {ownership{is: backup, named: backup, wanted: backup, root: true}, true, false},
		"somebody gave it away":                          {ownership{is: person, named: backup, wanted: backup, root: true}, false, false},
		"its owner is known by now":                      {ownership{is: root, named: backup, wanted: backup, stopgap: &root, root: true}, true, true},
		"somebody gave away what stood in":               {ownership{is: person, named: backup, wanted: backup, stopgap: &root, root: true}, false, false},
		"its owner is not known":                         {ownership{is: root, named: nobody, wanted: nobody, stopgap: &root, root: true}, true, false},
		"its group is not known":                         {ownership{is: root, named: half, wanted: half, stopgap: &root, root: true}, true, false},
		"somebody gave it away, its owner not known":     {ownership{is: person, named: nobody, wanted: nobody, stopgap: &root, root: true}, false, false},
		"it stood in before anything was remembered":     {ownership{is: root, named: nobody, wanted: nobody, root: true}, true, false},
		"it stood in for somebody who is known":          {ownership{is: root, named: backup, wanted: backup, before: true, root: true}, true, true},
		"whoever may not give it":                        {ownership{is: person, named: backup, wanted: backup, stopgap: &root}, true, false},
		"a policy":                                       {ownership{is: backup, named: backup, wanted: policy, policy: true, root: true}, true, true},
		"a policy of which somebody thinks otherwise":    {ownership{is: person, named: backup, wanted: policy, stopgap: &policy, policy: true, root: true}, true, true},
		"a policy that is carried out":                   {ownership{is: policy, named: backup, wanted: policy, policy: true, root: true}, true, false},
		"a policy, and a file that was made here":        {ownership{is: person, named: person, wanted: policy, policy: true, local: true, root: true}, true, false},
		"a policy that is no more":                       {ownership{is: policy, named: backup, wanted: backup, stopgap: &policy, root: true}, true, true},
		"a policy of one who may give to his own groups": {ownership{is: backup, named: backup, wanted: policy, policy: true}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			if excused, give := c.o.judge(); excused != c.excused || give != c.give {
				t.Errorf("excused %v, to be given %v", excused, give)
			}
		})
	}
}

// The owners of a node on which some have no account yet.
var (
	here   = map[string]string{"root": "0"}
	backup = durable.Owner{UID: 4242, GID: 4243}
)

// housed opens a directory on a node with accounts of its own.
func housed(t *testing.T, base string, has map[string]string) (d *Directory, abandon func()) {
	t.Helper()
	s, abandon := openSyncerIn(t, base, nil)
	d = s.Directories()[0]
	d.disk.owners.idOf = func(_ bool, name string) (string, error) {
		if id, known := has[name]; known {
			return id, nil
		}
		return "", errors.New("no such account")
	}
	d.disk.owners.nameOf = func(_ bool, id string) (string, error) {
		for name, is := range has {
			if id == is {
				return name, nil
			}
		}
		return "", errors.New("no such number")
	}
	d.disk.owners.forget()
	d.lookAt(nil, true, postponed{})
	return d, abandon
}

// coming is a job that brings things of another node.
func coming(d *Directory, contents map[string]index.Content) *job {
	other := index.Origin{Node: fleet.NodeID{7}, Incarnation: 1}
	held := d.r.x.Held()[other]
	j := &job{inline: map[index.Digest][]byte{sha256.Sum256([]byte("text")): []byte("text")}, cover: cover{origin: other, after: held}}
	for name, content := range contents {
		held++
		e := &index.Entry{
			Path: index.MustPath(name), Origin: other, Seq: held, Content: content,
			Stamp: index.Stamp{Written: true, HLC: d.r.tickClock(time.Now()), Node: other.Node},
		}
		d.r.scope.Rehash(e)
		j.entries = append(j.entries, e)
	}
	for _, e := range j.entries {
		e.Batch = held
	}
	j.cover.through = held
	return j
}

// arrive has them put on the disk.
func arrive(t *testing.T, d *Directory, contents map[string]index.Content) {
	t.Helper()
	j := coming(d, contents)
	d.apply(t.Context(), d.intents[0], j)
	if d.r.x.Held()[j.cover.origin] != j.cover.through {
		t.Fatalf("they did not arrive: %+v", d.faults)
	}
}

func fileOf(owner, group string, perm index.Perm) index.File {
	return index.File{Digest: sha256.Sum256([]byte("text")), Size: 4, Perm: perm, Owner: owner, Group: group}
}

// theirs is a file, a directory and a file that was given away later, of somebody who has no account here.
func theirs(t *testing.T, d *Directory) (names []string) {
	t.Helper()
	arrive(t, d, map[string]index.Content{
		"dir": index.Directory{Perm: 0o750, Owner: "some-backup", Group: "some-www"}, "given": fileOf("root", "root", 0o644),
	})
	arrive(t, d, map[string]index.Content{"dir/file": fileOf("some-backup", "some-www", 0o640), "given": fileOf("some-backup", "some-www", 0o644)})
	return []string{"dir", "dir/file", "given"}
}

func expectOwner(t *testing.T, d *Directory, want durable.Owner, names ...string) {
	t.Helper()
	for _, name := range names {
		stat, err := d.disk.root.Lstat(name)
		if err != nil || ownerOf(stat) != want {
			t.Errorf("%s belongs to %v, not %v (%v)", name, ownerOf(stat), want, err)
		}
	}
}

func newPlaces(t *testing.T) string {
	t.Helper()
	base := t.TempDir()
	for _, dir := range []string{"state", "certs"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return base
}

func withBackup() map[string]string {
	has := maps.Clone(here)
	has["some-backup"], has["some-www"] = "4242", "4243"
	return has
}

// Somebody who has no account here is given what is his once he has one, by this node itself; it tells the fleet of nothing.
func TestWhatStandsInIsGivenToItsOwner(t *testing.T) {
	need.Root(t)
	for name, between := range map[string]func(t *testing.T, d *Directory, abandon func(), base string) (*Directory, func()){
		"while it runs": func(t *testing.T, d *Directory, abandon func(), _ string) (*Directory, func()) {
			d.asked = time.Now().Add(-giveInterval)
			if d.canGive(time.Now()) {
				t.Error("everything is to be looked at, in vain")
			}
			d.disk.owners.idOf = func(group bool, name string) (string, error) { return withBackup()[name], nil }
			if d.canGive(time.Now()) {
				t.Error("it is asked all the time")
			}
			if d.asked = time.Now().Add(-giveInterval); !d.canGive(time.Now()) {
				t.Error("nobody would look")
			}
			return d, abandon
		},
		"after a restart": func(t *testing.T, d *Directory, abandon func(), base string) (*Directory, func()) {
			if err := d.persist(); err != nil {
				t.Fatal(err)
			}
			abandon()
			return housed(t, base, withBackup())
		},
		"after a restart before it has": func(t *testing.T, d *Directory, abandon func(), base string) (*Directory, func()) {
			if err := d.persist(); err != nil {
				t.Fatal(err)
			}
			abandon()
			d, abandon = housed(t, base, here)
			if fault(d, OwnershipFailed) == nil {
				t.Error("nobody is told any more")
			}
			if err := d.persist(); err != nil {
				t.Fatal(err)
			}
			abandon()
			return housed(t, base, withBackup())
		},
		"after an upgrade": func(t *testing.T, d *Directory, abandon func(), base string) (*Directory, func()) {
			clear(d.r.stopgaps)
			if err := d.persist(); err != nil {
				t.Fatal(err)
			}
			abandon()
			d, abandon = housed(t, base, here)
			if err := d.persist(); err != nil {
				t.Fatal(err)
			}
			abandon()
			return housed(t, base, withBackup())
		},
	} {
		t.Run(name, func(t *testing.T) {
			base := newPlaces(t)
			d, abandon := housed(t, base, here)
			names := theirs(t, d)
			expectOwner(t, d, durable.Owner{}, names...)
			told := map[string]bool{}
			for _, f := range d.Status().Faults {
				told[f.Path] = f.Code == OwnershipFailed && strings.Contains(f.Text, `no user "some-backup"`)
			}
			for _, name := range names {
				if !told[name] {
					t.Errorf("of %s nobody is told", name)
				}
			}
			d, abandon = between(t, d, abandon, base)
			defer abandon()
			d.lookAt(nil, true, postponed{})
			expectOwner(t, d, backup, names...)
			d.lookAt(nil, true, postponed{})
			if d.r.x.Held()[d.r.self] > 0 {
				t.Errorf("%d changes go out", d.r.x.Held()[d.r.self])
			}
			if f := fault(d, OwnershipFailed); f != nil || len(d.r.stopgaps)+len(d.owed) > 0 {
				t.Errorf("still said: %+v; remembered: %v; owed: %v", f, d.r.stopgaps, d.owed)
			}
		})
	}
}

// quietly never has anything to tell.
type quietly struct{}

func (quietly) Add(string) error   { return nil }
func (quietly) Hints() <-chan Hint { return nil }
func (quietly) Close() error       { return nil }

// A running node finds out by itself that somebody has an account, and at once when it is told to look: it has given him what is his when that ends.
func TestARunningNodeGivesByItself(t *testing.T) {
	need.Root(t)
	for name, asked := range map[string]bool{"by itself": false, "asked to look": true} {
		t.Run(name, func(t *testing.T) {
			base := newPlaces(t)
			synctest.Test(t, func(t *testing.T) {
				s, abandon := openSyncerIn(t, base, nil)
				d := s.Directories()[0]
				if err := d.watch.Close(); err != nil {
					t.Fatal(err)
				}
				d.watch = quietly{}
				names := theirs(t, d)
				ctx, end := context.WithCancel(t.Context())
				ran := make(chan error, 1)
				go func() { ran <- s.Run(ctx) }()
				time.Sleep(giveInterval + 3*rootInterval/2) // between two looks
				d.disk.owners.mu.Lock()
				d.disk.owners.idOf = func(_ bool, name string) (string, error) { return withBackup()[name], nil }
				d.disk.owners.mu.Unlock()
				if asked {
					if err := d.Rescan(t.Context()); err != nil {
						t.Error(err)
					}
				} else {
					time.Sleep(giveInterval + rootInterval)
					synctest.Wait()
				}
				expectOwner(t, d, backup, names...)
				end()
				if err := <-ran; err != nil {
					t.Error(err)
				}
				d.closers = nil // by Run
				abandon()
			})
		})
	}
}

// What a person does with a file that stands in is a person's wish, and what was not touched of it is not.
func TestWhatStandsInCanBeChanged(t *testing.T) {
	need.Root(t)
	d, abandon := housed(t, newPlaces(t), here)
	defer abandon()
	theirs(t, d)
	if err := errors.Join(os.Chown(filepath.Join(d.Path, "given"), 55, 0), os.WriteFile(filepath.Join(d.Path, "dir", "file"), []byte("edited"), 0)); err != nil {
		t.Fatal(err)
	}
	d.lookAt([]index.Path{index.MustPath("given"), index.MustPath("dir/file")}, false, postponed{})
	if f := d.Lookup(index.MustPath("given")).Content.(index.File); f.Owner != "55" || f.Group != "root" {
		t.Errorf("the fleet gives it to %s:%s", f.Owner, f.Group)
	}
	f := d.Lookup(index.MustPath("dir/file")).Content.(index.File)
	if f.Owner != "some-backup" || f.Group != "some-www" || f.Size != 6 {
		t.Errorf("the fleet has %d bytes of %s:%s", f.Size, f.Owner, f.Group)
	}
	if err := os.Chown(filepath.Join(d.Path, "given"), 0, 0); err != nil {
		t.Fatal(err)
	}
	d.lookAt([]index.Path{index.MustPath("given")}, false, postponed{})
	if f := d.Lookup(index.MustPath("given")).Content.(index.File); f.Owner != "root" {
		t.Errorf("it was given back, and the fleet gives it to %s", f.Owner)
	}
	d.disk.owners.idOf = func(_ bool, name string) (string, error) { return withBackup()[name], nil }
	d.lookAt(nil, true, postponed{})
	expectOwner(t, d, durable.Owner{}, "given")
	expectOwner(t, d, backup, "dir", "dir/file")
}

// An agent that was not root leaves everything to itself. As root it makes that good.
func TestWhatCouldNotBeGivenAwayIsLater(t *testing.T) {
	need.Root(t)
	d, abandon := housed(t, newPlaces(t), withBackup())
	defer abandon()
	names := theirs(t, d)
	d.disk.owners.privileged = false
	for _, name := range names {
		if err := os.Chown(filepath.Join(d.Path, name), 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	d.lookAt(nil, true, postponed{})
	expectOwner(t, d, durable.Owner{UID: 65534, GID: 65534}, names...)
	d.disk.owners.privileged = true
	d.lookAt(nil, true, postponed{})
	expectOwner(t, d, backup, names...)
	if d.r.x.Held()[d.r.self] > 0 {
		t.Error("the fleet is told")
	}
}

// A policy is for what is here as well as for what comes, and ends without a trace; what people made here is theirs.
func TestAPolicyIsCarriedOut(t *testing.T) {
	need.Root(t)
	d, abandon := housed(t, newPlaces(t), withBackup())
	defer abandon()
	names := theirs(t, d)
	mine := filepath.Join(d.Path, "mine")
	if err := errors.Join(os.WriteFile(mine, []byte("mine"), 0o600), os.Chown(mine, 55, 55)); err != nil {
		t.Fatal(err)
	}
	d.lookAt(nil, true, postponed{})
	written := d.r.x.Held()[d.r.self]
	for _, policy := range []*durable.Owner{{UID: 1, GID: 1}, {UID: 2, GID: 2}, nil} {
		d.disk.owners.policy = policy
		d.lookAt(nil, true, postponed{})
		want := backup
		if policy != nil {
			want = *policy
		}
		expectOwner(t, d, want, names...)
		expectOwner(t, d, durable.Owner{UID: 55, GID: 55}, "mine")
	}
	if d.r.x.Held()[d.r.self] > written {
		t.Error("the fleet is told")
	}
}

// Many are given in bulk. What the disk refuses is not tried all the time, and nothing is lost of it.
func TestWhatIsNotGivenStaysOwed(t *testing.T) {
	need.Root(t)
	base := newPlaces(t)
	refuses, tries, syncs := true, 0, 0
	var d *Directory
	s, abandon := openSyncerIn(t, base, func(e durable.Effect, do func() error) error {
		switch {
		case e.Act == durable.ActSetMode:
			if tries++; refuses {
				return os.ErrPermission
			}
		case e.Act == durable.ActSyncAll && !refuses: // somebody looks meanwhile
			syncs++
			seen := newScan()
			d.lookInto(seen, index.MustPath("aa"))
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.takeScanLocked(seen); len(d.r.stopgaps) != bulk {
				t.Errorf("%d are remembered before what was given is durable", len(d.r.stopgaps))
			}
		}
		return do()
	})
	defer abandon()
	d = s.Directories()[0]
	contents := map[string]index.Content{}
	for i := range bulk {
		contents[string(rune('a'+i%26))+string(rune('a'+i/26))] = fileOf("34", "34", 0o600)
	}
	d.disk.owners.privileged = false
	d.disk.owners.policy = &durable.Owner{}
	arrive(t, d, contents)
	d.disk.owners.privileged, d.disk.owners.policy = true, nil
	d.lookAt(nil, true, postponed{})
	if fault(d, OwnershipFailed) == nil || len(d.r.stopgaps) != bulk || d.canGive(time.Now().Add(time.Hour)) {
		t.Errorf("%d are remembered: %+v", len(d.r.stopgaps), fault(d, OwnershipFailed))
	}
	before := tries
	if d.lookAt([]index.Path{index.MustPath("aa")}, false, postponed{}); tries > before {
		t.Error("each try makes for another")
	}
	refuses = false
	d.lookAt(nil, true, postponed{})
	if syncs != 1 {
		t.Errorf("synced %d times", syncs)
	}
	for name := range contents {
		expectOwner(t, d, durable.Owner{UID: 34, GID: 34}, name)
	}
	if f := fault(d, OwnershipFailed); f != nil || len(d.r.stopgaps) > 0 || d.r.x.Held()[d.r.self] > 0 {
		t.Errorf("%d are remembered, %+v", len(d.r.stopgaps), f)
	}
}

// What this node publishes for somebody who has no account here is his as well, and what stands in is no reason to doubt a directory.
func TestWhatIsPublishedStandsInAsWell(t *testing.T) {
	need.Root(t)
	d, abandon := housed(t, newPlaces(t), here)
	defer abandon()
	names := append(theirs(t, d), "mine")
	if _, err := d.Publish(fleet.Epoch{}, Write{Path: index.MustPath("mine"), Data: []byte("text"), Perm: 0o600, Owner: "some-backup", Group: "some-www"}); err != nil {
		t.Fatal(err)
	}
	written := d.r.seq
	d.disk.owners.idOf = func(_ bool, name string) (string, error) { return withBackup()[name], nil }
	d.disk.owners.forget()
	if missing, changed, _ := d.compareWith(d.disk.root); missing+changed > 0 {
		t.Errorf("%d are missing and %d differ from what stands there", missing, changed)
	}
	d.lookAt(nil, true, postponed{})
	expectOwner(t, d, backup, names...)
	if d.r.seq > written {
		t.Error("the fleet is told")
	}
}
