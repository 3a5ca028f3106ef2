package real_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
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

// On a bad day the old files stay where they are, status says what is wrong and where, and when it is mended the node goes on
// without a restart.

// small gives a node of that name a disk of its own for the replicated directory. See unmounts.
func small(n *real.Node, name, options string) error {
	if n.Name != name {
		return nil
	}
	return syscall.Mount("certswarm-test", n.Certs, "tmpfs", 0, options+",mode=755")
}

// unmounts takes off whatever is mounted on a node when the test ends.
func (w *world) unmounts(n *real.Node) {
	w.t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			w.t.Error(err)
		}
		mounted, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			w.t.Error(err)
		}
		for line := range strings.Lines(string(mounted)) {
			if where := strings.Fields(line)[1]; strings.HasPrefix(where, n.Dir+"/") {
				_ = syscall.Unmount(where, syscall.MNT_DETACH)
			}
		}
	})
}

func TestTroubledDisk(t *testing.T) {
	t.Parallel()
	need.Root(t)
	w := start(t, real.Config{Addresses: addresses(2), Before: func(n *real.Node) error { return small(n, "fe2", "size=512k") }})
	w.unmounts(w.Nodes[1])
	w.await(real.Synced)
	scene(t, w, "the disk is full", diskFull)
	scene(t, w, "the disk is read-only", readOnly)
	scene(t, w, "a file is a mount of its own", mountedFile)
	scene(t, w, "a directory leads elsewhere", plantedLink)
	scene(t, w, "in the end all is well", allIsWell)
}

// There is no room for a large file, and none of it is seen. A certificate still lands. When somebody makes room the large
// one comes by itself.
func diskFull(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.put(from, "full/large", sealed("small before"))
	w.arrives("full/large", sealed("small before"), to)
	large := sealed(strings.Repeat("x", 300<<10))
	w.must(os.WriteFile(in(to, "filler"), make([]byte, 250<<10), 0o644))
	w.arrives("filler", string(make([]byte, 250<<10)), from)
	w.put(from, "full/large", large)
	w.await(reports(control.DiskFull, to))
	w.await(directory(to, control.Behind))
	w.has(to, "full/large", sealed("small before"))
	w.put(from, "full/small", sealed(strings.Repeat("c", 6<<10)))
	w.arrives("full/small", sealed(strings.Repeat("c", 6<<10)), to)
	w.must(os.Remove(in(from, "filler"))) // a deletion makes room by itself
	w.arrives("full/large", large, to)
	w.await(quiet(control.DiskFull))
	w.must(os.Remove(in(from, "full/large")))
	w.leaves("full/large", to)
}

