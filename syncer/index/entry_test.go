package index

import (
	"testing"
	"time"

	"certswarm/internal/fleet"

	"pgregory.net/rapid"
)

func TestStampsAreOrdered(t *testing.T) {
	epoch := fleet.Epoch{Term: 1}
	ascending := []Stamp{
		{HLC: 1, Node: nodes[0]},
		{HLC: 1, Node: nodes[1]}, // the node breaks ties
		{HLC: 9, Node: nodes[0]},
		{Epoch: epoch, HLC: 1},
		{Written: true, HLC: 1, Node: nodes[0]}, // whatever was ever written beats all that was found
		{Written: true, HLC: 1, Node: nodes[1]},
		{Written: true, HLC: 2, Node: nodes[0]},
		{Written: true, Epoch: epoch, HLC: 1}, // a lease beats a clock
		{Written: true, Epoch: fleet.Epoch{Term: 2}, HLC: 0},
	}
	for i, a := range ascending {
		for j, b := range ascending {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := a.Compare(b); got != want {
				t.Errorf("%+v compared to %+v is %d, not %d", a, b, got, want)
			}
		}
	}
}

func TestBeatsIsATotalOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) *Entry {
			e := &Entry{Path: MustPath("a"), Stamp: drawStamp(t), Content: drawContent(t)}
			e.Hash[0] = rapid.Byte().Draw(t, name)
			return e
		}
		a, b, c := draw("a"), draw("b"), draw("c")
		same := a.Stamp == b.Stamp && a.Hash == b.Hash
		if a.Beats(a) || !a.Beats(nil) || a.Beats(b) && b.Beats(a) || !same && !a.Beats(b) && !b.Beats(a) {
			t.Fatalf("neither or both of %+v and %+v win", a, b)
		}
		if a.Beats(b) && b.Beats(c) && !a.Beats(c) {
			t.Fatalf("%+v beats %+v beats %+v, but not the first the last", a, b, c)
		}
	})
}

func TestHLCFollowsTheClock(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_123)
	if got := HLCOf(at).Time(); !got.Equal(at) {
		t.Errorf("%v became %v", at, got)
	}
	if HLCOf(at)+1 >= HLCOf(at.Add(time.Millisecond)) {
		t.Error("a counter step is as long as a millisecond")
	}
	for _, old := range []time.Time{{}, time.Unix(-1, 0), time.Unix(0, 0)} {
		if HLCOf(old) != 0 {
			t.Errorf("%v is later than the beginning: %d", old, HLCOf(old))
		}
	}
}

func TestExpiredAtItsMomentNotBefore(t *testing.T) {
	e := &Entry{Expires: 1000}
	for ms, want := range map[int64]bool{999: false, 1000: true, 1001: true} {
		equal(t, time.UnixMilli(ms).String(), e.Expired(time.UnixMilli(ms)), want)
	}
	equal(t, "without an end", (&Entry{}).Expired(time.UnixMilli(1<<50)), false)
}
