package testnet_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

func TestBothSidesOfACutWrite(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "both", "before")
		f.Write(0, "edited", "before")
		f.Settle()
		f.CutAll(2)
		f.Write(0, "both", "of the majority")
		f.Write(1, "left", "1")
		f.Advance(time.Second)
		f.Write(2, "both", "of the minority, later")
		f.Write(2, "right", "2")
		f.Write(2, "edited", "on one side")
		f.Remove(1, "edited")
		f.Advance(20 * time.Second)
		f.Heal()
		f.Settle()
		f.AssertSame()
		for i := range 3 {
			expect(t, f, i, "both", "of the minority, later")
			expect(t, f, i, "left", "1")
			expect(t, f, i, "right", "2")
		}
		expectArchived(t, f, 0, "both", "of the majority")
		expectArchived(t, f, 1, "both", "of the majority")
		expectNone(t, f, 0, "edited") // the deletion went out a second after the edit
		expectArchived(t, f, 2, "edited", "on one side")
		if d := directoryOf(f, 0); d.Files != 3 {
			t.Errorf("%d files; there are no conflict copies", d.Files)
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

func TestWhoWasDownCatchesUp(t *testing.T) {
	for name, down := range map[string]func(*testnet.Fleet, int){"stopped": (*testnet.Fleet).Stop, "crashed": (*testnet.Fleet).Crash} {
		t.Run(name, func(t *testing.T) {
			story(t, three, func(t *testing.T, f *testnet.Fleet) {
				for _, file := range []string{"a", "b", "c", "d"} {
					f.Write(0, file, "old")
				}
				f.Settle()
				down(f, 2)
				f.Write(0, "a", "new")
				f.Write(1, "e", "more")
				f.Remove(0, "b")
				f.Advance(time.Minute)
				expect(t, f, 2, "b", "old")
				f.Start(2)
				f.Settle()
				f.AssertSame()
				expect(t, f, 2, "a", "new")
				expect(t, f, 2, "e", "more")
				expectNone(t, f, 2, "b")
				expectArchived(t, f, 2, "b", "old")
			})
		})
	}
}

func TestWhatChangedWhileTheAgentWasDown(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		for _, file := range []string{"a", "b", "c", "d"} {
			f.Write(0, file, "old")
		}
		f.Settle()
		f.Stop(2)
		f.Write(2, "a", "edited")
		f.Write(2, "new", "made")
		f.Remove(2, "b")
		f.Start(2)
		f.Settle()
		f.AssertSame()
		expect(t, f, 0, "a", "edited")
		expect(t, f, 0, "new", "made")
		expectNone(t, f, 0, "b")
	})
}

func TestARelayDeliversForAnOriginThatIsGone(t *testing.T) {
	t.Run("cut off from one", func(t *testing.T) {
		story(t, three, func(t *testing.T, f *testnet.Fleet) {
			f.Cut(0, 2)
			f.Advance(20 * time.Second)
			f.Write(0, "file", "by way of fe2")
			f.Remove(0, "file")
			f.Write(0, "file", "again")
			f.Settle()
			f.AssertSame()
			expect(t, f, 2, "file", "again")
		})
	})
	t.Run("gone for good", func(t *testing.T) {
		story(t, three, func(t *testing.T, f *testnet.Fleet) {
			f.Stop(2)
			f.Write(0, "file", "legacy")
			f.Write(0, "large", strings.Repeat("x", 200_000))
			f.Settle()
			f.Crash(0)
			f.Start(2)
			f.Settle()
			f.AssertSame()
			expect(t, f, 2, "file", "legacy")
		})
	})
	t.Run("in the middle of it", func(t *testing.T) {
		story(t, three, func(t *testing.T, f *testnet.Fleet) {
			f.Cut(0, 2)
			f.Write(0, "file", "one reached it")
			f.Advance(10 * time.Millisecond)
			f.Crash(0)
			f.Settle()
			f.AssertSame()
			expect(t, f, 2, "file", "one reached it")
		})
	})
}

