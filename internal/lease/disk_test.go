package lease_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// trouble is what is wrong with a memoryDisk.
type trouble int

const (
	healthy    trouble = iota
	failing            // Save fails and keeps nothing
	lying              // Save keeps everything and says that it failed
	hanging            // Save does not return
	unreadable         // what is there is damaged
)

var errDead = errors.New("the process was killed")

// memoryDisk is a Disk that keeps its content over the lives of a process. It passes the tests of the one in a file.
type memoryDisk struct {
	stop   func()             // called before everything, may wait
	before func(lease.Change) // called before that when something is saved; nil: nothing

	mu      sync.Mutex
	life    int
	kept    lease.Kept
	wrong   trouble
	release chan struct{} // closed when the disk no longer hangs
	saves   int
	logged  time.Time // when the log last grew
}

func (d *memoryDisk) open(life int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.life = life
	if d.release != nil {
		close(d.release)
		d.release = nil
	}
	if d.wrong == hanging {
		d.wrong = healthy
	}
}

func (d *memoryDisk) fault(wrong trouble) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wrong = wrong
	if d.release != nil {
		close(d.release)
		d.release = nil
	}
	if wrong == hanging {
		d.release = make(chan struct{})
	}
}

func (d *memoryDisk) wipe() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept = lease.Kept{}
}

// copy returns what is on the disk, to put it back later.
func (d *memoryDisk) copy() lease.Kept {
	d.mu.Lock()
	defer d.mu.Unlock()
	return cloneKept(d.kept)
}

func (d *memoryDisk) restore(k lease.Kept) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept = cloneKept(k)
}

func (d *memoryDisk) handle(life int, anew bool) (lease.Disk, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wrong == unreadable && anew {
		d.kept, d.wrong = lease.Kept{}, healthy
	}
	return &memoryHandle{d, life}, nil
}

type memoryHandle struct {
	*memoryDisk
	of int
}

