package index

import (
	"cmp"
	"crypto/sha256"
	"slices"
	"time"
)

// Fingerprint identifies a set of entries whatever their order. Tombstones and entries that expire do not count: nodes
// forget those at different moments.
type Fingerprint [sha256.Size]byte

func (f *Fingerprint) toggle(hash [sha256.Size]byte) {
	for i := range f {
		f[i] ^= hash[i]
	}
}

// Index is all that is known about a directory: the winning entry of every path, and how far each origin has been heard.
// The zero Index is not usable; see New. An Index belongs to one goroutine at a time.
type Index struct {
	entries     map[Path]*Entry
	below       map[Path]map[Path]struct{} // places at or below which something is live, by the directory they stand in
	byOrigin    map[Origin]*history
	held        Summary
	expiring    map[Path]*Entry
	fingerprint Fingerprint
	files       int
	tombstones  int
}

// New returns an index of an empty directory.
func New() *Index {
	return &Index{
		entries:     map[Path]*Entry{},
		below:       map[Path]map[Path]struct{}{},
		byOrigin:    map[Origin]*history{},
		held:        Summary{},
		expiring:    map[Path]*Entry{},
		fingerprint: sha256.Sum256([]byte("certswarm index")), // so that an empty one is not mistaken for none
	}
}

// Lookup returns the winning entry at p, which may be a tombstone; nil if nothing was ever known.
func (x *Index) Lookup(p Path) *Entry { return x.entries[p] }

// Live returns what stands at p, nil if nothing does.
func (x *Index) Live(p Path) *Entry {
	if e := x.entries[p]; e != nil && !e.Deleted() {
		return e
	}
	return nil
}

// Len returns how many entries there are, tombstones included.
func (x *Index) Len() int { return len(x.entries) }

// Tombstones returns how many entries are tombstones.
func (x *Index) Tombstones() int { return x.tombstones }

// Files returns how many regular files and symbolic links there are.
func (x *Index) Files() int { return x.files }

// Fingerprint identifies the live entries.
func (x *Index) Fingerprint() Fingerprint { return x.fingerprint }

// Held returns, for every origin, how far everything has been merged; the caller must not change it.
func (x *Index) Held() Summary { return x.held }

// Hold notes that everything up to seq of origin o has been merged.
func (x *Index) Hold(o Origin, seq uint64) { x.held[o] = max(x.held[o], seq) }

// All yields every entry, in no order.
func (x *Index) All(yield func(*Entry) bool) {
	for _, e := range x.entries {
		if !yield(e) {
			return
		}
	}
}

// Children yields what stands directly in dir, in no order.
func (x *Index) Children(dir Path) func(func(*Entry) bool) {
	return func(yield func(*Entry) bool) {
		for p := range x.below[dir] {
			if e := x.Live(p); e != nil && !yield(e) {
				return
			}
		}
	}
}

// Merge takes e into the index if it beats what is known of its path, and reports whether it did. The index ends the same in
// whatever order, and however often, the same entries are merged.
func (x *Index) Merge(e *Entry) bool {
	old := x.entries[e.Path]
	if !e.Beats(old) {
		return false
	}
	if old != nil {
		x.discount(old)
	}
	x.entries[e.Path] = e
	x.count(e)
	x.place(e.Path)
	return true
}

// Remove forgets the entry at p without a trace, as if it had never been.
func (x *Index) Remove(p Path) {
	if e := x.entries[p]; e != nil {
		x.discount(e)
		delete(x.entries, p)
		x.place(p)
	}
}

// place keeps the tree of places. A directory has its place for as long as anything below it is live, be it that the directory's own
// entry is a tombstone: two nodes may delete a directory and write into it at the same time.
func (x *Index) place(p Path) {
	if x.Live(p) != nil {
		for !p.IsZero() {
			dir := p.Parent()
			if _, known := x.below[dir][p]; known {
				return
			}
			if x.below[dir] == nil {
				x.below[dir] = map[Path]struct{}{}
			}
			x.below[dir][p] = struct{}{}
			p = dir
		}
		return
	}
	for !p.IsZero() && x.Live(p) == nil && len(x.below[p]) == 0 {
		dir := p.Parent()
		delete(x.below[dir], p)
		if len(x.below[dir]) == 0 {
			delete(x.below, dir)
		}
		p = dir
	}
}

