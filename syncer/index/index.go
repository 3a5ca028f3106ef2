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
	children    map[Path]map[Path]struct{} // live entries by the directory they stand in
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
		entries:  map[Path]*Entry{},
		children: map[Path]map[Path]struct{}{},
		byOrigin: map[Origin]*history{},
		held:     Summary{},
		expiring: map[Path]*Entry{},
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
		for p := range x.children[dir] {
			if !yield(x.entries[p]) {
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
	return true
}

// Remove forgets the entry at p without a trace, as if it had never been.
func (x *Index) Remove(p Path) {
	if e := x.entries[p]; e != nil {
		x.discount(e)
		delete(x.entries, p)
	}
}

func (x *Index) count(e *Entry) {
	h := x.byOrigin[e.Origin]
	if h == nil {
		h = &history{}
		x.byOrigin[e.Origin] = h
	}
	h.add(e)
	if e.Expires != 0 {
		x.expiring[e.Path] = e
	}
	if e.Deleted() {
		x.tombstones++
		return
	}
	dir := e.Path.Parent()
	if x.children[dir] == nil {
		x.children[dir] = map[Path]struct{}{}
	}
	x.children[dir][e.Path] = struct{}{}
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
	dir := e.Path.Parent()
	delete(x.children[dir], e.Path)
	if len(x.children[dir]) == 0 {
		delete(x.children, dir)
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
	if h == nil {
		return nil
	}
	h.compact(x.entries)
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

// Forget drops the tombstones that everybody holds, and returns their paths. everybody is what all members of the roster
// have acknowledged: a member that was never heard of keeps every tombstone alive.
func (x *Index) Forget(everybody Summary) []Path {
	var out []Path
	if x.tombstones == 0 {
		return nil
	}
	for p, e := range x.entries {
		if e.Deleted() && everybody[e.Origin] >= e.Seq {
			out = append(out, p)
		}
	}
	for _, p := range out {
		x.Remove(p)
	}
	return out
}

// history is one origin's writes by their numbers. Entries that lost since stay until there are as many of them as of the
// others.
type history struct {
	writes []*Entry
	stale  int
}

func (h *history) add(e *Entry) {
	at := len(h.writes)
	for at > 0 && h.writes[at-1].Seq > e.Seq { // almost always zero steps: numbers arrive in order
		at--
	}
	h.writes = slices.Insert(h.writes, at, e)
}

func (h *history) compact(winning map[Path]*Entry) {
	if h.stale <= len(h.writes)/2 {
		return
	}
	h.writes = slices.DeleteFunc(h.writes, func(e *Entry) bool { return winning[e.Path] != e })
	h.stale = 0
}