// Without its state a node does not know what it once knew: everything on its disk was only found.
func TestAWipedNodeRejoins(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.Write(2, "kept", "as it was")
		f.Write(2, "edited", "in the fleet")
		f.Write(2, "deleted", "everywhere")
		f.Write(2, "own", "of the first life")
		f.Settle()
		f.Crash(2)
		f.Wipe(2)
		f.Write(0, "edited", "since")
		f.Remove(0, "deleted")
		f.Write(2, "edited", "on the side")
		f.Write(2, "unknown", "to the fleet")
		f.Advance(30 * time.Second)
		f.Start(2)
		f.Settle()
		f.AssertSame()
		for i := range 3 {
			expect(t, f, i, "kept", "as it was")
			expect(t, f, i, "own", "of the first life")
			expect(t, f, i, "edited", "since")
			expect(t, f, i, "unknown", "to the fleet")
			expectNone(t, f, i, "deleted")
		}
		expectArchived(t, f, 2, "edited", "on the side")
		expectArchived(t, f, 2, "deleted", "everywhere")
		f.Write(2, "own", "of the second life")
		f.Settle()
		f.AssertSame()
	})
}

func TestFirstContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.NewDown(t, three)
		f.Write(0, "shared", "the same")
		f.Write(1, "shared", "the same")
		f.Write(0, "different", "the older")
		f.Write(1, "different", "the later")
		f.Touch(0, "different")
		f.Write(1, "only/here", "1")
		f.Start(0)
		f.Start(1)
		f.Start(2)
		f.Settle()
		f.AssertSame()
		expect(t, f, 2, "different", "the later")
		expect(t, f, 2, "only/here", "1")
		expectArchived(t, f, 0, "different", "the older")
	})
}

func TestKindsReplaceEachOther(t *testing.T) {
	make := map[string]func(f *testnet.Fleet, node int){
		"a file": func(f *testnet.Fleet, node int) { f.Write(node, "it", "a file") },
		"a link": func(f *testnet.Fleet, node int) { f.Symlink(node, "target", "it") },
		"a directory": func(f *testnet.Fleet, node int) {
			f.Write(node, "it/inside", "a directory")
			f.Write(node, "it/deep/er", "a directory")
		},
	}
	for before, makeOne := range make {
		for after, makeOther := range make {
			if before == after {
				continue
			}
			t.Run(before+" becomes "+after, func(t *testing.T) {
				story(t, three, func(t *testing.T, f *testnet.Fleet) {
					f.Write(0, "target", "of the link")
					makeOne(f, 0)
					f.Settle()
					f.Remove(1, "it")
					makeOther(f, 1)
					want := f.Tree(1)
					f.Settle()
					f.AssertSame()
					for p, is := range want {
						if f.Tree(2)[p] != is {
							t.Errorf("%s is %q on fe3, not %q", p, f.Tree(2)[p], is)
						}
					}
				})
			})
		}
	}
}

func TestAModeTravelsWithoutItsFile(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "file", "content")
		f.Mkdir(0, "dir")
		f.Settle()
		before, err := os.Stat(f.Path(2, "file"))
		if err != nil {
			t.Fatal(err)
		}
		f.Chmod(0, "file", 0o600)
		f.Chmod(0, "dir", 0o700)
		f.Settle()
		f.AssertSame()
		after, err := os.Stat(f.Path(2, "file"))
		if err != nil {
			t.Fatal(err)
		}
		if after.Mode().Perm() != 0o600 || !os.SameFile(before, after) {
			t.Errorf("mode %v, the same inode: %v", after.Mode(), os.SameFile(before, after))
		}
		if kept := f.Archived(2, "file"); len(kept) > 0 {
			t.Errorf("archived %q", kept)
		}
	})
}

