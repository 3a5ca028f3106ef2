package peer

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"certswarm/internal/fleet"

	"github.com/quic-go/quic-go"
)

// A silent peer is given up between idleTimeout and idleTimeout + keepAlive after it was last heard: the clock starts
// again with the first packet that asks for an answer.
const (
	idleTimeout = 9 * time.Second
	keepAlive   = 3 * time.Second
	silenceMost = 7 * time.Second // heard of nothing: see endSilence
)

// What strangers and peers may take up.
const (
	handshakeWait     = 3 * time.Second // without hearing anything; twice that in all
	handshakesCalm    = 64              // in flight, past which callers must prove their address first (RFC 9000 8.1.2)
	handshakesMax     = 256             // in flight
	handshakesPerHost = 32              // in flight from one address
	streamsMax        = 64              // that one peer has open here

	streamWindow    = 128 << 10 // bytes, at first
	streamWindowMax = 2 << 20
	connWindow      = 512 << 10
	connWindowMax   = 4 << 20
	windowBudget    = 64 << 20 // bytes by which the windows of all connections together may have grown
)

func (m *Mesh) newTransport() *quic.Transport {
	reset := quic.StatelessResetKey(m.self.derive("stateless reset"))
	token := quic.TokenGeneratorKey(m.self.derive("address token"))
	return &quic.Transport{
		Conn:                  m.sifted(),
		ConnectionIDGenerator: m.ids,
		StatelessResetKey:     &reset, // the same after a restart: peers learn at once that their connections are gone
		TokenGeneratorKey:     &token,
		VerifySourceAddress:   func(net.Addr) bool { return m.gate.crowded() },
		ConnContext:           m.admit,
	}
}

func (m *Mesh) quicConfig() *quic.Config {
	return &quic.Config{
		Versions:                       []quic.Version{quic.Version1},
		HandshakeIdleTimeout:           handshakeWait,
		MaxIdleTimeout:                 idleTimeout,
		KeepAlivePeriod:                keepAlive,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindowMax,
		InitialConnectionReceiveWindow: connWindow,
		MaxConnectionReceiveWindow:     connWindowMax,
		AllowConnectionWindowIncrease:  m.widen,
		MaxIncomingStreams:             streamsMax,
		MaxIncomingUniStreams:          -1,
	}
}

// gate counts the incoming handshakes in flight.
type gate struct {
	mu       sync.Mutex
	inFlight int
	perHost  map[netip.Addr]int // no zero values
}

var errCrowded = errors.New("too many handshakes in flight")

func (g *gate) crowded() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inFlight >= handshakesCalm
}

func (g *gate) enter(host netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inFlight >= handshakesMax || g.perHost[host] >= handshakesPerHost {
		return errCrowded
	}
	if g.perHost == nil {
		g.perHost = map[netip.Addr]int{}
	}
	g.inFlight++
	g.perHost[host]++
	return nil
}

func (g *gate) leave(host netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight--
	if g.perHost[host]--; g.perHost[host] == 0 {
		delete(g.perHost, host)
	}
}

// hold is what one connection takes up of what all share. It travels in the connection's context.
type hold struct {
	shaken func()      // gives back the place among the handshakes; idempotent
	window uint64      // guarded by windows.mu
	gone   bool        // guarded by windows.mu
	spoke  atomic.Bool // an incoming one: a ClientHello came
	judged atomic.Bool // an incoming one: it was let pass, or why not was told
}

type holdKey struct{}

func holdOf(conn *quic.Conn) *hold {
	h, _ := conn.Context().Value(holdKey{}).(*hold)
	return h
}

// admit decides whether an incoming connection may begin its handshake. What it takes is given back when the
// handshake ends and when the connection ends.
func (m *Mesh) admit(ctx context.Context, caller *quic.ClientInfo) (context.Context, error) {
	host := hostOf(caller.RemoteAddr)
	if err := m.gate.enter(host); err != nil {
		m.refuse(fleet.NodeID{}, caller.RemoteAddr, ReasonTooMany, err.Error())
		return nil, err
	}
	h := &hold{shaken: sync.OnceFunc(func() { m.gate.leave(host) })}
	context.AfterFunc(ctx, func() {
		h.shaken()
		m.windows.release(h)
		m.noteEnd(h, caller.RemoteAddr, context.Cause(ctx))
	})
	return context.WithValue(ctx, holdKey{}, h), nil
}

func hostOf(address net.Addr) netip.Addr {
	if udp, ok := address.(*net.UDPAddr); ok {
		return udp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// windows shares windowBudget among the connections.
type windows struct {
	mu   sync.Mutex
	used uint64
}

// widen decides whether a connection's receive window may grow. quic-go calls it with locks held.
func (m *Mesh) widen(conn *quic.Conn, delta uint64) bool {
	h := holdOf(conn)
	return h != nil && m.windows.grow(h, delta)
}

func (w *windows) grow(h *hold, delta uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.gone || w.used+delta > windowBudget {
		return false
	}
	w.used += delta
	h.window += delta
	return true
}

func (w *windows) release(h *hold) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used -= h.window
	h.window, h.gone = 0, true
}
