package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
)

var scope = Scope{Cluster: "edge", Directory: "certs"}

// author is somebody who can sign.
type author struct {
	key    ed25519.PrivateKey
	origin index.Origin
}

func newAuthor(seed byte) author {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	return author{key, index.Origin{Node: fleet.IDOf(key.Public().(ed25519.PublicKey)), Incarnation: 0x0102030405060708}}
}

func (a author) public() ed25519.PublicKey { return a.key.Public().(ed25519.PublicKey) }

func (a author) sign(message []byte) []byte { return ed25519.Sign(a.key, message) }

func (a author) verify(entries ...*index.Entry) error {
	return scope.Verify(a.origin.Node, a.public(), entries)
}

// write makes n sealed entries.
func (a author) write(n int) []*index.Entry {
	entries := make([]*index.Entry, n)
	for i := range entries {
		entries[i] = &index.Entry{
			Path: index.MustPath(fmt.Sprintf("live/%d/privkey.pem", i)), Origin: a.origin, Seq: uint64(i + 1), Batch: uint64(n),
			Stamp: index.Stamp{
				Epoch: fleet.Epoch{Generation: 1, Nonce: 2, Term: 3, Index: 4}, Written: true, HLC: 5, Node: a.origin.Node,
			},
			Content: index.File{Digest: index.Digest{byte(i), byte(i >> 8)}, Size: 1704, Perm: 0o600, Owner: "root", Group: "www-data"},
			Expires: 6,
		}
	}
	scope.Seal(entries, a.sign)
	return entries
}

func copyOf(e *index.Entry) *index.Entry {
	clone := *e
	clone.Seal.Path = append([][32]byte(nil), e.Seal.Path...)
	return &clone
}

func TestSealsOfGroupsOfAnySize(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 5, 63, 64, 65, 127, 128, 130} {
		fe1 := newAuthor(1)
		entries := fe1.write(n)
		if err := fe1.verify(entries...); err != nil {
			t.Errorf("%d entries: %v", n, err)
		}
		signatures := map[[64]byte]bool{}
		for i, e := range entries {
			signatures[e.Seal.Signature] = true
			if len(e.Seal.Path) > maxSealPath {
				t.Errorf("entry %d of %d: a path of %d hashes", i, n, len(e.Seal.Path))
			}
			// A relay passes on what is left of a group, in other company.
			got, err := DecodeEntry(e.Origin, EncodeEntry(e))
			if err == nil {
				err = fe1.verify(got)
			}
			if err != nil || got.Hash != e.Hash {
				t.Errorf("entry %d of %d, alone: %v", i, n, err)
			}
		}
		if want := (n + sealGroup - 1) / sealGroup; len(signatures) != want {
			t.Errorf("%d entries have %d signatures, not %d", n, len(signatures), want)
		}
	}
}

func TestEveryBitCounts(t *testing.T) {
	fe1 := newAuthor(1)
	for _, e := range fe1.write(3) { // two with siblings, one that rose alone
		b := EncodeEntry(e)
		for bit := range len(b) * 8 {
			flipped := bytes.Clone(b)
			flipped[bit/8] ^= 1 << (bit % 8)
			got, err := DecodeEntry(e.Origin, flipped)
			if err == nil {
				err = fe1.verify(got)
			}
			if err == nil {
				t.Errorf("bit %d of entry %d (of %x) does not count", bit, e.Seq, b)
			}
		}
	}
}