func (x *Index) count(e *Entry) {
	h := x.byOrigin[e.Origin]
	if h == nil {
		h = &history{}
		x.byOrigin[e.Origin] = h
	}
	h.add(e)
	if h.stale > len(h.writes)/2 {
		h.tidy(x.entries)
	}
	if e.Expires != 0 {
		x.expiring[e.Path] = e
	}
	if e.Deleted() {
		x.tombstones++
		return
	}
	if isFile(e) {
		x.files++
	}
	if e.Expires == 0 {
		x.fingerprint.toggle(e.Hash)
	}
}

func (x *Index) discount(e *Entry) {
	x.byOrigin[e.Origin].stale++
	if e.Expires != 0 {
		delete(x.expiring, e.Path)
	}
	if e.Deleted() {
		x.tombstones--
		return
	}
	if isFile(e) {
		x.files--
	}
	if e.Expires == 0 {
		x.fingerprint.toggle(e.Hash)
	}
}

func isFile(e *Entry) bool {
	_, directory := e.Content.(Directory)
	return !directory && !e.Deleted()
}

// Since returns the winning entries of origin o above after and up to through, by their numbers: what somebody who holds
// after lacks. Its cost follows what it returns.
func (x *Index) Since(o Origin, after, through uint64) []*Entry {
	h := x.byOrigin[o]
	if h == nil || after >= through {
		return nil
	}
	if h.unsorted {
		h.tidy(x.entries)
	}
	from, _ := slices.BinarySearchFunc(h.writes, after+1, func(e *Entry, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	var out []*Entry
	for _, e := range h.writes[from:] {
		if e.Seq > through {
			break
		}
		if x.entries[e.Path] == e {
			out = append(out, e)
		}
	}
	return out
}

// Lacking returns the live or deleted entries that somebody who holds s does not have.
func (x *Index) Lacking(s Summary) []*Entry {
	var out []*Entry
	for _, o := range x.held.Origins() {
		if s[o] < x.held[o] {
			out = append(out, x.Since(o, s[o], x.held[o])...)
		}
	}
	return out
}

// Expire forgets the entries whose end of life has come and returns them, for the disk to follow.
func (x *Index) Expire(now time.Time) []*Entry {
	var out []*Entry
	for _, e := range x.expiring {
		if e.Expired(now) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *Entry) int { return cmp.Compare(a.Path.text, b.Path.text) })
	for _, e := range out {
		x.Remove(e.Path)
	}
	return out
}

// NextExpiry returns when Expire will next have something to do; zero: never.
func (x *Index) NextExpiry() time.Time {
	var first int64
	for _, e := range x.expiring {
		if first == 0 || e.Expires < first {
			first = e.Expires
		}
	}
	if first == 0 {
		return time.Time{}
	}
	return time.UnixMilli(first)
}

// Forget drops the tombstones that everybody holds, and returns them. everybody is what all members of the roster
// have acknowledged: a member that was never heard of keeps every tombstone alive.
func (x *Index) Forget(everybody Summary) []*Entry {
	var out []*Entry
	if x.tombstones == 0 {
		return nil
	}
	for _, e := range x.entries {
		if e.Deleted() && everybody[e.Origin] >= e.Seq {
			out = append(out, e)
		}
	}
	for _, e := range out {
		x.Remove(e.Path)
	}
	return out
}

// history is one origin's writes by their numbers. Entries that lost since, or were removed, stay until there are more of them than of the
// others. A writer that numbers two entries alike is kept as it is: it harms itself.
type history struct {
	writes   []*Entry
	stale    int
	unsorted bool // a write came out of its order; a state that is loaded comes in no order at all
}

func (h *history) add(e *Entry) {
	if n := len(h.writes); n > 0 && h.writes[n-1].Seq >= e.Seq {
		h.unsorted = true
	}
	h.writes = append(h.writes, e)
}

// tidy leaves what is winning, once each, in order. An entry stands here twice if it was removed and came again.
func (h *history) tidy(winning map[Path]*Entry) {
	h.writes = slices.DeleteFunc(h.writes, func(e *Entry) bool { return winning[e.Path] != e })
	if h.unsorted {
		slices.SortFunc(h.writes, func(a, b *Entry) int {
			return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Path.text, b.Path.text))
		})
		h.writes = slices.Compact(h.writes)
	}
	h.stale, h.unsorted = 0, false
}