// What a receiver makes to put a file into is not a change that the receiver made.
func TestADirectoryKeepsItsMode(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.Stop(2)
		f.Write(0, "private/key", "of fe1")
		f.Settle()
		f.Chmod(1, "private", 0o700) // so the directory is fe2's, the file in it fe1's
		f.Settle()
		f.Cut(1, 2)
		f.Start(2)
		f.Advance(time.Second)
		expect(t, f, 2, "private/key", "of fe1") // the directory's own entry still waits for fe2 to bring it
		f.Settle()
		f.AssertSame()
		info, err := os.Stat(f.Path(1, "private"))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("where it was made it is %s now", info.Mode())
		}
	})
}

func TestATouchIsNoChange(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "file", "content")
		f.Settle()
		before := directoryOf(f, 0).Fingerprint
		f.Touch(0, "file")
		f.Write(0, "file", "content") // another inode, the same file
		f.Overflow(2)
		f.Settle()
		f.AssertSame()
		if after := directoryOf(f, 0).Fingerprint; after != before {
			t.Error("the fingerprint is another")
		}
		if kept := f.Archived(2, "file"); len(kept) > 0 {
			t.Errorf("fe3 has replaced it: %q", kept)
		}
	})
}

func TestAMassDeleteHalts(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		for k := range 10 {
			f.Write(0, fmt.Sprintf("site/%d", k), fmt.Sprint("content of ", k))
		}
		f.Settle()
		f.Remove(0, "site")
		f.Advance(5 * time.Second)
		if d := directoryOf(f, 0); d.State != control.Halted || !strings.Contains(d.Reason, "10 of 10") {
			t.Errorf("fe1 is %s: %s", d.State, d.Reason)
		}
		for i := range 3 {
			if p := problem(f, i, "directory-halted"); p == nil || p.Node != "fe1" {
				t.Errorf("fe%d does not tell of the halt of fe1: %+v", i+1, p)
			}
		}
		f.Advance(time.Minute)
		for i := 1; i < 3; i++ {
			if d := directoryOf(f, i); d.State != control.InSync || d.Files != 10 {
				t.Errorf("fe%d is %s with %d files", i+1, d.State, d.Files)
			}
			expect(t, f, i, "site/7", "content of 7")
		}
		f.Write(1, "news", "for all") // who is halted still receives
		f.Advance(5 * time.Second)
		expect(t, f, 0, "news", "for all")
	})
}

// A root that is gone or another one says nothing about the files that were in it.
func TestAReplacedRootHalts(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "a", "1")
		f.Settle()
		root := f.Path(0, ".")
		if err := os.Rename(root, root+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		f.Advance(5 * time.Second)
		if d := directoryOf(f, 0); d.State != control.Halted || !strings.Contains(d.Reason, "replaced by another directory") {
			t.Errorf("fe1 is %s: %s", d.State, d.Reason)
		}
		expect(t, f, 1, "a", "1")
		f.Write(1, "b", "2")
		f.Advance(5 * time.Second)
		expect(t, f, 2, "b", "2")
		expectNone(t, f, 0, "b") // it is not written into what is not the directory
	})
}

// What is above wins over what is below it, when one path was made two kinds of thing.
func TestAFileAndADirectoryOfOneName(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.CutAll(2)
		f.Write(0, "it/inside", "a directory")
		f.Advance(time.Second)
		f.Write(2, "it", "a file, later")
		f.Advance(20 * time.Second)
		f.Heal()
		f.Settle()
		f.AssertSame()
		expect(t, f, 0, "it", "a file, later")
		expectArchived(t, f, 0, "it/inside", "a directory")
	})
}

func TestARenamedDirectoryIsNoMassDelete(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		for k := range 10 {
			f.Write(0, fmt.Sprintf("site/%d", k), fmt.Sprint("content of ", k))
		}
		f.Settle()
		f.Rename(0, "site", "moved")
		f.Settle()
		f.AssertSame()
		expect(t, f, 1, "moved/3", "content of 3")
		expectNone(t, f, 1, "site/3")
	})
}

