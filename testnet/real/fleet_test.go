package real_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/frontend"
	"certswarm/testnet/real"
)

// buildDir holds the certswarm program under test.
var buildDir string

// program builds it, once, and in a test: see real.Build.
var program = sync.OnceValues(func() (string, error) { return real.Build(context.Background(), buildDir) })

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == frontend.Standin { // a fleet of ours runs it as its front-end
		os.Exit(frontend.StandinMain(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(func() int {
		var err error
		if buildDir, err = os.MkdirTemp("", "certswarm-build-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(buildDir) }()
		return m.Run()
	}())
}

// fuse ends what hangs. It decides nothing: whatever is waited for comes in seconds.
const fuse = 2 * time.Minute

// world is a fleet with the test that looks at it.
type world struct {
	*real.Fleet
	t   testing.TB
	ctx context.Context
}

// start starts a fleet that ends with the test, which fails if it does not end well.
func start(t testing.TB, c real.Config) *world {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.Background(), fuse, errors.New("the fuse blew"))
	t.Cleanup(cancel)
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	c.Binary = binary
	fleet, err := real.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{fleet, t, ctx}
	t.Cleanup(func() {
		if err := fleet.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			w.logs()
		}
		if err := fleet.Remove(); err != nil {
			t.Error(err)
		}
	})
	return w
}

var fleets atomic.Int32

// addresses are nobody else's, so that ports that were free still are when they are used.
func addresses(n int) []string {
	fleet := fleets.Add(1)
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("127.%d.%d.%d", 128+os.Getpid()%120, fleet, i+2))
	}
	return all
}

func (w *world) logs() {
	for _, n := range w.Nodes {
		for _, e := range n.Log.Events() {
			w.t.Log(e)
		}
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// await waits for what every running agent must say.
func (w *world) await(condition real.Condition) {
	w.t.Helper()
	w.must(w.Await(w.ctx, condition))
}

// write puts a file into a node's certs directory as programs do it that care: whole, or not at all.
func (w *world) write(n *real.Node, name, content string) {
	w.t.Helper()
	temporary := filepath.Join(n.Dir, "temporary-"+name)
	w.must(os.WriteFile(temporary, []byte(content), 0o644))
	w.must(os.Rename(temporary, filepath.Join(n.Certs, name)))
}

// has fails the test unless the file is there with that content.
func (w *world) has(n *real.Node, name, content string) {
	w.t.Helper()
	got, err := os.ReadFile(filepath.Join(n.Certs, name))
	if err != nil || string(got) != content {
		w.t.Errorf("%s on %s is %q (%v), not %q", name, n.Name, got, err, content)
	}
}

// replicates proves that a file written on the first of the nodes arrives on the others.
func (w *world) replicates(name string, nodes ...*real.Node) {
	w.t.Helper()
	content := "this is " + name
	before := w.status(nodes[0]).Directories[0].Fingerprint
	w.write(nodes[0], name, content)
	w.await(among(nodes, func(all []control.Status) (bool, string) {
		if all[0].Directories[0].Fingerprint == before {
			return false, nodes[0].Name + " has not noticed " + name
		}
		return real.Synced(all)
	}))
	for _, n := range nodes {
		w.has(n, name, content)
	}
}

// among is a condition on what these nodes say, in their order.
func among(nodes []*real.Node, condition real.Condition) real.Condition {
	return func(all []control.Status) (bool, string) {
		var some []control.Status
		for _, n := range nodes {
			for _, s := range all {
				if s.Node.Name == n.Name {
					some = append(some, s)
				}
			}
		}
		return condition(some)
	}
}

func (w *world) status(n *real.Node) control.Status {
	w.t.Helper()
	s, err := n.Control().Status(w.ctx)
	w.must(err)
	return s
}

// problem returns the first problem with that code, and whether there is one.
func problem(s control.Status, code control.Code) (control.Problem, bool) {
	for _, p := range s.Problems {
		if p.Code == code {
			return p, true
		}
	}
	return control.Problem{}, false
}
