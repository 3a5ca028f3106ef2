package peer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	helloFormat = 1               // raised when old readers must not read on; new fields do not raise it
	helloMax    = 4 << 10         // bytes of JSON
	helloWait   = 3 * time.Second // for the whole exchange, from the end of the handshake
	clusterMax  = 128             // bytes
	versionMax  = 64              // bytes
	instanceMax = 64              // bytes
)

// hello is what a node says about itself: on the first stream of a connection, which its dialler opens, and again on a stream
// of its own whenever the peer list changes. On the wire it is its length in JSON (2 bytes, big endian), then the JSON.
type hello struct {
	Format   int    `json:"format"`
	Cluster  string `json:"cluster"`
	Version  string `json:"version"`
	Roster   []byte `json:"roster"`   // fleet.Roster.Digest
	Instance string `json:"instance"` // random for every process
	Revision uint64 `json:"revision"` // grows within an instance: the later word counts

	// Ended is the session of this pair that ended last at the sender, zero if none did since it started.
	Ended sessionName `json:"ended"`
}

// sessionName names a session of a pair: which process of the arbiter decided on it, and how many it had decided on
// before.
type sessionName struct {
	Arbiter string `json:"arbiter,omitempty"` // instance
	Number  uint64 `json:"number,omitempty"`
}

var (
	errDuplicate = errors.New("another connection with this peer was chosen")
	errRemoved   = errors.New("no longer in the peer list")
	errEnding    = errors.New("shutting down")
)

// strayError says that a peer whose key is pinned may still not be talked to.
type strayError struct {
	reason Reason
	code   quic.ApplicationErrorCode
	text   string // for this node
	told   string // what the peer is told
}

func (e *strayError) Error() string { return e.text }

func protocolFault(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	return &strayError{ReasonProtocol, codeProtocol, text, text}
}

// otherCluster says of a peer that its cluster is not this node's. Only who was dialled can compare the two: it tells the dialler the name of
// its own as the reason for which it ends the connection.
func (m *Mesh) otherCluster(its string) string {
	if its == "" || !plain(its, clusterMax) {
		return fmt.Sprintf("belongs to another cluster, this node to %q", m.cluster)
	}
	return fmt.Sprintf("belongs to cluster %q, this node to %q", its, m.cluster)
}

// helloTo returns what this node says about itself now on the connection s.
func (m *Mesh) helloTo(s *Session) []byte {
	m.mu.Lock()
	s.told = m.revision
	digest := m.roster.Digest()
	said := hello{
		Format: helloFormat, Cluster: m.cluster, Version: m.version,
		Roster: digest[:], Instance: m.instance, Revision: m.revision,
	}
	if l := m.links[s.peer]; l != nil {
		said.Ended = l.ended
	}
	m.mu.Unlock()
	return said.encode()
}

func (said hello) encode() []byte {
	text, err := json.Marshal(said)
	if err != nil || len(text) > helloMax {
		panic(fmt.Sprintf("peer: a Hello of bounded strings has %d bytes: %v", len(text), err))
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...)
}