func readOnly(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.put(from, "readonly", "before")
	w.arrives("readonly", "before", to)
	w.must(syscall.Mount("", to.Certs, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	w.put(from, "readonly", "after")
	w.await(reports(control.WriteFailed, to))
	w.await(directory(to, control.Behind))
	w.has(to, "readonly", "before")
	w.must(syscall.Mount("", to.Certs, "", syscall.MS_REMOUNT, ""))
	w.arrives("readonly", "after", to)
	w.await(quiet(control.WriteFailed))
}

// Containers get single files mounted into them. Nothing can be renamed over such a file: that is said, by name.
func mountedFile(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.put(from, "mounted", "before")
	w.arrives("mounted", "before", to)
	w.must(syscall.Mount(in(to, "mounted"), in(to, "mounted"), "", syscall.MS_BIND, ""))
	w.put(from, "mounted", "after")
	w.await(reports(control.WriteFailed, to, "mounted"))
	w.has(to, "mounted", "before")
	w.put(from, "beside-mounted", "not held up")
	w.arrives("beside-mounted", "not held up", to)
	w.must(syscall.Unmount(in(to, "mounted"), syscall.MNT_DETACH))
	w.arrives("mounted", "after", to)
	w.await(quiet(control.WriteFailed))
}

// While the agent stands still somebody puts a link to another directory in the place of one that is replicated. What is written,
// changed and deleted in the directory meanwhile does not follow the link.
func plantedLink(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	outside := filepath.Join(to.Dir, "outside")
	w.must(os.Mkdir(outside, 0o755))
	for _, name := range []string{"deleted", "changed", "mode"} {
		w.put(from, "planted/"+name, "before")
		w.arrives("planted/"+name, "before", to)
		w.must(os.WriteFile(filepath.Join(outside, name), []byte("outside"), 0o644))
	}
	w.must(os.Symlink("/etc", filepath.Join(outside, "link")))
	before, err := tree(outside)
	w.must(err)
	to.Freeze()
	w.must(os.Rename(in(to, "planted"), in(to, "planted-aside")))
	w.must(os.Symlink(outside, in(to, "planted")))
	w.must(os.Remove(in(from, "planted/deleted")))
	w.put(from, "planted/changed", "after")
	w.put(from, "planted/new/deep", "new")
	w.must(os.Chmod(in(from, "planted/mode"), 0o600))
	w.awaitOn(directory(from, control.InSync), from) // the deletion has gone out
	to.Thaw()
	w.await(reports("", to, "planted"))
	w.witness(from, to)
	after, err := tree(outside)
	w.must(err)
	if err := sameTree(before, after); err != nil {
		w.t.Errorf("outside the directory: %v", err)
	}
	w.has(from, "planted/changed", "after")
	w.has(from, "planted/mode", "before")
	w.must(os.Remove(in(to, "planted")))
	w.must(os.RemoveAll(in(to, "planted-aside")))
	w.put(from, "planted/after", "the link is gone")
	w.arrives("planted/after", "the link is gone", to)
}

// What the agent may not read is not gone: it stays everywhere else, and is named until it can be read.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	need.Root(t)
	w := start(t, real.Config{Addresses: addresses(2), Before: func(n *real.Node) error {
		if n.Name == "fe1" {
			return unprivileged(n)
		}
		return nil
	}})
	w.await(real.Synced)
	blind, other := w.Nodes[0], w.Nodes[1]
	w.put(other, "secret/key", "readable")
	w.put(other, "file", "readable")
	w.arrives("secret/key", "readable", blind)
	w.arrives("file", "readable", blind)
	w.must(os.Chown(in(blind, "secret"), 0, 0))
	w.must(os.Chmod(in(blind, "secret"), 0o700))
	w.putKey(blind, "file", "changed, and hidden")
	if code, said := w.certswarm(blind, "rescan"); code != 0 {
		t.Errorf("rescan exits with %d: %s", code, said)
	}
	w.await(reports(control.DirectoryUnreadable, blind, "secret"))
	w.await(reports(control.DirectoryUnreadable, blind, "file"))
	w.put(other, "witness-of-nothing", "something later")
	w.arrives("witness-of-nothing", "something later", blind)
	w.has(other, "secret/key", "readable")
	w.has(other, "file", "readable")
	w.must(os.Chmod(in(blind, "secret"), 0o755))
	w.must(os.Chmod(in(blind, "file"), 0o644))
	w.arrives("file", "changed, and hidden", other)
	w.await(quiet(control.DirectoryUnreadable))
}

// The kernel gives the agent fewer watches than there are directories. Status says so; rescan finds what was not heard of. When the
// limit is raised a rescan is enough.
func TestWatchLimit(t *testing.T) {
	t.Parallel()
	need.Root(t)
	const watches = "/proc/sys/user/max_inotify_watches" // of a user namespace
	w := start(t, real.Config{Addresses: addresses(2), Before: func(n *real.Node) error {
		if n.Name != "fe1" {
			return nil
		}
		for i := range 30 {
			if err := os.MkdirAll(in(n, fmt.Sprintf("directory/%d", i)), 0o755); err != nil {
				return err
			}
		}
		n.Launch = func(agent *exec.Cmd) {
			all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1 << 20}}
			agent.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
			agent.SysProcAttr.UidMappings, agent.SysProcAttr.GidMappings = all, all
			behind(agent, "echo 10 > "+watches, "sh")
		}
		return nil
	}})
	limited, other := w.Nodes[0], w.Nodes[1]
	w.await(connected(w.Nodes...))
	w.await(reports(control.WatchLimited, limited))
	for i := range 30 {
		w.put(limited, fmt.Sprintf("directory/%d/file", i), "unheard of, perhaps")
	}
	w.synced(limited) // it looks at everything
	for i := range 30 {
		w.has(other, fmt.Sprintf("directory/%d/file", i), "unheard of, perhaps")
	}
	raise := exec.CommandContext(w.ctx, need.Tool(t, "nsenter"), "--user", "--target", strconv.Itoa(limited.PID()), "sh", "-c", "echo 1000 > "+watches)
	if output, err := raise.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if code, said := w.certswarm(limited, "rescan"); code != 0 {
		t.Fatalf("rescan exits with %d: %s", code, said)
	}
	w.await(quiet(control.WatchLimited))
	for i := range 30 {
		w.put(limited, fmt.Sprintf("directory/%d/file", i), "heard of")
	}
	w.arrives("directory/29/file", "heard of", other)
	scene(t, w, "in the end all is well", allIsWell)
}

