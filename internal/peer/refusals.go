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
	ReasonTooMany      Reason = "too-many"      // too many handshakes in flight
)

// Refusal is one kind of refusal of one node, however often it happened.
type Refusal struct {
	ID      fleet.NodeID // zero when it did not get as far as proving one
	Address string       // where it last came from or was dialled at
	Reason  Reason
	Text    string // for people: what was wrong
	Times   uint64
	First   time.Time
	Last    time.Time
}

// Refusals is who was refused since the start.
type Refusals struct {
	Counts map[Reason]uint64
	Recent []Refusal // the latest last; at most 16
}

const (
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
func (r *refusals) add(id fleet.NodeID, address string, reason Reason, text string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts = map[Reason]uint64{}
	}
	r.counts[reason]++
	entry := remembered{Refusal: Refusal{ID: id, Reason: reason, First: now}}
	if i := slices.IndexFunc(r.recent, func(e remembered) bool { return e.ID == id && e.Reason == reason }); i >= 0 {
		entry = r.recent[i]
		r.recent = slices.Delete(r.recent, i, i+1)
	} else if len(r.recent) == refusalsKept {
		r.recent = slices.Delete(r.recent, 0, 1)
	}
	entry.Address, entry.Text, entry.Last = address, text, now
	entry.Times++
	loud := r.loudLocked(entry, now)
	if loud {
		entry.logged = now
	}
	r.recent = append(r.recent, entry)
	return loud
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
	if m.refusals.add(id, from.String(), reason, text, time.Now()) {
		shown := ""
		if !id.IsZero() {
			shown = id.String()
		}
		m.log.Warn("connection refused", "id", shown, "address", from.String(), "reason", string(reason), "what", text)
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
