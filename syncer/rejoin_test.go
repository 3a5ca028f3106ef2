package syncer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// monday is some time.
var monday = time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)

// Only what a writer says is believed, and once an hour; whoever has just joined has nothing to bring back.
func TestWhoBeginsAnew(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *replica, g *wire.Greeting)
		anew   bool
	}{
		"it missed a deletion that is forgotten":    {func(*replica, *wire.Greeting) {}, true},
		"nothing was forgotten":                     {func(_ *replica, g *wire.Greeting) { g.Forgotten = nil }, false},
		"it holds what was forgotten":               {func(r *replica, g *wire.Greeting) { r.durable[g.Self] = 9 }, false},
		"what was forgotten is beyond what is held": {func(_ *replica, g *wire.Greeting) { g.Held = index.Summary{g.Self: 1} }, false},
		"it gave numbers that it does not know": {func(r *replica, g *wire.Greeting) {
			g.Forgotten, g.Held = nil, index.Summary{r.self: r.seq + 1}
		}, true},
		"all its numbers are known": {func(r *replica, g *wire.Greeting) { g.Forgotten, g.Held = nil, index.Summary{r.self: r.seq} }, false},
		"it has just joined":        {func(r *replica, _ *wire.Greeting) { r.fresh, r.joined = true, false }, false},
		"it joined in this run":     {func(r *replica, _ *wire.Greeting) { r.fresh, r.joined = true, true }, true},
		"the peer may not write":    {func(r *replica, _ *wire.Greeting) { r.mayWrite = func(fleet.NodeID) bool { return false } }, false},
		"it did so a moment ago":    {func(r *replica, _ *wire.Greeting) { r.rejoined = monday.Add(-time.Minute) }, false},
		"it did so once":            {func(r *replica, _ *wire.Greeting) { r.rejoined = monday.Add(-2 * time.Hour) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld("fe1", "fe2").start()
			r, other := w.machines[0].r, w.machines[1].r
			r.fresh, r.seq = false, 5
			r.durable[other.self] = 1
			g := wire.Greeting{Self: other.self, Held: index.Summary{other.self: 9}, Forgotten: index.Summary{other.self: 7}}
			c.change(r, &g)
			if anew := r.isOutdated(monday, other.self.Node, g); anew != c.anew {
				t.Errorf("it begins anew: %v", anew)
			}
		})
	}
}

// Whoever waits for a look at the moment at which a node begins anew is told so, and not that the agent ends.
func TestWhoWaitsIsToldThatANodeBeginsAnew(t *testing.T) {
	for name, anew := range map[string]bool{"it begins anew": true, "it ends": false} {
		t.Run(name, func(t *testing.T) {
			s := openSyncer(t, nil)
			s.directories = append(s.directories, openSyncer(t, nil).directories...) // another directory of this node
			s.directories[1].anew = s.directories[0].anew
			d := s.directories[0]
			d.r.outdated = &outdated{}
			ctx, end := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			go func() { ran <- s.Run(ctx) }()
			if anew {
				d.again.wake()
			} else {
				end()
			}
			if err := <-ran; errors.Is(err, ErrRejoin) != anew {
				t.Fatal(err)
			}
			end()
			for _, d := range s.directories {
				d.closers = nil // Run has closed what openSyncer would
				if err := d.Rescan(t.Context()); errors.Is(err, ErrRejoin) != anew || errors.Is(err, errEnded) == anew {
					t.Errorf("told: %v", err)
				}
			}
		})
	}
}

// begunAnew has a directory hold things of another node, and begin anew; it is to be opened again.
func begunAnew(t *testing.T, d *Directory, contents map[string]index.Content) {
	t.Helper()
	arrive(t, d, contents)
	d.r.outdated = &outdated{until: d.r.x.Held().Clone(), older: true}
	d.r.outdated.until[index.Origin{Node: fleet.NodeID{7}, Incarnation: 1}] += 99
	if err := errors.Join(d.persist(), d.rejoin()); !errors.Is(err, ErrRejoin) {
		t.Fatal(err)
	}
}

