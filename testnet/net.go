package testnet

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"
)

// network carries packets between endpoints, or loses them.
type network struct {
	latency time.Duration
	router  router
}

// router delivers at once what is not lost; the time it takes is the links'.
type router struct {
	simnet.PerfectRouter

	mu      sync.Mutex
	plugged map[string]bool    // guarded by mu: endpoints that are on the network
	cuts    map[[2]string]bool // guarded by mu, in both orders
	loss    float64            // guarded by mu
	chance  *rand.Rand         // guarded by mu
}

func newNetwork(latency time.Duration, loss float64, seed uint64) *network {
	return &network{latency: latency, router: router{
		plugged: map[string]bool{}, cuts: map[[2]string]bool{}, loss: loss, chance: rand.New(rand.NewPCG(seed, 0)),
	}}
}

// SendPacket implements simnet.Router.
func (r *router) SendPacket(p simnet.Packet) error {
	from, to := p.From.String(), p.To.String()
	r.mu.Lock()
	lost := !r.plugged[from] || !r.plugged[to] || r.cuts[[2]string{from, to}] || r.loss > 0 && r.chance.Float64() < r.loss
	r.mu.Unlock()
	if lost {
		return nil
	}
	return r.PerfectRouter.SendPacket(p)
}

func (n *network) plug(address string, in bool) {
	n.router.mu.Lock()
	defer n.router.mu.Unlock()
	n.router.plugged[address] = in
}

func (n *network) cut(a, b string) {
	n.router.mu.Lock()
	defer n.router.mu.Unlock()
	n.router.cuts[[2]string{a, b}] = true
	n.router.cuts[[2]string{b, a}] = true
}

func (n *network) isCut(a, b string) bool {
	n.router.mu.Lock()
	defer n.router.mu.Unlock()
	return n.router.cuts[[2]string{a, b}]
}

func (n *network) heal() {
	n.router.mu.Lock()
	defer n.router.mu.Unlock()
	clear(n.router.cuts)
}

func (n *network) setLoss(share float64) {
	n.router.mu.Lock()
	defer n.router.mu.Unlock()
	n.router.loss = share
}

// endpoint is a socket and the cable that it hangs on.
type endpoint struct {
	net.PacketConn
	mute   func() bool // whoever sends has no power any more
	unplug func()
	once   sync.Once
}

// listen puts a socket on the network; closing it takes it off again. What is sent while it is mute goes nowhere; what is on its way arrives.
func (n *network) listen(address string, mute func() bool) (net.PacketConn, error) {
	link := simnet.Simnet{Router: &n.router}
	conn := link.NewEndpoint(net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)), simnet.NodeBiDiLinkSettings{Latency: n.latency})
	if err := link.Start(); err != nil {
		return nil, err
	}
	n.plug(address, true)
	return &endpoint{PacketConn: conn, mute: mute, unplug: func() {
		n.plug(address, false)
		conn.Close() // before its link, which may be handing it a packet
		link.Close()
	}}, nil
}

// WriteTo implements net.PacketConn.
func (e *endpoint) WriteTo(packet []byte, to net.Addr) (int, error) {
	if e.mute() {
		return len(packet), nil
	}
	return e.PacketConn.WriteTo(packet, to)
}

// Close implements net.PacketConn.
func (e *endpoint) Close() error {
	e.once.Do(e.unplug)
	return nil
}

// silent is a socket on which nobody calls: a test asks the agent itself.
type silent struct {
	closed chan struct{}
	once   sync.Once
}

func newSilent(string) (net.Listener, error) { return &silent{closed: make(chan struct{})}, nil }

// Accept implements net.Listener.
func (s *silent) Accept() (net.Conn, error) {
	<-s.closed
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (s *silent) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// Addr implements net.Listener.
func (s *silent) Addr() net.Addr { return &net.UnixAddr{Name: "silent", Net: "unix"} }
