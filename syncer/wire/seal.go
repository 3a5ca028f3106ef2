package wire

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
)

// Scope is where a signature holds: an entry of one cluster's directory means nothing in another.
type Scope struct{ Cluster, Directory string }

// sealGroup is how many entries share one signature. One Ed25519 verification costs as much as some hundred hashes, so a
// group of 64 makes the signatures of 10,000 files cheaper than reading the files.
const sealGroup = 64

// Rehash sets the entry's Hash from everything that its origin vouches for.
func (s Scope) Rehash(entry *index.Entry) {
	e := encoder{make([]byte, 0, 256)}
	e.text("certswarm entry 1")
	e.text(s.Cluster)
	e.text(s.Directory)
	e.origin(entry.Origin)
	e.entry(entry)
	entry.Hash = sha256.Sum256(e.b)
}

func (s Scope) signed(root [sha256.Size]byte) []byte {
	return append([]byte("certswarm seal 1\x00"), root[:]...)
}

// Seal hashes and signs new entries, all of one origin; sign is that origin's. The entries must not be shared yet.
func (s Scope) Seal(entries []*index.Entry, sign func(message []byte) []byte) {
	for start := 0; start < len(entries); start += sealGroup {
		group := entries[start:min(start+sealGroup, len(entries))]
		level := make([]node, len(group))
		for i, entry := range group {
			s.Rehash(entry)
			entry.Seal = index.Seal{}
			level[i] = node{entry.Hash, group[i : i+1]}
		}
		for len(level) > 1 {
			level = climb(level)
		}
		signature := [64]byte(sign(s.signed(level[0].hash)))
		for _, entry := range group {
			entry.Seal.Signature = signature
		}
	}
}

// node is a subtree: its hash, and the entries that hang from it.
type node struct {
	hash    [sha256.Size]byte
	entries []*index.Entry
}

// climb pairs the nodes of one level and notes in each entry the sibling it met. Bit i of Leaf says that the i-th sibling
// stands on the left. An odd last node rises as it is.
func climb(level []node) []node {
	var up []node
	for i := 0; i < len(level); i += 2 {
		if i+1 == len(level) {
			up = append(up, level[i])
			break
		}
		left, right := level[i], level[i+1]
		for _, entry := range left.entries {
			entry.Seal.Path = append(entry.Seal.Path, right.hash)
		}
		for _, entry := range right.entries {
			entry.Seal.Leaf |= 1 << len(entry.Seal.Path)
			entry.Seal.Path = append(entry.Seal.Path, left.hash)
		}
		both := append(append([]*index.Entry(nil), left.entries...), right.entries...)
		up = append(up, node{join(left.hash, right.hash), both})
	}
	return up
}

// join hashes an inner node; the first byte keeps it from being taken for an entry (RFC 6962 2.1).
func join(left, right [sha256.Size]byte) [sha256.Size]byte {
	var b [1 + 2*sha256.Size]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

// Verify hashes the entries, which must all be of the origin that key is said to belong to, and checks that this origin
// signed every one of them.
func (s Scope) Verify(node fleet.NodeID, key ed25519.PublicKey, entries []*index.Entry) error {
	if len(key) != ed25519.PublicKeySize || fleet.IDOf(key) != node {
		return fmt.Errorf("the key is not %s's", node.Short())
	}
	type claim struct {
		root      [sha256.Size]byte
		signature [64]byte
	}
	proven := map[claim]bool{}
	for _, entry := range entries {
		s.Rehash(entry)
		if entry.Seal.Leaf>>len(entry.Seal.Path) != 0 { // bits that no hash depends on would make many seals of one
			return fmt.Errorf("the seal of %s is not one", entry.Path)
		}
		root := entry.Hash
		for i, sibling := range entry.Seal.Path {
			if entry.Seal.Leaf>>i&1 == 1 {
				root = join(sibling, root)
			} else {
				root = join(root, sibling)
			}
		}
		c := claim{root, entry.Seal.Signature}
		if !proven[c] && !ed25519.Verify(key, s.signed(root), entry.Seal.Signature[:]) {
			return fmt.Errorf("%s did not sign %s", node.Short(), entry.Path)
		}
		proven[c] = true
	}
	return nil
}
