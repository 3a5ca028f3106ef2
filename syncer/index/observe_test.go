package index

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"certswarm/internal/fleet"

	"pgregory.net/rapid"
)

func exact(known, found Content) bool { return known == found }

// disk is a directory tree, by path.
type disk map[string]Content

func (d disk) scan() Scan {
	s := Scan{Found: map[Path]Found{}, Listed: []Path{{}}}
	for p, c := range d {
		s.Found[MustPath(p)] = Found{Content: c}
		if _, directory := c.(Directory); directory {
			s.Listed = append(s.Listed, MustPath(p))
		}
	}
	return s
}

// look is a scan of some paths alone.
func (d disk) look(texts ...string) Scan {
	s := Scan{Found: map[Path]Found{}, Looked: paths(texts...)}
	for _, p := range s.Looked {
		if c, there := d[p.String()]; there {
			s.Found[p] = Found{Content: c}
		}
	}
	return s
}

// drawDisk makes a tree in which everything stands in a directory.
func drawDisk(t *rapid.T) disk {
	d := disk{}
	for range rapid.IntRange(0, 15).Draw(t, "things") {
		p := MustPath(drawPath(t))
		c := drawContent(t)
		fits := c != Tombstone{}
		for dir := p.Parent(); !dir.IsZero(); dir = dir.Parent() {
			if known, there := d[dir.String()]; there {
				_, directory := known.(Directory)
				fits = fits && directory
			}
		}
		for other := range d {
			fits = fits && !(MustPath(other).Under(p) && other != p.String())
		}
		if !fits {
			continue
		}
		d[p.String()] = c
		for dir := p.Parent(); !dir.IsZero(); dir = dir.Parent() {
			if d[dir.String()] == nil {
				d[dir.String()] = Directory{Perm: 0o755}
			}
		}
	}
	return d
}

func show(changes []Change) string {
	var out []string
	for _, c := range changes {
		switch content := c.Content.(type) {
		case Tombstone:
			out = append(out, "-"+c.Path.String())
		case Directory:
			out = append(out, c.Path.String()+"/")
		case Symlink:
			out = append(out, c.Path.String()+"->"+content.Target)
		case File:
			out = append(out, c.Path.String())
		}
	}
	return strings.Join(out, " ")
}

