package real_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/need"
	"certswarm/testnet/real"
)

// However a file is changed on one node, the other has it in the end as it was meant: never a part of it, and nothing that
// was only there for a moment.
func TestNoticing(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(2)})
	w.await(real.Synced)
	w.ballast(w.Nodes[0])
	scene(t, w, "a slow writer", slowWriter)
	scene(t, w, "truncated and written again in place", rewrittenInPlace)
	scene(t, w, "saved by an editor", savedByEditor)
	scene(t, w, "gone before it was read", goneBeforeRead)
	scene(t, w, "a directory recreated", directoryRecreated)
	scene(t, w, "a file in directories made a moment ago", madeAMomentAgo)
	scene(t, w, "a populated tree moved in, around and out", treeMoved)
	scene(t, w, "same size and modification time", sameSizeAndTime)
	scene(t, w, "only the modification time", onlyTheTime)
	scene(t, w, "only the mode", onlyTheMode)
	scene(t, w, "only the owner", onlyTheOwner)
	scene(t, w, "the kernel's event queue overflows", queueOverflows)
	scene(t, w, "in the end all is well", allIsWell)
}

// Somebody takes seconds to write a file. Until it is closed nobody else sees any of it, and after two seconds status says
// who is waited for.
func slowWriter(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	first, second := sealed("slow")[:40], sealed("slow")[40:]
	file, err := os.Create(in(from, "slow.conf"))
	w.must(err)
	_, err = file.WriteString(first)
	w.must(err)
	w.await(reports(control.HeldFile, from, "slow.conf"))
	w.witness(from, to)
	w.never("slow.conf", to)
	_, err = file.WriteString(second)
	w.must(err)
	w.must(file.Close())
	w.arrives("slow.conf", first+second, to)
	w.await(quiet(control.HeldFile))
}

// A file is truncated and written anew, over and over. Who reads it elsewhere finds every time a whole version.
func rewrittenInPlace(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.put(from, "in-place.conf", sealed("0"))
	w.arrives("in-place.conf", sealed("0"), to)
	stop := readTightly(fileSights(in(to, "in-place.conf"), 0o644))
	last := ""
	for i := range 200 {
		last = sealed(strings.Repeat(fmt.Sprintln("version", i), i))
		w.must(os.WriteFile(in(from, "in-place.conf"), []byte(last), 0o644))
	}
	w.arrives("in-place.conf", last, to)
	stop(w.t)
}

// An editor moves the file out of the way, writes a new one and removes the old. Elsewhere the file is never missing, and
// the editor's own files do not stay.
func savedByEditor(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.put(from, "edited.conf", sealed("before"))
	w.arrives("edited.conf", sealed("before"), to)
	stop := readTightly(fileSights(in(to, "edited.conf"), 0o644))
	w.must(os.WriteFile(in(from, ".edited.conf.swp"), []byte("swap"), 0o600))
	w.must(os.Rename(in(from, "edited.conf"), in(from, "edited.conf~")))
	w.must(os.WriteFile(in(from, "edited.conf"), []byte(sealed("after")), 0o644))
	w.must(os.Remove(in(from, "edited.conf~")))
	w.must(os.Remove(in(from, ".edited.conf.swp")))
	w.arrives("edited.conf", sealed("after"), to)
	w.leaves("edited.conf~", to)
	w.leaves(".edited.conf.swp", to)
	stop(w.t)
}

// Files that vanish while they are looked at are nobody's problem and nobody's file.
func goneBeforeRead(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.must(os.Mkdir(in(from, "fleeting"), 0o755))
	for i := range 500 {
		name := in(from, fmt.Sprintf("fleeting/%d", i))
		w.must(os.WriteFile(name, []byte(name), 0o644))
		w.must(os.Remove(name))
	}
	w.put(from, "fleeting/last", "stays")
	w.arrives("fleeting/last", "stays", to)
	w.eventually(func() error {
		if entries, err := os.ReadDir(in(to, "fleeting")); err != nil || len(entries) != 1 {
			return fmt.Errorf("%v (%v)", entries, err)
		}
		return nil
	})
	w.await(quiet())
}

// A directory is removed, made again and written into, again and again: as quick as any write.
func directoryRecreated(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	for i := range 8 {
		w.must(os.RemoveAll(in(from, "recreated")))
		w.must(os.Mkdir(in(from, "recreated"), 0o755))
		name := fmt.Sprintf("recreated/file-%d", i)
		w.must(os.WriteFile(in(from, name), []byte(name), 0o644))
		w.arrives(name, name, to)
	}
	w.eventually(func() error {
		if entries, err := os.ReadDir(in(to, "recreated")); err != nil || len(entries) != 1 {
			return fmt.Errorf("%v (%v)", entries, err)
		}
		return nil
	})
}

// mkdir -p a/b/c && write
func madeAMomentAgo(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	for i := range 30 {
		name := fmt.Sprintf("moment/%d/b/c/file", i)
		w.must(os.MkdirAll(filepath.Dir(in(from, name)), 0o755))
		w.must(os.WriteFile(in(from, name), []byte(name), 0o644))
	}
	for i := range 30 {
		name := fmt.Sprintf("moment/%d/b/c/file", i)
		w.arrives(name, name, to)
	}
}

