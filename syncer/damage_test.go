package syncer

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
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

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// filled is a state database with a few hundred entries, and what it says.
func filled(t *testing.T) (file []byte, entries map[index.Path]*index.Entry) {
	t.Helper()
	state := openState(t)
	s, _ := openTestStore(t, state)
	w := newWorld("fe1")
	w.do([]string{"start", "fe1"})
	w.do([]string{"fe1", "fills", "60", "dir", "other"})
	r := w.find("fe1").r
	entries = map[index.Path]*index.Entry{}
	u := unsaved{held: r.x.Held().Clone()}
	for e := range r.x.All {
		entries[e.Path] = e
		u.put = append(u.put, e)
	}
	if err := errors.Join(s.save(u, r.keys), s.close()); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(s.path())
	if err != nil {
		t.Fatal(err)
	}
	return file, entries
}

// Whatever becomes of a state database, a start ends neither in a crash nor in something that was never said: it is what it was, or it is set
// aside as it is.
func TestADamagedStateIsSetAside(t *testing.T) {
	file, entries := filled(t)
	const page = 4096
	damages := map[string][]byte{
		"empty":     {},
		"a word":    []byte("no database"),
		"noise":     noise(3 * page),
		"zeroes":    make([]byte, len(file)),
		"shifted":   file[1:],
		"cut short": file[:len(file)/2],
	}
	for at := 0; at < len(file); at += page {
		end := min(at+page, len(file))
		damages["cut at "+string(rune('a'+at/page))] = file[:at+7]
		damages["noise in page "+string(rune('a'+at/page))] = bytes.Join([][]byte{file[:at], noise(end - at), file[end:]}, nil)
		damages["no page "+string(rune('a'+at/page))] = bytes.Join([][]byte{file[:at], make([]byte, end-at), file[end:]}, nil)
	}
	setAside := 0
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			state := openState(t)
			path := filepath.Join(state.Dir(), "sync", "certs.db")
			if err := os.WriteFile(path, damage, 0o600); err != nil {
				t.Fatal(err)
			}
			s, m, why, err := openStore(state, "certs", wire.Scope{Cluster: "test", Directory: "certs"})
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			if why == nil {
				if len(m.entries) != len(entries) {
					t.Fatalf("it is taken for whole and has %d entries of %d", len(m.entries), len(entries))
				}
				for _, e := range m.entries {
					if known := entries[e.Path]; known == nil || known.Content != e.Content || known.Stamp != e.Stamp {
						t.Errorf("%s is not what it was", e.Path)
					}
				}
				return
			}
			setAside++
			if !m.fresh || len(m.entries) > 0 {
				t.Errorf("it begins with %d entries, fresh %v", len(m.entries), m.fresh)
			}
			if kept, err := os.ReadFile(filepath.Join(state.Dir(), why.kept)); err != nil || !bytes.Equal(kept, damage) {
				t.Errorf("what was there is not kept: %v", err)
			}
			if err := s.save(unsaved{held: index.Summary{}}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	if setAside < len(damages)/2 {
		t.Errorf("only %d of %d were noticed", setAside, len(damages))
	}
}

func noise(n int) []byte {
	out := make([]byte, n)
	chance := rand.NewChaCha8([32]byte{1})
	_, _ = chance.Read(out) // never fails
	return out
}

// What is wrong around a database is no reason to set it aside.
func TestWhatIsDamage(t *testing.T) {
	for err, damage := range map[error]bool{
		&os.PathError{Err: unix.EIO}:    true,
		errRecord:                       true,
		bolterrors.ErrChecksum:          true,
		panicked{"page 7: bad type"}:    true,
		bolterrors.ErrTimeout:           false, // another agent has it
		&os.PathError{Err: unix.EACCES}: false,
		&os.PathError{Err: unix.ENOSPC}: false,
		&os.PathError{Err: unix.EROFS}:  false,
	} {
		if is := isDamage(fmt.Errorf("it cannot be opened: %w", err)); is != damage {
			t.Errorf("%v: %v", err, is)
		}
	}
}

func publish(t *testing.T, d *Directory, name string) {
	t.Helper()
	if _, err := d.Publish(fleet.Epoch{Term: 1}, Write{Path: index.MustPath(name), Data: []byte(name), Perm: 0o600}); err != nil {
		t.Fatal(err)
	}
}

func fault(d *Directory, code FaultCode) *Fault {
	for _, f := range d.Status().Faults {
		if f.Code == code {
			return &f
		}
	}
	return nil
}

// What a running node knows it knows by heart: it needs no file for it, and no restart for another one.
func TestAStateThatIsLostWhileInUseIsWrittenAnew(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"removed": os.Remove,
		"cut off": func(path string) error { return os.Truncate(path, 0) },
		"overwritten": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(noise(16*4096), 2*4096)
			return errors.Join(err, f.Close())
		},
		"replaced": func(path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(path, []byte("of last week"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := openAlone(t)
			publish(t, d, "a")
			if err := d.persist(); err != nil {
				t.Fatal(err)
			}
			if err := harm(d.store.path()); err != nil {
				t.Fatal(err)
			}
			publish(t, d, "b")
			for tries := 0; d.persist() != nil; tries++ {
				if tries == 3 {
					t.Fatal(d.persist())
				}
			}
			if f := fault(d, StateDamaged); f == nil || !strings.Contains(f.Text, "nothing is lost") {
				t.Errorf("status says %+v", f)
			}
			if d.r.durable[d.r.self] != d.r.seq {
				t.Errorf("durable up to %d of %d", d.r.durable[d.r.self], d.r.seq)
			}
			incarnation, seq := d.r.self.Incarnation, d.r.seq
			if err := d.store.close(); err != nil {
				t.Fatal(err)
			}
			s, m, damage, err := openStore(d.store.state, "certs", d.r.scope)
			if err != nil || damage != nil {
				t.Fatal(damage, err)
			}
			d.store.db = s.db // for the end of the test
			if len(m.entries) != 2 || m.incarnation != incarnation || m.fresh || m.seq < seq || m.held[d.r.self] != seq {
				t.Errorf("%d entries, incarnation %d of %d, fresh %v, numbers from %d of %d", len(m.entries), m.incarnation, incarnation, m.fresh, m.seq, seq)
			}
		})
	}
}

