package index

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var actionNames = map[Action]string{
	Note: "note", Delete: "delete", MakeDirectory: "mkdir", PutFile: "put", PutLink: "link", SetMode: "mode",
}

func (plan Plan) text() string {
	var out []string
	for _, s := range plan {
		out = append(out, actionNames[s.Action]+" "+s.Entry.Path.String())
	}
	return strings.Join(out, ", ")
}

func nothingReserved(Path) bool { return false }

func TestMakePlan(t *testing.T) {
	dir := Directory{Perm: 0o755}
	narrow := file("one")
	narrow.Perm = 0o600
	known := indexOf(
		entry(0, 10, "d", dir), entry(0, 11, "d/e", dir), entry(0, 12, "d/e/f", file("f")), entry(0, 13, "f", file("one")),
		entry(0, 14, "l", Symlink{"f"}), entry(0, 15, "gone", Tombstone{}), entry(0, 16, "r/x", file("x")))
	now := func(path string, c Content) *Entry { return entry(1, 20, path, c) }
	before := func(path string, c Content) *Entry { return entry(1, 5, path, c) }

	for _, c := range []struct {
		name    string
		entries []*Entry
		want    string
	}{
		{"nothing", nil, ""},
		{"a new file", []*Entry{now("n", file("n"))}, "put n"},
		{"other content", []*Entry{now("f", file("two"))}, "put f"},
		{"the same, by somebody else", []*Entry{now("f", file("one"))}, "note f"},
		{"mode only", []*Entry{now("f", narrow)}, "mode f"},
		{"too late", []*Entry{before("f", file("two"))}, ""},
		{"too late for what was deleted", []*Entry{before("gone", file("x"))}, ""},
		{"back from the dead", []*Entry{now("gone", file("x"))}, "put gone"},
		{"delete", []*Entry{now("f", Tombstone{})}, "delete f"},
		{"delete what is not there", []*Entry{now("n", Tombstone{})}, "note n"},
		{"delete what is deleted", []*Entry{now("gone", Tombstone{})}, "note gone"},
		{"link", []*Entry{now("l", Symlink{"d"})}, "link l"},
		{"the same link", []*Entry{now("l", Symlink{"f"})}, "note l"},
		{"a file where a link was", []*Entry{now("l", file("one"))}, "put l"},
		{"a link where a file was", []*Entry{now("f", Symlink{"d"})}, "link f"},
		{"mode of a directory", []*Entry{now("d", Directory{Perm: 0o700})}, "mkdir d"},
		{"the same directory", []*Entry{now("d", dir)}, "note d"},
		{"a directory where a file was", []*Entry{now("f/x", file("x")), now("f", dir)}, "mkdir f, put f/x"},
		{"a file where a directory was", []*Entry{now("d", file("d")), now("d/e", Tombstone{}), now("d/e/f", Tombstone{})},
			"delete d/e/f, delete d/e, put d"},
		{"a directory goes deepest first", []*Entry{now("d", Tombstone{}), now("d/e/f", Tombstone{}), now("d/e", Tombstone{})},
			"delete d/e/f, delete d/e, delete d"},
		{"a tree comes parents first", []*Entry{now("n/o/p", file("p")), now("n", dir), now("n/o", dir)}, "mkdir n, mkdir n/o, put n/o/p"},
		{"deletes first, links last", []*Entry{now("a", Symlink{"z"}), now("z", file("z")), now("f", Tombstone{})}, "delete f, put z, link a"},
		{"the best of several", []*Entry{entry(1, 21, "f", file("two")), entry(2, 22, "f", narrow), entry(1, 20, "f", Tombstone{})}, "mode f"},
		{"reserved", []*Entry{now("r/x", file("y")), now("r/y", Tombstone{}), now("f", file("two"))}, "put f, note r/x, note r/y"},
	} {
		reserved := func(p Path) bool { return p.Under(MustPath("r")) }
		equal(t, c.name, MakePlan(known, c.entries, reserved).text(), c.want)
	}

	plan := MakePlan(known, []*Entry{now("f", file("two")), now("n", file("n")), now("l", Symlink{"n"}), now("d", dir)}, nothingReserved)
	var fetched []string
	for _, e := range plan.Fetch() {
		fetched = append(fetched, e.Path.String())
	}
	slices.Sort(fetched)
	equal(t, "to be fetched", fetched, []string{"f", "n"})
	for _, s := range plan {
		equal(t, s.Entry.Path.String()+" old", s.Old, known.Live(s.Entry.Path))
	}
}

