// Package wire is the bytes that two peers exchange about their directories: frames, their limits, and the one encoding of
// an entry, which is also what its origin signs. PROTOCOL.md beside this file is its specification.
//
// It is pure: it neither reads nor writes a connection, and it does not judge what a frame says. What may be believed is
// decided in package syncer, who the peer is in internal/peer.
package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"maps"
	"slices"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
)

// Limits of what is accepted from a peer. A frame beyond one of them costs its sender the connection; a frame within all
// of them costs the receiver little more than its own length, which is at most MaxFrame.
const (
	MaxFrame       = 8 << 20 // bytes of a frame's body
	maxHave        = 512 << 10
	maxWant        = 4 << 10
	maxBlob        = 1 << 10  // what follows it is not counted
	MaxEntries     = 2048     // entries in an offer
	MaxBatch       = 1024     // entries of one batch; an offer never splits a batch
	MaxFile        = 1 << 30  // bytes of a file: max_file_size is nowhere more
	MaxInline      = 64 << 10 // bytes of a file that travels inside the offer
	InlineBudget   = 2 << 20  // bytes of all files inside one offer, as a sender; a receiver is content with MaxFrame
	MaxDirectories = 64
	MaxOrigins     = 4096
	MaxRefusals    = 64
	maxName        = 256 // bytes of a directory's, owner's or group's name
	maxReason      = 512 // bytes
	maxSealPath    = 7   // hashes, for groups of at most 128 entries
)

// Frame is one message of a conversation: Hello, Offer, Have, Want or Blob.
type Frame interface{ kind() byte }

// Hello opens a conversation, from both sides; it comes again when a node's directories change.
type Hello struct {
	Clock       int64 // sender's wall clock, Unix milliseconds
	Directories []Greeting
}

// Greeting is what a node says of one directory: the origin it writes as, what it holds durably, and up to where it remembers
// deletions no more.
type Greeting struct {
	Directory   string
	Self        index.Origin
	Held        index.Summary
	Forgotten   index.Summary
	Fingerprint index.Fingerprint
}

// Offer carries entries of one origin, from that origin or from a relay. Whoever holds After of the origin and takes the
// entries holds Through of it: the numbers between that are not here were given to versions that have lost since. An offer whose Through
// is zero vouches for nothing; it repairs.
type Offer struct {
	Directory      string
	Origin         index.Origin
	Key            ed25519.PublicKey // the origin's; its hash must be the origin's id
	After, Through uint64
	Entries        []*index.Entry
	Inline         map[index.Digest][]byte // content of small files, by digest
}

// Have says what its sender holds durably by now (only what changed since it last said so), the fingerprint of all that
// (zero while it would not be true), and which entries it will not take. Again asks for everything beyond Held once more: something got lost.
type Have struct {
	Directory   string
	Held        index.Summary
	Fingerprint index.Fingerprint
	Again       bool
	Refused     []Refusal
}

// Refusal names an entry that the sender of a Have has counted as held without taking it, and why.
type Refusal struct {
	Origin index.Origin
	Seq    uint64
	Path   index.Path
	Reason string
}

// Want asks for a file's content, on a stream of its own; Blob answers, followed by Size raw bytes. Missing instead of a size
// says why there are none.
type Want struct {
	Directory string
	Path      index.Path
	Digest    index.Digest
}

// Blob announces the bytes that follow it.
type Blob struct {
	Size    int64
	Missing string
}

func (Hello) kind() byte { return 1 }
func (Offer) kind() byte { return 2 }
func (Have) kind() byte  { return 3 }
func (Want) kind() byte  { return 4 }
func (Blob) kind() byte  { return 5 }

// Encode returns the frame as it travels: four bytes of length, one of kind, the body.
func Encode(f Frame) []byte {
	e := encoder{make([]byte, HeaderSize, 256)}
	e.b[4] = f.kind()
	switch f := f.(type) {
	case Hello:
		e.int(f.Clock)
		e.count(len(f.Directories))
		for _, g := range f.Directories {
			e.text(g.Directory)
			e.origin(g.Self)
			e.summary(g.Held)
			e.summary(g.Forgotten)
			e.raw(g.Fingerprint[:])
		}
	case Offer:
		e.text(f.Directory)
		e.origin(f.Origin)
		e.raw(f.Key)
		e.uint(f.After)
		e.uint(f.Through)
		e.count(len(f.Entries))
		for _, entry := range f.Entries {
			e.entry(entry)
			e.seal(entry.Seal)
		}
		e.count(len(f.Inline))
		for _, digest := range slices.SortedFunc(maps.Keys(f.Inline), compareDigests) {
			e.raw(digest[:])
			e.bytes(f.Inline[digest])
		}
	case Have:
		e.text(f.Directory)
		e.summary(f.Held)
		e.raw(f.Fingerprint[:])
		e.bool(f.Again)
		e.count(len(f.Refused))
		for _, r := range f.Refused {
			e.origin(r.Origin)
			e.uint(r.Seq)
			e.text(r.Path.String())
			e.text(r.Reason[:min(len(r.Reason), maxReason)])
		}
	case Want:
		e.text(f.Directory)
		e.text(f.Path.String())
		e.raw(f.Digest[:])
	case Blob:
		e.int(f.Size)
		e.text(f.Missing[:min(len(f.Missing), maxReason)])
	}
	binary.BigEndian.PutUint32(e.b, uint32(len(e.b)-HeaderSize))
	return e.b
}

