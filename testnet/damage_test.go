package testnet_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet"
)

// stateOf is where a node keeps what it knows.
func stateOf(f *testnet.Fleet, node int) string {
	return filepath.Join(filepath.Dir(root(f, node)), "state", "sync", "certs.db")
}

// A node whose state is damaged comes back by itself, as one that joins: what the fleet has stands, what differed is in the archive.
func TestANodeWithADamagedStateJoinsAnew(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		written(f)
		f.Stop(2)
		f.Write(0, "a", "second")
		f.Write(2, "a", "on the side")
		f.Write(2, "own", "of this disk alone")
		must(t, os.Truncate(stateOf(f, 2), 8192+100))
		f.Start(2)
		f.Settle()
		f.AssertSame()
		for i := range 3 {
			expect(t, f, i, "a", "second")
			expect(t, f, i, "dir/c", "first dir/c")
			expect(t, f, i, "own", "of this disk alone")
		}
		expectArchived(t, f, 2, "a", "on the side")
		if p := problem(f, 0, control.StateDamaged); p == nil || p.Node != "fe3" {
			t.Errorf("fe1 knows nothing of it: %v", p)
		}
		kept, err := filepath.Glob(stateOf(f, 2) + ".damaged-*")
		if err != nil || len(kept) != 1 {
			t.Fatalf("%v are kept (%v)", kept, err)
		}
		f.Stop(2)
		f.Start(2)
		f.Settle()
		if problem(f, 2, control.StateDamaged) == nil {
			t.Error("a restart is enough to forget it")
		}
		must(t, os.Remove(kept[0]))
		f.Advance(2100 * time.Millisecond)
		expectNoProblem(t, f, 2)
		f.Write(2, "a", "third")
		f.Settle()
		f.AssertSame()
	})
}
