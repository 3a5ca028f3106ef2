package peer

import (
	"errors"
	"fmt"
	"time"

	"certswarm/internal/fleet"

	"github.com/quic-go/quic-go"
)

// Both nodes of a pair may dial, so two connections can exist for a moment, and the nodes can see them in different
// orders. One of the two, the arbiter (the smaller id), decides: it numbers the connections that it chooses, and the
// other follows the highest number. So both always keep the same one.

// arbitrates reports whether this node is the arbiter of its pair with peer.
func (m *Mesh) arbitrates(peer fleet.NodeID) bool { return m.self.ID().Compare(peer) < 0 }

// claim is what the arbiter knows of a connection when it decides.
type claim struct {
	byArbiter bool   // dialled by the arbiter
	instance  string // of the other node's process
	number    uint64 // of a session; 0 for a connection not chosen yet
	ended     uint64 // number of the last session that ended at the other node when this connection said Hello
}

// supersedes is the arbiter's rule: whether a new connection takes the place of the current session.
func supersedes(current, next claim) bool {
	switch {
	case next.instance != current.instance:
		return true // the other process was restarted; what it had before is gone
	case next.byArbiter:
		return true // a tie goes to the arbiter's own connection, and its later one to the earlier
	case !current.byArbiter:
		return true // the other node dialled both, so it gave the current one up
	default:
		return next.ended >= current.number // the other node lost the current one; else it has yet to hear of it
	}
}

func (m *Mesh) claimOf(s *Session) claim {
	c := claim{byArbiter: s.dialled, instance: s.hello.Instance, number: s.name.Number}
	if s.hello.Ended.Arbiter == m.instance {
		c.ended = s.hello.Ended.Number
	}
	return c
}

// adopt makes s the session with its peer, or says why not. On the arbiter's side it decides and numbers s; on the
// other side it follows the number that s bears.
func (m *Mesh) adopt(s *Session) error {
	m.mu.Lock()
	l := m.links[s.peer]
	if l == nil {
		m.mu.Unlock()
		return errRemoved
	}
	old := l.session
	chosen := true
	if m.arbitrates(s.peer) {
		switch {
		case l.greeting && !s.dialled:
			chosen = false // this node's own connection is about to be chosen: no need to have both in turn
		case old != nil:
			chosen = supersedes(m.claimOf(old), m.claimOf(s))
		}
		if chosen {
			m.adopted++
			s.name = sessionName{Arbiter: m.instance, Number: m.adopted}
		}
	} else if old != nil && old.name.Arbiter == s.name.Arbiter {
		chosen = s.name.Number > old.name.Number
	}
	if !chosen {
		m.mu.Unlock()
		return errDuplicate
	}
	if !m.spawnLocked(s.serve) {
		m.mu.Unlock()
		return errEnding
	}
	if s.told != m.revision { // the list changed during the exchange
		m.spawnLocked(func() { m.tellHello(s) })
	}
	s.heard = time.Now()
	l.session, l.lastError, l.failure, l.refuses = s, "", "", ""
	doubled := l.twins.note(sighting{s.hello.Instance, s.Address(), s.heard})
	name := m.nameOfLocked(s.peer)
	l.signalLocked()
	m.changedLocked()
	m.mu.Unlock()
	m.refusals.forget(s.peer, s.since)
	if doubled != nil {
		m.refuse(s.peer, s.conn.RemoteAddr(), ReasonTwoDaemons, fmt.Sprintf("two daemons run with the key of %s, at %s and %s", name, doubled[0], doubled[1]))
	}
	if old != nil {
		old.end(codeReplaced, "replaced by a newer connection")
	}
	return nil
}

// retire takes note that the connection of s ended for cause.
func (m *Mesh) retire(s *Session, cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.links[s.peer]
	if l == nil || l.session != s {
		return
	}
	now := time.Now()
	l.lastHeard = s.heardLocked(now)
	var silent *quic.IdleTimeoutError
	if errors.As(cause, &silent) && l.lastHeard.Equal(now) {
		l.lastHeard = now.Add(-idleTimeout)
	}
	var told *quic.ApplicationError
	if errors.As(cause, &told) && told.Remote {
		l.lastHeard = now
	}
	l.session = nil
	l.ended = s.name
	l.failLocked(m.diagnose(cause))
	l.signalLocked()
	m.changedLocked()
	if !m.ending {
		m.log.Warn("peer lost", "peer", m.nameOfLocked(s.peer), "address", s.Address(), "cause", l.lastError)
	}
}