// What was in doubt and turns out to be what the fleet has stays as it is, down to the inode, and the archive keeps what it has; the rest is replaced. It is
// said for an hour.
func TestWhatTheFleetHasStaysWhenANodeBeginsAnew(t *testing.T) {
	base := newPlaces(t)
	s, abandon := openSyncerIn(t, base, nil)
	d := s.Directories()[0]
	me := d.disk.owners.user(os.Geteuid())
	mine := d.disk.owners.group(os.Getegid())
	contents := map[string]index.Content{"dir": index.Directory{Perm: 0o755, Owner: me, Group: mine}, "link": index.Symlink{Target: "same"}}
	for _, name := range []string{"same", "dir/same", "mode", "edited", "gone", "edited-since", "gone-since"} {
		contents[name] = fileOf(me, mine, 0o640)
	}
	begunAnew(t, d, contents)
	abandon()
	at := func(name string) string { return filepath.Join(base, "certs", name) }
	if err := errors.Join(os.WriteFile(at("edited"), []byte("edited"), 0o640), os.Remove(at("gone"))); err != nil {
		t.Fatal(err)
	}
	before := map[string]os.FileInfo{}
	for name := range contents {
		if name != "gone" {
			is, err := os.Lstat(at(name))
			if err != nil {
				t.Fatal(err)
			}
			before[name] = is
		}
	}

	s, abandon = openSyncerIn(t, base, nil)
	defer abandon()
	d = s.Directories()[0]
	if err := errors.Join(os.WriteFile(at("edited-since"), []byte("edited"), 0o640), os.Remove(at("gone-since"))); err != nil {
		t.Fatal(err)
	}
	contents["mode"] = fileOf(me, mine, 0o600)
	arrive(t, d, contents)
	for _, name := range []string{"same", "dir/same", "mode", "link", "dir"} {
		is, err := os.Lstat(at(name))
		if err != nil || !os.SameFile(is, before[name]) {
			t.Errorf("%s was replaced: %v", name, err)
		}
		if versions, err := d.archive.Versions(name); err != nil || len(versions) > 0 {
			t.Errorf("of %s %v are kept, %v", name, versions, err)
		}
	}
	d.lookAt(nil, true, postponed{})
	for name, want := range contents {
		s, err := d.disk.look(index.MustPath(name))
		if f := d.Lookup(index.MustPath(name)); err != nil || f == nil || s.found.Content != f.Content {
			t.Errorf("%s is %+v, and should be %+v: %v", name, s.found.Content, f, err)
		} else if !strings.HasPrefix(name, "edited") && f.Content != want {
			t.Errorf("the fleet has %+v at %s", f.Content, name)
		}
	}
	f := fault(d, StateDamaged)
	if f == nil || !strings.Contains(f.Text, "joined anew") {
		t.Fatalf("status says %+v", f)
	}
	if d.r.rejoined = time.Now().Add(-damageMemory); fault(d, StateDamaged) != nil {
		t.Error("it is said for ever")
	}
}

// What was in doubt is nobody's deletion if it goes while the fleet's word of it is under way, and none if the agent does.
func TestWhatIsInDoubtIsLookedForOnceMore(t *testing.T) {
	base := newPlaces(t)
	gone := filepath.Join(base, "certs", "gone")
	var d *Directory
	contents := func() map[string]index.Content {
		me, mine := d.disk.owners.user(os.Geteuid()), d.disk.owners.group(os.Getegid())
		return map[string]index.Content{"gone": fileOf(me, mine, 0o640), "new": fileOf(me, mine, 0o600)}
	}
	s, abandon := openSyncerIn(t, base, nil)
	d = s.Directories()[0]
	begunAnew(t, d, contents())
	abandon()
	if err := os.Remove(filepath.Join(base, "certs", "new")); err != nil {
		t.Fatal(err)
	}
	removes := true
	s, abandon = openSyncerIn(t, base, func(e durable.Effect, do func() error) error {
		if removes && e.Act == durable.ActStage && e.Name == "new" {
			removes = false
			if err := os.Remove(gone); err != nil {
				t.Error(err)
			}
		}
		return do()
	})
	d = s.Directories()[0]
	publish(t, d, "mine") // so that there is something to be saved
	if err := d.persist(); err != nil {
		t.Fatal(err)
	}
	j := coming(d, contents())
	d.apply(t.Context(), d.intents[0], j)
	if removes || len(d.r.deletes) > 0 || d.Lookup(index.MustPath("gone")) != nil {
		t.Errorf("%v are deleted", d.r.deletes)
	}
	if err := d.intents[0].Write(intentOf(newToken(), slices.DeleteFunc(j.entries, func(e *index.Entry) bool { return e.Path.Base() != "gone" })), true); err != nil {
		t.Fatal(err)
	}
	abandon()
	s, abandon = openSyncerIn(t, base, nil)
	defer abandon()
	d = s.Directories()[0]
	if d.Lookup(index.MustPath("gone")) != nil {
		t.Error("it is believed to be there")
	}
	arrive(t, d, contents())
	if _, err := os.Lstat(gone); err != nil || len(d.r.deletes) > 0 {
		t.Errorf("%v, %v are deleted", err, d.r.deletes)
	}
}

// The others hold changes of this node which it does not know that it made: that is told. It may as well have been away: that is not.
func TestAnOlderStateIsToldFromHavingBeenAway(t *testing.T) {
	for name, c := range map[string]struct {
		held, begun, seq uint64
		met, older       bool
	}{
		"nothing that it does not know":            {5, 5, 9, false, false},
		"numbers that it has not given":            {10, 5, 9, true, true},
		"numbers that it gives just now":           {7, 5, 9, false, true},
		"numbers that it gave, and somebody heard": {7, 5, 9, true, false},
	} {
		r := &replica{begun: c.begun, seq: c.seq, peers: map[fleet.NodeID]*view{}, gone: map[fleet.NodeID]index.Summary{}}
		if c.met {
			r.gone[fleet.NodeID{7}] = nil
		}
		if older := r.isOlder(c.held); older != c.older {
			t.Errorf("%s: %v", name, older)
		}
	}
}
