package index

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Scan is what somebody saw on the disk, and how far they looked. Within Looked, what is not in Found is not there.
type Scan struct {
	Found  map[Path]Found
	Looked []Path // each of these paths itself
	Listed []Path // everything directly in these directories; the zero Path is the root
}

// Found is one thing on the disk. Modified is a file's mtime, Changed its ctime: what the kernel says of when it came to be
// as it is. Held things are there but cannot be told yet (a half-written file): neither changed nor deleted.
type Found struct {
	Content           Content
	Modified, Changed time.Time
	Held              bool
}

// Change is a path whose disk differs from the index. Content is a Tombstone where something vanished.
type Change struct {
	Path    Path
	Content Content
	Found   Found
}

// Observe says what the scan holds that the index did not: what was made, changed and deleted on this disk by others than
// the replication. same decides whether what was found is what is known, as far as this node is able to have it (owners that it cannot
// give are no change). Directories come before what they hold, deletions last and deepest first.
func Observe(x *Index, scan Scan, same func(known, found Content) bool) []Change {
	var changes, deletes []Change
	seen := map[Path]bool{}
	absent := func(e *Entry) {
		if _, found := scan.Found[e.Path]; found || seen[e.Path] {
			return
		}
		seen[e.Path] = true
		for _, gone := range x.under(e.Path) {
			if _, found := scan.Found[gone.Path]; !found && (gone == e || !seen[gone.Path]) {
				seen[gone.Path] = true
				deletes = append(deletes, Change{Path: gone.Path, Content: Tombstone{}})
			}
		}
	}
	for p, found := range scan.Found {
		if found.Held {
			continue
		}
		if e := x.Live(p); e == nil || !same(e.Content, found.Content) {
			changes = append(changes, Change{Path: p, Content: found.Content, Found: found})
		}
		// What stood below a directory that became a file or a link is gone with it.
		if _, directory := found.Content.(Directory); !directory {
			for child := range x.Children(p) {
				absent(child)
			}
		}
	}
	for _, p := range scan.Looked {
		if e := x.Live(p); e != nil {
			absent(e)
		}
	}
	for _, dir := range scan.Listed {
		for child := range x.Children(dir) {
			absent(child)
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Path.text, b.Path.text) })
	slices.SortFunc(deletes, func(a, b Change) int { return compareDeepestFirst(a.Path, b.Path) })
	return append(changes, deletes...)
}

// under returns the live entries at and below p.
func (x *Index) under(p Path) []*Entry {
	var out []*Entry
	if e := x.Live(p); e != nil {
		out = append(out, e)
	}
	for child := range x.children[p] {
		out = append(out, x.under(child)...)
	}
	return out
}

func compareDeepestFirst(a, b Path) int {
	return cmp.Or(cmp.Compare(b.depth(), a.depth()), strings.Compare(a.text, b.text))
}

// Suspicious reports whether deleting these paths at once looks like an accident (an unmounted volume, a mistaken rm) rather
// than a wish: more than percent of the directory's files, or the last of several. recent counts the files that were deleted shortly
// before; the index still holds the paths. A file whose content also stands elsewhere was moved, not deleted.
func Suspicious(x *Index, deleted []Path, recent int, percent int) bool {
	gone := map[Path]bool{}
	for _, p := range deleted {
		gone[p] = true
	}
	moved := map[Digest]bool{}
	for _, e := range x.entries {
		if f, ok := e.Content.(File); ok && !gone[e.Path] {
			moved[f.Digest] = true
		}
	}
	lost := recent
	for _, p := range deleted {
		e := x.Live(p)
		if e == nil || !isFile(e) || e.Expires != 0 {
			continue
		}
		if f, ok := e.Content.(File); ok && moved[f.Digest] {
			continue
		}
		lost++
	}
	total := x.files + recent
	return lost > smallEnough && lost*100 > total*percent
}

// smallEnough is how many files may always be deleted at once: a proportion of very few files says nothing.
const smallEnough = 2
