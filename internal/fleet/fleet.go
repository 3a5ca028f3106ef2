// Package fleet is the vocabulary that every other package speaks: who a node is, which nodes belong, and which
// lease epoch is later. It performs no I/O and knows nothing of files, certificates or connections.
package fleet

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
)

// NodeID names a node: the SHA-256 of its public key's SubjectPublicKeyInfo (DER, RFC 5280 4.1.2.7). Holding the
// private key is what being that node means; addresses and names are hints.
type NodeID [sha256.Size]byte

var idText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// idLength is the length of a NodeID's text form: 256 bits in base32 without padding.
const idLength = 52

// IDOf returns the id of the node that holds the private half of key.
func IDOf(key ed25519.PublicKey) NodeID {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(fmt.Sprintf("fleet: an Ed25519 public key has %d bytes, this one %d", ed25519.PublicKeySize, len(key)))
	}
	return sha256.Sum256(spki)
}

// ParseNodeID reads the text form that NodeID.String writes; case does not matter. Only the one canonical spelling of
// an id is accepted, so that two texts are the same node exactly when they are the same text.
func ParseNodeID(text string) (NodeID, error) {
	var id NodeID
	if len(text) != idLength {
		return id, fmt.Errorf("a node id has %d characters, this has %d", idLength, len(text))
	}
	raw, err := idText.DecodeString(strings.ToLower(text))
	if err != nil {
		return id, errors.New("a node id has only the letters a-z and the digits 2-7")
	}
	copy(id[:], raw)
	if id.String() != strings.ToLower(text) {
		return NodeID{}, errors.New("not a node id: its last character cannot end one")
	}
	return id, nil
}

// String returns the 52 characters that operators copy: lower-case base32 (RFC 4648 6) without padding.
func (id NodeID) String() string { return idText.EncodeToString(id[:]) }

// Short returns enough of the id to tell nodes apart in a log line.
func (id NodeID) Short() string { return id.String()[:8] }

// IsZero reports whether id names nobody.
func (id NodeID) IsZero() bool { return id == NodeID{} }

// Compare orders ids by their bytes: the tie-breaker wherever two nodes are otherwise equal.
func (id NodeID) Compare(other NodeID) int { return bytes.Compare(id[:], other[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id NodeID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *NodeID) UnmarshalText(text []byte) error {
	parsed, err := ParseNodeID(string(text))
	if err == nil {
		*id = parsed
	}
	return err
}
