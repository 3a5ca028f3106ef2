package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"certswarm/internal/fleet"

	"github.com/quic-go/quic-go"
)

// A peer that can be reached is connected within dialWait + pauseMax and a handshake, whatever was tried before.
const (
	dialWait    = 3 * time.Second
	pauseMin    = 500 * time.Millisecond // between two attempts
	pauseMax    = 1500 * time.Millisecond
	stagger     = 250 * time.Millisecond // between the addresses of one attempt
	yieldFirst  = 250 * time.Millisecond // how long the arbiter of a pair may dial alone, after the start
	yieldLater  = time.Second            // the same after a session was lost
	shortLived  = 5 * time.Second        // a session that lasted less is not dialled again at once
	addressMost = 4                      // of one DNS name
)

// startDiallingLocked needs mu and m.run.
func (m *Mesh) startDiallingLocked(l *link) {
	ctx, stop := context.WithCancel(m.run)
	l.stop = stop
	peer := l.member.ID
	if !m.spawnLocked(func() { m.keepDialling(ctx, l, peer) }) {
		stop()
	}
}

// keepDialling dials peer, whose link is l, whenever there is no session with it, until ctx ends.
func (m *Mesh) keepDialling(ctx context.Context, l *link, peer fleet.NodeID) {
	wait := m.yield(peer, yieldFirst)
	for ctx.Err() == nil {
		m.mu.Lock()
		session, changed := l.session, l.changed
		m.mu.Unlock()
		switch {
		case session != nil:
			select {
			case <-ctx.Done():
			case <-changed:
			}
			wait = m.yield(peer, yieldLater)
			if time.Since(session.since) < shortLived {
				wait = max(wait, pause())
			}
		case wait > 0:
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-timer.C:
			case <-changed: // a session, or new addresses
			}
			timer.Stop()
			wait = 0
		default:
			m.dialOnce(ctx, l)
			select {
			case <-changed:
			default:
				wait = pause()
			}
		}
	}
}

func (m *Mesh) yield(peer fleet.NodeID, toArbiter time.Duration) time.Duration {
	if m.arbitrates(peer) {
		return 0
	}
	return toArbiter
}

func pause() time.Duration { return pauseMin + rand.N(pauseMax-pauseMin) }

// dialOnce makes one attempt to get a session with the peer of l; the outcome shows in l.
func (m *Mesh) dialOnce(ctx context.Context, l *link) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.mu.Lock()
	member := l.member
	l.stopAttempt = cancel
	m.mu.Unlock()

	conn, err := m.connect(ctx, member)

	m.mu.Lock()
	l.stopAttempt = nil
	pointless := l.session != nil
	l.greeting = err == nil && !pointless
	m.mu.Unlock()
	switch {
	case err != nil:
		if ctx.Err() == nil {
			m.failed(member.ID, err)
		}
	case pointless:
		_ = conn.CloseWithError(codeDuplicate, errDuplicate.Error())
	default:
		m.greet(ctx, conn, true)
		m.mu.Lock()
		l.greeting = false
		m.mu.Unlock()
	}
}

// connect returns the first connection on which any of the member's addresses proves its key.
func (m *Mesh) connect(ctx context.Context, member fleet.Member) (*quic.Conn, error) {
	if len(member.Addresses) == 0 {
		return nil, errors.New("has no address in the peer list, so it must dial this node")
	}
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	return race(ctx, member.Addresses, func(ctx context.Context, address string) (*quic.Conn, error) {
		targets, err := resolve(ctx, address)
		if err != nil {
			return nil, err
		}
		return race(ctx, targets, func(ctx context.Context, target *net.UDPAddr) (*quic.Conn, error) {
			conn, err := m.dial(ctx, member.ID, target)
			if err != nil {
				kind, text := m.diagnose(err)
				return nil, &failure{kind, fmt.Sprintf("%s: %s", target, text)}
			}
			return conn, nil
		})
	})
}

// allFailed is why each of several targets failed, on one line.
type allFailed []error

func (f allFailed) Error() string {
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// race tries the targets, starting one every stagger, and returns the first connection; the others are closed.
func race[T any](ctx context.Context, targets []T, try func(context.Context, T) (*quic.Conn, error)) (*quic.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		conn *quic.Conn
		err  error
	}
	outcomes := make(chan outcome)
	for i, target := range targets {
		go func() {
			head := time.NewTimer(time.Duration(i) * stagger)
			defer head.Stop()
			select {
			case <-head.C:
			case <-ctx.Done():
				outcomes <- outcome{err: context.Cause(ctx)}
				return
			}
			conn, err := try(ctx, target)
			outcomes <- outcome{conn, err}
		}()
	}
	var first *quic.Conn
	var failures allFailed
	for range targets {
		switch got := <-outcomes; {
		case got.err != nil:
			failures = append(failures, got.err)
		case first == nil:
			first = got.conn
			cancel()
		default:
			_ = got.conn.CloseWithError(codeDuplicate, errDuplicate.Error())
		}
	}
	if first != nil {
		return first, nil
	}
	return nil, failures
}

func (m *Mesh) dial(ctx context.Context, to fleet.NodeID, at *net.UDPAddr) (*quic.Conn, error) {
	h := &hold{}
	conn, err := m.transport.Dial(context.WithValue(ctx, holdKey{}, h), at, m.clientTLS(to, at), m.quicConfig())
	if err != nil {
		if isTimeout(err) {
			err = &failure{FailureSilence, fmt.Sprintf("no answer within %s; is UDP blocked?", dialWait)}
		}
		return nil, err
	}
	context.AfterFunc(conn.Context(), func() { m.windows.release(h) })
	return conn, nil
}

// resolve asks DNS every time: a peer may have moved.
func resolve(ctx context.Context, address string) ([]*net.UDPAddr, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("peer address %q: %w", address, err)
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, fmt.Errorf("peer address %q: %w", address, err)
	}
	var hosts []netip.Addr
	if literal, err := netip.ParseAddr(host); err == nil {
		hosts = []netip.Addr{literal}
	} else if hosts, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
		return nil, fmt.Errorf("peer address %q: %w", address, err)
	}
	targets := make([]*net.UDPAddr, 0, len(hosts))
	for _, h := range hosts[:min(len(hosts), addressMost)] {
		targets = append(targets, net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.Unmap(), uint16(port))))
	}
	return targets, nil
}

// failed notes why there is no session with a peer.
func (m *Mesh) failed(peer fleet.NodeID, err error) {
	kind, text := m.diagnose(err)
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.links[peer]
	if l == nil || l.session != nil {
		return
	}
	before := l.lastError
	l.failLocked(kind, text)
	if before != text {
		m.log.Debug("no session", "peer", m.nameOfLocked(peer), "cause", text)
	}
}

// failLocked notes why there is no session. What a peer said last when it was alive outlasts its silence.
func (l *link) failLocked(kind Failure, text string) {
	l.failure, l.lastError = kind, text
	if kind.Refuses() {
		l.refuses = kind
	}
}
