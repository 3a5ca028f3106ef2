package real_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/real"
)

// Two nodes change the same thing while they cannot hear each other. Afterwards all have the same version, there is no file
// beside it that nobody wrote, and the version that lost is in the archive of the node that had it.
func TestConflicts(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3), Relayed: true})
	w.await(real.Synced)
	w.ballast(w.Nodes[0])
	scene(t, w, "both sides of a partition write", partitionAndHeal)
	scene(t, w, "deleted here, changed there while its agent stood still", deletedAndChanged)
	scene(t, w, "renamed while it is on its way", renamedOnItsWay)
	scene(t, w, "random churn on three nodes", randomChurn)
	scene(t, w, "in the end all is well", allIsWell)
}

// One node is cut off. On both sides files are made, changed and deleted, some of them the same ones.
func partitionAndHeal(w *world) {
	here, there := w.Nodes[0], w.Nodes[2]
	for _, name := range []string{"edit-edit", "delete-edit", "edit-delete", "delete-delete", "file-directory"} {
		w.put(here, "conflict/"+name, "before "+name)
	}
	w.synced(here)
	w.Relay.Part(there)
	w.await(apart(there, w.Nodes[:2]...))
	w.await(apart(here, there))

	w.put(here, "conflict/edit-edit", "here")
	w.put(there, "conflict/edit-edit", "there, and later")
	w.must(os.Remove(in(here, "conflict/delete-edit")))
	w.put(there, "conflict/delete-edit", "there, and later")
	w.must(os.Remove(in(there, "conflict/edit-delete")))
	w.leaves("conflict/edit-delete", there)
	w.put(here, "conflict/edit-delete", "here")
	for _, n := range []*real.Node{here, there} {
		w.must(os.Remove(in(n, "conflict/delete-delete")))
		w.put(n, "conflict/only-on-"+n.Name, n.Name)
		w.put(n, "conflict/made-on-both", n.Name)
		w.put(n, "conflict/the-same-on-both", "the same")
	}
	w.must(os.Remove(in(there, "conflict/file-directory")))
	w.put(there, "conflict/file-directory/inside", "there, and later")
	w.put(here, "conflict/file-directory", "here, a file")
	// Both sides have taken their own changes to heart, deletions included.
	w.synced(here)
	w.synced(there)

	healed := time.Now()
	w.Relay.Heal()
	w.await(connected(w.Nodes...))
	if took := time.Since(healed); took > 5*time.Second {
		w.t.Errorf("it took %v to connect again", took)
	}
	w.synced(here)
	w.synced(there)
	w.await(real.Synced)
	w.alike(w.Nodes...)
	entries, err := os.ReadDir(in(here, "conflict"))
	w.must(err)
	for _, e := range entries {
		if !slices.Contains([]string{
			"edit-edit", "delete-edit", "edit-delete", "file-directory", "only-on-fe1", "only-on-fe3", "made-on-both", "the-same-on-both",
		}, e.Name()) {
			w.t.Errorf("nobody wrote conflict/%s", e.Name())
		}
	}
	w.has(there, "conflict/only-on-fe1", "fe1")
	w.has(here, "conflict/only-on-fe3", "fe3")
	w.wonOrKept("conflict/edit-edit", here, "here")
	w.wonOrKept("conflict/edit-edit", there, "there, and later")
	w.wonOrKept("conflict/delete-edit", there, "there, and later")
	w.wonOrKept("conflict/edit-delete", here, "here")
	w.wonOrKept("conflict/made-on-both", here, "fe1")
	w.wonOrKept("conflict/made-on-both", there, "fe3")
	w.wonOrKept("conflict/file-directory", here, "here, a file")
	w.wonOrKept("conflict/file-directory/inside", there, "there, and later")
}

// wonOrKept fails the test unless a version that a node had is everywhere now, or in that node's archive.
func (w *world) wonOrKept(name string, n *real.Node, content string) {
	w.t.Helper()
	if holds(w.Nodes[0], name, content) != nil && !slices.Contains(archived(n, name), content) {
		w.t.Errorf("%s as it was on %s, %q, has neither won nor been kept there", name, n.Name, content)
	}
}

// A file is deleted on one node. Another, whose agent sees nothing at that moment, changes it. What was written is not lost.
func deletedAndChanged(w *world) {
	here, there := w.Nodes[0], w.Nodes[1]
	w.put(here, "changed", "before")
	w.arrives("changed", "before", w.Nodes...)
	there.Freeze()
	w.put(there, "changed", "unseen")
	w.must(os.Remove(in(here, "changed")))
	w.leaves("changed", w.Nodes[2]) // the deletion has gone out
	there.Thaw()
	w.synced(here)
	w.synced(there)
	w.await(real.Synced)
	w.alike(w.Nodes...)
	w.wonOrKept("changed", there, "unseen")
}

