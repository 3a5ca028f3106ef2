package syncer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/state"

	"golang.org/x/sys/unix"
)

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
			if err := harm(d.store.Path()); err != nil {
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
			if err := d.store.Close(); err != nil {
				t.Fatal(err)
			}
			s, m, damage, err := state.Open(d.base, "certs", d.r.scope)
			if err != nil || damage != nil {
				t.Fatal(damage, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if len(m.Entries) != 2 || m.Incarnation != incarnation || m.Fresh || m.Seq < seq || m.Held[d.r.self] != seq {
				t.Errorf("%d entries, incarnation %d of %d, fresh %v, numbers from %d of %d", len(m.Entries), m.Incarnation, incarnation, m.Fresh, m.Seq, seq)
			}
		})
	}
}

func TestWhatWasSetAsideIsNewsUntilItIsRemoved(t *testing.T) {
	d := openAlone(t)
	if err := os.Truncate(d.store.Path(), 0); err != nil {
		t.Fatal(err)
	}
	publish(t, d, "a")
	for d.persist() != nil {
	}
	kept := filepath.Join(d.base.Dir(), d.damaged)
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
			full := false
			d := openAloneOn(t, func(e durable.Effect, do func() error) error {
				if !full || e.Act != durable.ActCommit {
					return do()
				}
				if happens {
					if err := do(); err != nil {
						t.Error(err)
					}
				}
				return &os.PathError{Op: "write", Path: e.Name, Err: unix.ENOSPC}
			})
			publish(t, d, "a")
			if err := d.persist(); err != nil {
				t.Fatal(err)
			}
			full = true
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
			full = false
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
