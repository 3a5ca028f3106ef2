package peer

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"

	"certswarm/internal/fleet"

	"github.com/quic-go/quic-go"
)

// alpn carries the protocol's version (RFC 7301): nodes that cannot understand each other fail in the handshake.
const alpn = "certswarm/1"

// keyError says that a peer proved a key, but not one that may talk here.
type keyError struct {
	id     fleet.NodeID
	reason Reason
	text   string
}

func (e *keyError) Error() string { return e.text }

// certificate wraps the node key in what TLS wants around it. Nobody looks at anything in it but the key.
func (i *Identity) certificate() (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 4.1.2.5: no end
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, i.PublicKey(), i.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("wrap the node key in a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: i.key}, nil
}

// derive returns 32 bytes that only this node can know and that are the same after every restart.
func (i *Identity) derive(purpose string) [32]byte {
	key, err := hkdf.Key(sha256.New, i.key.Seed(), nil, "certswarm "+purpose, 32)
	if err != nil {
		panic(fmt.Sprintf("peer: HKDF of 32 bytes: %v", err)) // RFC 5869 2.3 allows 8,160
	}
	return [32]byte(key)
}

// baseTLS trusts no certificate authority and no name: VerifyConnection, which runs on every handshake, is all the
// verification there is, and resumption, which would skip parts of a handshake, is off.
func (m *Mesh) baseTLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{m.certificate},
		NextProtos:             []string{alpn},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
	}
}

func (m *Mesh) clientTLS(to fleet.NodeID, at net.Addr) *tls.Config {
	config := m.baseTLS()
	config.VerifyConnection = func(state tls.ConnectionState) error { return m.verify(state, at, to) }
	return config
}

func (m *Mesh) serverTLS() *tls.Config {
	config := m.baseTLS()
	config.GetConfigForClient = func(caller *tls.ClientHelloInfo) (*tls.Config, error) {
		from := caller.Conn.RemoteAddr()
		h, _ := caller.Context().Value(holdKey{}).(*hold) // by admit
		h.spoke.Store(true)
		if !slices.Contains(caller.SupportedProtos, alpn) {
			h.judged.Store(true)
			m.refuse(fleet.NodeID{}, from, ReasonProtocol, fmt.Sprintf("speaks %.64q, this node %q", caller.SupportedProtos, alpn))
		}
		own := m.baseTLS()
		own.VerifyConnection = func(state tls.ConnectionState) error {
			h.judged.Store(true)
			return m.verify(state, from, fleet.NodeID{})
		}
		return own, nil
	}
	return config
}

// verify decides whether the key that the other end has proven (RFC 8446 4.4.3) may talk to this node. wanted is the
// peer that was dialled, zero for an incoming connection.
func (m *Mesh) verify(state tls.ConnectionState, from net.Addr, wanted fleet.NodeID) error {
	err := m.judge(state, wanted)
	if err == nil {
		return nil
	}
	refused := Refusal{ID: err.id, Address: from.String(), Reason: err.reason, Text: err.text}
	if err.reason == ReasonOtherKey {
		refused.Dialled = wanted
	}
	m.refuseAs(refused)
	return err
}

func (m *Mesh) judge(state tls.ConnectionState, wanted fleet.NodeID) *keyError {
	if len(state.PeerCertificates) == 0 {
		return &keyError{reason: ReasonProtocol, text: "no certificate"}
	}
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return &keyError{reason: ReasonProtocol, text: "a certificate whose key is not Ed25519"}
	}
	id := fleet.IDOf(key)
	m.mu.Lock()
	defer m.mu.Unlock()
	_, listed := m.roster.ByID(id)
	switch {
	case id == m.self.ID():
		return &keyError{id, ReasonOwnKey, "this node's own key: the address is its own, or another node has a copy of its key"}
	case !wanted.IsZero() && id != wanted:
		return &keyError{id, ReasonOtherKey, fmt.Sprintf("%s was dialled, but %s answered", m.nameOfLocked(wanted), m.nameOfLocked(id))}
	case !listed:
		return &keyError{id, ReasonUnknownKey, "not in the peer list; add this id if the node belongs"}
	}
	return nil
}

// peerOf returns who is at the other end of a connection that verify let pass.
func peerOf(conn *quic.Conn) fleet.NodeID {
	return fleet.IDOf(conn.ConnectionState().TLS.PeerCertificates[0].PublicKey.(ed25519.PublicKey))
}

func (m *Mesh) nameOf(id fleet.NodeID) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nameOfLocked(id)
}

func (m *Mesh) nameOfLocked(id fleet.NodeID) string { return m.roster.NameOf(id) }
