package syncer

import (
	"path/filepath"
	"testing"

	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

func openTestStore(t *testing.T, path string) (*store, memory) {
	t.Helper()
	s, err := openStore(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.load(wire.Scope{Cluster: "test", Directory: "certs"})
	if err != nil {
		t.Fatal(err)
	}
	return s, m
}

// A first run that died before it saved anything must not make the files it merely found into files that were written.
func TestAnIncarnationIsFreshUntilSomethingWasSaved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "certs.db")
	first, m := openTestStore(t, path)
	if !m.fresh {
		t.Error("a new state is not fresh")
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	second, again := openTestStore(t, path)
	if !again.fresh || again.incarnation != m.incarnation {
		t.Errorf("after a run that saved nothing: fresh %v, incarnation %d, was %d", again.fresh, again.incarnation, m.incarnation)
	}
	if err := second.save(unsaved{held: index.Summary{}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := second.close(); err != nil {
		t.Fatal(err)
	}
	third, last := openTestStore(t, path)
	if last.fresh {
		t.Error("still fresh after a save")
	}
	if err := third.close(); err != nil {
		t.Fatal(err)
	}
}

// Numbers that may have been sent are never given again, saved or not.
func TestEachRunBeginsAboveTheNumbersOfTheLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "certs.db")
	var last uint64
	for run := range 3 {
		s, m := openTestStore(t, path)
		if run > 0 && m.seq < last {
			t.Errorf("run %d begins at %d although numbers up to %d may have been given", run, m.seq, last)
		}
		if err := s.reserve(s.ceiling + 5); err != nil {
			t.Fatal(err)
		}
		last = s.ceiling
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
}
