package peer

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"math/bits"
	"net"
	"net/netip"
	"slices"

	"certswarm/internal/fleet"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
	"golang.org/x/net/ipv4"
)

// QUIC drops what belongs to no connection without a word, or answers it as a packet of a connection that was forgotten. For
// the counter and the log every datagram is looked at before: by its first bytes, without a table and without memory.

const (
	idRandom = 8            // bytes of a connection id
	idLength = idRandom + 4 // the rest is the mark

	initialLeast = 1200 // bytes of a datagram that begins a connection, or asks for versions (RFC 9000 14.1, 6.1)
	initialID    = 8    // bytes, at least, of the id that a caller chooses (RFC 9000 7.2)
	idMost       = 20   // RFC 9000 17.2

	// resetLength is that of the stateless resets which peers send after a restart, to be told from noise by the connection alone that they
	// end (RFC 9000 10.3).
	resetLength = 42
)

// connectionIDs makes this node's connection ids (RFC 9000 5.1): random bytes, and a mark by which the node knows its own
// again, those from before a restart too. No secret hangs on the mark: whoever has seen an id can repeat it, noise cannot.
type connectionIDs struct{ salt, factor uint64 }

func (i *Identity) connectionIDs() connectionIDs {
	key := i.derive("connection ids")
	return connectionIDs{binary.BigEndian.Uint64(key[:]), binary.BigEndian.Uint64(key[8:]) | 1}
}

// GenerateConnectionID implements quic.ConnectionIDGenerator.
func (c connectionIDs) GenerateConnectionID() (quic.ConnectionID, error) {
	var id [idLength]byte
	rand.Read(id[:idRandom]) // never fails
	binary.BigEndian.PutUint32(id[idRandom:], c.mark(id[:]))
	return quic.ConnectionIDFromBytes(id[:]), nil
}

// ConnectionIDLen implements quic.ConnectionIDGenerator.
func (c connectionIDs) ConnectionIDLen() int { return idLength }

func (c connectionIDs) mark(id []byte) uint32 {
	high, low := bits.Mul64(binary.BigEndian.Uint64(id)^c.salt, c.factor)
	return uint32(high ^ low)
}

// own reports whether id, or what begins with it, is an id of this node.
func (c connectionIDs) own(id []byte) bool {
	return len(id) >= idLength && binary.BigEndian.Uint32(id[idRandom:]) == c.mark(id)
}

// garbage reports whether a datagram can neither be of a connection of this node, nor begin one, nor ask for versions.
func (c connectionIDs) garbage(datagram []byte) bool {
	if len(datagram) == 0 {
		return true
	}
	long, fixed := datagram[0]&0x80 != 0, datagram[0]&0x40 != 0 // RFC 9000 17.2, 17.3
	if !long {
		return !fixed || !c.own(datagram[1:]) && len(datagram) != resetLength
	}
	if len(datagram) < 6 || datagram[5] > idMost || len(datagram) < 6+int(datagram[5]) {
		return true
	}
	id := datagram[6 : 6+int(datagram[5])]
	if c.own(id) {
		return false
	}
	if len(datagram) < initialLeast {
		return true
	}
	if version := binary.BigEndian.Uint32(datagram[1:]); version != uint32(quic.Version1) {
		return version&0x0f0f0f0f != 0x0a0a0a0a // RFC 9000 15: to be asked with, as `certswarm doctor` does
	}
	initial := datagram[0]&0x30 == 0
	return !fixed || !initial || len(id) < initialID || !begins(datagram[6+len(id):])
}

// begins reports whether the rest of an Initial packet is what its lengths say (RFC 9000 17.2.2).
func begins(rest []byte) bool {
	from := int(rest[0])
	if from > idMost || len(rest) < 1+from {
		return false
	}
	rest = rest[1+from:]
	token, n, err := quicvarint.Parse(rest)
	if err != nil || token > uint64(len(rest)-n) {
		return false
	}
	rest = rest[n+int(token):]
	payload, n, err := quicvarint.Parse(rest)
	return err == nil && payload <= uint64(len(rest)-n)
}

// sifted is the socket with somebody who looks at what comes in, and lets all of it pass.
func (m *Mesh) sifted() net.PacketConn {
	if udp, ok := m.conn.(*net.UDPConn); ok {
		return &siftedUDP{udp, ipv4.NewPacketConn(udp), m}
	}
	return &siftedPackets{m.conn, m}
}

// siftedUDP is read as quic-go reads a socket of the kernel, many datagrams at a time.
type siftedUDP struct {
	*net.UDPConn
	batches *ipv4.PacketConn // whatever the family
	mesh    *Mesh
}

// ReadBatch is what quic-go asks for.
func (s *siftedUDP) ReadBatch(messages []ipv4.Message, flags int) (int, error) {
	n, err := s.batches.ReadBatch(messages, flags)
	for i := range max(n, 0) {
		s.mesh.sift(messages[i].Buffers[0][:messages[i].N], messages[i].Addr)
	}
	return n, err
}

// siftedPackets is any other socket.
type siftedPackets struct {
	net.PacketConn
	mesh *Mesh
}

// ReadFrom implements net.PacketConn.
func (s *siftedPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := s.PacketConn.ReadFrom(b)
	if err == nil {
		s.mesh.sift(b[:n], from)
	}
	return n, from, err
}

func (m *Mesh) sift(datagram []byte, from net.Addr) {
	if m.ids.garbage(datagram) {
		m.refuse(fleet.NodeID{}, from, ReasonGarbage, "a packet that belongs to no connection")
	}
}

// connectedAt reports whether a session is with that host.
func (m *Mesh) connectedAt(host netip.Addr) bool {
	return slices.ContainsFunc(m.Sessions(), func(s *Session) bool { return hostOf(s.conn.RemoteAddr()) == host })
}

// noteEnd counts an incoming connection that ended before anybody looked at a key.
func (m *Mesh) noteEnd(h *hold, from net.Addr, cause error) {
	if h.judged.Load() {
		return
	}
	var broken *quic.TransportError
	refusedHere := errors.As(cause, &broken) && !broken.Remote
	switch {
	case errors.Is(cause, quic.ErrTransportClosed), refusedHere && broken.ErrorCode == quic.ConnectionRefused:
		// this node ends
	case refusedHere && broken.ErrorCode == alertNoCertificate:
		m.refuse(fleet.NodeID{}, from, ReasonProtocol, "no certificate")
	case refusedHere:
		m.refuse(fleet.NodeID{}, from, ReasonProtocol, cause.Error())
	case h.spoke.Load(), m.connectedAt(hostOf(from)):
		m.refusals.count(ReasonUnfinished)
	default:
		m.refuse(fleet.NodeID{}, from, ReasonGarbage, "the beginning of a connection that cannot be read")
	}
}
