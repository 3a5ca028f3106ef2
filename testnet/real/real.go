// Package real runs a fleet of real processes on one machine: certswarm agents with their certs directories, a front-end
// for each, and a certificate authority, all on addresses of the loopback network. It needs neither root nor
// preparation.
//
// It looks at the fleet only as its operators could: by the control sockets, the logs, the files and the network. It does
// not judge: that is for the demo and the tests. A fleet in one process and in virtual time is something else.
package real

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"certswarm/testnet/ca"
)

// Config is what a fleet is made of.
type Config struct {
	Binary    string   // the certswarm program; see Build
	Dir       string   // where the fleet's own directory is made; empty: where temporary files are
	Addresses []string // one node each; the first is the first issuer, hence the holder of the lease
	Cluster   string   // empty: testnet
	Prefix    string   // nodes are called PREFIX1, PREFIX2, ...; empty: fe
	Others    []Peer   // members of the roster that this fleet does not start

	// Names are those of the one certificate; the first is also its name under live/. Without names there is neither a
	// CA nor a front-end: the fleet only replicates.
	Names    []string
	More     [][]string      // further certificates, each like Names. With them Fleet.Accepts knows nothing
	Unserved []string        // further certificates of one name, which no server of a front-end uses
	Pairs    []string        // those of the certificates, by their first name, that are an ECDSA and RSA pair
	Faults   *ca.Faults      // what goes wrong between the agents and the CA; nil: nothing
	Broken   map[string]bool // nodes whose front-end answers 404 where the CA looks
	FrontEnd string          // nginx; "": that of this machine, or the stand-in if there is none; or frontend.Standin

	Roles     map[string]string // by a node's name: what is not an issuer
	Directory []string          // further lines of the directory's configuration, such as "max_delete: 20%"
	ACME      []string          // and of acme:
	Lease     []string          // and of lease:
	Relayed   bool              // the nodes reach each other by way of Fleet.Relay
	Before    func(*Node) error // what is done on a node before its agent starts for the first time; nil: nothing
}

// Fleet is a running fleet. Its owner calls Stop. All but its nodes' logs belongs to one goroutine.
type Fleet struct {
	Dir   string // everything that the fleet writes is in it
	Nodes []*Node
	CA    *ca.CA // nil without certificates
	Relay *Relay // nil unless Config.Relayed

	config  Config
	ports   ports
	door    *door
	closeCA context.CancelFunc
}

// Peer is a member of the roster.
type Peer struct{ Name, ID, Address string } // Address is HOST:PORT (UDP)

// Loopback returns the addresses 127.0.0.2, 127.0.0.3 and so on, which Linux answers on without having been told to.
func Loopback(n int) []string {
	addresses := make([]string, n)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("127.0.0.%d", i+2)
	}
	return addresses
}

// Build compiles this module's certswarm into dir and returns the program's path. It looks at every source file by itself too, for go
// test believes a result of before unless it saw the test look at what has changed.
func Build(ctx context.Context, dir string) (string, error) {
	if err := lookAtSources(); err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "certswarm")
	// As the Makefile builds what is installed: what is measured is that.
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-tags", "urfave_cli_no_docs", "-ldflags", "-s -w",
		"-o", binary, "certswarm/cmd/certswarm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("certswarm cannot be built: %w\n%s", err, output)
	}
	return binary, nil
}

func lookAtSources() error {
	root, err := os.Getwd()
	for err == nil {
		if _, err = os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		if root == filepath.Dir(root) {
			return errors.New("certswarm can be built inside its own module only")
		}
		root, err = filepath.Dir(root), nil
	}
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Ext(path) == ".go" {
			_, err = os.Stat(path)
		}
		return err
	})
}

// Start starts a fleet and returns when every agent is ready and every front-end answers. Only then the CA opens its
// doors, so that nothing has been asked of it when Start returns but by an agent that was just as quick. The context
// bounds the start alone.
func Start(ctx context.Context, c Config) (f *Fleet, err error) {
	if c.Cluster == "" {
		c.Cluster = "testnet"
	}
	if c.Prefix == "" {
		c.Prefix = "fe"
	}
	f = &Fleet{config: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Stop(), f.Remove())
		}
	}()
	if f.Dir, err = os.MkdirTemp(c.Dir, "certswarm-"); err != nil {
		return f, err
	}
	if f.ports, err = freePorts(c.Addresses); err != nil {
		return f, err
	}
	if len(c.Names) > 0 {
		if f.config.FrontEnd, err = frontEnd(c.FrontEnd, f.Dir); err != nil {
			return f, err
		}
		if err := f.startCA(); err != nil {
			return f, err
		}
	}
	for i, address := range c.Addresses {
		n, err := f.newNode(ctx, fmt.Sprintf("%s%d", c.Prefix, i+1), address)
		if err != nil {
			return f, err
		}
		f.Nodes = append(f.Nodes, n)
	}
	if c.Relayed {
		if f.Relay, err = newRelay(f.Nodes); err != nil {
			return f, err
		}
	}
	if c.Before != nil {
		if err := f.each(func(n *Node, _ context.Context) error { return c.Before(n) }, ctx); err != nil {
			return f, err
		}
	}
	if err := f.WriteConfigs(f.Roster()); err != nil {
		return f, err
	}
	if err := f.each((*Node).Start, ctx); err != nil {
		return f, err
	}
	if f.CA != nil {
		if err := f.each((*Node).startFrontEnd, ctx); err != nil {
			return f, err
		}
		f.door.open(f.Nodes)
	}
	return f, nil
}

// startCA starts a CA that keeps everybody waiting until its door is opened.
func (f *Fleet) startCA() error {
	var ctx context.Context
	ctx, f.closeCA = context.WithCancel(context.Background())
	f.door = newDoor(len(f.config.More) == 0)
	authority, err := ca.Start(ctx, ca.Config{
		Addresses: f.config.Addresses, HTTPPort: f.ports.http, Middleware: f.door.guard, Faults: f.config.Faults,
	})
	if err != nil {
		return err
	}
	f.CA = authority
	return os.WriteFile(f.caFile(), authority.Root(), 0o644)
}

func (f *Fleet) caFile() string { return filepath.Join(f.Dir, "ca.pem") }

// each does something with every node, all at once.
func (f *Fleet) each(do func(*Node, context.Context) error, ctx context.Context) error {
	errs := make([]error, len(f.Nodes))
	var all sync.WaitGroup
	for i, n := range f.Nodes {
		all.Go(func() { errs[i] = do(n, ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Stop ends what runs, in the opposite order in which it was started, and waits for it. The error says what did not end
// well. The files stay.
func (f *Fleet) Stop() error {
	for _, n := range f.Nodes {
		if n.FrontEnd != nil {
			n.FrontEnd.Stop()
		}
	}
	err := f.each(func(n *Node, _ context.Context) error { return n.Stop() }, context.Background())
	if f.Relay != nil {
		f.Relay.stop()
	}
	if f.CA != nil {
		err = errors.Join(err, f.CA.Close())
		f.closeCA()
	}
	return err
}

// Remove deletes the fleet's files.
func (f *Fleet) Remove() error {
	if f.Dir == "" {
		return nil
	}
	return os.RemoveAll(f.Dir)
}

// Node returns the node called name; it panics if there is none.
func (f *Fleet) Node(name string) *Node {
	for _, n := range f.Nodes {
		if n.Name == name {
			return n
		}
	}
	panic("real: no node is called " + name)
}

// stopPatience is more than the five seconds in which an agent promises to end.
const stopPatience = 10 * time.Second