func readHello(from io.Reader) (hello, error) {
	var size [2]byte
	if _, err := io.ReadFull(from, size[:]); err != nil {
		return hello{}, err
	}
	length := int(binary.BigEndian.Uint16(size[:]))
	if length > helloMax {
		return hello{}, protocolFault("a Hello of %d bytes, more than %d", length, helloMax)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(from, text); err != nil {
		return hello{}, err
	}
	return parseHello(text)
}

func parseHello(text []byte) (hello, error) {
	var said hello
	if err := json.Unmarshal(text, &said); err != nil {
		return hello{}, protocolFault("a Hello that cannot be read: %v", err)
	}
	switch {
	case said.Format != helloFormat:
		return hello{}, protocolFault("speaks Hello format %d, this node %d; run the same version on both", said.Format, helloFormat)
	case len(said.Roster) != sha256.Size:
		return hello{}, protocolFault("a Hello with a roster digest of %d bytes", len(said.Roster))
	case !plain(said.Cluster, clusterMax), !plain(said.Version, versionMax), !plain(said.Instance, instanceMax), said.Instance == "":
		return hello{}, protocolFault("a Hello with an overlong or unprintable name")
	}
	return said, nil
}

// plain reports whether text is short enough and cannot disturb a terminal.
func plain(text string, most int) bool {
	return len(text) <= most && bytes.IndexFunc([]byte(text), func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) < 0
}

// greet exchanges Hellos on a connection whose handshake is done and makes it the session with its peer, or closes it.
//
//	dialler  -> purposeHello, Hello
//	acceptor -> Hello
//	arbiter  -> number of the session (8 bytes, big endian), see adopt
func (m *Mesh) greet(ctx context.Context, conn *quic.Conn, dialled bool) {
	s := &Session{mesh: m, conn: conn, dialled: dialled, peer: peerOf(conn), since: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, helloWait)
	defer cancel()
	abort := context.AfterFunc(ctx, func() { s.end(codeProtocol, "no Hello in time") })
	err := m.exchange(ctx, s)
	abort()
	var stray *strayError
	var remote *quic.ApplicationError
	switch {
	case err == nil:
		m.log.Info("peer connected", "peer", m.nameOf(s.peer), "address", s.Address(), "dialled", dialled)
		return
	case errors.Is(err, errDuplicate):
		s.end(codeDuplicate, err.Error())
		return
	case errors.Is(err, errRemoved):
		s.end(codeRemoved, err.Error())
		return
	case errors.As(err, &stray):
		m.refuse(s.peer, conn.RemoteAddr(), stray.reason, stray.text)
		s.end(stray.code, stray.told)
	case errors.As(err, &remote) && remote.Remote && remote.ErrorCode == codeDuplicate:
		return
	case errors.As(err, &remote) && remote.Remote && remote.ErrorCode == codeWrongCluster:
		m.refuse(s.peer, conn.RemoteAddr(), ReasonWrongCluster, m.explain(err))
	default:
		s.end(codeLeaving, "")
	}
	m.failed(s.peer, err)
}

func (m *Mesh) exchange(ctx context.Context, s *Session) error {
	var first stream
	if s.dialled {
		opened, err := s.open(ctx, append([]byte{byte(purposeHello)}, m.helloTo(s)...))
		if err != nil {
			return err
		}
		first = opened
	} else {
		accepted, err := s.conn.AcceptStream(ctx)
		if err != nil {
			return err
		}
		first = stream{accepted}
		var purpose [1]byte
		if _, err := io.ReadFull(first, purpose[:]); err != nil {
			return err
		}
		if Purpose(purpose[0]) != purposeHello {
			return protocolFault("began with a stream of purpose %d instead of a Hello", purpose[0])
		}
	}
	said, err := readHello(first)
	if err != nil {
		return err
	}
	s.hello = said
	if said.Cluster != m.cluster {
		return &strayError{ReasonWrongCluster, codeWrongCluster, m.otherCluster(said.Cluster), m.cluster}
	}
	if !s.dialled {
		if _, err := first.Write(m.helloTo(s)); err != nil {
			return err
		}
	}
	if err := m.settle(s, first); err != nil {
		return err // the stream stays open: its end would hide the reason with which the connection ends
	}
	first.Close()
	return nil
}

// settle lets the arbiter of the pair decide on s and tell the other, and the other follow.
func (m *Mesh) settle(s *Session, first stream) error {
	if m.arbitrates(s.peer) {
		if err := m.adopt(s); err != nil {
			return err
		}
		// The session exists from here on. Should the number not arrive, the connection is dying, and serve notices.
		_, err := first.Write(binary.BigEndian.AppendUint64(nil, s.name.Number))
		return err
	}
	var number [8]byte
	if _, err := io.ReadFull(first, number[:]); err != nil {
		return err
	}
	s.name = sessionName{Arbiter: s.hello.Instance, Number: binary.BigEndian.Uint64(number[:])}
	return m.adopt(s)
}

// tellHello sends the peer what this node says about itself now.
func (m *Mesh) tellHello(s *Session) {
	ctx, cancel := context.WithTimeout(s.conn.Context(), helloWait)
	defer cancel()
	opened, err := s.open(ctx, append([]byte{byte(purposeHello)}, m.helloTo(s)...))
	if err != nil {
		return // the session is over, or so congested that the next Hello will have to do
	}
	opened.Close()
}

// heardHello takes in what a connected peer says about itself now.
func (m *Mesh) heardHello(_ context.Context, s *Session, from Stream) {
	_ = from.SetReadDeadline(time.Now().Add(helloWait))
	said, err := readHello(from)
	m.mu.Lock()
	sound := err == nil && said.Instance == s.hello.Instance && said.Cluster == m.cluster
	if sound && said.Revision > s.hello.Revision {
		s.hello = said
		m.changedLocked()
	}
	m.mu.Unlock()
	if !sound {
		s.end(codeProtocol, "a changed Hello that makes no sense")
	}
}
