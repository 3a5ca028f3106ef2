package real_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"certswarm/internal/control"
	"certswarm/testnet/real"
)

// What belongs together becomes visible together, on every node: whoever looks while status says in_sync, before and after
// and of the same files, has found one generation.
func TestBatches(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3)})
	w.await(real.Synced)
	w.ballast(w.Nodes[0])
	scene(t, w, "a pair in place", pairInPlace)
	scene(t, w, "as certbot renews", asCertbotRenews)
	scene(t, w, "killed at any moment", killedAtAnyMoment)
	scene(t, w, "in the end all is well", allIsWell)
}

// A key and its chain are renamed into place, one after the other.
func pairInPlace(w *world) {
	from := w.Nodes[0]
	w.pairAt("inplace/privkey.pem", "inplace/fullchain.pem", from, w.Nodes[1:]...)
	w.neverMixed("inplace/privkey.pem", "inplace/fullchain.pem", func() {
		for range 40 {
			w.pairAt("inplace/privkey.pem", "inplace/fullchain.pem", from, w.Nodes[1:]...)
		}
	})
}

// certbot writes four files of a new generation, and then points the four links of live/ to them, one by one.
func asCertbotRenews(w *world) {
	from := w.Nodes[0]
	w.certbot(from, 1)
	w.synced(from)
	w.neverMixed("live/site/privkey.pem", "live/site/fullchain.pem", func() {
		for generation := 2; generation <= 30; generation++ {
			chain := w.certbot(from, generation)
			w.arrives("live/site/fullchain.pem", chain, w.Nodes[1:]...)
		}
	})
	w.alike(w.Nodes...)
}

// certbot does to a node's directory what certbot does when it renews.
func (w *world) certbot(n *real.Node, generation int) (chain string) {
	w.t.Helper()
	key, chain := pair(w.t)
	kinds := []string{"cert", "privkey", "chain", "fullchain"}
	w.must(os.MkdirAll(in(n, "live/site"), 0o755))
	w.must(os.MkdirAll(in(n, "archive/site"), 0o755))
	for _, kind := range kinds {
		content := chain
		if kind == "privkey" {
			content = key
		}
		w.must(os.WriteFile(in(n, fmt.Sprintf("archive/site/%s%d.pem", kind, generation)), []byte(content), 0o600))
	}
	for _, kind := range kinds {
		link := in(n, "live/site/"+kind+".pem")
		_ = os.Remove(link) // the first time there is none
		w.must(os.Symlink(fmt.Sprintf("../../archive/site/%s%d.pem", kind, generation), link))
	}
	return chain
}

// neverMixed looks at a pair on the other nodes while the first is written to.
func (w *world) neverMixed(keyName, chainName string, write func()) {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.ctx)
	results := make(chan error, len(w.Nodes))
	for _, n := range w.Nodes[1:] {
		go func() { results <- lookForMix(ctx, n, keyName, chainName) }()
	}
	write()
	stop()
	for range w.Nodes[1:] {
		if err := <-results; err != nil {
			w.t.Error(err)
		}
	}
}

// lookForMix looks until ctx ends. It finds what nginx would be served if it were reloaded between the first look at status
// and the second.
func lookForMix(ctx context.Context, n *real.Node, keyName, chainName string) error {
	steady := 0
	before, err := n.Control().Status(context.WithoutCancel(ctx))
	for err == nil && ctx.Err() == nil {
		mixed := matches(in(n, chainName), in(n, keyName))
		var after control.Status
		after, err = n.Control().Status(context.WithoutCancel(ctx))
		was, is := before.Directories, after.Directories
		if err == nil && was[0].State == control.InSync && is[0].State == control.InSync && was[0].Fingerprint == is[0].Fingerprint {
			steady++
			if mixed != nil {
				return fmt.Errorf("%s says in_sync, and %s does not go with %s: %w", n.Name, keyName, chainName, mixed)
			}
		}
		before = after
	}
	if err == nil && steady == 0 {
		err = fmt.Errorf("%s was never in sync: nothing is proven", n.Name)
	}
	return err
}

