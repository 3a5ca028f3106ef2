package testnet_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certswarm/testnet"
)

// base is the directory that holds a node's whole disk.
func base(f *testnet.Fleet, node int) string { return filepath.Dir(root(f, node)) }

// roster has the nodes that run take a peer list without, or again with, fe3.
func roster(t *testing.T, f *testnet.Fleet, with bool) {
	t.Helper()
	for i := range 2 {
		file := filepath.Join(base(f, i), "certswarm.yaml")
		text, err := os.ReadFile(file)
		must(t, err)
		lines := strings.Split(string(text), "\n")
		for k, line := range lines {
			if strings.Contains(line, "name: fe3") {
				lines[k] = strings.TrimPrefix(line, "#")
				if !with {
					lines[k] = "#" + line
				}
			}
		}
		must(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600))
		must(t, f.Agent(i).Reload(context.Background()))
	}
}

// Nobody remembers a deletion for a node that is no member. One that comes back as a member treats what it has as merely found, except for what the others have
// had as well, and have no more.
func TestANodeThatWasNoMemberBringsNothingBack(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		written(f)
		for _, file := range []string{"g", "h", "i", "j"} {
			f.Write(1, file, "to keep the deletions few")
		}
		f.Settle()
		f.Stop(2)
		roster(t, f, false)
		f.Remove(0, "a")
		f.Remove(0, "dir")
		f.Write(1, "b", "second")
		f.Settle()
		f.Write(2, "own", "written while it was away")
		f.Write(2, "e", "edited while it was away")
		f.Write(2, "dir/new", "in a directory that is no more")
		roster(t, f, true)
		f.Start(2)
		f.Settle()
		f.AssertSame()
		for i := range 3 {
			expectNone(t, f, i, "a")
			expectNone(t, f, i, "dir/c")
			expect(t, f, i, "b", "second")
			expect(t, f, i, "own", "written while it was away")
			expect(t, f, i, "dir/new", "in a directory that is no more")
			expect(t, f, i, "e", "first e")
		}
		expectArchived(t, f, 2, "a", "first a")
		expectArchived(t, f, 2, "e", "edited while it was away")
		f.Write(2, "a", "written anew")
		f.Settle()
		f.AssertSame()
		expect(t, f, 0, "a", "written anew")
	})
}

// aged has fe3's disk be that of a while ago, as a whole or only what it knows.
func aged(t *testing.T, restore func(t *testing.T, f *testnet.Fleet, backup string), then func(t *testing.T, f *testnet.Fleet)) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		written(f)
		f.Write(2, "of fe3", "first")
		f.Settle()
		f.Stop(2)
		backup := filepath.Join(t.TempDir(), "backup")
		copied(t, base(f, 2), backup)
		f.Start(2)
		f.Settle()
		f.Remove(0, "a")
		f.Remove(2, "dir/c")
		f.Write(1, "b", "second")
		f.Write(2, "of fe3", "second")
		f.Write(2, "later", "of fe3")
		f.Settle()
		f.Stop(2)
		f.Write(0, "b", "third")
		f.Write(0, "dir/c", "made again")
		f.Settle()
		restore(t, f, backup)
		f.Start(2)
		f.Settle()
		f.AssertSame()
		for i := range 3 {
			expectNone(t, f, i, "a")
			expect(t, f, i, "b", "third")
			expect(t, f, i, "dir/c", "made again")
			expect(t, f, i, "of fe3", "second")
			expect(t, f, i, "later", "of fe3")
			expect(t, f, i, "dir/d", "first dir/d")
		}
		then(t, f)
		for k, text := range []string{"third", "fourth"} {
			f.Write(2, "of fe3", text)
			f.Write(2, "more", text)
			f.Settle()
			f.AssertSame()
			expect(t, f, k, "of fe3", text)
		}
	})
}

func TestADiskOfLastWeek(t *testing.T) {
	aged(t, func(t *testing.T, f *testnet.Fleet, backup string) {
		must(t, os.RemoveAll(base(f, 2)))
		copied(t, backup, base(f, 2))
	}, func(t *testing.T, f *testnet.Fleet) {
		expectArchived(t, f, 2, "a", "first a")
	})
}

func TestAStateOfLastWeek(t *testing.T) {
	aged(t, func(t *testing.T, f *testnet.Fleet, backup string) {
		f.Write(2, "on the side", "while it was down")
		must(t, os.Remove(stateOf(f, 2)))
		copied(t, filepath.Join(backup, "state", "sync", "certs.db"), stateOf(f, 2))
	}, func(t *testing.T, f *testnet.Fleet) {
		expect(t, f, 0, "on the side", "while it was down")
	})
}

// A fleet of which nobody forgot anything needs no such thing: whoever was only away is told.
func TestWhoWasOnlyAwayKeepsItsName(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		written(f)
		f.Stop(2)
		f.Remove(0, "a")
		f.Settle()
		f.Write(2, "e", "edited while it was away")
		f.Advance(time.Hour)
		f.Start(2)
		f.Settle()
		f.AssertSame()
		expectNone(t, f, 2, "a")
		expect(t, f, 0, "e", "edited while it was away")
	})
}
