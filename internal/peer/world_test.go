package peer

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/fleet"

	"github.com/quic-go/quic-go/testutils/simnet"
)

// world is a few nodes on a simulated network inside a synctest bubble, in the order of their ids: of any two, the one
// with the lower index is the arbiter.
type world struct {
	t       *testing.T
	router  *lossyRouter
	latency time.Duration
	nodes   []*node
}

type node struct {
	id       *Identity
	address  string
	mesh     *Mesh // nil when it does not run
	log      *strings.Builder
	stop     func()      // as SIGTERM would
	sessions int         // established since it was started
	prepare  func(*Mesh) // called before it runs, if set
}

// lossyRouter drops what drop says.
type lossyRouter struct {
	simnet.PerfectRouter
	mu   sync.Mutex
	drop func(from, to string) bool // called with mu held
	up   map[string]bool            // endpoints whose link is started
}

func (r *lossyRouter) SendPacket(p simnet.Packet) error {
	r.mu.Lock()
	lost := !r.up[p.To.String()] || r.drop != nil && r.drop(p.From.String(), p.To.String())
	r.mu.Unlock()
	if lost {
		return nil
	}
	return r.PerfectRouter.SendPacket(p)
}

func (r *lossyRouter) setDrop(drop func(from, to string) bool) {
	r.mu.Lock()
	r.drop = drop
	r.mu.Unlock()
}

func (r *lossyRouter) setUp(address string, up bool) {
	r.mu.Lock()
	if r.up == nil {
		r.up = map[string]bool{}
	}
	r.up[address] = up
	r.mu.Unlock()
}

func testIdentity(seed byte) *Identity {
	return NewIdentity(ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)))
}

// inWorld runs story in a bubble with n nodes that know each other; none runs yet.
func inWorld(t *testing.T, n int, latency time.Duration, story func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, router: &lossyRouter{}, latency: latency}
		for i := range n {
			w.nodes = append(w.nodes, &node{id: testIdentity(byte(i))})
		}
		slices.SortFunc(w.nodes, func(a, b *node) int { return a.id.ID().Compare(b.id.ID()) })
		for i, n := range w.nodes {
			n.address = fmt.Sprintf("10.0.0.%d:7443", i+1)
		}
		defer func() {
			for _, n := range w.nodes {
				if n.mesh != nil {
					n.stop()
				}
			}
		}()
		story(t, w)
	})
}

func (w *world) member(i int) fleet.Member {
	return fleet.Member{Name: fmt.Sprintf("fe%d", i+1), ID: w.nodes[i].id.ID(), Role: fleet.Issuer, Addresses: []string{w.nodes[i].address}}
}

// roster returns the list of the nodes with the given indices, of all when there are none.
func (w *world) roster(indices ...int) fleet.Roster {
	var members []fleet.Member
	for i := range w.nodes {
		if len(indices) == 0 || slices.Contains(indices, i) {
			members = append(members, w.member(i))
		}
	}
	return rosterOf(w.t, members...)
}

func rosterOf(t testing.TB, members ...fleet.Member) fleet.Roster {
	t.Helper()
	roster, err := fleet.NewRoster(members)
	if err != nil {
		t.Fatal(err)
	}
	return roster
}

// endpoint puts a socket on the network.
func (w *world) endpoint(address string) (conn net.PacketConn, remove func()) {
	w.t.Helper()
	udp := udpAddress(address)
	network := &simnet.Simnet{Router: w.router}
	conn = network.NewEndpoint(udp, simnet.NodeBiDiLinkSettings{Latency: w.latency})
	if err := network.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.router.setUp(address, true)
	return conn, func() {
		w.router.setUp(address, false)
		conn.Close()
		network.Close()
	}
}

// start runs node i with the full roster, or as adjust changes it.
func (w *world) start(i int, adjust ...func(*Config, *node)) *Mesh {
	w.t.Helper()
	n := w.nodes[i]
	n.log, n.sessions = &strings.Builder{}, 0
	conn, remove := w.endpoint(n.address)
	config := Config{
		Identity: n.id, Cluster: "edge", Version: fmt.Sprintf("v%d", i+1), Conn: conn, Roster: w.roster(),
		Log: slog.New(slog.NewTextHandler(n.log, nil)),
	}
	for _, change := range adjust {
		change(&config, n)
	}
	mesh, err := New(config)
	if err != nil {
		w.t.Fatal(err)
	}
	if n.prepare != nil {
		n.prepare(mesh)
	}
	var mu sync.Mutex
	mesh.OnSession(func(context.Context, *Session) {
		mu.Lock()
		n.sessions++
		mu.Unlock()
	})
	n.mesh = mesh
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error)
	go func() { done <- mesh.Run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
		remove()
		n.mesh = nil
	}
	return mesh
}

// startAll starts every node and lets them connect.
func (w *world) startAll() {
	w.t.Helper()
	for i := range w.nodes {
		w.start(i)
	}
	w.pass(2*time.Second + 10*w.latency)
	for i, n := range w.nodes {
		if got := len(n.mesh.Sessions()); got != len(w.nodes)-1 {
			w.t.Fatalf("fe%d has %d sessions after the start: %+v", i+1, got, n.mesh.Peers())
		}
	}
}

// pass lets time pass, then waits until nothing moves.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// until returns how long it took for condition to hold, and fails after most.
func (w *world) until(most time.Duration, what string, condition func() bool) time.Duration {
	w.t.Helper()
	begin := time.Now()
	for synctest.Wait(); !condition(); w.pass(10 * time.Millisecond) {
		if time.Since(begin) > most {
			w.t.Fatalf("%s: not within %s", what, most)
		}
	}
	return time.Since(begin)
}

// isolate drops all packets from and to node i.
func (w *world) isolate(i int) {
	address := w.nodes[i].address
	w.router.setDrop(func(from, to string) bool { return from == address || to == address })
}

func (w *world) heal() { w.router.setDrop(nil) }

// kill ends node i without a word to anybody.
func (w *world) kill(i int) {
	w.isolate(i)
	w.nodes[i].stop()
	w.heal()
}

func (w *world) status(i, of int) PeerStatus {
	for _, status := range w.nodes[i].mesh.Peers() {
		if status.ID == w.nodes[of].id.ID() {
			return status
		}
	}
	w.t.Fatalf("fe%d does not list fe%d", i+1, of+1)
	return PeerStatus{}
}

func (w *world) connected(i, j int) bool { return w.status(i, j).Connected && w.status(j, i).Connected }

// sameSession fails unless i and j agree on one connection.
func (w *world) sameSession(i, j int) {
	w.t.Helper()
	a, okA := w.nodes[i].mesh.Session(w.nodes[j].id.ID())
	b, okB := w.nodes[j].mesh.Session(w.nodes[i].id.ID())
	if !okA || !okB || a.name != b.name || a.Dialled() == b.Dialled() {
		w.t.Fatalf("fe%d and fe%d do not have the same session: %+v, %+v", i+1, j+1, w.status(i, j), w.status(j, i))
	}
}

// udpAddress returns the form that the router compares by.
func udpAddress(text string) *net.UDPAddr {
	return net.UDPAddrFromAddrPort(netip.MustParseAddrPort(text))
}