// A tree that is moved in is all there; moved to another name it is followed by that name; moved out it is gone.
func treeMoved(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	outside := filepath.Join(from.Dir, "outside")
	w.must(os.MkdirAll(filepath.Join(outside, "deep", "er"), 0o755))
	for i := range 10 {
		w.must(os.WriteFile(filepath.Join(outside, "deep", "er", strconv.Itoa(i)), []byte("tree"), 0o644))
	}
	w.must(os.Rename(outside, in(from, "tree")))
	w.arrives("tree/deep/er/9", "tree", to)
	w.must(os.Rename(in(from, "tree"), in(from, "moved")))
	w.arrives("moved/deep/er/9", "tree", to)
	w.leaves("tree", to)
	w.put(from, "moved/deep/er/10", "written by the new name")
	w.arrives("moved/deep/er/10", "written by the new name", to)
	w.must(os.Rename(in(from, "moved/deep"), in(from, "moved/high")))
	w.put(from, "moved/high/er/11", "and again")
	w.arrives("moved/high/er/11", "and again", to)
	w.must(os.Rename(in(from, "moved"), outside))
	w.leaves("moved", to)
}

// New content of the same size, with the old modification time put back, is new content.
func sameSizeAndTime(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.put(from, "same", "AAAA")
	w.arrives("same", "AAAA", to)
	before, err := os.Stat(in(from, "same"))
	w.must(err)
	w.must(os.WriteFile(in(from, "same"), []byte("BBBB"), 0o644))
	w.must(os.Chtimes(in(from, "same"), before.ModTime(), before.ModTime()))
	w.arrives("same", "BBBB", to)
}

// A touched file is not a changed one: elsewhere nothing is done to it.
func onlyTheTime(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.put(from, "touched", "as ever")
	w.synced(from)
	before, print := inode(w, to, "touched"), w.status(to).Directories[0].Fingerprint
	at := time.Now().Add(-time.Hour)
	w.must(os.Chtimes(in(from, "touched"), at, at))
	w.synced(from)
	if now := w.status(to).Directories[0].Fingerprint; now != print {
		w.t.Error("the fingerprint is another one since a file was touched")
	}
	w.witness(from, to)
	if now := inode(w, to, "touched"); now != before {
		w.t.Error("something was done to a file because another node's was touched")
	}
}

// inode says which file it is, and when something was last done to it.
func inode(w *world, n *real.Node, name string) [3]int64 {
	w.t.Helper()
	var stat syscall.Stat_t
	w.must(syscall.Lstat(in(n, name), &stat))
	return [3]int64{int64(stat.Ino), stat.Ctim.Sec, stat.Ctim.Nsec}
}

// Permissions travel by themselves, without the content.
func onlyTheMode(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.put(from, "locked", "secret")
	w.arrives("locked", "secret", to)
	for _, mode := range []os.FileMode{0o600, 0o640, 0o444} {
		w.must(os.Chmod(in(from, "locked"), mode))
		w.eventually(func() error {
			info, err := os.Stat(in(to, "locked"))
			if err == nil && info.Mode() != mode {
				err = fmt.Errorf("locked is %v, not %v", info.Mode(), mode)
			}
			return err
		})
	}
	w.has(to, "locked", "secret")
	if versions := archived(to, "locked"); len(versions) > 0 {
		w.t.Errorf("a change of mode alone left %d versions in the archive", len(versions))
	}
}

// So do owners.
func onlyTheOwner(w *world) {
	need.Root(w.t)
	from, to := w.Nodes[0], w.Nodes[1]
	w.put(from, "given", "away")
	w.arrives("given", "away", to)
	w.must(os.Chown(in(from, "given"), 54321, 54322))
	w.eventually(func() error { return owned(in(to, "given"), 54321, 54322) })
}

// owned is nil when the file belongs to these.
func owned(path string, uid, gid uint32) error {
	var stat syscall.Stat_t
	if err := syscall.Lstat(path, &stat); err != nil {
		return err
	}
	if stat.Uid != uid || stat.Gid != gid {
		return fmt.Errorf("%s belongs to %d:%d, not %d:%d", path, stat.Uid, stat.Gid, uid, gid)
	}
	return nil
}

// The agent stands still while more happens than the kernel keeps for it. What it was not told of it finds by itself.
func queueOverflows(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	w.must(err)
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	w.must(err)
	w.put(from, "noise/0", "0")
	w.put(from, "noise/1", "1")
	w.put(from, "noise/doomed", "to be deleted unheard")
	w.arrives("noise/doomed", "to be deleted unheard", to)
	from.Freeze()
	for i := range 2 * limit { // two in turn, for the same event twice is told once; the agent may not stand still at once
		w.must(os.Chmod(in(from, fmt.Sprintf("noise/%d", i%2)), 0o644))
	}
	w.put(from, "noise/unheard", "unheard")
	w.put(from, "noise/new/directory/unheard", "unheard as well")
	w.must(os.Remove(in(from, "noise/doomed")))
	from.Thaw()
	w.await(reports(control.WatchLimited, from, "max_queued_events"))
	w.arrives("noise/unheard", "unheard", to)
	w.arrives("noise/new/directory/unheard", "unheard as well", to)
	w.leaves("noise/doomed", to)
	w.put(from, "noise/new/directory/heard", "watched again")
	w.arrives("noise/new/directory/heard", "watched again", to)
}
