package index

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestMergeEndsTheSameInAnyOrderHoweverOften(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := drawEntries(t)
		want := view(indexOf(entries...))
		again := rapid.Permutation(append(slices.Clone(entries), entries...)).Draw(t, "order")
		if got := view(indexOf(again...)); got != want {
			t.Fatalf("in another order:\n%s\nnot\n%s", got, want)
		}
	})
}

func TestMergeOfMergesIsTheMergeOfAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := drawEntries(t)
		cut := rapid.IntRange(0, len(entries)).Draw(t, "cut")
		ours, theirs := indexOf(entries[:cut]...), indexOf(entries[cut:]...)
		for e := range theirs.All {
			ours.Merge(e)
		}
		if got, want := view(ours), view(indexOf(entries...)); got != want {
			t.Fatalf("merged from two indexes:\n%s\nnot\n%s", got, want)
		}
	})
}

// Whatever was merged, removed, expired and forgotten before, an index is what a new one of the same entries is.
func TestAnIndexHasNoPast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := New()
		entries := drawEntries(t)
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				x.Remove(MustPath(drawPath(t)))
			case 1:
				x.Expire(time.UnixMilli(rapid.Int64Range(0, 3000).Draw(t, "now")))
			case 2:
				x.Forget(Summary{origin(0): rapid.Uint64Range(0, 20).Draw(t, "acknowledged")})
			case 3:
				x.Since(origin(0), 0, 10)
			default:
				if len(entries) > 0 {
					x.Merge(rapid.SampledFrom(entries).Draw(t, "entry"))
				}
			}
		}
		fresh := New()
		for e := range x.All {
			fresh.Merge(e)
		}
		if got, want := view(x), view(fresh); got != want {
			t.Fatalf("with a past:\n%s\nwithout:\n%s", got, want)
		}
	})
}

func TestSinceAndLackingSayWhatSomebodyLacks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := indexOf(rapid.Permutation(drawEntries(t)).Draw(t, "order")...)
		after, through := rapid.Uint64Range(0, 20).Draw(t, "after"), rapid.Uint64Range(0, 20).Draw(t, "through")
		theirs := Summary{origin(0): after, origin(2): ^uint64(0)}

		var since, lacking []*Entry
		for e := range x.All {
			if e.Origin == origin(0) && e.Seq > after && e.Seq <= through {
				since = append(since, e)
			}
			if e.Seq > theirs[e.Origin] {
				lacking = append(lacking, e)
			}
		}
		order := func(a, b *Entry) int {
			if c := a.Origin.Compare(b.Origin); c != 0 {
				return c
			}
			return int(a.Seq) - int(b.Seq)
		}
		slices.SortFunc(since, order)
		slices.SortFunc(lacking, order)
		if got := x.Since(origin(0), after, through); !slices.Equal(got, since) {
			t.Fatalf("since %d through %d: %v, not %v", after, through, got, since)
		}
		if got := x.Lacking(theirs); !slices.Equal(got, lacking) {
			t.Fatalf("lacking %v: %v, not %v", theirs, got, lacking)
		}
	})
}

func TestLackingDoesNotSpeakOfWhatIsNotHeldYet(t *testing.T) {
	x := New()
	x.Merge(entry(0, 1, "a", file("one")))
	x.Merge(entry(0, 3, "c", file("three")))
	x.Hold(origin(0), 1)
	if got := x.Lacking(Summary{}); len(got) != 1 || got[0].Seq != 1 {
		t.Errorf("with 2 missing, 3 is spoken of: %v", got)
	}
	if got := x.Since(origin(0), ^uint64(0), ^uint64(0)); got != nil {
		t.Errorf("beyond the last number there is %v", got)
	}
	if got := x.Since(origin(1), 0, 9); got != nil {
		t.Errorf("somebody who wrote nothing wrote %v", got)
	}
}

// A history must not grow with every write: an agent runs for years.
func TestWritesThatLostAreNotKept(t *testing.T) {
	x := New()
	for seq := uint64(1); seq <= 10_000; seq++ {
		x.Merge(entry(0, seq, "a", Symlink{"b"}))
	}
	if n := len(x.byOrigin[origin(0)].writes); n > 8 {
		t.Errorf("%d writes are kept for one path", n)
	}
}