// A large file gets another name while the others fetch it.
func renamedOnItsWay(w *world) {
	from := w.Nodes[0]
	content := sealed(strings.Repeat("0123456789abcdef", 12<<20/16))
	for i := range 5 {
		name := fmt.Sprintf("renamed/%d", i)
		w.put(from, "renamed/large", fmt.Sprint(i, content))
		w.eventually(func() error { // it is being fetched, or was already
			if found, _ := filepath.Glob(in(w.Nodes[1], "renamed/.certswarm-*")); len(found) > 0 {
				return nil
			}
			return holds(w.Nodes[1], "renamed/large", fmt.Sprint(i, content))
		})
		w.must(os.Rename(in(from, "renamed/large"), in(from, name)))
		w.arrives(name, fmt.Sprint(i, content), w.Nodes...)
		w.leaves("renamed/large", w.Nodes...)
	}
}

// Three nodes do everything at once that can be done to files, for a while. When they have settled they are the same.
func randomChurn(w *world) {
	var busy sync.WaitGroup
	for i, n := range w.Nodes {
		busy.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(i)))
			for range 250 {
				churn(n, random)
			}
		})
	}
	busy.Wait()
	for range 2 { // what one node heard while it was looked at may go out only now
		for _, n := range w.Nodes {
			w.synced(n)
		}
	}
	w.await(real.Synced)
	w.alike(w.Nodes...)
}

// churn does one thing. It may fail: somebody else may have been faster.
func churn(n *real.Node, random *rand.Rand) {
	name := func() string {
		return in(n, fmt.Sprintf("churn/%d/%d", random.IntN(4), random.IntN(8)))
	}
	content := []byte(strings.Repeat(fmt.Sprintln(n.Name, random.Int()), random.IntN(200)))
	switch path := name(); random.IntN(9) {
	case 0:
		_ = os.RemoveAll(path)
	case 1:
		_ = os.Rename(path, name())
	case 2:
		_ = os.MkdirAll(path+"/below", 0o755)
	case 3:
		_ = os.Symlink("../../ballast/1", path)
	case 4:
		_ = os.Chmod(path, 0o600)
	case 5:
		_ = os.Remove(path)
		_ = os.WriteFile(path, content, 0o644)
	default:
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		_ = os.WriteFile(path, content, 0o644)
	}
}

// A fleet begins with directories that have long been in use, each a little different.
func TestFirstContact(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3), Before: func(n *real.Node) error {
		age := time.Duration(n.Name[2]-'0') * time.Hour // fe1 has the latest
		for name, content := range map[string]string{
			"found/differs": "as on " + n.Name, "found/only-" + n.Name: "only on " + n.Name, "found/same": "the same",
		} {
			path := in(n, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				return err
			}
			if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
				return err
			}
		}
		return nil
	}})
	scene(t, w, "the latest wins, and nothing is lost", latestFoundWins)
	scene(t, w, "a node is installed anew", installedAnew)
	scene(t, w, "two nodes lose their state while both changed", stateWipedOnBoth)
	scene(t, w, "an older state comes back from a backup", olderState)
	scene(t, w, "a node was away when deletions were forgotten", awayForLong)
	// Unless the node had begun anew a moment before, it is told for an hour that its state was an older one.
	scene(t, w, "in the end all is well", func(w *world) {
		w.await(real.Synced)
		w.await(quietBut(control.StateDamaged))
		w.alike(w.Nodes...)
	})
}

func latestFoundWins(w *world) {
	w.arrives("found/differs", "as on fe1", w.Nodes...)
	for _, n := range w.Nodes {
		w.arrives("found/only-"+n.Name, "only on "+n.Name, w.Nodes...)
		if n != w.Nodes[0] {
			w.keeps(n, "found/differs", "as on "+n.Name)
		}
		if versions := archived(n, "found/same"); len(versions) > 0 {
			w.t.Errorf("%s archived %q, which nobody replaced", n.Name, versions)
		}
	}
	w.await(real.Synced)
	w.alike(w.Nodes...)
}

// wipe makes a stopped node new but for its identity.
func (w *world) wipe(n *real.Node) {
	w.t.Helper()
	w.must(os.RemoveAll(filepath.Join(n.State, "sync")))
}

// A node lost its state. What lies on its disk is later than the fleet's and loses all the same; what only it has is kept.
func installedAnew(w *world) {
	anew := w.Nodes[2]
	w.put(w.Nodes[0], "anew/written", "by the fleet")
	w.put(w.Nodes[0], "anew/deleted", "to be deleted")
	w.arrives("anew/deleted", "to be deleted", w.Nodes...)
	w.synced(w.Nodes[0])
	w.must(anew.Stop())
	w.must(os.Remove(in(w.Nodes[0], "anew/deleted")))
	w.leaves("anew/deleted", w.Nodes[1])
	w.wipe(anew)
	w.put(anew, "anew/written", "later, on a stray disk")
	w.put(anew, "anew/unknown", "nobody else has it")
	w.must(anew.Start(w.ctx))
	w.arrives("anew/written", "by the fleet", w.Nodes...)
	w.arrives("anew/unknown", "nobody else has it", w.Nodes...)
	w.leaves("anew/deleted", w.Nodes...)
	w.keeps(anew, "anew/written", "later, on a stray disk")
	w.keeps(anew, "anew/deleted", "to be deleted")
}