// HeaderSize is how many bytes stand before a frame's body.
const HeaderSize = 5

// ParseHeader returns the kind and the body's length in bytes, which is no more than a frame of that kind may have.
func ParseHeader(header [HeaderSize]byte) (kind byte, size int, err error) {
	size = int(binary.BigEndian.Uint32(header[:]))
	limit := MaxFrame
	switch kind = header[4]; kind {
	case Hello{}.kind(), Offer{}.kind():
	case Have{}.kind():
		limit = maxHave
	case Want{}.kind():
		limit = maxWant
	case Blob{}.kind():
		limit = maxBlob
	default:
		return 0, 0, malformed("a frame of unknown kind %d", kind)
	}
	if size > limit {
		return 0, 0, malformed("a frame of %d bytes; the limit is %d", size, limit)
	}
	return kind, size, nil
}

// Decode reads a frame's body. What it returns keeps to every limit of this package, every Path in it is valid, and Encode
// makes the same bytes of it; nothing in it has been verified. Offer.Inline aliases body, nothing else does.
func Decode(kind byte, body []byte) (Frame, error) {
	d := decoder{b: body}
	var f Frame
	switch kind {
	case Hello{}.kind():
		f = d.hello()
	case Offer{}.kind():
		f = d.offer()
	case Have{}.kind():
		f = d.have()
	case Want{}.kind():
		f = Want{Directory: d.text(maxName), Path: d.path(), Digest: d.digest()}
	case Blob{}.kind():
		f = Blob{Size: d.int(), Missing: d.text(maxReason)}
	default:
		return nil, malformed("a frame of unknown kind %d", kind)
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	if d.err != nil {
		return nil, d.err
	}
	return f, nil
}

func (d *decoder) hello() Hello {
	h := Hello{Clock: d.int()}
	for range d.count(MaxDirectories) {
		h.Directories = append(h.Directories, Greeting{
			Directory:   d.text(maxName),
			Self:        d.origin(),
			Held:        d.summary(),
			Forgotten:   d.summary(),
			Fingerprint: index.Fingerprint(d.digest()),
		})
	}
	return h
}

func (d *decoder) offer() Offer {
	o := Offer{
		Directory: d.text(maxName),
		Origin:    d.origin(),
		Key:       bytes.Clone(d.raw(ed25519.PublicKeySize)), // it is kept for long, its frame must not be
		After:     d.uint(),
		Through:   d.uint(),
	}
	for range d.count(MaxEntries) {
		entry := d.entry(o.Origin)
		entry.Seal = d.seal()
		if d.err != nil {
			return o
		}
		o.Entries = append(o.Entries, entry)
	}
	var last index.Digest
	for i := range d.count(len(o.Entries)) {
		digest := d.digest()
		if i == 0 {
			o.Inline = map[index.Digest][]byte{}
		} else if compareDigests(last, digest) >= 0 {
			d.fail("contents out of order")
		}
		last = digest
		o.Inline[digest] = d.bytes(MaxInline)
		if d.err != nil {
			return o
		}
	}
	return o
}

func (d *decoder) have() Have {
	h := Have{Directory: d.text(maxName), Held: d.summary(), Fingerprint: index.Fingerprint(d.digest()), Again: d.bool()}
	for range d.count(MaxRefusals) {
		h.Refused = append(h.Refused, Refusal{Origin: d.origin(), Seq: d.uint(), Path: d.path(), Reason: d.text(maxReason)})
	}
	return h
}

func (d *decoder) origin() index.Origin {
	return index.Origin{Node: fleet.NodeID(d.digest()), Incarnation: d.fixed()}
}

func (d *decoder) summary() index.Summary {
	s := index.Summary{}
	var last index.Origin
	for i := range d.count(MaxOrigins) {
		o := d.origin()
		if i > 0 && last.Compare(o) >= 0 {
			d.fail("origins out of order")
		}
		last = o
		s[o] = d.uint()
		if d.err != nil {
			break
		}
	}
	return s
}

func compareDigests(a, b index.Digest) int { return bytes.Compare(a[:], b[:]) }
