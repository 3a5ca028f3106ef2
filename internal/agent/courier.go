package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/internal/peer"
)

// courier is the peers' sessions as the lease's vote sees them. Each session has one stream a direction, on which a message is its length
// (4 bytes, big endian) and its bytes. What cannot be carried at once is lost, which the vote is used to.
type courier struct {
	mesh     *peer.Mesh
	patience time.Duration // for a peer to take one message
	window   time.Duration // in which a peer is heard bagSize times at most
	deliver  func(from fleet.NodeID, message []byte)
	log      *slog.Logger

	mu     sync.Mutex
	routes map[*peer.Session]*route // guarded by mu; gone soon after its session
}

// route is one session's.
type route struct {
	bag chan []byte // to be sent

	inbound peer.Stream // guarded by courier.mu: the one that is read; an older one is not
	since   time.Time   // guarded by courier.mu: of the window
	heard   int         // guarded by courier.mu: messages within it
}

// bagSize is how many messages wait for one peer, or come from one within a tick of the vote, which sends a handful at most.
const bagSize = 64

var _ lease.Network = (*courier)(nil)

// newCourier makes the mesh carry the lease. It must be called before the mesh runs; deliver is called only while it does.
func newCourier(mesh *peer.Mesh, ttl, window time.Duration, deliver func(fleet.NodeID, []byte), log *slog.Logger) *courier {
	c := &courier{mesh: mesh, patience: ttl / 6, window: window, deliver: deliver, log: log, routes: map[*peer.Session]*route{}}
	mesh.OnSession(c.carry)
	mesh.Handle(peer.PurposeLease, c.receive)
	return c
}

// routeOf returns a session's route; ctx ends with the session.
func (c *courier) routeOf(ctx context.Context, s *peer.Session) *route {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.routes[s]
	if r == nil {
		r = &route{bag: make(chan []byte, bagSize)}
		c.routes[s] = r
		context.AfterFunc(ctx, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.routes, s)
		})
	}
	return r
}

// Send implements lease.Network.
func (c *courier) Send(to fleet.NodeID, message []byte) {
	s, connected := c.mesh.Session(to)
	if !connected {
		return
	}
	c.mu.Lock()
	r := c.routes[s]
	c.mu.Unlock()
	if r == nil {
		return // it connected this very moment
	}
	select {
	case r.bag <- message:
	default: // it does not listen
	}
}

// Peers implements lease.Network.
func (c *courier) Peers() []lease.Peer {
	var out []lease.Peer
	for _, p := range c.mesh.Peers() {
		if p.Connected {
			out = append(out, lease.Peer{ID: p.ID, Since: p.ConnectedSince, List: p.RosterDigest})
		}
	}
	return out
}

// carry sends what is in a session's bag until it ends. The stream is opened for the first message, and again after one that was not
// taken in time: what had been written of it would stand before the next.
func (c *courier) carry(ctx context.Context, s *peer.Session) {
	r := c.routeOf(ctx, s)
	var to peer.Stream
	defer func() {
		if to != nil {
			to.Close()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case message := <-r.bag:
			if to == nil {
				var err error
				if to, err = c.open(ctx, s); err != nil {
					to = nil // no interface around a nil
					continue
				}
			}
			_ = to.SetWriteDeadline(time.Now().Add(c.patience)) // of a stream that has ended; the write says so
			if _, err := to.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...)); err != nil {
				to.Close()
				to = nil
			}
		}
	}
}

func (c *courier) open(ctx context.Context, s *peer.Session) (peer.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	return s.Open(ctx, peer.PurposeLease)
}

// receive hands over what a peer sends. One that breaks the protocol loses its connection; one that talks without end is read as slowly
// as a node that votes would talk.
func (c *courier) receive(ctx context.Context, s *peer.Session, from peer.Stream) {
	r := c.routeOf(ctx, s)
	c.mu.Lock()
	if r.inbound != nil {
		_ = r.inbound.SetReadDeadline(time.Unix(1, 0)) // its reader ends, or has ended
	}
	r.inbound = from
	c.mu.Unlock()
	for {
		var length [4]byte
		if _, err := io.ReadFull(from, length[:]); err != nil {
			return
		}
		size := binary.BigEndian.Uint32(length[:])
		if size == 0 || size > lease.MaxMessage {
			why := fmt.Sprintf("a message about the lease of %d bytes, where 1 to %d are possible", size, lease.MaxMessage)
			c.log.Warn("a peer broke the protocol; it is disconnected", "peer", s.Peer().Short(), "error", why)
			s.Close(why)
			return
		}
		message := make([]byte, size)
		if _, err := io.ReadFull(from, message); err != nil {
			return
		}
		if wait := c.pace(r); wait > 0 && !pause(ctx, wait) {
			return
		}
		c.deliver(s.Peer(), message)
	}
}

// pace returns for how long the next message of a route must wait.
func (c *courier) pace(r *route) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(r.since) >= c.window {
		r.since, r.heard = now, 0
	}
	if r.heard++; r.heard <= bagSize {
		return 0
	}
	return r.since.Add(c.window).Sub(now)
}