// A state that is loaded comes in the order of its paths, not of its numbers.
func TestLoadingInAnyOrderIsNotQuadratic(t *testing.T) {
	const n = 50_000
	x := New()
	for i := range uint64(n) {
		e := &Entry{Path: Path{string(rune(i + 1))}, Origin: origin(0), Seq: n - i, Content: Symlink{"b"}}
		e.Hash[0], e.Hash[1], e.Hash[2] = byte(i), byte(i>>8), byte(i>>16)
		x.Merge(e)
	}
	if got := x.Since(origin(0), n-2, n); len(got) != 2 || got[0].Seq != n-1 {
		t.Errorf("the last two are %v", got)
	}
}

func TestFingerprintCountsOnlyWhatLasts(t *testing.T) {
	lasting := entry(0, 1, "a", file("one"))
	token := entry(0, 2, "token", file("two"))
	token.Expires = 1000
	x := indexOf(lasting, token, entry(0, 3, "gone", Tombstone{}))
	if x.Fingerprint() != indexOf(lasting).Fingerprint() {
		t.Error("an expiring entry or a tombstone counts")
	}
	if x.Fingerprint() == indexOf(entry(0, 1, "a", file("two"))).Fingerprint() {
		t.Error("another content has the same fingerprint")
	}
	if (indexOf().Fingerprint() == Fingerprint{}) { // which says that there is none
		t.Error("an empty directory's fingerprint is zero")
	}
}

func TestExpire(t *testing.T) {
	first, second := entry(0, 1, "b/first", file("1")), entry(0, 2, "a/second", file("2"))
	first.Expires, second.Expires = 1000, 2000
	x := indexOf(first, second, entry(0, 3, "stays", file("3")))
	at := func(ms int64) []*Entry { return x.Expire(time.UnixMilli(ms)) }

	equal(t, "next expiry", x.NextExpiry(), time.UnixMilli(1000))
	equal(t, "a moment before", len(at(999)), 0)
	if got := at(1000); len(got) != 1 || got[0] != first {
		t.Errorf("at the moment: %v", got)
	}
	if x.Lookup(first.Path) != nil || x.Tombstones() != 0 {
		t.Error("it left a trace")
	}
	equal(t, "then", x.NextExpiry(), time.UnixMilli(2000))
	if got := at(5000); len(got) != 1 || got[0] != second {
		t.Errorf("late: %v", got)
	}
	if !x.NextExpiry().IsZero() || x.Files() != 1 {
		t.Errorf("at the end: %v, %d files", x.NextExpiry(), x.Files())
	}
}

func TestForgetDropsOnlyTombstonesThatAllHave(t *testing.T) {
	x := indexOf(
		entry(0, 1, "had by all", Tombstone{}),
		entry(0, 2, "not had by all", Tombstone{}),
		entry(1, 1, "of a stranger", Tombstone{}),
		entry(0, 3, "alive", file("")))
	var forgotten []Path
	for _, e := range x.Forget(Summary{origin(0): 1}) {
		forgotten = append(forgotten, e.Path)
	}
	equal(t, "forgotten", forgotten, paths("had by all"))
	equal(t, "left", x.Tombstones(), 2)
	equal(t, "all of them but of one unheard", len(x.Forget(Floor(Summary{origin(0): 9, origin(1): 9}, Summary{origin(0): 9}))), 1)
	if x.Live(MustPath("alive")) == nil {
		t.Error("a file was forgotten")
	}
}

func TestFloorIsWhatAllHold(t *testing.T) {
	drawn := rapid.MapOfN(rapid.Custom(func(t *rapid.T) Origin { return origin(rapid.IntRange(0, 2).Draw(t, "o")) }),
		rapid.Uint64Range(0, 5), 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Map(drawn, func(m map[Origin]uint64) Summary { return m }), 1, 4).Draw(t, "summaries")
		floor, union := Floor(all...), Summary{}
		for _, s := range all {
			before := s.Clone()
			union.Raise(s)
			if !s.Covers(floor) || !union.Covers(s) || !s.Equal(before) {
				t.Fatalf("floor %v, one %v, union %v", floor, s, union)
			}
		}
		for o, seq := range union {
			held := slices.ContainsFunc(all, func(s Summary) bool { return s[o] == floor[o] })
			if !held || floor[o] > seq {
				t.Fatalf("the floor %v is too low at %v", floor, o)
			}
		}
	})
	equal(t, "of nobody", len(Floor()), 0)
	equal(t, "clone of nil can be written", len(Summary(nil).Clone()), 0)
}
