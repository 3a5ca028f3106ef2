package wire

import (
	"encoding/binary"
	"fmt"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
)

// ErrMalformed is the error of every frame that does not keep to the protocol.
type ErrMalformed struct{ text string }

func (e *ErrMalformed) Error() string { return "malformed frame: " + e.text }

func malformed(format string, args ...any) error {
	return &ErrMalformed{fmt.Sprintf(format, args...)}
}

// Kinds of content. The numbers are on disks and in signatures: they never change.
const (
	kindTombstone byte = iota
	kindFile
	kindSymlink
	kindDirectory
)

// Bits of an entry's flags.
const (
	flagWritten byte = 1 << iota
	flagEpoch
	flagExpires
)

type encoder struct{ b []byte }

func (e *encoder) raw(b []byte)   { e.b = append(e.b, b...) }
func (e *encoder) byte(b byte)    { e.b = append(e.b, b) }
func (e *encoder) uint(v uint64)  { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)    { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) fixed(v uint64) { e.b = binary.BigEndian.AppendUint64(e.b, v) }
func (e *encoder) count(n int)    { e.uint(uint64(n)) }

func (e *encoder) bool(v bool) {
	if v {
		e.byte(1)
	} else {
		e.byte(0)
	}
}

func (e *encoder) bytes(b []byte) {
	e.count(len(b))
	e.raw(b)
}

func (e *encoder) text(s string) {
	e.count(len(s))
	e.b = append(e.b, s...)
}

func (e *encoder) origin(o index.Origin) {
	e.raw(o.Node[:])
	e.fixed(o.Incarnation)
}

func (e *encoder) summary(s index.Summary) {
	e.count(len(s))
	for _, o := range s.Origins() {
		e.origin(o)
		e.uint(s[o])
	}
}

// entry appends what an origin signs, but for what an offer says once for all its entries.
func (e *encoder) entry(entry *index.Entry) {
	e.text(entry.Path.String())
	var flags byte
	if entry.Stamp.Written {
		flags |= flagWritten
	}
	if !entry.Stamp.Epoch.IsZero() {
		flags |= flagEpoch
	}
	if entry.Expires != 0 {
		flags |= flagExpires
	}
	e.byte(flags)
	if flags&flagEpoch != 0 {
		epoch := entry.Stamp.Epoch
		e.fixed(epoch.Generation)
		e.fixed(epoch.Nonce)
		e.uint(epoch.Term)
		e.uint(epoch.Index)
	}
	e.fixed(uint64(entry.Stamp.HLC))
	e.uint(entry.Seq)
	e.uint(entry.Batch - entry.Seq)
	if flags&flagExpires != 0 {
		e.int(entry.Expires)
	}
	switch c := entry.Content.(type) {
	case index.Tombstone:
		e.byte(kindTombstone)
	case index.File:
		e.byte(kindFile)
		e.raw(c.Digest[:])
		e.int(c.Size)
		e.uint(uint64(c.Perm))
		e.text(c.Owner)
		e.text(c.Group)
	case index.Symlink:
		e.byte(kindSymlink)
		e.text(c.Target)
	case index.Directory:
		e.byte(kindDirectory)
		e.uint(uint64(c.Perm))
		e.text(c.Owner)
		e.text(c.Group)
	}
}

func (e *encoder) seal(s index.Seal) {
	e.raw(s.Signature[:])
	e.byte(s.Leaf)
	e.count(len(s.Path))
	for _, hash := range s.Path {
		e.raw(hash[:])
	}
}

// decoder reads from the front of b; after the first fault it returns zeros and keeps the fault.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = malformed(format, args...)
		d.b = nil
	}
}