// A disk that damages whatever is written to it is filled with one damaged file, and not with one more every few seconds. Once it is mended no restart
// is needed.
func TestADiskThatDamagesEveryState(t *testing.T) {
	bad, commits, made := false, 0, 0
	d := openAloneOn(t, func(e durable.Effect, do func() error) error {
		switch {
		case e.Name != "sync/certs.db" || !bad:
		case e.Act == durable.ActOpen:
			commits = 0
			made++
		case e.Act == durable.ActCommit:
			if commits++; commits > 1 { // begin succeeds
				if err := os.Truncate(filepath.Join(e.Dir, e.Name), 4096); err != nil {
					t.Error(err)
				}
			}
		}
		return do()
	})
	publish(t, d, "a")
	if err := d.persist(); err != nil {
		t.Fatal(err)
	}
	bad, commits = true, 1
	for range 40 {
		publish(t, d, "a")
		if err := d.persist(); err == nil {
			t.Fatal("saved to a bad disk")
		}
	}
	if made != 1 {
		t.Errorf("%d files were made at once", made)
	}
	if f := d.storeFault; f == nil || f.Code != StateDamaged || !strings.Contains(f.Text, "another one is made at") {
		t.Errorf("status says %+v", f)
	}
	for range 8 {
		d.store.remadeAt = time.Now().Add(-remakeLast) // it is time for the next
		publish(t, d, "a")
		for range 3 {
			_ = d.persist() // it fails
		}
	}
	if waits := time.Until(d.store.remakeAt()); made < 3 || waits < remakeLast-time.Minute {
		t.Errorf("%d files were made, and the next after %v", made, waits)
	}
	names, err := d.store.state.ReadDir("sync")
	if err != nil {
		t.Fatal(err)
	}
	kept := slices.DeleteFunc(names, func(name string) bool { return !strings.Contains(name, damagedMark) })
	if len(kept) != 1 || "sync/"+kept[0] != d.damaged {
		t.Errorf("kept: %q, told: %s", kept, d.damaged)
	}
	bad = false
	d.store.remadeAt = time.Now().Add(-remakeLast)
	if err := d.persist(); err != nil {
		t.Fatal(err)
	}
	if d.storeFault != nil || d.r.durable[d.r.self] != d.r.seq {
		t.Errorf("status says %+v; durable up to %d of %d", d.storeFault, d.r.durable[d.r.self], d.r.seq)
	}
}