// The state database is cut off, or is no database. The node begins anew, and takes from the others what they have.
func TestDamagedState(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(2)})
	w.await(real.Synced)
	w.ballast(w.Nodes[0])
	hurt, other := w.Nodes[1], w.Nodes[0]
	// Pages that nothing refers to are in the file, too, and may be half of it. What is in use after the first two is more than one page.
	const page = 4096
	damages := []struct {
		name string
		hurt func(file string, size int64) error
	}{
		{"truncated", func(file string, _ int64) error { return os.Truncate(file, 3*page) }},
		{"cut off after a page", func(file string, _ int64) error { return os.Truncate(file, page) }},
		{"empty", func(file string, _ int64) error { return os.Truncate(file, 0) }},
		{"overwritten", func(file string, size int64) error {
			return os.WriteFile(file, []byte(strings.Repeat("no database ", int(size)/12)), 0o600)
		}},
		{"torn in the middle", func(file string, size int64) error {
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(make([]byte, size-3*page), 2*page)
			return errors.Join(err, f.Close())
		}},
	}
	for i, damage := range damages {
		scene(t, w, damage.name, func(w *world) {
			if !hurt.Running() { // another damage was too much for it
				w.wipe(hurt)
				w.must(hurt.Start(w.ctx))
			}
			file := fmt.Sprintf("state/%d", i)
			w.put(hurt, file, "before")
			w.arrives(file, "before", other)
			w.synced(hurt)
			w.must(hurt.Stop())
			w.must(filepath.WalkDir(filepath.Join(hurt.State, "sync"), func(path string, d fs.DirEntry, err error) error {
				if err != nil || filepath.Ext(path) != ".db" {
					return err
				}
				info, err := d.Info()
				if err != nil {
					return err
				}
				return damage.hurt(path, info.Size())
			}))
			w.put(other, file, "meanwhile")
			w.must(hurt.Start(w.ctx))
			w.await(connected(w.Nodes...))
			w.arrives(file, "meanwhile", hurt)
			w.put(hurt, file, "after")
			w.arrives(file, "after", other)
			w.await(reports(control.StateDamaged, hurt))
			w.await(real.Synced)
			w.alike(w.Nodes...)
		})
	}
}

// There is no room for the state any more. Nothing is acknowledged that could be forgotten; with room again all goes on.
func TestNoRoomForState(t *testing.T) {
	t.Parallel()
	need.Root(t)
	w := start(t, real.Config{Addresses: addresses(2), Before: func(n *real.Node) error {
		if n.Name != "fe2" {
			return nil
		}
		identity := filepath.Join(n.State, "identity.pem")
		key, err := os.ReadFile(identity)
		if err != nil {
			return err
		}
		if err := syscall.Mount("certswarm-test", n.State, "tmpfs", 0, "size=2m,mode=700"); err != nil {
			return err
		}
		return os.WriteFile(identity, key, 0o600)
	}})
	from, to := w.Nodes[0], w.Nodes[1]
	w.unmounts(to)
	w.await(real.Synced)
	w.put(from, "state", "before")
	w.arrives("state", "before", to)
	w.synced(from)
	filler := filepath.Join(to.State, "filler")
	w.fill(filler)
	// Many, so that the state has to grow; each replaces what the archive would have to keep.
	for i := range 400 {
		w.put(from, fmt.Sprintf("growing/%d", i), strings.Repeat("g", 2000))
	}
	w.put(from, "state", "after")
	w.await(func(all []control.Status) (bool, string) {
		for _, code := range []control.Code{control.StateDamaged, control.DiskFull, control.WriteFailed} {
			if ok, _ := reports(code, to)(all); ok {
				return true, ""
			}
		}
		return false, fmt.Sprint(all[0].Problems)
	})
	if got, err := os.ReadFile(in(to, "state")); err != nil || string(got) != "before" && string(got) != "after" {
		t.Errorf("the file is %q (%v)", got, err)
	}
	w.must(os.Remove(filler))
	w.arrives("state", "after", to)
	scene(t, w, "in the end all is well", allIsWell)
}

// fill writes a file until the disk is full.
func (w *world) fill(path string) {
	w.t.Helper()
	f, err := os.Create(path)
	w.must(err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		w.t.Fatal(err)
	}
}

// Files from the future, by years or by an hour, and from before there was Unix, replicate as any; a later write wins over them.
func TestWrongFileTimes(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(2)})
	w.await(real.Synced)
	one, two := w.Nodes[0], w.Nodes[1]
	for name, at := range map[string]time.Time{
		"hour-ahead": time.Now().Add(time.Hour), "years-ahead": time.Now().AddDate(10, 0, 0), "years-behind": time.Now().AddDate(-40, 0, 0), "before-1970": time.Unix(-1e9, 0),
	} {
		temporary := filepath.Join(one.Dir, name)
		w.must(os.WriteFile(temporary, []byte("of another time"), 0o644))
		w.must(os.Chtimes(temporary, at, at))
		w.must(os.Rename(temporary, in(one, name)))
		w.arrives(name, "of another time", two)
		w.put(two, name, "written later")
		w.arrives(name, "written later", one)
	}
	scene(t, w, "in the end all is well", allIsWell)
}
