package state

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/syncer/index"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

var self = index.Origin{Node: fleet.NodeID{1}, Incarnation: 7}

// written returns n files of which self wrote one after the other.
func written(n int) (entries []*index.Entry) {
	for i := range uint64(n) {
		entries = append(entries, &index.Entry{
			Path: index.MustPath(fmt.Sprintf("directory/file-%03d", i)), Origin: self, Seq: i + 1, Batch: i + 1,
			Stamp:   index.Stamp{Written: true, HLC: index.HLC(1000 + i), Node: self.Node},
			Content: index.File{Digest: index.Digest{byte(i)}, Size: int64(i), Perm: 0o600, Owner: "root", Group: "root"},
		})
	}
	return entries
}

// filled is a file with more than a hundred entries, and what it says.
func filled(t *testing.T) (file []byte, entries map[index.Path]*index.Entry) {
	t.Helper()
	s, _ := open(t, newRoot(t))
	c := Changes{Put: written(120), Held: index.Summary{self: 120}}
	entries = map[index.Path]*index.Entry{}
	for _, e := range c.Put {
		entries[e.Path] = e
	}
	if err := errors.Join(s.Save(c, nil), s.Close()); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(s.Path())
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
			root := newRoot(t)
			path := filepath.Join(root.Dir(), Dir, "certs.db")
			if err := os.WriteFile(path, damage, 0o600); err != nil {
				t.Fatal(err)
			}
			s, m, why, err := Open(root, "certs", scope)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if why == nil {
				if len(m.Entries) != len(entries) {
					t.Fatalf("it is taken for whole and has %d entries of %d", len(m.Entries), len(entries))
				}
				for _, e := range m.Entries {
					if known := entries[e.Path]; known == nil || known.Content != e.Content || known.Stamp != e.Stamp {
						t.Errorf("%s is not what it was", e.Path)
					}
				}
				return
			}
			setAside++
			if !m.Fresh || len(m.Entries) > 0 {
				t.Errorf("it begins with %d entries, fresh %v", len(m.Entries), m.Fresh)
			}
			if kept, err := os.ReadFile(filepath.Join(root.Dir(), why.Kept)); err != nil || !bytes.Equal(kept, damage) {
				t.Errorf("what was there is not kept: %v", err)
			}
			if err := s.Save(Changes{Held: index.Summary{}}, nil); err != nil {
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

// A disk that damages whatever is written to it is filled with one damaged file, and not with one more every few seconds. Once it is mended no restart
// is needed.
func TestADiskThatDamagesEveryFile(t *testing.T) {
	bad, commits, made := false, 0, 0
	root := newRoot(t)
	root.Interpose(func(e durable.Effect, do func() error) error {
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
	s, m := open(t, root)
	var now time.Time
	var aside string
	save := func() error {
		if !s.Usable() {
			damage, err := s.Replace(now, m.Incarnation, s.Ceiling())
			if err != nil {
				return err
			}
			if damage.Kept != "" {
				aside = damage.Kept
			}
		}
		return s.Save(Changes{Put: written(120), Held: index.Summary{self: 120}}, nil)
	}
	now = time.Unix(1e9, 0)
	if err := save(); err != nil {
		t.Fatal(err)
	}
	bad, commits = true, 1
	var last error
	for range 40 {
		if last = save(); last == nil {
			t.Fatal("saved to a bad disk")
		}
	}
	if made != 1 || !strings.Contains(last.Error(), "another one is made at") {
		t.Errorf("%d files were made at once; it says %v", made, last)
	}
	for range 8 {
		now = now.Add(remakeLast) // it is time for the next
		for range 3 {
			if save() == nil {
				t.Fatal("saved to a bad disk")
			}
		}
	}
	if waits := s.remakeAt().Sub(now); made < 3 || waits != remakeLast {
		t.Errorf("%d files were made, and the next after %v", made, waits)
	}
	if kept, err := SetAside(root, "certs"); err != nil || len(kept) != 1 || kept[0].Name != aside {
		t.Errorf("kept: %+v (%v), told: %s", kept, err, aside)
	}
	bad = false
	now = now.Add(remakeLast)
	if err := save(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Nor is it filled by an agent that is started again and again.
func TestFewDamagedStatesAreKept(t *testing.T) {
	root := newRoot(t)
	for range damagedKept + 3 {
		if err := os.WriteFile(filepath.Join(root.Dir(), Dir, "certs.db"), []byte("no database"), 0o600); err != nil {
			t.Fatal(err)
		}
		s, _, damage, err := Open(root, "certs", scope)
		if err != nil || damage == nil {
			t.Fatal(damage, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := filepath.Glob(filepath.Join(root.Dir(), Dir, "*"+damagedMark+"*")); err != nil || len(kept) != damagedKept {
		t.Errorf("%q are kept: %v", kept, err)
	}
}

// A disk that does not say whether the file is there has not taken it away.
func TestAFileThatCannotBeLookedAtIsInPlace(t *testing.T) {
	s, _ := open(t, newRoot(t))
	is := s.name
	s.name = strings.Repeat("x", 300) // ENAMETOOLONG stands for EIO
	if !s.InPlace() {
		t.Error("it is taken for removed")
	}
	s.name = Dir + "/nowhere"
	if s.InPlace() {
		t.Error("it is taken to be there")
	}
	s.name = is
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// An old state is taken up although the disk is full; it makes no changes until there is room.
func TestAStartOnAFullDisk(t *testing.T) {
	root := newRoot(t)
	s, m := open(t, root)
	s.update = func(func(*bbolt.Tx) error) error { return unix.ENOSPC }
	again, err := s.load(scope)
	if err != nil || again.Incarnation != m.Incarnation || s.ceiling != again.Seq {
		t.Errorf("incarnation %d of %d, numbers from %d to %d: %v", again.Incarnation, m.Incarnation, again.Seq, s.ceiling, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// What a disk refuses once it may take the next time; a file that is damaged is let go for the next start.
func TestAFileIsGivenUpOnlyForDamage(t *testing.T) {
	root := newRoot(t)
	s, _ := open(t, root)
	well := s.update
	s.update = func(func(*bbolt.Tx) error) error { return &os.PathError{Op: "write", Err: unix.EIO} }
	if err := s.Save(Changes{}, nil); !errors.Is(err, unix.EIO) || s.damage.Load() != nil {
		t.Errorf("%v; given up for %v", err, s.damage.Load())
	}
	s.update = well
	if err := os.Truncate(s.Path(), 4096); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(Changes{}, nil); err == nil || s.damage.Load() == nil {
		t.Errorf("saved: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	again, _, damage, err := Open(root, "certs", scope)
	if err != nil || damage == nil {
		t.Fatal(damage, err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
