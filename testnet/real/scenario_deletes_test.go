package real_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"certswarm/internal/control"
	"certswarm/internal/need"
	"certswarm/testnet/frontend"
	"certswarm/testnet/real"
)

// A deletion is followed everywhere and nothing is lost by it. Too many at once, or a directory that is not there any more,
// are taken for a mishap until a person has spoken.
func TestDeletesAndHalts(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3)})
	w.await(real.Synced)
	for i := range 40 {
		w.put(w.Nodes[0], fmt.Sprintf("many/%02d", i), fmt.Sprintln("one of many", i))
	}
	w.synced(w.Nodes[0])
	w.alike(w.Nodes...)
	scene(t, w, "a deletion", deletion)
	scene(t, w, "five versions are kept", fiveVersions)
	scene(t, w, "what was replaced and deleted is put back", putBack)
	scene(t, w, "resume without a halt", resumeWithoutHalt)
	scene(t, w, "most files are deleted by mistake", deletedByMistake)
	scene(t, w, "most files are deleted on purpose", deletedOnPurpose)
	scene(t, w, "a large directory is renamed", largeDirectoryRenamed)
	scene(t, w, "emptied while the agent was down", emptiedWhileDown)
	scene(t, w, "the directory itself is moved away and back", rootMovedAwayAndBack)
	scene(t, w, "another directory stands in its place", rootReplaced)
	scene(t, w, "in the end all is well", allIsWell)
}

func deletion(w *world) {
	w.put(w.Nodes[0], "doomed", "to be deleted")
	w.arrives("doomed", "to be deleted", w.Nodes...)
	w.must(os.Remove(in(w.Nodes[1], "doomed")))
	w.leaves("doomed", w.Nodes...)
	w.keeps(w.Nodes[0], "doomed", "to be deleted")
	w.keeps(w.Nodes[2], "doomed", "to be deleted")
}

// A file is renewed over and over: the last five versions before the present one are in the archive, readable by root alone.
func fiveVersions(w *world) {
	to := w.Nodes[1]
	for i := range 9 {
		w.put(w.Nodes[0], "versions", fmt.Sprint("version ", i))
		w.arrives("versions", fmt.Sprint("version ", i), to)
	}
	w.synced(w.Nodes[0])
	w.eventually(func() error {
		versions := archived(to, "versions")
		slices.Sort(versions)
		if want := []string{"version 3", "version 4", "version 5", "version 6", "version 7"}; !slices.Equal(versions, want) {
			return fmt.Errorf("the archive has %q", versions)
		}
		return nil
	})
	info, err := os.Stat(filepath.Join(to.State, "archive"))
	if err != nil || info.Mode().Perm() != 0o700 {
		w.t.Errorf("the archive is %v (%v)", info.Mode(), err)
	}
}

// On a node that was told of a change, the version before it can be had again: for everybody, by one command.
func putBack(w *world) {
	to := w.Nodes[1]
	code, said := w.certswarm(to, "history", "versions", "--json")
	var history struct{ Versions []struct{ Version string } }
	if err := json.Unmarshal([]byte(said), &history); code != 0 || err != nil || len(history.Versions) != 5 {
		w.t.Fatalf("history exits with %d (%v): %s", code, err, said)
	}
	for _, step := range []struct {
		want string
		args []string
	}{
		{"version 3", []string{"restore", "versions", "--version", history.Versions[4].Version}},
		{"version 8", []string{"restore", "versions"}}, // the newest is the one just replaced
	} {
		if code, said := w.certswarm(to, step.args...); code != 0 {
			w.t.Fatalf("%q exits with %d: %s", step.args, code, said)
		}
		w.arrives("versions", step.want, w.Nodes...)
	}
	if code, said := w.certswarm(w.Nodes[2], "restore", "doomed"); code != 0 {
		w.t.Fatalf("restore exits with %d: %s", code, said)
	}
	w.arrives("doomed", "to be deleted", w.Nodes...)
}

func resumeWithoutHalt(w *world) {
	if code, said := w.certswarm(w.Nodes[0], "resume", "certs", "--accept"); code != 1 {
		w.t.Errorf("resume without a halt exits with %d: %s", code, said)
	}
}

// halts waits until a node has halted and all know; nothing of what it lacks is missing elsewhere.
func (w *world) halts(n *real.Node, names ...string) {
	w.t.Helper()
	w.await(reports(control.DirectoryHalted, n, "resume"))
	w.await(directory(n, control.Halted))
	for _, other := range w.Nodes {
		for _, name := range names {
			if _, err := os.Lstat(in(other, name)); err != nil && other != n {
				w.t.Errorf("%s is gone on %s, too: %v", name, other.Name, err)
			}
		}
	}
}

