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
	var absent func(Path)
	absent = func(p Path) {
		if _, found := scan.Found[p]; found || seen[p] {
			return
		}
		seen[p] = true
		if x.Live(p) != nil {
			deletes = append(deletes, Change{Path: p, Content: Tombstone{}})
		}
		for child := range x.below[p] {
			absent(child)
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
			for child := range x.below[p] {
				absent(child)
			}
		}
	}
	for _, p := range scan.Looked {
		absent(p)
	}
	for _, dir := range scan.Listed {
		for child := range x.below[dir] {
			absent(child)
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Path.text, b.Path.text) })
	slices.SortFunc(deletes, func(a, b Change) int { return compareDeepestFirst(a.Path, b.Path) })
	return append(changes, deletes...)
}

func compareDeepestFirst(a, b Path) int {
	return cmp.Or(cmp.Compare(b.depth(), a.depth()), strings.Compare(a.text, b.text))
}

// Suspicious reports whether deleting these paths at once looks like an accident (an unmounted volume, a mistaken rm) rather
// than a wish: more than percent of the directory's files, unless they are very few. recent is what Lost said of the deletions shortly
// before; the index still holds the paths, and no more what was deleted before them.
func Suspicious(x *Index, deleted []Path, recent int, percent int) bool {
	lost := recent + Lost(x, deleted)
	total := recent + x.files
	for _, e := range x.expiring {
		if isFile(e) {
			total--
		}
	}
	return lost > smallEnough && lost*100 > total*percent
}

// smallEnough is how many files may always be deleted at once: a proportion of very few files says nothing.
const smallEnough = 2

// Lost counts the files and links among paths that would be gone for good if they were deleted: not those whose content also stands
// elsewhere, for they were moved, and not those that would vanish by themselves.
func Lost(x *Index, paths []Path) int {
	gone := map[Path]bool{}
	for _, p := range paths {
		gone[p] = true
	}
	elsewhere := map[Content]bool{}
	for _, e := range x.entries {
		if isFile(e) && !gone[e.Path] {
			elsewhere[bare(e.Content)] = true
		}
	}
	lost := 0
	for p := range gone {
		if e := x.Live(p); e != nil && isFile(e) && e.Expires == 0 && !elsewhere[bare(e.Content)] {
			lost++
		}
	}
	return lost
}

// bare is a content without its mode and owner.
func bare(c Content) Content {
	if f, ok := c.(File); ok {
		return File{Digest: f.Digest}
	}
	return c
}
