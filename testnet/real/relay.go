package real

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Relay is the network between the nodes of a fleet: every node is reached at an address of the relay's, and whatever it
// sends comes from there too. What one sends another is lost while that way is cut. It is safe for concurrent use.
type Relay struct {
	ends    []*relayEnd
	pumping sync.WaitGroup
	passed  atomic.Int64 // bytes

	mu  sync.Mutex
	cut map[way]bool // guarded by mu
}

// relayEnd stands for one node.
type relayEnd struct {
	node   *Node
	conn   *net.UDPConn   // where the others find it
	behind netip.AddrPort // where it is
}

type way struct{ from, to *Node }

func newRelay(nodes []*Node) (*Relay, error) {
	r := &Relay{cut: map[way]bool{}}
	for _, n := range nodes {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(n.Address)})
		if err != nil {
			r.stop()
			return nil, fmt.Errorf("%s cannot be relayed: %w", n.Name, err)
		}
		const burst = 1 << 20
		_ = conn.SetReadBuffer(burst) // as much as the system permits: what is lost beyond it is sent again
		r.ends = append(r.ends, &relayEnd{n, conn, netip.MustParseAddrPort(n.Listen())})
	}
	for _, to := range r.ends {
		r.pumping.Go(func() { r.pump(to) })
	}
	return r, nil
}

// pump passes on what is sent to one node.
func (r *Relay) pump(to *relayEnd) {
	datagram := make([]byte, 64<<10)
	for {
		n, source, err := to.conn.ReadFromUDPAddrPort(datagram)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		for _, from := range r.ends {
			if err == nil && from.behind == source && !r.isCut(from.node, to.node) {
				_, _ = from.conn.WriteToUDPAddrPort(datagram[:n], to.behind) // a datagram may be lost
				r.passed.Add(int64(n))
			}
		}
	}
}

// Bytes returns how many bytes all nodes have sent each other.
func (r *Relay) Bytes() int64 { return r.passed.Load() }

func (r *Relay) isCut(from, to *Node) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cut[way{from, to}]
}

// Cut loses what one node sends another from now on, until Heal. What comes back the other way is not touched.
func (r *Relay) Cut(from, to *Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut[way{from, to}] = true
}

// Part cuts a node off from all others, in both directions.
func (r *Relay) Part(n *Node) {
	for _, other := range r.ends {
		r.Cut(n, other.node)
		r.Cut(other.node, n)
	}
}

// Heal ends every cut.
func (r *Relay) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.cut)
}

// address is where the others find a node.
func (r *Relay) address(n *Node) string {
	for _, end := range r.ends {
		if end.node == n {
			return end.conn.LocalAddr().String()
		}
	}
	panic("real: " + n.Name + " is not relayed")
}

func (r *Relay) stop() {
	for _, end := range r.ends {
		_ = end.conn.Close() // ends its pump
	}
	r.pumping.Wait()
}
