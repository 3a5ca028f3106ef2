package state

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"

	"go.etcd.io/bbolt"
)

func open(t *testing.T, root *durable.Root) (*Store, Memory) {
	t.Helper()
	s, m, damage, err := Open(root, "certs", scope)
	if err != nil || damage != nil {
		t.Fatal(damage, err)
	}
	return s, m
}

var scope = wire.Scope{Cluster: "test", Directory: "certs"}

// newRoot returns an empty state directory, whose effects disk sees.
func newRoot(t *testing.T) *durable.Root {
	t.Helper()
	root, err := durable.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	if err := os.Mkdir(filepath.Join(root.Dir(), Dir), 0o700); err != nil {
		t.Fatal(err)
	}
	return root
}

// A first run that died before it saved anything must not make the files it merely found into files that were written.
func TestAnIncarnationIsFreshUntilSomethingWasSaved(t *testing.T) {
	root := newRoot(t)
	first, m := open(t, root)
	if !m.Fresh {
		t.Error("a new state is not fresh")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, again := open(t, root)
	if !again.Fresh || again.Incarnation != m.Incarnation {
		t.Errorf("after a run that saved nothing: fresh %v, incarnation %d, was %d", again.Fresh, again.Incarnation, m.Incarnation)
	}
	if err := second.Save(Changes{Held: index.Summary{}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	third, last := open(t, root)
	if last.Fresh {
		t.Error("still fresh after a save")
	}
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
}

// Numbers that may have been sent are never given again, saved or not.
func TestEachRunBeginsAboveTheNumbersOfTheLast(t *testing.T) {
	root := newRoot(t)
	var last uint64
	for run := range 3 {
		s, m := open(t, root)
		if run > 0 && m.Seq < last {
			t.Errorf("run %d begins at %d although numbers up to %d may have been given", run, m.Seq, last)
		}
		if err := s.Reserve(s.Ceiling() + 5); err != nil {
			t.Fatal(err)
		}
		last = s.Ceiling()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What was in doubt survives a restart, and nothing else does.
func TestAStateThatBeginsAnew(t *testing.T) {
	root := newRoot(t)
	s, m := open(t, root)
	known := Changes{Put: written(2), Held: index.Summary{self: 2}, Forgotten: index.Summary{self: 1}, Doubtless: true}
	a, monday := known.Put[0], time.Unix(1e9, 0)
	if err := s.Save(known, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Rejoin([]*index.Entry{a}, index.Summary{self: 8}, true, monday); err != nil {
		t.Fatal(err)
	}
	for run := range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		var again Memory
		s, again = open(t, root)
		if again.Incarnation == m.Incarnation || !again.Fresh || len(again.Entries)+len(again.Held)+len(again.Forgotten) > 0 || again.Seq != uint64(run)*seqBlock {
			t.Errorf("run %d begins with %+v", run, again)
		}
		if len(again.Doubted) != 1 || again.Doubted[a.Path] != a.Content || again.Until[self] != 8 || !again.Rejoined.Equal(monday) || !again.Older {
			t.Errorf("in doubt are %+v since %s", again.Doubted, again.Rejoined)
		}
	}
	if err := s.Save(Changes{Held: index.Summary{}, Doubtless: true}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, m = open(t, root)
	if len(m.Doubted)+len(m.Until) > 0 {
		t.Errorf("still in doubt are %+v", m.Doubted)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// As whose things stand is remembered for as long as they do, also over a life that ended; a file from before there was such a thing says nothing of it.
func TestStopgapsAreRemembered(t *testing.T) {
	root := newRoot(t)
	s, _ := open(t, root)
	known := written(3)
	owner := durable.Owner{UID: 4242, GID: 1 << 30}
	stopgaps := func(paths ...index.Path) map[index.Path]durable.Owner {
		out := map[index.Path]durable.Owner{}
		for _, p := range paths {
			out[p] = owner
		}
		return out
	}
	save := func(c Changes) {
		t.Helper()
		if err := s.Save(c, nil); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want map[index.Path]durable.Owner) {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		var m Memory
		if s, m = open(t, root); !maps.Equal(m.Stopgaps, want) || (m.Stopgaps == nil) != (want == nil) {
			t.Errorf("%v are remembered, not %v", m.Stopgaps, want)
		}
	}
	a, b, c := known[0].Path, known[1].Path, known[2].Path
	save(Changes{Put: known, Stopgaps: stopgaps(a, b, c)})
	expect(stopgaps(a, b, c))
	save(Changes{Put: known[:1], Remove: []index.Path{b}})
	expect(stopgaps(c))
	if err := s.Rejoin(nil, nil, false, time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	expect(stopgaps(c))
	if err := s.db.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket(bucketStopgaps) }); err != nil {
		t.Fatal(err)
	}
	expect(nil)
	save(Changes{Put: known, Stopgaps: stopgaps(b)})
	expect(stopgaps(b))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