// Load implements lease.Disk.
func (h *memoryHandle) Load() (lease.Kept, error) {
	if h.stop != nil {
		h.stop()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wrong == unreadable {
		return lease.Kept{}, lease.ErrDamaged
	}
	return cloneKept(h.kept), nil
}

// Save implements lease.Disk.
func (h *memoryHandle) Save(c lease.Change) error {
	if h.before != nil {
		h.before(c)
	}
	if h.stop != nil {
		h.stop()
	}
	h.mu.Lock()
	release := h.release
	h.mu.Unlock()
	if release != nil {
		<-release
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.life != h.of {
		return errDead
	}
	if h.wrong == failing {
		return syscall.EIO
	}
	h.saves++
	if len(c.Entries) > 0 {
		h.logged = time.Now()
	}
	h.kept = applied(h.kept, c)
	if h.wrong == lying {
		return syscall.EIO
	}
	return nil
}

// Close implements lease.Disk.
func (h *memoryHandle) Close() error { return nil }

func applied(k lease.Kept, c lease.Change) lease.Kept {
	if c.Incarnation != 0 {
		k = lease.Kept{Incarnation: c.Incarnation}
	}
	if c.Promise != nil {
		k.Promise = *c.Promise
	}
	if c.Hard != nil {
		k.Hard = proto.Clone(c.Hard).(*raftpb.HardState)
	}
	if c.Snapshot != nil {
		k.Snapshot = proto.Clone(c.Snapshot).(*raftpb.Snapshot)
		var rest []*raftpb.Entry
		for _, e := range k.Entries {
			if !c.Reset && e.GetIndex() > c.Snapshot.GetMetadata().GetIndex() {
				rest = append(rest, e)
			}
		}
		k.Entries = rest
	}
	if len(c.Entries) > 0 {
		var before []*raftpb.Entry
		for _, e := range k.Entries {
			if e.GetIndex() < c.Entries[0].GetIndex() {
				before = append(before, e)
			}
		}
		k.Entries = before
	}
	for _, e := range c.Entries {
		k.Entries = append(k.Entries, proto.Clone(e).(*raftpb.Entry))
	}
	return k
}

func cloneKept(k lease.Kept) lease.Kept {
	out := lease.Kept{Incarnation: k.Incarnation, Promise: k.Promise}
	if k.Hard != nil {
		out.Hard = proto.Clone(k.Hard).(*raftpb.HardState)
	}
	if k.Snapshot != nil {
		out.Snapshot = proto.Clone(k.Snapshot).(*raftpb.Snapshot)
	}
	for _, e := range k.Entries {
		out.Entries = append(out.Entries, proto.Clone(e).(*raftpb.Entry))
	}
	return out
}

// disks are the two kinds, each with a way to open it again.
var disks = map[string]func(t *testing.T) func() lease.Disk{
	"in memory": func(*testing.T) func() lease.Disk {
		d := &memoryDisk{}
		return func() lease.Disk { h, _ := d.handle(0, false); return h }
	},
	"in a file": func(t *testing.T) func() lease.Disk {
		state := stateDir(t)
		return func() lease.Disk {
			d, err := lease.DiskIn(state)(false)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	},
}

func entry(term, index uint64, text string) *raftpb.Entry {
	return &raftpb.Entry{Term: new(term), Index: new(index), Data: []byte(text)}
}

func snapshotAt(term, index uint64, text string) *raftpb.Snapshot {
	return &raftpb.Snapshot{Data: []byte(text), Metadata: &raftpb.SnapshotMetadata{
		Index: new(index), Term: new(term), ConfState: &raftpb.ConfState{Voters: []uint64{7}},
	}}
}

func TestADiskKeepsWhatWasSaved(t *testing.T) {
	for name, open := range disks {
		t.Run(name, func(t *testing.T) {
			reopen := open(t)
			promise := fleet.NodeID{9}
			for _, step := range []struct {
				name    string
				change  lease.Change
				entries []string
				hard    uint64 // term
				snap    string
			}{
				{"a new seat", lease.Change{Incarnation: 5}, nil, 0, ""},
				{"a promise", lease.Change{Promise: &promise}, nil, 0, ""},
				{"a first snapshot", lease.Change{Hard: hard(1), Snapshot: snapshotAt(1, 1, "s1"), Reset: true}, nil, 1, "s1"},
				{"entries", lease.Change{Hard: hard(1), Entries: []*raftpb.Entry{entry(1, 2, "a"), entry(1, 3, "b"), entry(1, 4, "c")}}, []string{"a", "b", "c"}, 1, "s1"},
				{"entries that replace some", lease.Change{Hard: hard(2), Entries: []*raftpb.Entry{entry(2, 3, "B")}}, []string{"a", "B"}, 2, "s1"},
				{"only a vote", lease.Change{Hard: hard(3)}, []string{"a", "B"}, 3, "s1"},
				{"a compaction", lease.Change{Hard: hard(3), Snapshot: snapshotAt(1, 2, "s2")}, []string{"B"}, 3, "s2"},
				{"a snapshot from the leader", lease.Change{Hard: hard(4), Snapshot: snapshotAt(4, 3, "s3"), Reset: true}, nil, 4, "s3"},
				{"what follows it", lease.Change{Hard: hard(4), Entries: []*raftpb.Entry{entry(4, 4, "d")}}, []string{"d"}, 4, "s3"},
				{"another seat", lease.Change{Incarnation: 6}, nil, 0, ""},
			} {
				d := reopen()
				if err := d.Save(step.change); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
				d = reopen()
				kept, err := d.Load()
				if err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				var entries []string
				for _, e := range kept.Entries {
					entries = append(entries, string(e.GetData()))
				}
				if len(entries) != len(step.entries) || kept.Hard.GetTerm() != step.hard || string(kept.Snapshot.GetData()) != step.snap {
					t.Errorf("%s: kept %q, term %d, snapshot %q", step.name, entries, kept.Hard.GetTerm(), kept.Snapshot.GetData())
				}
				for i := range entries {
					if entries[i] != step.entries[i] {
						t.Errorf("%s: entry %d is %q", step.name, i, entries[i])
					}
				}
				wantPromise := promise
				if step.name == "a new seat" || step.name == "another seat" {
					wantPromise = fleet.NodeID{}
				}
				if kept.Promise != wantPromise {
					t.Errorf("%s: promise %v", step.name, kept.Promise)
				}
				_ = d.Close()
			}
		})
	}
}

func hard(term uint64) *raftpb.HardState { return &raftpb.HardState{Term: new(term)} }

// TestADamagedFileIsSetAside cuts and scribbles, and wants either what was saved or the word that it is damaged; never something else, and
// never the end of the process.
func TestADamagedFileIsSetAside(t *testing.T) {
	state := stateDir(t)
	open := lease.DiskIn(state)
	d, err := open(false)
	if err != nil {
		t.Fatal(err)
	}
	change := lease.Change{Incarnation: 5, Hard: hard(3), Snapshot: snapshotAt(1, 1, "s"), Reset: true}
	for i := range uint64(100) {
		change.Entries = append(change.Entries, entry(3, i+2, "some entry of a log"))
	}
	if err := errors.Join(d.Save(change), d.Close()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(state.Dir(), "lease.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var damaged int
	spoil := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := open(false)
		if err == nil {
			kept, loadErr := d.Load()
			if err = loadErr; err == nil && (kept.Incarnation != 5 || len(kept.Entries) != 100) {
				t.Errorf("%s: loaded %d entries of incarnation %d", name, len(kept.Entries), kept.Incarnation)
			}
			_ = d.Close()
		}
		if err == nil {
			return
		}
		damaged++
		if !errors.Is(err, lease.ErrDamaged) {
			t.Errorf("%s: not said to be damaged: %v", name, err)
		}
		if d, err = open(true); err != nil {
			t.Fatalf("%s: no new one can be opened: %v", name, err)
		}
		if kept, err := d.Load(); err != nil || kept.Incarnation != 0 {
			t.Errorf("%s: the new one is not new: %v, %v", name, kept.Incarnation, err)
		}
		_ = d.Close()
	}
	page := os.Getpagesize()
	for size := 512; size < len(whole); size += page / 2 {
		spoil("cut", append([]byte(nil), whole[:size]...))
	}
	for at := 0; at < len(whole); at += 311 {
		content := append([]byte(nil), whole...)
		for i := at; i < min(at+64, len(content)); i++ {
			content[i] ^= 0x5a
		}
		spoil("scribbled", content)
	}
	if damaged == 0 {
		t.Error("nothing of all that was damage")
	}
	if _, err := os.Stat(filepath.Join(state.Dir(), "lease.db.damaged")); err != nil {
		t.Error("the damaged file was not kept for whoever wants to know:", err)
	}
}

func (d *memoryDisk) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.saves
}

func (d *memoryDisk) loggedAt() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.logged
}
