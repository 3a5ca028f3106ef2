package syncer

import (
	"maps"
	"testing"
	"time"

	"certswarm/internal/fleet"
)

// The one whose clock is wrong is named on every node alike, itself included; where nobody can know it is each other's.
func TestWhoseClockIsWrong(t *testing.T) {
	const hour, years = time.Hour, 10 * 365 * 24 * time.Hour
	clocks := map[string]map[string]time.Duration{ // against the true time
		"all well":                       {"a": 0, "b": 9 * time.Minute, "c": -9 * time.Minute},
		"one an hour ahead":              {"a": 0, "b": time.Second, "c": hour},
		"one an hour behind":             {"a": 0, "b": time.Second, "c": -hour},
		"one ten years ahead":            {"a": 0, "b": 0, "c": years, "d": 0},
		"one ten years behind":           {"a": 0, "b": 0, "c": -years, "d": 0, "e": time.Minute},
		"two of five, differently":       {"a": 0, "b": 0, "c": -years, "d": hour, "e": 0},
		"the two there are":              {"a": 0, "b": hour},
		"two and two":                    {"a": 0, "b": 0, "c": hour, "d": hour},
		"everybody is somewhere else":    {"a": 0, "b": hour, "c": 3 * hour},
		"alone":                          {"a": years},
		"a majority is wrong, and rules": {"a": 0, "b": hour, "c": hour},
	}
	wrong := map[string][]string{
		"one an hour ahead": {"c"}, "one an hour behind": {"c"}, "one ten years ahead": {"c"}, "one ten years behind": {"c"},
		"two of five, differently": {"c", "d"}, "a majority is wrong, and rules": {"a"},
	}
	uncertain := map[string]bool{"the two there are": true, "two and two": true, "everybody is somewhere else": true}
	for name, at := range clocks {
		t.Run(name, func(t *testing.T) {
			for self := range at {
				ahead := map[fleet.NodeID]time.Duration{}
				for id, a := range at {
					ahead[nodeCalled(id)] = a - at[self]
				}
				got, certain := wrongClocks(ahead, nodeCalled(self))
				if certain == uncertain[name] {
					t.Errorf("%s is certain: %v", self, certain)
				}
				want := map[fleet.NodeID]bool{}
				for _, id := range wrong[name] {
					want[nodeCalled(id)] = true
				}
				if uncertain[name] {
					for id := range at {
						if (at[id] - at[self]).Abs() > futureLimit {
							want[nodeCalled(id)] = true
						}
					}
				}
				if len(got) != len(want) || !maps.EqualFunc(got, want, func(time.Duration, bool) bool { return true }) {
					t.Errorf("to %s wrong are %v, not %v", self, got, want)
				}
			}
		})
	}
}

func nodeCalled(name string) fleet.NodeID { return fleet.NodeID{name[0]} }

// A clock that is wrong for as long as it is heard of is one problem, since it began.
func TestASkewIsSinceItBegan(t *testing.T) {
	w := newWorld("fe1", "fe2", "fe3")
	w.do([]string{"start", "fe1", "fe2", "fe3"})
	r, other := w.find("fe1").r, w.find("fe2").id()
	begun := w.now
	r.hearClock(begun, other, begun.Add(time.Hour))
	r.hearClock(begun.Add(time.Minute), other, begun.Add(time.Hour+time.Minute))
	if s := r.skews[other]; !s.since.Equal(begun) || s.ahead != time.Hour || !s.certain {
		t.Errorf("%+v", s)
	}
	r.hearClock(begun.Add(2*time.Minute), other, begun.Add(2*time.Minute))
	if len(r.skews) > 0 {
		t.Errorf("it was put right: %v", r.skews)
	}
}

// Only so many refusals are told; what nobody took must not be forgotten for want of one.
func TestDeletionsByAWrongClockAreNotForgotten(t *testing.T) {
	w := newWorld("fe1", "fe2")
	w.maxDelete = 100
	w.do([]string{"start", "fe1", "fe2"})
	w.do([]string{"fe1", "fills", "100", "dir"})
	w.settle()
	fe1, fe2 := w.find("fe1"), w.find("fe2")
	fe2.cut(fe1)
	fe2.skew = time.Hour
	fe2.meet(fe1, false)
	names := []string{"fe2", "deletes"}
	for p := range fe2.disk {
		names = append(names, p.String())
	}
	w.do(names)
	w.do([]string{"time", "1s"})
	w.settle()
	if fe1.r.x.Files() != 100 || fe2.r.x.Tombstones() != 100 {
		t.Fatalf("fe1 has %d files, fe2 remembers %d deletions", fe1.r.x.Files(), fe2.r.x.Tombstones())
	}
	fe2.skew = 0
	fe2.cut(fe1)
	fe2.meet(fe1, false) // clocks are compared at every greeting
	w.do([]string{"time", "1s"})
	w.settle()
	if n := fe1.r.x.Files(); n > 0 {
		t.Errorf("fe1 still has %d files", n)
	}
}