func (d *decoder) raw(n int) []byte {
	if len(d.b) < n {
		d.fail("it ends %d bytes early", n-len(d.b))
		return make([]byte, min(n, 64))
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte    { return d.raw(1)[0] }
func (d *decoder) fixed() uint64 { return binary.BigEndian.Uint64(d.raw(8)) }

func (d *decoder) bool() bool {
	b := d.byte()
	if b > 1 {
		d.fail("a yes or no that is %d", b)
	}
	return b == 1
}

func (d *decoder) digest() index.Digest { return index.Digest(d.raw(len(index.Digest{}))) }

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 { // one spelling for each number: what is signed must re-encode to itself
		d.fail("a number that is not one")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v := d.uint()
	return int64(v>>1) ^ -int64(v&1)
}

func (d *decoder) count(limit int) int {
	n := d.uint()
	if n > uint64(limit) {
		d.fail("%d of something of which %d are the limit", n, limit)
		return 0
	}
	return int(n)
}

func (d *decoder) bytes(limit int) []byte {
	n := d.count(limit)
	if d.err != nil {
		return nil
	}
	return d.raw(n)
}

func (d *decoder) text(limit int) string { return string(d.bytes(limit)) }

func (d *decoder) path() index.Path {
	text := d.text(index.MaxPath)
	if d.err != nil {
		return index.Path{}
	}
	p, err := index.ParsePath(text)
	if err != nil {
		d.fail("%v", err)
	}
	return p
}

func (d *decoder) perm() index.Perm {
	v := d.uint()
	if v > 0o777 {
		d.fail("mode %o has more than permission bits", v)
	}
	return index.Perm(v)
}

func (d *decoder) entry(origin index.Origin) *index.Entry {
	entry := &index.Entry{Path: d.path(), Origin: origin}
	flags := d.byte()
	if flags > flagWritten|flagEpoch|flagExpires {
		d.fail("unknown flags %#x", flags)
	}
	entry.Stamp.Node = origin.Node
	entry.Stamp.Written = flags&flagWritten != 0
	if flags&flagEpoch != 0 {
		entry.Stamp.Epoch = fleet.Epoch{Generation: d.fixed(), Nonce: d.fixed(), Term: d.uint(), Index: d.uint()}
		if entry.Stamp.Epoch.IsZero() {
			d.fail("an epoch that is none")
		}
	}
	entry.Stamp.HLC = index.HLC(d.fixed())
	entry.Seq = d.uint()
	entry.Batch = entry.Seq + d.uint()
	if entry.Seq == 0 || entry.Batch < entry.Seq {
		d.fail("an impossible sequence number")
	}
	if flags&flagExpires != 0 {
		if entry.Expires = d.int(); entry.Expires <= 0 {
			d.fail("an end of life before all time")
		}
	}
	entry.Content = d.content(entry.Path)
	return entry
}

func (d *decoder) content(p index.Path) index.Content {
	switch kind := d.byte(); kind {
	case kindTombstone:
		return index.Tombstone{}
	case kindFile:
		f := index.File{Digest: d.digest(), Size: d.int(), Perm: d.perm(), Owner: d.text(maxName), Group: d.text(maxName)}
		if f.Size < 0 || f.Size > MaxFile {
			d.fail("a file of %d bytes; the limit is %d", f.Size, MaxFile)
		}
		return f
	case kindSymlink:
		target := d.text(index.MaxPath)
		if d.err == nil && p.Escapes(target) {
			d.fail("a link that leaves the directory: %q", target)
		}
		return index.Symlink{Target: target}
	case kindDirectory:
		return index.Directory{Perm: d.perm(), Owner: d.text(maxName), Group: d.text(maxName)}
	default:
		d.fail("content of unknown kind %d", kind)
		return index.Tombstone{}
	}
}

func (d *decoder) seal() index.Seal {
	s := index.Seal{Signature: [64]byte(d.raw(64)), Leaf: d.byte()}
	for range d.count(maxSealPath) {
		s.Path = append(s.Path, d.digest())
	}
	if s.Leaf>>len(s.Path) != 0 {
		d.fail("a seal with a way longer than its path")
	}
	return s
}

// EncodeEntry returns an entry with its seal as it is kept on disk; the origin's name is not in it.
func EncodeEntry(entry *index.Entry) []byte {
	var e encoder
	e.entry(entry)
	e.seal(entry.Seal)
	return e.b
}

// DecodeEntry reads what EncodeEntry wrote. The entry's Hash is not set; see Scope.Rehash.
func DecodeEntry(origin index.Origin, b []byte) (*index.Entry, error) {
	d := decoder{b: b}
	entry := d.entry(origin)
	entry.Seal = d.seal()
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	return entry, d.err
}