func TestObserve(t *testing.T) {
	dir := Directory{Perm: 0o755}
	known := func(entries ...*Entry) *Index { return indexOf(entries...) }
	tree := known(
		entry(0, 1, "d", dir), entry(0, 2, "d/e", dir), entry(0, 3, "d/e/f", file("f")), entry(0, 4, "d/g", file("g")),
		entry(0, 5, "top", file("top")), entry(0, 6, "link", Symlink{"top"}), entry(0, 7, "gone", Tombstone{}))
	asKnown := func() disk {
		return disk{"d": dir, "d/e": dir, "d/e/f": file("f"), "d/g": file("g"), "top": file("top"), "link": Symlink{"top"}}
	}
	but := func(changes disk) disk {
		d := asKnown()
		for p, c := range changes {
			if c == nil {
				delete(d, p)
			} else {
				d[p] = c
			}
		}
		return d
	}
	held := func(s Scan, texts ...string) Scan {
		for _, p := range paths(texts...) {
			s.Found[p] = Found{Held: true}
		}
		return s
	}
	other := file("top")
	other.Owner = "somebody else"

	for _, c := range []struct {
		name string
		scan Scan
		want string
	}{
		{"as it was", asKnown().scan(), ""},
		{"new", but(disk{"n": file("n"), "m": Symlink{"n"}}).scan(), "m->n n"},
		{"a tree moved in", but(disk{"n": dir, "n/o": dir, "n/o/p": file("p")}).scan(), "n/ n/o/ n/o/p"},
		{"back from the dead", but(disk{"gone": file("x")}).scan(), "gone"},
		{"content", but(disk{"top": file("TOP")}).scan(), "top"},
		{"owner only", but(disk{"top": other}).scan(), "top"},
		{"target", but(disk{"link": Symlink{"d"}}).scan(), "link->d"},
		{"mode of a directory", but(disk{"d": Directory{Perm: 0o700}}).scan(), "d/"},
		{"deleted", but(disk{"top": nil}).scan(), "-top"},
		{"a directory is gone with all in it", but(disk{"d": nil, "d/e": nil, "d/e/f": nil, "d/g": nil}).scan(), "-d/e/f -d/e -d/g -d"},
		{"seen by looking at the directory alone", disk{}.look("d"), "-d/e/f -d/e -d/g -d"},
		{"a directory became a file", but(disk{"d": file("d"), "d/e": nil, "d/e/f": nil, "d/g": nil}).scan(), "d -d/e/f -d/e -d/g"},
		{"seen by looking at it alone", disk{"d": file("d")}.look("d"), "d -d/e/f -d/e -d/g"},
		{"a directory became a link", disk{"d": Symlink{"top"}}.look("d"), "d->top -d/e/f -d/e -d/g"},
		{"a file became a directory", but(disk{"top": dir, "top/in": file("i")}).scan(), "top/ top/in"},
		{"renamed by case alone", but(disk{"top": nil, "Top": file("top")}).scan(), "Top -top"},
		{"held and changed", held(but(disk{"top": file("half")}).scan(), "top"), ""},
		{"held and new", held(asKnown().scan(), "n"), ""},
		{"a held directory says nothing of what it holds", held(but(disk{"d": nil, "d/e": nil, "d/e/f": nil, "d/g": nil}).look(), "d"), ""},
		{"a look elsewhere", disk{}.look("elsewhere"), ""},
		{"a look at one of two that are gone", disk{}.look("top"), "-top"},
		{"looked at twice", disk{}.look("d/e", "d", "d/e/f"), "-d/e/f -d/e -d/g -d"},
		{"listed, but not what is below", Scan{Found: asKnown().look("d", "top", "link").Found, Listed: []Path{{}}}, ""},
		{"nothing was looked at", Scan{}, ""},
	} {
		equal(t, c.name, show(Observe(tree, c.scan, exact)), c.want)
	}

	sameContent := func(known, found Content) bool {
		k, ok := known.(File)
		f, also := found.(File)
		return known == found || ok && also && k.Digest == f.Digest
	}
	equal(t, "an owner that this node cannot give", show(Observe(tree, but(disk{"top": other}).scan(), sameContent)), "")

	orphan := known(entry(0, 1, "d", Tombstone{}), entry(1, 2, "d/x/f", file("f")))
	equal(t, "what stands in a directory that others deleted", show(Observe(orphan, disk{}.scan(), exact)), "-d/x/f")
	equal(t, "the same, looked at", show(Observe(orphan, disk{}.look("d"), exact)), "-d/x/f")
}

// adopt makes the observed changes part of the index, as their author would.
func adopt(x *Index, changes []Change) {
	for i, c := range changes {
		x.Merge(seal(&Entry{
			Path: c.Path, Content: c.Content, Origin: origin(0), Seq: 1000 + uint64(i),
			Stamp: Stamp{Written: true, Epoch: fleet.Epoch{Term: 1 << 20}, HLC: 1000, Node: nodes[0]},
		}))
	}
}

func TestWhatWasObservedIsKnown(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := indexOf(drawEntries(t)...)
		d := drawDisk(t)
		scan := d.scan()
		if rapid.Bool().Draw(t, "only some paths") {
			scan = d.look(rapid.SliceOfN(rapid.Custom(drawPath), 1, 4).Draw(t, "looked")...)
		}
		changes := Observe(x, scan, exact)
		adopt(x, changes)
		if again := Observe(x, scan, exact); len(again) > 0 {
			t.Fatalf("observed %s, then %s", show(changes), show(again))
		}
		if len(scan.Listed) == 0 {
			return
		}
		live := disk{}
		for e := range x.All {
			if !e.Deleted() {
				live[e.Path.String()] = e.Content
			}
		}
		if fmt.Sprint(live) != fmt.Sprint(d) {
			t.Fatalf("the index has %v, the disk %v", live, d)
		}
	})
}

