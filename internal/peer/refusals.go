package peer

import (
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"certswarm/internal/fleet"
)

// Reason says why a connection was refused; it is a closed list.
type Reason string

// The reasons.
const (
	ReasonUnknownKey   Reason = "unknown-key"   // not in the peer list
	ReasonWrongCluster Reason = "wrong-cluster" // in the list, but configured for another cluster
	ReasonOtherKey     Reason = "other-key"     // dialled one peer's address, another's key answered
	ReasonOwnKey       Reason = "own-key"       // dialled itself, or somebody has a copy of this node's key
	ReasonProtocol     Reason = "protocol"      // does not speak this protocol, or breaks it
	ReasonGarbage      Reason = "garbage"       // packets, not connections: what came belongs to none and begins none
	ReasonUnfinished   Reason = "unfinished"    // fell silent in the handshake, or left. Peers do so too: counted, and no more is said
	ReasonTooMany      Reason = "too-many"      // too many handshakes in flight
	ReasonTwoDaemons   Reason = "two-daemons"   // let in, but two processes with this key take the session from each other
)

// Reasons is all of them.
var Reasons = []Reason{
	ReasonUnknownKey, ReasonWrongCluster, ReasonOtherKey, ReasonOwnKey, ReasonProtocol, ReasonGarbage, ReasonUnfinished, ReasonTooMany, ReasonTwoDaemons,
}

// Refusal is one kind of refusal of one node, however often it happened.
type Refusal struct {
	ID      fleet.NodeID // zero when it did not get as far as proving one
	Dialled fleet.NodeID // for ReasonOtherKey: who was dialled; else zero
	Address string       // where it last came from or was dialled at
	Reason  Reason
	Text    string    // for people: what was wrong
	Times   uint64    // since First
	First   time.Time // after a silence of RefusalSilence a refusal begins anew
	Last    time.Time
}

// Refusals is who was refused since the start.
type Refusals struct {
	Counts map[Reason]uint64
	Recent []Refusal // the latest last; at most 16
}

const (
	// RefusalSilence is after how long without another a refusal is over: who is refused comes again every few seconds.
	RefusalSilence = time.Minute

	refusalsKept      = 16
	refusalLogPause   = time.Minute // for one node and reason
	strangerLogPause  = time.Hour   // the same for a key nobody listed: one line is for the operator to copy, the rest is counted
	refusalLinesAtAll = 20          // a minute, so that fresh keys cannot flood the log
)

type refusals struct {
	mu          sync.Mutex
	counts      map[Reason]uint64
	recent      []remembered // by Last, ascending
	windowStart time.Time
	windowLines int
}

type remembered struct {
	Refusal
	logged time.Time
}

// add counts one refusal and reports whether it deserves a line in the log.
func (r *refusals) add(refused Refusal, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.countLocked(refused.Reason)
	entry := remembered{Refusal: refused}
	if i := slices.IndexFunc(r.recent, func(e remembered) bool {
		return e.ID == refused.ID && e.Reason == refused.Reason && e.Dialled == refused.Dialled
	}); i >= 0 {
		entry = r.recent[i]
		r.recent = slices.Delete(r.recent, i, i+1)
	} else if len(r.recent) == refusalsKept {
		r.recent = slices.Delete(r.recent, 0, 1)
	}
	if now.Sub(entry.Last) >= RefusalSilence {
		entry.First, entry.Times = now, 0
	}
	entry.Address, entry.Text, entry.Last = refused.Address, refused.Text, now
	entry.Times++
	loud := r.loudLocked(entry, now)
	if loud {
		entry.logged = now
	}
	r.recent = append(r.recent, entry)
	return loud
}

// count counts one refusal of which nothing else is to be remembered.
func (r *refusals) count(reason Reason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.countLocked(reason)
}

func (r *refusals) countLocked(reason Reason) {
	if r.counts == nil {
		r.counts = map[Reason]uint64{}
	}
	r.counts[reason]++
}

// forget drops what is remembered about a node that is let in at now, but that it has a double as long as that goes on.
func (r *refusals) forget(id fleet.NodeID, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recent = slices.DeleteFunc(r.recent, func(e remembered) bool {
		goesOn := e.Reason == ReasonTwoDaemons && now.Sub(e.Last) < RefusalSilence
		return (e.ID == id || e.Dialled == id) && !goesOn
	})
}

func (r *refusals) loudLocked(entry remembered, now time.Time) bool {
	pause := refusalLogPause
	if entry.Reason == ReasonUnknownKey {
		pause = strangerLogPause
	}
	if !entry.logged.IsZero() && now.Sub(entry.logged) < pause {
		return false
	}
	if now.Sub(r.windowStart) >= time.Minute {
		r.windowStart, r.windowLines = now, 0
	}
	r.windowLines++
	return r.windowLines <= refusalLinesAtAll
}

func (m *Mesh) refuse(id fleet.NodeID, from net.Addr, reason Reason, text string) {
	m.refuseAs(Refusal{ID: id, Address: from.String(), Reason: reason, Text: text})
}

func (m *Mesh) refuseAs(refused Refusal) {
	if m.refusals.add(refused, time.Now()) {
		shown := ""
		if !refused.ID.IsZero() {
			shown = refused.ID.String()
		}
		m.log.Warn("connection refused", "id", shown, "address", refused.Address, "reason", string(refused.Reason), "what", refused.Text)
	}
}

// Refusals returns who was refused, in both directions, since the start.
func (m *Mesh) Refusals() Refusals {
	m.refusals.mu.Lock()
	defer m.refusals.mu.Unlock()
	out := Refusals{Counts: maps.Clone(m.refusals.counts)}
	for _, entry := range m.refusals.recent {
		out.Recent = append(out.Recent, entry.Refusal)
	}
	return out
}
