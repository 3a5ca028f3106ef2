// Package testnet is a fleet that one can hold in one hand: real agents with real directories in one process, on a
// simulated network, inside a testing/synctest bubble and so in virtual time. A test cuts cables, crashes nodes, writes files
// and asks whether everybody ends up with the same.
//
// It is not the real thing where the kernel is concerned: packets and sockets come from here, hints of changed files are fetched instead of
// awaited, nginx and the CA are absent. An agent that is killed between two effects on the disk (see Fault) is not stopped, for nothing inside a
// bubble can be; what it does from then on reaches neither the disk nor the network. Real processes on real sockets are in testnet/real.
package testnet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent"
	"certswarm/internal/control"
)

// directory is the name of the one directory that a fleet replicates unless Options.Config says otherwise.
const directory = "certs"

// Options says what a fleet is like. The zero Options are one issuer.
type Options struct {
	Nodes   int           // default: 1
	Latency time.Duration // of a packet, one way
	Loss    float64       // share of the packets that vanish, 0 to 1
	Seed    uint64        // of the loss; goroutines still take turns as they like, so two runs are alike, not the same
	Roles   []string      // of the first nodes: issuer, member or witness; default: issuer
	Writers []string      // of the directory; default: any

	// Config may change a node's configuration before it is written; nil: as it is.
	Config func(node int, yaml string) string
	// Edges may replace what stands for the world around a node's agent; nil: what this package has.
	Edges func(node int, edges *agent.Edges)
}

// Fleet is nodes fe1, fe2 ... by their numbers 0, 1 ... Its methods belong to the test's goroutine; what goes wrong fails the test.
//
// The clock of a bubble begins in the year 2000 while files carry real times. Syncer dates what a node finds at its start by
// the file's times, but never later than now: here that is always the moment of the start.
type Fleet struct {
	t       *testing.T
	options Options
	net     *network
	nodes   []*node
}

// New starts a fleet and returns when every node is up; they may not have met yet, see Settle. It must be called inside a bubble,
// whose end is the fleet's too.
func New(t *testing.T, options Options) *Fleet {
	t.Helper()
	f := NewDown(t, options)
	for i := range f.nodes {
		f.Start(i)
	}
	return f
}

// NewDown returns a fleet of which no node runs yet.
func NewDown(t *testing.T, options Options) *Fleet {
	t.Helper()
	options.Nodes = max(options.Nodes, 1)
	f := &Fleet{t: t, options: options, net: newNetwork(options.Latency, options.Loss, options.Seed)}
	base := t.TempDir()
	for i := range options.Nodes {
		n, err := newNode(i, filepath.Join(base, name(i)))
		if err != nil {
			t.Fatal(err)
		}
		f.nodes = append(f.nodes, n)
	}
	for i, n := range f.nodes {
		text := f.configOf(i)
		if options.Config != nil {
			text = options.Config(i, text)
		}
		if err := os.WriteFile(n.configFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(f.end)
	return f
}

// end stops every node, and shows their logs if the test failed.
func (f *Fleet) end() {
	for i, n := range f.nodes {
		if n.running() {
			f.Stop(i)
		}
		if f.t.Failed() {
			f.t.Logf("the log of %s ends with\n%s", name(i), n.log.tail())
		}
	}
}

func name(i int) string { return fmt.Sprintf("fe%d", i+1) }

// configOf writes a node's configuration.
func (f *Fleet) configOf(i int) string {
	n := f.nodes[i]
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\ncluster: testnet\nstate_dir: %s\ncontrol_socket: /run/certswarm/%s.sock\nlisten: %q\npeers:\n", n.state(), name(i), n.address)
	for j, peer := range f.nodes {
		role := "issuer"
		if j < len(f.options.Roles) {
			role = f.options.Roles[j]
		}
		fmt.Fprintf(&b, "  - {name: %s, id: %s, addresses: [%q], roles: [%s]}\n", name(j), peer.id, peer.address, role)
	}
	writers := "any"
	if len(f.options.Writers) > 0 {
		writers = strings.Join(f.options.Writers, ", ")
	}
	fmt.Fprintf(&b, "directories:\n  - {name: %s, path: %s, writers: [%s]}\nnginx: {enabled: false}\n", directory, n.files(), writers)
	return b.String()
}

// Start runs a node that is down.
func (f *Fleet) Start(i int) {
	f.t.Helper()
	if err := f.nodes[i].start(f.net, f.adjust(i)); err != nil {
		f.t.Fatalf("%s does not start: %v", name(i), err)
	}
}

func (f *Fleet) adjust(i int) func(*agent.Edges) {
	return func(edges *agent.Edges) {
		if f.options.Edges != nil {
			f.options.Edges(i, edges)
		}
	}
}

// Stop ends a node as SIGTERM would: it takes leave of its peers.
func (f *Fleet) Stop(i int) {
	f.t.Helper()
	if err := f.nodes[i].stop(); err != nil {
		f.t.Errorf("%s did not end well: %v", name(i), err)
	}
}

// Crash ends a node as a power cut would, as near as one process allows: no word reaches its peers, and its disk stays as it was when
// Crash was called, whatever the agent still writes on its way out. That moment is one in which nothing moves: what happens without waiting for the
// clock or the network has happened whole.
func (f *Fleet) Crash(i int) {
	f.t.Helper()
	synctest.Wait()
	if err := f.nodes[i].crash(f.net); err != nil {
		f.t.Fatalf("%s cannot be crashed: %v", name(i), err)
	}
}

// Wipe takes everything but its key from a node that is down: state, archive, but not the replicated files.
func (f *Fleet) Wipe(i int) {
	f.t.Helper()
	n := f.nodes[i]
	if n.running() {
		f.t.Fatalf("%s is up, its state cannot be taken away", name(i))
	}
	if err := n.wipe(); err != nil {
		f.t.Fatal(err)
	}
}

// Live reports whether a node runs.
func (f *Fleet) Live(i int) bool { return f.nodes[i].running() }

// Status is what a running node tells people.
func (f *Fleet) Status(i int) control.Status {
	f.t.Helper()
	if !f.Live(i) {
		f.t.Fatalf("%s is down", name(i))
	}
	return f.nodes[i].agent.Status()
}

// Agent is a running node's agent, for what people can ask of it beyond its status.
func (f *Fleet) Agent(i int) *agent.Agent { return f.nodes[i].agent }

// Cut drops every packet between two nodes, in both directions.
func (f *Fleet) Cut(a, b int) { f.net.cut(f.nodes[a].address, f.nodes[b].address) }

// CutAll drops every packet between a node and all others.
func (f *Fleet) CutAll(a int) {
	for b := range f.nodes {
		if a != b {
			f.Cut(a, b)
		}
	}
}

// Heal undoes every Cut and CutAll.
func (f *Fleet) Heal() { f.net.heal() }

// SetLoss changes the share of the packets that vanish.
func (f *Fleet) SetLoss(share float64) { f.net.setLoss(share) }

// echo is how soon an agent hears, in virtual time, of what it did to its own disk. Nothing waits for that, but it must do no harm.
const echo = 20 * time.Millisecond

// Advance lets virtual time pass, then waits until nothing moves. Time should pass in no other way: see ears.
func (f *Fleet) Advance(d time.Duration) {
	f.t.Helper()
	for ; d > 0; d -= echo {
		time.Sleep(min(d, echo))
		for i, n := range f.nodes {
			if err := n.ears.listen(); err != nil {
				f.t.Fatalf("%s: %v", name(i), err)
			}
		}
	}
	synctest.Wait()
}