// resume ends a halt.
func (w *world) resume(n *real.Node, how string) {
	w.t.Helper()
	if code, said := w.certswarm(n, "resume", "certs", how); code != 0 {
		w.t.Fatalf("resume %s on %s exits with %d: %s", how, n.Name, code, said)
	}
	w.await(quiet(control.DirectoryHalted))
}

// Somebody deletes the wrong directory. Meanwhile the node takes what others write, and sends out nothing of its own. Then it is
// told to put everything back.
func deletedByMistake(w *world) {
	hurt, other := w.Nodes[1], w.Nodes[0]
	before, err := tree(in(other, "many"))
	w.must(err)
	w.must(os.RemoveAll(in(hurt, "many")))
	w.halts(hurt, "many/00", "many/39")
	w.put(other, "during-halt", "from elsewhere")
	w.arrives("during-halt", "from elsewhere", hurt)
	w.put(hurt, "own-during-halt", "made during the halt")
	w.witness(other, hurt, w.Nodes[2])
	w.never("own-during-halt", other, w.Nodes[2])
	w.resume(hurt, "--restore")
	w.arrives("own-during-halt", "made during the halt", w.Nodes...) // files that only this node has are published
	w.await(real.Synced)
	w.alike(w.Nodes...)
	after, err := tree(in(hurt, "many"))
	w.must(err)
	if err := sameTree(before, after); err != nil {
		w.t.Error(err)
	}
}

// The same, and it was right.
func deletedOnPurpose(w *world) {
	w.put(w.Nodes[0], "purpose/stays", "stays")
	for i := range 80 {
		w.put(w.Nodes[0], fmt.Sprintf("purpose/old/%d", i), fmt.Sprintln("old", i))
	}
	w.synced(w.Nodes[0])
	w.must(os.RemoveAll(in(w.Nodes[2], "purpose/old")))
	w.halts(w.Nodes[2], "purpose/old/0", "purpose/old/79")
	w.resume(w.Nodes[2], "--accept")
	w.leaves("purpose/old", w.Nodes...)
	w.has(w.Nodes[0], "purpose/stays", "stays")
	w.keeps(w.Nodes[0], "purpose/old/79", "old 79\n")
	w.await(real.Synced)
	w.alike(w.Nodes...)
}

// That is no deletion, however much is in it.
func largeDirectoryRenamed(w *world) {
	w.must(os.Rename(in(w.Nodes[0], "many"), in(w.Nodes[0], "plenty")))
	w.arrives("plenty/39", "one of many 39\n", w.Nodes...)
	w.leaves("many", w.Nodes...)
	w.await(quiet(control.DirectoryHalted))
	w.must(os.Rename(in(w.Nodes[0], "plenty"), in(w.Nodes[0], "many")))
	w.arrives("many/39", "one of many 39\n", w.Nodes...)
	w.leaves("plenty", w.Nodes...)
}

func emptiedWhileDown(w *world) {
	hurt := w.Nodes[1]
	w.synced(hurt)
	w.must(hurt.Stop())
	entries, err := os.ReadDir(hurt.Certs)
	w.must(err)
	for _, e := range entries {
		w.must(os.RemoveAll(in(hurt, e.Name())))
	}
	w.must(hurt.Start(w.ctx))
	w.halts(hurt, "many/00", "during-halt")
	w.resume(hurt, "--restore")
	w.arrives("many/00", "one of many 0\n", hurt)
	w.await(real.Synced)
	w.alike(w.Nodes...)
}

// The root is gone for a while. That is no deletion; when it is back, everything goes on without a restart.
func rootMovedAwayAndBack(w *world) {
	hurt, aside := w.Nodes[1], filepath.Join(w.Nodes[1].Dir, "aside")
	w.must(os.Rename(hurt.Certs, aside))
	w.halts(hurt, "many/00")
	w.put(w.Nodes[0], "while-away", "written meanwhile")
	w.arrives("while-away", "written meanwhile", w.Nodes[2])
	w.must(os.Rename(aside, hurt.Certs))
	w.resumesWhenPossible(hurt)
	w.arrives("while-away", "written meanwhile", hurt)
	w.put(hurt, "after-away", "noticed again")
	w.arrives("after-away", "noticed again", w.Nodes...)
	w.await(quiet())
	w.alike(w.Nodes...)
}

// resumesWhenPossible tells a node to put back what the fleet has. The agent may need a moment to see that its directory is there.
func (w *world) resumesWhenPossible(n *real.Node) {
	w.t.Helper()
	w.eventually(func() error {
		code, said := w.certswarm(n, "resume", "certs", "--restore")
		ended, _ := quiet(control.DirectoryHalted)([]control.Status{w.status(n)})
		if code != 0 && !ended {
			return fmt.Errorf("resume exits with %d: %s", code, said)
		}
		return nil
	})
	w.await(quiet(control.DirectoryHalted))
}

