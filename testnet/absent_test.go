package testnet_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet"
)

// root is a node's replicated directory itself.
func root(f *testnet.Fleet, node int) string { return filepath.Clean(f.Path(node, "")) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// written is a fleet that agrees on a few files.
func written(f *testnet.Fleet) {
	for _, file := range []string{"a", "b", "dir/c", "dir/d", "e"} {
		f.Write(0, file, "first "+file)
	}
	f.Settle()
}

func expectHalt(t *testing.T, f *testnet.Fleet, node int, reason string) {
	t.Helper()
	if d := directoryOf(f, node); d.State != control.Halted || !strings.Contains(d.Reason, reason) {
		t.Errorf("fe%d is %s (%s), not halted because of %q", node+1, d.State, d.Reason, reason)
	}
}

func expectNoProblem(t *testing.T, f *testnet.Fleet, node int) {
	t.Helper()
	for _, p := range f.Status(node).Problems {
		t.Errorf("fe%d still says %s: %s", node+1, p.Code, p.Text)
	}
}

// While the directory is away nothing is written into it, wherever it is, and nothing is deleted anywhere; when it is back the node goes on by
// itself.
func TestARootThatWasAwayIsTakenUpAgain(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		written(f)
		away := root(f, 2) + ".away"
		must(t, os.Rename(root(f, 2), away))
		f.Advance(1100 * time.Millisecond)
		expectHalt(t, f, 2, "is gone")
		if problem(f, 2, control.DirectoryUnreadable) == nil {
			t.Error("nothing is said of the directory")
		}
		f.Write(0, "a", "second")
		f.Write(1, "new", "while it was away")
		f.Remove(0, "e")
		must(t, os.WriteFile(filepath.Join(away, "b"), []byte("changed on the side"), 0o644))
		f.Advance(20 * time.Second)
		if text, err := os.ReadFile(filepath.Join(away, "a")); string(text) != "first a" {
			t.Errorf("what is away has %q as a (%v)", text, err)
		}
		if _, err := os.Stat(filepath.Join(away, "new")); err == nil {
			t.Error("something was written into a directory that is away")
		}
		must(t, os.Rename(away, root(f, 2)))
		f.Advance(1100 * time.Millisecond)
		expect(t, f, 2, "new", "while it was away") // at once: nothing waits for its next try
		f.Settle()
		f.AssertSame()
		for i := range 3 {
			expect(t, f, i, "a", "second")
			expect(t, f, i, "b", "changed on the side")
			expect(t, f, i, "new", "while it was away")
			expect(t, f, i, "dir/d", "first dir/d")
			expectNone(t, f, i, "e")
			expectNoProblem(t, f, i)
		}
		f.Write(2, "dir/after", "it is watched again")
		f.Settle()
		f.AssertSame()
	})
}

// A mount point without its volume, or whatever else is in its place, is no wish to delete.
func TestAnotherRootWaitsForADecision(t *testing.T) {
	emptied := func(t *testing.T, f *testnet.Fleet) {
		written(f)
		must(t, os.RemoveAll(root(f, 2)))
		must(t, os.Mkdir(root(f, 2), 0o700))
		f.Advance(1100 * time.Millisecond)
		expectHalt(t, f, 2, "of 6 files and directories 6 are missing")
		f.Write(0, "new", "meanwhile")
		f.Advance(time.Minute)
		if tree := f.Tree(2); len(tree) > 0 {
			t.Errorf("it was filled before anybody decided: %v", tree)
		}
		for i := range 2 {
			expect(t, f, i, "a", "first a")
		}
	}
	t.Run("the fleet is right", func(t *testing.T) {
		story(t, three, func(t *testing.T, f *testnet.Fleet) {
			emptied(t, f)
			must(t, os.WriteFile(f.Path(2, "only here"), nil, 0o644))
			must(t, f.Agent(2).Resume(context.Background(), "certs", false))
			f.Settle()
			f.AssertSame()
			expect(t, f, 2, "dir/c", "first dir/c")
			expect(t, f, 2, "new", "meanwhile")
			expect(t, f, 0, "only here", "")
			expectNoProblem(t, f, 2)
		})
	})
	t.Run("this node is right", func(t *testing.T) {
		story(t, three, func(t *testing.T, f *testnet.Fleet) {
			emptied(t, f)
			must(t, f.Agent(2).Resume(context.Background(), "certs", true))
			f.Settle()
			f.AssertSame()
			expectNone(t, f, 0, "a")
			expectNone(t, f, 2, "dir/c")
			expect(t, f, 2, "new", "meanwhile")
		})
	})
	t.Run("its files are brought back", func(t *testing.T) {
		story(t, three, func(t *testing.T, f *testnet.Fleet) {
			written(f)
			away := root(f, 2) + ".away"
			must(t, os.Rename(root(f, 2), away))
			copied(t, away, root(f, 2))
			must(t, os.Remove(f.Path(2, "b")))
			f.Advance(1100 * time.Millisecond)
			expectHalt(t, f, 2, "1 are missing and 0 differ")
			copied(t, filepath.Join(away, "b"), f.Path(2, "b"))
			f.Advance(11 * time.Second)
			f.Settle()
			f.AssertSame()
			expectNoProblem(t, f, 2)
		})
	})
}

