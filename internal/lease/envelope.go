package lease

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// MaxMessage is how long a message can be, in bytes. The longest is a snapshot, which grows with the voters only.
const MaxMessage = 64 << 10

// A message is a header and a body:
//
//	format (1 byte), kind (1), cluster (16), generation (8), nonce (8), sender's incarnation (8), body
//
// Numbers are big endian. A node without state has cluster, generation and nonce zero.
const (
	envelopeFormat = 1
	envelopeHeader = 2 + 16 + 3*8
)

const (
	kindRaft = 1 // raftpb.Message
	kindSaid = 2 // said, as JSON
)

// envelope is a message whose sender the network has proven.
type envelope struct {
	line rules.Line
	seat rules.Seat
	raft *raftpb.Message // nil, or
	said *said
}

// said is what a node tells every connected member of the electorate about itself.
type said struct {
	rules.Standing

	Stamp int64 `json:"stamp"`          // the sender's boot clock
	Echo  int64 `json:"echo,omitempty"` // the last stamp that the sender had from the receiver
	Ask   bool  `json:"ask,omitempty"`  // to be answered at once

	Holder  fleet.NodeID  `json:"holder"`  // zero: none that renews
	Renewed time.Duration `json:"renewed"` // how long ago the sender knew of a renewal; negative: it never did

	// Attest is how far the receiver had come when the sender last heard its consensus speak from Seat.
	Attest progress `json:"attest,omitzero"`
	Of     uint64   `json:"of,omitempty"` // Seat.ID

	// Out tells the receiver that it neither votes nor learns. Who was away when it lost its seat is not told by the consensus.
	Out bool `json:"out,omitempty"`
}

// progress only grows while a disk keeps what it was told: the term, and the end of the log within it.
type progress struct {
	Term  uint64 `json:"term"`
	Index uint64 `json:"index"`
}

func (p progress) before(other progress) bool {
	return p.Term < other.Term || p.Term == other.Term && p.Index < other.Index
}

func (e envelope) encode() ([]byte, error) {
	kind := byte(kindRaft)
	var body []byte
	var err error
	if e.raft != nil {
		body, err = proto.Marshal(e.raft)
	} else {
		kind = kindSaid
		body, err = json.Marshal(e.said)
	}
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, envelopeHeader+len(body))
	out = append(out, envelopeFormat, kind)
	out = append(out, e.line.Cluster[:]...)
	out = binary.BigEndian.AppendUint64(out, e.line.Generation)
	out = binary.BigEndian.AppendUint64(out, e.line.Nonce)
	out = binary.BigEndian.AppendUint64(out, e.seat.Incarnation)
	return append(out, body...), nil
}

var errEnvelope = errors.New("not a message of the lease")

func decodeEnvelope(from fleet.NodeID, message []byte) (envelope, error) {
	if len(message) < envelopeHeader || len(message) > MaxMessage {
		return envelope{}, fmt.Errorf("%w: %d bytes", errEnvelope, len(message))
	}
	if message[0] != envelopeFormat {
		return envelope{}, fmt.Errorf("%w: format %d, this node speaks %d; run the same version on both", errEnvelope, message[0], envelopeFormat)
	}
	rest := message[2:]
	var e envelope
	copy(e.line.Cluster[:], rest)
	e.line.Generation = binary.BigEndian.Uint64(rest[16:])
	e.line.Nonce = binary.BigEndian.Uint64(rest[24:])
	e.seat = rules.Seat{Node: from, Incarnation: binary.BigEndian.Uint64(rest[32:])}
	body := rest[40:]
	switch message[1] {
	case kindRaft:
		e.raft = &raftpb.Message{}
		if err := proto.Unmarshal(body, e.raft); err != nil {
			return envelope{}, fmt.Errorf("%w: %w", errEnvelope, err)
		}
		if e.raft.GetFrom() != e.seat.ID() || !travels(e.raft.GetType()) {
			return envelope{}, fmt.Errorf("%w: a %s in the name of another", errEnvelope, e.raft.GetType())
		}
	case kindSaid:
		e.said = &said{}
		if err := json.Unmarshal(body, e.said); err != nil {
			return envelope{}, fmt.Errorf("%w: %w", errEnvelope, err)
		}
		e.said.Seat, e.said.Line = e.seat, e.line
	default:
		return envelope{}, fmt.Errorf("%w: kind %d", errEnvelope, message[1])
	}
	return e, nil
}

// travels reports whether a kind of raft message comes from other nodes. The others are commands of a node to itself.
func travels(kind raftpb.MessageType) bool {
	switch kind {
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgSnap, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow,
		raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp:
		return true
	}
	return false
}
