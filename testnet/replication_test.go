package testnet_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent"
	"certswarm/internal/control"
	"certswarm/testnet"
)

// story starts a fleet in a bubble of its own and tells what happens to it.
func story(t *testing.T, options testnet.Options, tell func(t *testing.T, f *testnet.Fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, options)
		f.Settle()
		tell(t, f)
	})
}

var three = testnet.Options{Nodes: 3, Latency: 5 * time.Millisecond}

// expect fails unless a node's file has this content.
func expect(t *testing.T, f *testnet.Fleet, node int, file, want string) {
	t.Helper()
	if got, ok := f.Read(node, file); !ok || got != want {
		t.Errorf("fe%d has %q as %s (there: %v), not %q", node+1, got, file, ok, want)
	}
}

func expectNone(t *testing.T, f *testnet.Fleet, node int, file string) {
	t.Helper()
	if got, ok := f.Read(node, file); ok {
		t.Errorf("fe%d still has %s: %q", node+1, file, got)
	}
}

func expectArchived(t *testing.T, f *testnet.Fleet, node int, file, content string) {
	t.Helper()
	if kept := f.Archived(node, file); !slices.Contains(kept, content) {
		t.Errorf("the archive of fe%d has %q for %s, not %q", node+1, kept, file, content)
	}
}

// directoryOf is how a node's directory stands.
func directoryOf(f *testnet.Fleet, node int) control.Directory { return f.Status(node).Directories[0] }

// problem returns a node's problem of this code, nil if it has none.
func problem(f *testnet.Fleet, node int, code control.Code) *control.Problem {
	for _, p := range f.Status(node).Problems {
		if p.Code == code {
			return &p
		}
	}
	return nil
}

func TestAWriteReachesAll(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "live/www/site", "one")
		f.Write(1, "b", "two")
		f.Symlink(2, "live/www/site", "link")
		f.Settle()
		f.AssertSame()
		expect(t, f, 2, "live/www/site", "one")
		expect(t, f, 0, "link", "one")
	})
}

func TestWhoHasMuchToDoSaysSo(t *testing.T) {
	var busy [2]atomic.Int64
	options := testnet.Options{Nodes: 2, Latency: 5 * time.Millisecond, Edges: func(node int, edges *agent.Edges) {
		edges.Busy = func() { busy[node].Add(1) }
	}}
	story(t, options, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "one", "file")
		f.Settle()
		f.Write(1, "one", "file, changed")
		f.Settle()
		if a, b := busy[0].Load(), busy[1].Load(); a+b != 0 {
			t.Errorf("single files keep them busy: %d, %d", a, b)
		}
		f.Cut(0, 1)
		for i := range 40 {
			f.Write(0, fmt.Sprintf("many/%d", i), "of them")
		}
		f.Advance(time.Minute)
		f.Heal()
		f.Settle()
		f.AssertSame()
		if a, b := busy[0].Load(), busy[1].Load(); a == 0 || b < 2 { // b takes them, and brings them to its disk
			t.Errorf("forty files at once: %d, %d", a, b)
		}
	})
}

func TestLargeFilesAreFetched(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		large := strings.Repeat("0123456789abcdef", 20_000)
		f.Write(0, "large", large)
		f.Settle()
		f.AssertSame()
		expect(t, f, 2, "large", large)
	})
}

func TestTwentyNodes(t *testing.T) {
	story(t, testnet.Options{Nodes: 20, Latency: 20 * time.Millisecond}, func(t *testing.T, f *testnet.Fleet) {
		for i := range 20 {
			f.Write(i, fmt.Sprintf("from/fe%d", i+1), fmt.Sprint(i))
		}
		f.Settle()
		f.AssertSame()
		if d := directoryOf(f, 19); d.Files != 20 {
			t.Errorf("%d files", d.Files)
		}
	})
}

// The promise: a small file is on every node one delay of the line after it was written. In virtual time nothing else takes any.
func TestAWriteIsEverywhereAfterOneDelay(t *testing.T) {
	const latency = 80 * time.Millisecond
	story(t, testnet.Options{Nodes: 50, Latency: latency}, func(t *testing.T, f *testnet.Fleet) {
		f.Write(7, "token", "challenge")
		f.Advance(latency - time.Millisecond)
		for i := range 50 {
			if i != 7 {
				expectNone(t, f, i, "token")
			}
		}
		f.Advance(2 * time.Millisecond)
		for i := range 50 {
			expect(t, f, i, "token", "challenge")
		}
	})
}

func TestTheSamePathAtTheSameTime(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		for round := range 5 {
			for i := range 3 {
				f.Write(i, "contested", fmt.Sprintf("%d of fe%d", round, i+1))
			}
			f.Settle()
			f.AssertSame()
		}
	})
}
