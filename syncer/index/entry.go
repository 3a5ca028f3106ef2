package index

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"time"

	"certswarm/internal/fleet"
)

// HLC is a hybrid logical clock reading: 48 bits of Unix milliseconds over 16 bits of counter. It orders writes: close
// to the wall clock, never going back, and never the same twice on one node.
type HLC uint64

// HLCOf returns the earliest reading at t; what is older than the Unix epoch is as old as that.
func HLCOf(t time.Time) HLC { return HLC(max(0, t.UnixMilli())) << 16 }

// Time returns the wall time of a reading, to the millisecond.
func (h HLC) Time() time.Time { return time.UnixMilli(int64(h >> 16)) }

// Stamp says which of two versions of a path is the later one, everywhere alike.
type Stamp struct {
	Epoch   fleet.Epoch // of the lease it was written under; zero for what needs none
	Written bool        // false: merely found on a disk at first sight, loses against anything ever written
	HLC     HLC         // of a found file: its modification time
	Node    fleet.NodeID
}

// Compare returns -1, 0 or +1 as s is earlier than, the same as, or later than other. It is a total order.
func (s Stamp) Compare(other Stamp) int {
	return cmp.Or(
		compareBool(s.Written, other.Written),
		s.Epoch.Compare(other.Epoch),
		cmp.Compare(s.HLC, other.HLC),
		s.Node.Compare(other.Node))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Digest is the SHA-256 of a file's content.
type Digest [sha256.Size]byte

// String returns the digest's first bytes in hex: enough to tell two versions apart in a log.
func (d Digest) String() string { return fmt.Sprintf("%x", d[:6]) }

// Perm is a file mode's permission bits, 0o000 to 0o777; nothing else of a mode is replicated.
type Perm uint16

// Content is what stands at a path: a File, a Symlink, a Directory, or the Tombstone of what stood there; never two, never
// none. Two Contents are the same exactly when they compare equal with ==.
type Content interface{ isContent() }

// File is a regular file. Owner and Group are names, or decimal numbers where the origin knew no name.
type File struct {
	Digest       Digest
	Size         int64 // bytes
	Perm         Perm
	Owner, Group string
}

// Symlink is a symbolic link whose target stays inside the root.
type Symlink struct{ Target string }

// Directory is a directory; what it holds are entries of their own.
type Directory struct {
	Perm         Perm
	Owner, Group string
}

// Tombstone says that nothing stands there any more.
type Tombstone struct{}

func (File) isContent()      {}
func (Symlink) isContent()   {}
func (Directory) isContent() {}
func (Tombstone) isContent() {}

// Origin is one life of a node's state: a node whose state was lost comes back under another Incarnation, so that it never
// gives a sequence number twice.
type Origin struct {
	Node        fleet.NodeID
	Incarnation uint64
}

// Compare orders origins, for output that is the same every time.
func (o Origin) Compare(other Origin) int {
	return cmp.Or(o.Node.Compare(other.Node), cmp.Compare(o.Incarnation, other.Incarnation))
}

// Seal is an origin's signature over an entry. Entries are signed in groups: Signature is over the root of a hash tree, Path
// the way to it from this entry's place Leaf. How the bytes are made is package wire's business.
type Seal struct {
	Signature [64]byte
	Leaf      uint8
	Path      [][sha256.Size]byte
}

// Entry is one version of one path, written by its Origin as its Seq-th write. An Entry is never changed once it is made,
// so it may be shared freely.
type Entry struct {
	Path    Path
	Stamp   Stamp
	Origin  Origin
	Seq     uint64 // 1, 2, 3 ... within the origin; gaps are possible, reuse is not
	Batch   uint64 // Seq of the last entry of its batch: those become visible together
	Content Content
	Expires int64 // Unix milliseconds at which it vanishes everywhere by itself; 0: never
	Seal    Seal
	Hash    [sha256.Size]byte // of all the above but the Seal, in wire's encoding
}

// Deleted reports whether the entry is a tombstone.
func (e *Entry) Deleted() bool { _, dead := e.Content.(Tombstone); return dead }

// Expired reports whether the entry's end of life has come.
func (e *Entry) Expired(now time.Time) bool { return e.Expires != 0 && now.UnixMilli() >= e.Expires }

// Beats reports whether e replaces other, which may be nil. Two entries with one stamp are one write unless somebody lies;
// then the hashes decide, so that all nodes are lied to alike.
func (e *Entry) Beats(other *Entry) bool {
	if other == nil {
		return true
	}
	return cmp.Or(e.Stamp.Compare(other.Stamp), bytes.Compare(e.Hash[:], other.Hash[:])) > 0
}