func TestASealHoldsForOneScopeOriginAndKey(t *testing.T) {
	fe1, fe2 := newAuthor(1), newAuthor(2)
	e := fe1.write(2)[1]
	other := func(change func(*index.Entry)) *index.Entry {
		e := copyOf(e)
		change(e)
		return e
	}
	for name, err := range map[string]error{
		"another cluster":     Scope{"staging", "certs"}.Verify(fe1.origin.Node, fe1.public(), []*index.Entry{copyOf(e)}),
		"another directory":   Scope{"edge", "keys"}.Verify(fe1.origin.Node, fe1.public(), []*index.Entry{copyOf(e)}),
		"a border moved":      Scope{"edgec", "erts"}.Verify(fe1.origin.Node, fe1.public(), []*index.Entry{copyOf(e)}),
		"another incarnation": fe1.verify(other(func(e *index.Entry) { e.Origin.Incarnation++ })),
		"another node's key":  scope.Verify(fe1.origin.Node, fe2.public(), []*index.Entry{copyOf(e)}),
		"another node":        scope.Verify(fe2.origin.Node, fe1.public(), []*index.Entry{copyOf(e)}),
		"said to be another's": fe2.verify(other(func(e *index.Entry) {
			e.Origin, e.Stamp.Node = fe2.origin, fe2.origin.Node
		})),
		"no key":                     scope.Verify(fe1.origin.Node, nil, []*index.Entry{copyOf(e)}),
		"half a key":                 scope.Verify(fe1.origin.Node, fe1.public()[:16], nil),
		"a path too short":           fe1.verify(other(func(e *index.Entry) { e.Seal.Path, e.Seal.Leaf = nil, 0 })),
		"a path too long":            fe1.verify(other(func(e *index.Entry) { e.Seal.Path = append(e.Seal.Path, [32]byte{}) })),
		"the other side":             fe1.verify(other(func(e *index.Entry) { e.Seal.Leaf = 0 })),
		"a bit that nothing depends": fe1.verify(other(func(e *index.Entry) { e.Seal.Leaf |= 0x80 })),
		"a sibling's seal":           fe1.verify(other(func(e *index.Entry) { e.Seal = fe1.write(2)[0].Seal })),
		"a good one before it":       fe1.verify(copyOf(e), other(func(e *index.Entry) { e.Seq++ })),
	} {
		if err == nil {
			t.Errorf("%s: verified", name)
		}
	}
	if err := fe1.verify(e); err != nil {
		t.Errorf("the entry itself: %v", err)
	}
}

// An inner node of the tree must never pass for an entry, nor an entry for the tree.
func TestHashesAreOfDifferentKinds(t *testing.T) {
	left, right := [32]byte{1}, [32]byte{2}
	if join(left, right) == join(right, left) {
		t.Error("sides do not count")
	}
	var e encoder
	e.text("certswarm entry 1")
	if e.b[0] == 1 {
		t.Error("an entry begins like an inner node")
	}
}

// The bytes below are on disks and in signatures: whoever changes one makes another protocol, under another ALPN and another
// name in the seal.
func TestGolden(t *testing.T) {
	fe1 := newAuthor(1)
	entries := fe1.write(3)
	entries[1] = &index.Entry{Path: index.MustPath("live/www"), Origin: fe1.origin, Seq: 2, Batch: 3,
		Stamp: index.Stamp{HLC: 0x0102030405060708, Node: fe1.origin.Node}, Content: index.Symlink{Target: "../archive/www/7"}}
	entries[2] = &index.Entry{Path: index.MustPath("gone"), Origin: fe1.origin, Seq: 300, Batch: 300,
		Stamp: index.Stamp{Written: true, HLC: 9, Node: fe1.origin.Node}, Content: index.Tombstone{}}
	scope.Seal(entries, fe1.sign)

	for name, got := range map[string][]byte{
		"entry": EncodeEntry(entries[0]),
		"hash":  entries[0].Hash[:],
		"offer": Encode(Offer{
			Directory: "certs", Origin: fe1.origin, Key: fe1.public(), After: 0, Through: 300, Entries: entries,
			Inline: map[index.Digest][]byte{{1}: []byte("one"), {2}: nil},
		}),
	} {
		want, err := os.ReadFile("testdata/golden/" + name + ".hex")
		if err != nil {
			t.Fatal(err)
		}
		if text := hex.EncodeToString(got); text != strings.Join(strings.Fields(string(want)), "") {
			t.Errorf("%s has become\n%s", name, text)
		}
	}
}

func BenchmarkSeal10k(b *testing.B) {
	fe1 := newAuthor(1)
	entries := fe1.write(10_000)
	for b.Loop() {
		scope.Seal(entries, fe1.sign)
	}
}

func BenchmarkVerify10k(b *testing.B) {
	fe1 := newAuthor(1)
	entries := fe1.write(10_000)
	for b.Loop() {
		if err := fe1.verify(entries...); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeOffer(b *testing.B) {
	fe1 := newAuthor(1)
	frame := Encode(Offer{Directory: "certs", Origin: fe1.origin, Key: fe1.public(), Entries: fe1.write(MaxEntries)})
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		if _, err := read(frame); err != nil {
			b.Fatal(err)
		}
	}
}