func TestSuspicious(t *testing.T) {
	// n files f0, f1 ... each with content of its own.
	files := func(n int, more ...*Entry) *Index {
		entries := more
		for i := range n {
			entries = append(entries, entry(0, uint64(i+1), fmt.Sprintf("f%d", i), file(fmt.Sprint(i))))
		}
		return indexOf(entries...)
	}
	first := func(n int) []Path {
		var out []Path
		for i := range n {
			out = append(out, MustPath(fmt.Sprintf("f%d", i)))
		}
		return out
	}
	var tokens, dirs, copies, links []*Entry
	var tokenPaths []Path
	for i := range uint64(50) {
		token := entry(1, i+1, fmt.Sprintf("token%d", i), file(fmt.Sprint("token", i)))
		token.Expires = 1000
		tokens = append(tokens, token)
		tokenPaths = append(tokenPaths, token.Path)
		dirs = append(dirs, entry(2, i+1, fmt.Sprintf("dir%d", i), Directory{}))
		copies = append(copies, entry(1, 100+i, fmt.Sprintf("moved/f%d", i), file(fmt.Sprint(i))))
		links = append(links, entry(1, 200+i, fmt.Sprintf("old/l%d", i), Symlink{fmt.Sprintf("../f%d", i)}),
			entry(1, 300+i, fmt.Sprintf("new/l%d", i), Symlink{fmt.Sprintf("../f%d", i)}))
	}
	var oldLinks []Path
	for i := range 10 {
		oldLinks = append(oldLinks, MustPath(fmt.Sprintf("old/l%d", i)))
	}
	for _, c := range []struct {
		name    string
		x       *Index
		deleted []Path
		recent  int
		percent int
		want    bool
	}{
		{"exactly the limit", files(10), first(5), 0, 50, false},
		{"one more", files(10), first(6), 0, 50, true},
		{"all", files(10), first(10), 0, 50, true},
		{"all, where everything may go", files(10), first(10), 0, 100, false},
		{"nothing", files(10), nil, 0, 0, false},
		{"one of one", files(1), first(1), 0, 50, false},
		{"two of two", files(2), first(2), 0, 50, false},
		{"three of three", files(3), first(3), 0, 50, true},
		{"three, where nothing may go", files(1000), first(3), 0, 0, true},
		{"a few after a few", files(8), first(4), 2, 50, true}, // 6 of what were 10
		{"fewer after a few", files(8), first(3), 2, 50, false},
		{"moved", files(10, copies...), first(10), 0, 10, false},
		{"links moved", files(10, links...), oldLinks, 0, 10, false},
		{"links gone", files(0, links[:20]...), append(oldLinks, paths("new/l0", "new/l1", "new/l2", "new/l3", "new/l4", "new/l5")...), 0, 25, true},
		{"two of one content, both gone", files(0, entry(0, 1, "a", file("")), entry(0, 2, "b", file("")), entry(0, 3, "c", file(""))), paths("a", "b", "c"), 0, 50, true},
		{"tokens vanish anyway", files(10, tokens...), tokenPaths, 0, 50, false},
		{"tokens do not hide a loss", files(10, tokens...), first(10), 0, 50, true},
		{"directories are no files", files(10, dirs...), append(first(5), paths("dir1", "dir2", "dir3")...), 0, 50, false},
		{"what is not there", files(10), paths("x", "y", "z", "w", "v", "u"), 0, 50, false},
		{"one path many times", files(10), slices.Repeat(first(1), 9), 0, 50, false},
	} {
		if got := Suspicious(c.x, c.deleted, c.recent, c.percent); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	equal(t, "lost of six, two moved", Lost(files(10, copies[:2]...), first(6)), 4)
}
