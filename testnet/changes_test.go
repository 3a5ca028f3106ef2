package testnet_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"certswarm/internal/agent"
	"certswarm/internal/control"
	"certswarm/syncer"
	"certswarm/testnet"
)

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

func TestAPersonEndsAHalt(t *testing.T) {
	for _, accept := range []bool{false, true} {
		t.Run(fmt.Sprint("accept ", accept), func(t *testing.T) {
			story(t, three, func(t *testing.T, f *testnet.Fleet) {
				for k := range 10 {
					f.Write(0, fmt.Sprint(k), fmt.Sprint("content of ", k))
				}
				f.Settle()
				for k := range 9 {
					f.Remove(0, fmt.Sprint(k))
				}
				f.Advance(5 * time.Second)
				f.Write(1, "9", "changed meanwhile")
				if err := f.Agent(0).Resume(t.Context(), "certs", accept); err != nil {
					t.Fatal(err)
				}
				f.Settle()
				f.AssertSame()
				expect(t, f, 0, "9", "changed meanwhile")
				if got := directoryOf(f, 2).Files; accept && got != 1 || !accept && got != 10 {
					t.Errorf("%d files", got)
				}
			})
		})
	}
}

// deaf is a watcher to which the kernel has nothing more to give.
type deaf struct{ syncer.Watcher }

func (deaf) Add(string) error { return syncer.ErrWatchLimit }

// Who may not watch says so, receives, and looks at everything from time to time.
func TestWithoutWatches(t *testing.T) {
	options := three
	options.Edges = func(node int, edges *agent.Edges) {
		watch := edges.Watch
		if node == 0 {
			edges.Watch = func() (syncer.Watcher, error) {
				w, err := watch()
				return deaf{w}, err
			}
		}
	}
	story(t, options, func(t *testing.T, f *testnet.Fleet) {
		if p := problem(f, 1, "watch-limited"); p == nil || p.Node != "fe1" {
			t.Errorf("fe2 does not tell of it: %+v", p)
		}
		f.Write(1, "dir/file", "received")
		f.Settle()
		expect(t, f, 0, "dir/file", "received")
		f.Write(0, "dir/other", "sent")
		f.Advance(10 * time.Minute)
		f.Settle()
		f.AssertSame()
		expect(t, f, 1, "dir/other", "sent")
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

// Whoever writes through one name of a file writes to all of its names.
func TestAWriteThroughAnotherName(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "a", "first")
		must(t, os.Link(f.Path(0, "a"), f.Path(0, "b")))
		f.Settle()
		f.Advance(3 * time.Second)
		f.AssertSame()
		file, err := os.OpenFile(f.Path(0, "b"), os.O_WRONLY|os.O_TRUNC, 0)
		must(t, err)
		_, err = file.WriteString("through the other")
		must(t, err)
		must(t, file.Close())
		f.Advance(3 * time.Second)
		f.Settle()
		f.AssertSame()
		for _, name := range []string{"a", "b"} {
			expect(t, f, 2, name, "through the other")
		}
	})
}