func TestACopyInItsPlaceIsTakenUp(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		written(f)
		must(t, os.Rename(root(f, 2), root(f, 2)+".away"))
		copied(t, root(f, 2)+".away", root(f, 2))
		f.Advance(1100 * time.Millisecond)
		f.Settle()
		f.AssertSame()
		expectNoProblem(t, f, 2)
		f.Write(2, "dir/c", "by its new name")
		f.Settle()
		f.AssertSame()
		if text, err := os.ReadFile(filepath.Join(root(f, 2)+".away", "dir/c")); string(text) != "first dir/c" {
			t.Errorf("the old one has %q (%v)", text, err)
		}
	})
}

// What is missing from the very same directory when it is back is judged as it always is.
func TestARootThatComesBackEmptyStaysHalted(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		written(f)
		away := root(f, 2) + ".away"
		must(t, os.Rename(root(f, 2), away))
		f.Advance(1100 * time.Millisecond)
		for _, file := range []string{"a", "b", "dir", "e"} {
			must(t, os.RemoveAll(filepath.Join(away, file)))
		}
		must(t, os.Rename(away, root(f, 2)))
		f.Advance(30 * time.Second)
		expectHalt(t, f, 2, "max_delete")
		expect(t, f, 0, "a", "first a")
		must(t, f.Agent(2).Resume(context.Background(), "certs", false))
		f.Settle()
		f.AssertSame()
		expect(t, f, 2, "a", "first a")
	})
}

// What was wrong with files that are not there any more is no problem once somebody has decided.
func TestADecisionEndsTheProblemsOfWhatIsGone(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		written(f)
		must(t, syscall.Mkfifo(f.Path(2, "pipe"), 0o600))
		f.Advance(3 * time.Second)
		must(t, f.Agent(2).Rescan(t.Context()))
		if problem(f, 2, control.NameRefused) == nil {
			t.Fatal("nothing is said of the pipe")
		}
		must(t, os.Rename(root(f, 2), root(f, 2)+".away"))
		must(t, os.Mkdir(root(f, 2), 0o755))
		f.Advance(30 * time.Second)
		must(t, f.Agent(2).Resume(t.Context(), "certs", false))
		f.Settle()
		f.AssertSame()
		expectNoProblem(t, f, 2)
	})
}

// An archive that somebody removed as a whole, to make room, is made anew before the next file is replaced.
func TestARemovedArchiveIsMadeAnew(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		written(f)
		must(t, os.RemoveAll(filepath.Join(filepath.Dir(root(f, 2)), "state", "archive")))
		f.Write(0, "a", "second")
		f.Remove(0, "b")
		f.Advance(45 * time.Second) // what failed meanwhile is tried again
		f.Settle()
		f.AssertSame()
		expectArchived(t, f, 2, "a", "first a")
		expectNoProblem(t, f, 2)
	})
}

// Of a peer that is not connected it is told what it lacks of what it is known to have had.
func TestWhatALostPeerLacksIsTold(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		written(f)
		f.Stop(2)
		f.Write(0, "new", "one")
		f.Advance(10 * time.Second)
		f.Settle()
		lacks := func(node int) control.Peer {
			for _, p := range f.Status(node).Peers {
				if p.Name == "fe3" {
					return p
				}
			}
			t.Fatal("fe3 is no peer")
			return control.Peer{}
		}
		for node := range 2 {
			if p := lacks(node); p.Connected || p.Behind != 1 || len(p.Missing) != 1 || p.Missing[0] != "new" {
				t.Errorf("fe%d says %+v", node+1, p)
			}
			if ok, why := control.IsSynced(f.Status(node)); !ok {
				t.Errorf("who is not connected blocks: %s", why)
			}
		}
		f.Start(2)
		f.Settle()
		if p := lacks(0); !p.Connected || p.Behind != 0 {
			t.Errorf("back again: %+v", p)
		}
	})
}

// copied copies a tree as cp -a does.
func copied(t *testing.T, from, to string) {
	t.Helper()
	if said, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
}