// The agent of a node is killed after the first, the second, the third effect of a renewal that the directory of a receiver
// shows, and so on. What every node has when it is ready again is whole, the old generation or the new one; and then the new
// one everywhere.
func killedAtAnyMoment(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.pairAt("killed/privkey.pem", "killed/fullchain.pem", from, w.Nodes[1:]...)
	w.synced(from)
	for _, victim := range []*real.Node{to, from} {
		for effects := 1; w.killAfter(effects, victim, to, from); effects++ {
			if effects > 100 {
				w.t.Fatal("a renewal has no end of effects")
			}
		}
	}
}

// killAfter renews the pair on from and kills the victim when the directory of watched has shown so many effects. It reports
// whether there were that many.
func (w *world) killAfter(effects int, victim, watched, from *real.Node) (killed bool) {
	w.t.Helper()
	count := countEffects(w, in(watched, "killed"), effects)
	defer count.close()
	key, chain := pair(w.t)
	w.put(from, "killed/privkey.pem", key)
	w.put(from, "killed/fullchain.pem", chain)
	w.eventually(func() error {
		if killed = count.reached(); killed {
			return nil
		}
		if err := holds(watched, "killed/privkey.pem", key); err != nil {
			return err
		}
		return holds(watched, "killed/fullchain.pem", chain)
	})
	if killed {
		victim.Kill()
		w.must(victim.Start(w.ctx))
	}
	for _, n := range w.Nodes {
		if err := matches(in(n, "killed/fullchain.pem"), in(n, "killed/privkey.pem")); err != nil && n == victim {
			w.t.Errorf("%s was killed after %d effects seen on %s, and has when it is ready: %v", victim.Name, effects, watched.Name, err)
		}
	}
	w.arrives("killed/privkey.pem", key, w.Nodes...)
	w.arrives("killed/fullchain.pem", chain, w.Nodes...)
	return killed
}

// counter counts what happens to the names and files of one directory.
type counter struct {
	w     *world
	file  *os.File
	wants int
	seen  int
}

// countEffects begins to count. Reads are no effects.
func countEffects(w *world, dir string, wants int) *counter {
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	w.must(err)
	const effects = syscall.IN_CREATE | syscall.IN_MODIFY | syscall.IN_ATTRIB | syscall.IN_MOVED_TO | syscall.IN_MOVED_FROM | syscall.IN_DELETE
	_, err = syscall.InotifyAddWatch(fd, dir, effects)
	w.must(err)
	return &counter{w: w, file: os.NewFile(uintptr(fd), "inotify"), wants: wants}
}

// reached reports whether there were as many as wanted.
func (c *counter) reached() bool {
	events := make([]byte, 64<<10)
	conn, err := c.file.SyscallConn()
	c.w.must(err)
	var n int
	c.w.must(conn.Control(func(fd uintptr) { n, _ = syscall.Read(int(fd), events) }))
	for rest := events[:max(n, 0)]; len(rest) > 0; c.seen++ {
		rest = rest[syscall.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(rest[12:])):]
	}
	return c.seen >= c.wants
}

func (c *counter) close() { _ = c.file.Close() }

// What is written together from outside arrives together also when it is a whole directory that is moved in, with links to it.
func TestGenerationMovedIn(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(2)})
	w.await(real.Synced)
	from, to := w.Nodes[0], w.Nodes[1]
	for generation := range 30 {
		name := fmt.Sprintf("generations/%d", generation)
		key, chain := pair(t)
		staging := filepath.Join(from.Dir, "staging")
		w.must(os.Mkdir(staging, 0o755))
		w.must(os.WriteFile(filepath.Join(staging, "privkey.pem"), []byte(key), 0o600))
		w.must(os.WriteFile(filepath.Join(staging, "fullchain.pem"), []byte(chain), 0o644))
		w.must(os.MkdirAll(in(from, "generations"), 0o755))
		w.must(os.Rename(staging, in(from, name)))
		link := filepath.Join(from.Dir, "link")
		w.must(os.Symlink(name, link))
		w.must(os.Rename(link, in(from, "current")))
		w.eventually(func() error {
			target, err := os.Readlink(in(to, "current"))
			if err == nil && !strings.HasSuffix(target, name) {
				err = fmt.Errorf("current leads to %s", target)
			}
			return err
		})
		// The link is there: so is all that it leads to.
		if err := matches(in(to, "current/fullchain.pem"), in(to, "current/privkey.pem")); err != nil {
			t.Errorf("generation %d: %v", generation, err)
		}
	}
}
