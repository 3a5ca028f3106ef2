package syncer

import (
	"os"
	"path/filepath"
	"testing"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

func openTestStore(t *testing.T, state *durable.Root) (*store, memory) {
	t.Helper()
	s, m, damage, err := openStore(state, "certs", wire.Scope{Cluster: "test", Directory: "certs"})
	if err != nil || damage != nil {
		t.Fatal(damage, err)
	}
	return s, m
}

// openState returns an empty state directory.
func openState(t *testing.T) *durable.Root {
	t.Helper()
	state, err := durable.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { state.Close() })
	if err := os.Mkdir(filepath.Join(state.Dir(), "sync"), 0o700); err != nil {
		t.Fatal(err)
	}
	return state
}

// A first run that died before it saved anything must not make the files it merely found into files that were written.
func TestAnIncarnationIsFreshUntilSomethingWasSaved(t *testing.T) {
	state := openState(t)
	first, m := openTestStore(t, state)
	if !m.fresh {
		t.Error("a new state is not fresh")
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	second, again := openTestStore(t, state)
	if !again.fresh || again.incarnation != m.incarnation {
		t.Errorf("after a run that saved nothing: fresh %v, incarnation %d, was %d", again.fresh, again.incarnation, m.incarnation)
	}
	if err := second.save(unsaved{held: index.Summary{}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := second.close(); err != nil {
		t.Fatal(err)
	}
	third, last := openTestStore(t, state)
	if last.fresh {
		t.Error("still fresh after a save")
	}
	if err := third.close(); err != nil {
		t.Fatal(err)
	}
}

// Numbers that may have been sent are never given again, saved or not.
func TestEachRunBeginsAboveTheNumbersOfTheLast(t *testing.T) {
	state := openState(t)
	var last uint64
	for run := range 3 {
		s, m := openTestStore(t, state)
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