func TestMakeRevert(t *testing.T) {
	plan := MakeRevert([]*Entry{
		{Path: MustPath("d/made/here"), Content: Tombstone{}}, {Path: MustPath("d/made"), Content: Tombstone{}},
		entry(0, 1, "link", Symlink{"f"}), entry(0, 2, "n/f", file("f")), entry(0, 3, "n", Directory{}),
	})
	equal(t, "the steps", plan.text(), "delete d/made/here, delete d/made, mkdir n, put n/f, link link")
}

// do carries a step out as a disk would, and fails where a disk would.
func (d disk) do(s Step) error {
	p := s.Entry.Path
	occupied := func() bool {
		for other := range d {
			if other != p.String() && MustPath(other).Under(p) {
				return true
			}
		}
		return false
	}
	if parent := p.Parent(); s.Action != Note && !parent.IsZero() {
		if _, directory := d[parent.String()].(Directory); !directory {
			return fmt.Errorf("%s of %s: no directory to stand in", actionNames[s.Action], p)
		}
	}
	_, directory := d[p.String()].(Directory)
	switch s.Action {
	case Note:
		if d[p.String()] == s.Entry.Content || s.Entry.Deleted() && d[p.String()] == nil {
			return nil
		}
		return fmt.Errorf("there is something to do at %s", p)
	case Delete:
		if occupied() || d[p.String()] == nil {
			return fmt.Errorf("%s cannot be deleted", p)
		}
		delete(d, p.String())
		return nil
	case MakeDirectory:
		if _, wanted := s.Entry.Content.(Directory); !wanted {
			return fmt.Errorf("%s is to be no directory", p)
		}
	case SetMode:
		is, want := d[p.String()].(File), s.Entry.Content.(File)
		if is.Digest != want.Digest {
			return fmt.Errorf("%s has another content", p)
		}
	case PutFile, PutLink:
		if directory && occupied() {
			return fmt.Errorf("%s is a directory with something in it", p)
		}
	}
	d[p.String()] = s.Entry.Content
	return nil
}

func TestAPlanMakesTheDiskWhatTheIndexSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		is, wanted := drawDisk(t), drawDisk(t)
		var known, news []*Entry
		for p, c := range is {
			known = append(known, entry(0, 10, p, c))
			if wanted[p] == nil {
				news = append(news, entry(1, 20, p, Tombstone{}))
			}
		}
		for p, c := range wanted {
			news = append(news, entry(1, 20, p, c), entry(2, 5, p, file("too late"))) // 5 loses to 20, in the plan already
		}
		slices.SortFunc(news, func(a, b *Entry) int { return strings.Compare(a.Path.text, b.Path.text) })
		x := indexOf(known...)
		plan := MakePlan(x, rapid.Permutation(news).Draw(t, "order"), nothingReserved)
		for _, s := range plan {
			if err := is.do(s); err != nil {
				t.Fatalf("%v, after this plan: %s", err, plan.text())
			}
			x.Merge(s.Entry)
		}
		if fmt.Sprint(is) != fmt.Sprint(wanted) {
			t.Fatalf("the disk is\n%v\nnot\n%v\nafter %s", is, wanted, plan.text())
		}
		if left := Observe(x, is.scan(), exact); len(left) > 0 {
			t.Fatalf("the index does not say what it planned: %s", show(left))
		}
		if again := MakePlan(x, news, nothingReserved); len(again) > 0 {
			t.Fatalf("there is more to do: %s", again.text())
		}
	})
}