// Nor is it filled by an agent that is started again and again.
func TestFewDamagedStatesAreKept(t *testing.T) {
	state := openState(t)
	for range damagedKept + 3 {
		if err := os.WriteFile(filepath.Join(state.Dir(), "sync", "certs.db"), []byte("no database"), 0o600); err != nil {
			t.Fatal(err)
		}
		s, _, damage, err := openStore(state, "certs", wire.Scope{})
		if err != nil || damage == nil {
			t.Fatal(damage, err)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := filepath.Glob(filepath.Join(state.Dir(), "sync", "*"+damagedMark+"*")); err != nil || len(kept) != damagedKept {
		t.Errorf("%q are kept: %v", kept, err)
	}
}

// A disk that does not say whether the file is there has not taken it away.
func TestAStateThatCannotBeLookedAtIsInPlace(t *testing.T) {
	d := openAlone(t)
	is := d.store.name
	d.store.name = strings.Repeat("x", 300) // ENAMETOOLONG stands for EIO
	if !d.store.inPlace() {
		t.Error("it is taken for removed")
	}
	d.store.name = "sync/nowhere"
	if d.store.inPlace() {
		t.Error("it is taken to be there")
	}
	d.store.name = is
}

func TestWhatWasSetAsideIsNewsUntilItIsRemoved(t *testing.T) {
	d := openAlone(t)
	if err := os.Truncate(d.store.path(), 0); err != nil {
		t.Fatal(err)
	}
	publish(t, d, "a")
	for d.persist() != nil {
	}
	kept := filepath.Join(d.store.state.Dir(), d.damaged)
	d.damage, d.damaged = nil, "" // a restart
	d.recallDamage()
	if f := fault(d, StateDamaged); f == nil || !strings.Contains(f.Text, kept) {
		t.Fatalf("status says %+v of %s", f, kept)
	}
	d.watchState()
	if fault(d, StateDamaged) == nil {
		t.Fatal("forgotten before anybody has seen it")
	}
	if err := os.Remove(kept); err != nil {
		t.Fatal(err)
	}
	d.watchState()
	if f := fault(d, StateDamaged); f != nil {
		t.Errorf("status still says %s", f.Text)
	}
}

// A full disk is said, and nothing is acknowledged that is not on it; the rest goes on, and no restart is needed when there is room again. It may
// also be that a write has happened and only its success was not told.
func TestAStateThatCannotBeWritten(t *testing.T) {
	for name, happens := range map[string]bool{"it failed": false, "it happened all the same": true} {
		t.Run(name, func(t *testing.T) {
			d := openAlone(t)
			publish(t, d, "a")
			if err := d.persist(); err != nil {
				t.Fatal(err)
			}
			well := d.store.update
			d.store.update = func(do func(*bbolt.Tx) error) error {
				if happens {
					if err := well(do); err != nil {
						t.Error(err)
					}
				}
				return &os.PathError{Op: "write", Path: d.store.path(), Err: unix.ENOSPC}
			}
			held := d.r.seq
			publish(t, d, "b")
			if err := d.persist(); !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("saved: %v", err)
			}
			if f := fault(d, DiskFull); f == nil {
				t.Error("status says nothing")
			}
			if d.r.durable[d.r.self] != held {
				t.Error("what is not on the disk is acknowledged")
			}
			d.r.ceiling = d.r.seq // the reserved numbers are used up
			if err := os.WriteFile(filepath.Join(d.Path, "c"), []byte("edited"), 0o600); err != nil {
				t.Fatal(err)
			}
			d.lookAt([]index.Path{index.MustPath("c")}, false, postponed{})
			if d.Lookup(index.MustPath("c")) != nil {
				t.Error("a number was given that is not reserved on the disk")
			}
			d.store.update = well
			if err := d.persist(); err != nil {
				t.Fatal(err)
			}
			if f := fault(d, DiskFull); f != nil {
				t.Errorf("status still says %s", f.Text)
			}
			if d.r.durable[d.r.self] != d.r.seq {
				t.Error("what is on the disk is not acknowledged")
			}
			select {
			case <-d.rescan:
			default:
				t.Fatal("what had to wait for a number is not looked for")
			}
			d.lookAt(nil, true, postponed{})
			if d.Lookup(index.MustPath("c")) == nil {
				t.Error("and not found")
			}
		})
	}
}

// An old state is taken up although the disk is full; it makes no changes until there is room.
func TestAStartOnAFullDisk(t *testing.T) {
	state := openState(t)
	s, m := openTestStore(t, state)
	s.update = func(func(*bbolt.Tx) error) error { return unix.ENOSPC }
	again, err := s.load(wire.Scope{Cluster: "test", Directory: "certs"})
	if err != nil || again.incarnation != m.incarnation || s.ceiling != again.seq {
		t.Errorf("incarnation %d of %d, numbers from %d to %d: %v", again.incarnation, m.incarnation, again.seq, s.ceiling, err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}

// What a disk refuses once it may take the next time; a file that is damaged is let go for the next start.
func TestAFileIsGivenUpOnlyForDamage(t *testing.T) {
	state := openState(t)
	s, _ := openTestStore(t, state)
	well := s.update
	s.update = func(func(*bbolt.Tx) error) error { return &os.PathError{Op: "write", Err: unix.EIO} }
	if err := s.save(unsaved{}, nil); !errors.Is(err, unix.EIO) || s.damage.Load() != nil {
		t.Errorf("%v; given up for %v", err, s.damage.Load())
	}
	s.update = well
	if err := os.Truncate(s.path(), 4096); err != nil {
		t.Fatal(err)
	}
	if err := s.save(unsaved{}, nil); err == nil || s.damage.Load() == nil {
		t.Errorf("saved: %v", err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	again, _, damage, err := openStore(state, "certs", wire.Scope{})
	if err != nil || damage == nil {
		t.Fatal(damage, err)
	}
	if err := again.close(); err != nil {
		t.Error(err)
	}
}