// Two of three lost their state, and both were written to. The third knows what was written.
func stateWipedOnBoth(w *world) {
	w.put(w.Nodes[0], "wiped/file", "as the fleet knows it")
	w.arrives("wiped/file", "as the fleet knows it", w.Nodes...)
	w.synced(w.Nodes[0])
	for _, n := range w.Nodes[1:] {
		w.must(n.Stop())
		w.wipe(n)
		w.put(n, "wiped/file", "changed on "+n.Name)
		w.put(n, "wiped/new", "made on "+n.Name)
		w.must(os.Chtimes(in(n, "wiped/new"), time.Time{}, time.Now().Add(-time.Duration(n.Name[2]-'0')*time.Minute)))
	}
	for _, n := range w.Nodes[1:] {
		w.must(n.Start(w.ctx))
	}
	w.arrives("wiped/file", "as the fleet knows it", w.Nodes...)
	w.arrives("wiped/new", "made on fe2", w.Nodes...)
	w.keeps(w.Nodes[1], "wiped/file", "changed on fe2")
	w.keeps(w.Nodes[2], "wiped/file", "changed on fe3")
	w.keeps(w.Nodes[2], "wiped/new", "made on fe3")
}

// The state database of a node is one of last week. Nothing that was written since goes back or is lost, also of what that node
// wrote itself.
func olderState(w *world) {
	old := w.Nodes[1]
	w.put(w.Nodes[0], "backup/file", "last week")
	w.arrives("backup/file", "last week", w.Nodes...)
	w.synced(old)
	state, backup := filepath.Join(old.State, "sync"), filepath.Join(old.Dir, "backup")
	w.must(old.Stop())
	w.must(os.CopyFS(backup, os.DirFS(state)))
	w.must(old.Start(w.ctx))
	for i := range 5 { // by itself and by others
		w.put(w.Nodes[i%2], "backup/file", fmt.Sprint("this week ", i))
		w.arrives("backup/file", fmt.Sprint("this week ", i), w.Nodes...)
		w.put(old, fmt.Sprintf("backup/new-%d", i), "new")
		w.arrives(fmt.Sprintf("backup/new-%d", i), "new", w.Nodes...)
	}
	w.must(os.Remove(in(w.Nodes[0], "backup/new-0")))
	w.leaves("backup/new-0", w.Nodes...)
	w.synced(old)
	w.must(old.Stop())
	w.must(os.RemoveAll(state))
	w.must(os.CopyFS(state, os.DirFS(backup)))
	w.must(old.Start(w.ctx))
	w.await(connected(w.Nodes...))
	w.put(old, "backup/file", "and on")
	w.arrives("backup/file", "and on", w.Nodes...)
	for i := range 4 {
		w.put(old, fmt.Sprintf("backup/after-%d", i), "after")
		w.arrives(fmt.Sprintf("backup/after-%d", i), "after", w.Nodes...)
		w.arrives(fmt.Sprintf("backup/new-%d", i+1), "new", w.Nodes...)
	}
	w.never("backup/new-0", w.Nodes...)
	w.await(real.Synced)
	w.alike(w.Nodes...)
}

// A node is taken out of the list; the fleet deletes and forgets. Back again it is as a new one: it overwrites nothing, and
// nothing that only it has is lost.
func awayForLong(w *world) {
	away := w.Nodes[2]
	for _, name := range []string{"away/deleted", "away/changed", "away/kept"} {
		w.put(w.Nodes[0], name, "before")
		w.arrives(name, "before", w.Nodes...)
	}
	w.synced(away)
	w.must(away.Stop())
	w.roster(w.Roster()[:2], w.Nodes[:2])
	w.must(os.Remove(in(w.Nodes[0], "away/deleted")))
	w.put(w.Nodes[1], "away/changed", "meanwhile")
	w.leaves("away/deleted", w.Nodes[:2]...)
	w.synced(w.Nodes[0])
	w.synced(w.Nodes[1])
	w.put(away, "away/changed", "on the node that was away")
	w.put(away, "away/new", "on the node that was away")
	w.roster(w.Roster(), w.Nodes[:2])
	w.must(away.Start(w.ctx))
	w.await(connected(w.Nodes...))
	w.arrives("away/new", "on the node that was away", w.Nodes...)
	w.synced(away)
	w.await(real.Synced)
	w.alike(w.Nodes...)
	w.has(away, "away/kept", "before")
	w.wonOrKept("away/changed", away, "on the node that was away")
	w.wonOrKept("away/deleted", away, "before")
}

// roster gives the fleet another list of members; the nodes named take it.
func (w *world) roster(members []real.Peer, nodes []*real.Node) {
	w.t.Helper()
	w.must(w.WriteConfigs(members))
	for _, n := range nodes {
		if code, said := w.certswarm(n, "reload", "--wait"); code != 0 {
			w.t.Fatalf("the reload on %s exits with %d: %s", n.Name, code, said)
		}
	}
}
