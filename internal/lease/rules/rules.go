// Package rules is what the lease decides, without doing it: what a committed command changes, how long a right lasts,
// which change of the voters comes next, who may found, who may rebuild, and who may order when there is no quorum.
//
// It is not the consensus: it knows no network, no disk and no clock, and every function answers the same question with the
// same answer. What is committed, heard and measured is handed in by package lease, which also carries the answers out.
package rules

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"

	"certswarm/internal/fleet"
)

// Seat is a node's place in the consensus: the node, and the life of its disk. A node that lost its disk sits down
// on another seat, because what it promised on the old one is forgotten.
type Seat struct {
	Node        fleet.NodeID `json:"node"`
	Incarnation uint64       `json:"incarnation"` // random, made with the disk's first state
}

// Vacant reports whether nobody sits on s, and never will: it stands for a member that was not there when the cluster began.
func (s Seat) Vacant() bool { return s.Incarnation == 0 }

// IsZero reports whether s is nobody's.
func (s Seat) IsZero() bool { return s == Seat{} }

// ID is the seat's number in the consensus: never 0, and never one of the numbers at the end that etcd's raft keeps for itself.
func (s Seat) ID() uint64 {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(append([]byte("certswarm lease seat\x00"), s.Node[:]...), s.Incarnation))
	id := binary.BigEndian.Uint64(sum[:])
	return min(max(id, 1), math.MaxUint64-2)
}

// Cluster names one consensus: random, made when it was founded.
type Cluster [16]byte

// IsZero reports whether c is the cluster of a node that has no state.
func (c Cluster) IsZero() bool { return c == Cluster{} }

// String returns enough of it to tell two apart.
func (c Cluster) String() string { return hex.EncodeToString(c[:4]) }

// Line is one unforked history of a cluster. A forced recovery begins another one, which supersedes those before it.
type Line struct {
	Cluster    Cluster
	Generation uint64
	Nonce      uint64 // random: two recoveries of one generation are never taken for each other
}

// IsZero reports whether l is the line of a node that has no state.
func (l Line) IsZero() bool { return l == Line{} }

// Supersedes reports whether l came out of a recovery of other's cluster, so that other is history.
func (l Line) Supersedes(other Line) bool {
	return l.Cluster == other.Cluster && !l.IsZero() && (l.Generation > other.Generation ||
		l.Generation == other.Generation && l.Nonce > other.Nonce)
}