func TestAMembersEditIsReverted(t *testing.T) {
	options := three
	options.Roles = []string{"issuer", "issuer", "member"}
	story(t, options, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "edited", "of the fleet")
		f.Write(0, "removed", "of the fleet")
		f.Settle()
		f.Write(2, "edited", "of the member")
		f.Write(2, "made", "by the member")
		f.Remove(2, "removed")
		f.Settle()
		f.AssertSame()
		expect(t, f, 2, "edited", "of the fleet")
		expect(t, f, 2, "removed", "of the fleet")
		expectNone(t, f, 0, "made")
		expectArchived(t, f, 2, "edited", "of the member")
		expectArchived(t, f, 2, "made", "by the member")
		if p := problem(f, 0, "edit-reverted"); p == nil || p.Node != "fe3" {
			t.Errorf("fe1 does not tell of it: %+v", p)
		}
	})
}

func TestWhoIsNotAWriterIsReverted(t *testing.T) {
	options := three
	options.Writers = []string{"fe1"}
	story(t, options, func(t *testing.T, f *testnet.Fleet) {
		f.Write(1, "file", "of fe2")
		f.Write(0, "file", "of fe1")
		f.Settle()
		f.AssertSame()
		expect(t, f, 2, "file", "of fe1")
	})
}

func TestABadLine(t *testing.T) {
	story(t, testnet.Options{Nodes: 4, Latency: 200 * time.Millisecond}, func(t *testing.T, f *testnet.Fleet) {
		f.SetLoss(0.3)
		for k := range 30 {
			f.Write(k%4, fmt.Sprintf("dir/%d", k%9), fmt.Sprintf("version %d", k))
			f.Advance(500 * time.Millisecond)
		}
		f.Write(1, "large", strings.Repeat("large ", 30_000))
		f.Settle()
		f.AssertSame()
	})
}

func TestDirectoriesMadeAnew(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "dir/old", "1")
		f.Settle()
		f.Remove(0, "dir")
		f.Write(0, "dir/new", "2")
		f.Write(0, "dir/a/b/c/deep", "3")
		f.Advance(time.Second / 2)
		f.Write(0, "dir/late", "4")
		f.Write(0, "dir/a/b/late", "5")
		f.Settle()
		f.AssertSame()
		expect(t, f, 2, "dir/new", "2")
		expect(t, f, 2, "dir/late", "4")
		expect(t, f, 2, "dir/a/b/late", "5")
		expectNone(t, f, 2, "dir/old")
	})
}

// A deletion waits a second before it is told. A version of the file that arrives meanwhile and is the same as the one that
// was deleted does not make it forgotten.
func TestADeletionOfWhatArrivesAgain(t *testing.T) {
	story(t, testnet.Options{Nodes: 3, Latency: 100 * time.Millisecond}, func(t *testing.T, f *testnet.Fleet) {
		f.Write(1, "file", "the same")
		f.Advance(10 * time.Millisecond)
		f.Write(0, "file", "the same")
		f.Advance(10 * time.Millisecond)
		f.Remove(1, "file")
		f.Settle()
		f.AssertSame()
		expectNone(t, f, 0, "file")
	})
}

// Once everybody knows of a deletion nobody remembers it, and no crash may bring back what was deleted.
func TestWhatWasDeletedStaysDeletedAfterACrash(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "dir/a", "1")
		f.Write(0, "dir/b", "2")
		f.Settle()
		f.Remove(0, "dir/a", "dir/b")
		f.Settle()
		f.Remove(0, "dir")
		f.Settle()
		f.Crash(2)
		f.Start(2)
		f.Settle()
		f.AssertSame()
		if tree := f.Tree(2); len(tree) > 0 {
			t.Errorf("there is %v", tree)
		}
	})
}

// A node that others' deletions passed by, because it was away, does not bring anything back.
func TestDeletionsOutliveAnAbsence(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "a", "1")
		f.Write(0, "b", "2")
		f.Write(0, "c", "3")
		f.Settle()
		f.CutAll(2)
		f.Remove(0, "a")
		f.Advance(5 * time.Second)
		f.Crash(0)
		f.Advance(30 * time.Second)
		f.Heal()
		f.Start(0)
		f.Settle()
		f.AssertSame()
		expectNone(t, f, 0, "a")
		expectNone(t, f, 2, "a")
	})
}