// A new directory takes the place of the old one. What was in the old one is put back into it, without a restart.
func rootReplaced(w *world) {
	hurt := w.Nodes[2]
	w.must(os.Rename(hurt.Certs, filepath.Join(hurt.Dir, "replaced")))
	w.must(os.Mkdir(hurt.Certs, 0o755))
	w.halts(hurt, "many/00")
	w.resumesWhenPossible(hurt)
	w.arrives("many/39", "one of many 39\n", hurt)
	w.put(hurt, "after-replacement", "noticed in the new one")
	w.arrives("after-replacement", "noticed in the new one", w.Nodes...)
	w.await(quiet())
	w.alike(w.Nodes...)
}

// The directory is a volume. When it is unmounted an empty directory shows below it: nothing is deleted, and nothing is
// written there.
func TestUnmountedVolume(t *testing.T) {
	t.Parallel()
	need.Root(t)
	w := start(t, real.Config{Addresses: addresses(2), Before: func(n *real.Node) error { return small(n, "fe2", "size=4m") }})
	w.unmounts(w.Nodes[1])
	w.await(real.Synced)
	w.ballast(w.Nodes[0])
	other, hurt := w.Nodes[0], w.Nodes[1]
	volume := filepath.Join(hurt.Dir, "volume")
	w.must(os.Mkdir(volume, 0o755))
	w.must(syscall.Mount(hurt.Certs, volume, "", syscall.MS_BIND, "")) // so that it is still there
	w.must(syscall.Unmount(hurt.Certs, syscall.MNT_DETACH))

	w.halts(hurt, "ballast/0")
	w.put(other, "meanwhile", "written while the volume was away")
	w.await(directory(other, control.InSync))
	if entries, err := os.ReadDir(hurt.Certs); err != nil || len(entries) > 0 {
		t.Errorf("below the mount point there are %v (%v)", entries, err)
	}
	w.must(syscall.Mount(volume, hurt.Certs, "", syscall.MS_BIND, ""))
	w.resumesWhenPossible(hurt)
	w.arrives("meanwhile", "written while the volume was away", hurt)
	w.put(hurt, "again", "noticed again")
	w.arrives("again", "noticed again", other)
	w.alike(w.Nodes...)
}

// What was issued is out of the reach of anybody's rm; and of two generations the earlier can be put back.
func TestIssuedFiles(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3), Names: names, FrontEnd: frontend.Standin})
	w.await(real.Served)
	w.await(real.Synced)
	first := w.servesOneCertificate()
	scene(t, w, "a certificate that is still good is deleted", certificateDeleted)
	w.servesOneCertificate()
	scene(t, w, "the generation before is put back", func(w *world) { rolledBack(w, first) })
}

func certificateDeleted(w *world) {
	name := names[0]
	for _, victim := range []string{"live/" + name, "archive/" + name} {
		for _, n := range w.Nodes[1:] {
			_ = os.RemoveAll(in(n, victim)) // the agent may put things back faster than they can be removed
			w.eventually(func() error {
				for _, each := range w.Nodes {
					if err := matches(in(each, "live/"+name+"/fullchain.pem"), in(each, "live/"+name+"/privkey.pem")); err != nil {
						return fmt.Errorf("%s, after rm -r %s on %s: %w", each.Name, victim, n.Name, err)
					}
				}
				return nil
			})
		}
	}
	w.await(real.Served)
}

// Another set of names is declared, so another certificate is issued. Somebody finds that wrong.
func rolledBack(w *world, first string) {
	for _, n := range w.Nodes {
		text, err := os.ReadFile(n.ConfigFile)
		w.must(err)
		w.must(os.WriteFile(n.ConfigFile, []byte(strings.Replace(string(text), "      - '"+names[1]+"'\n", "", 1)), 0o644))
	}
	for _, n := range w.Nodes {
		if code, said := w.certswarm(n, "reload", "--wait"); code != 0 {
			w.t.Fatalf("the reload on %s exits with %d: %s", n.Name, code, said)
		}
	}
	w.eventually(func() error {
		if issued := w.CA.Issued(); len(issued) != 2 {
			return fmt.Errorf("the CA issued %q", issued)
		}
		return nil
	})
	w.shows(w.CA.Issued()[1])
	if code, said := w.certswarm(w.Nodes[1], "cert", "rollback", names[0]); code != 0 {
		w.t.Fatalf("cert rollback exits with %d: %s", code, said)
	}
	w.shows(first)
	w.await(real.Served)
}

// shows waits until every front-end shows that certificate.
func (w *world) shows(serial string) {
	w.t.Helper()
	for _, n := range w.Nodes {
		w.eventually(func() error {
			leaf, err := n.Shown(w.ctx, names[0])
			if err == nil && leaf.SerialNumber.Text(16) != serial {
				err = fmt.Errorf("%s shows %x, not %s", n.Name, leaf.SerialNumber, serial)
			}
			return err
		})
	}
}
