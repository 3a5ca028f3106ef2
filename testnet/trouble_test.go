package testnet_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/testnet"
)

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

// A look at everything does not take away what is about to be put in place.
func TestARescanWhileAFileArrives(t *testing.T) {
	story(t, testnet.Options{Nodes: 2, Latency: 100 * time.Millisecond}, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "large", strings.Repeat("x", 500_000))
		for range 30 {
			f.Overflow(1)
			f.Advance(100 * time.Millisecond)
			if p := problem(f, 1, "write-failed"); p != nil {
				t.Fatal(p.Text)
			}
		}
		f.Settle()
		f.AssertSame()
	})
}

func TestABadLine(t *testing.T) {
	story(t, testnet.Options{Nodes: 4, Latency: 200 * time.Millisecond}, func(t *testing.T, f *testnet.Fleet) {
		f.SetLoss(0.3)
		for k := range 30 {
			f.Write(k%4, fmt.Sprintf("dir/%d", k%9), fmt.Sprintf("version %d", k))
			f.Advance(500 * time.Millisecond)
		}
		f.Write(1, "large", strings.Repeat("large ", 12_000)) // more than an offer carries; such a line carries 1 or 2 kB in a second
		f.Settle()
		f.AssertSame()
	})
}

// Once everybody knows of a deletion nobody remembers it, and no crash may bring back what was deleted.
func TestWhatWasDeletedStaysDeletedAfterACrash(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.Stop(0)
		f.Write(0, "dir/a", "1")
		f.Write(0, "dir/b", "2")
		f.Start(0) // which finds them together, and so they travel
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
