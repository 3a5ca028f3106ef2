package rules_test

import (
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"

	"pgregory.net/rapid"
)

func TestWhoMayActWithoutWaiting(t *testing.T) {
	const a, b, c = 11, 12, 13
	type step struct {
		verb    rules.Verb
		by      uint64
		settled bool // of a renew
	}
	for _, story := range []struct {
		name    string
		steps   []step
		holder  uint64
		settled bool
	}{
		{"the first holder owes nobody", []step{{rules.Acquire, a, false}}, a, true},
		{"a second owes the first", []step{{rules.Acquire, a, false}, {rules.Acquire, b, false}}, b, false},
		{"unless it was released", []step{{rules.Acquire, a, false}, {rules.Release, a, false}, {rules.Acquire, b, false}}, b, true},
		{"a release by somebody else is none", []step{{rules.Acquire, a, false}, {rules.Release, b, false}, {rules.Acquire, b, false}}, b, false},
		{"who holds again owes itself nothing", []step{{rules.Acquire, a, false}, {rules.Acquire, a, false}}, a, true},
		{"but what it owed before", []step{{rules.Acquire, a, false}, {rules.Acquire, b, false}, {rules.Acquire, b, false}}, b, false},
		{"until it waited", []step{{rules.Acquire, a, false}, {rules.Acquire, b, false}, {rules.Renew, b, true}, {rules.Acquire, b, false}}, b, true},
		{"a renewal by a former holder settles nothing", []step{{rules.Acquire, a, false}, {rules.Acquire, b, false}, {rules.Renew, a, true}}, b, false},
		{"who still waits cannot release for its predecessor", []step{{rules.Acquire, a, false}, {rules.Acquire, b, false}, {rules.Release, b, false}, {rules.Acquire, c, false}}, c, false},
		{"a release that was waited for", []step{{rules.Acquire, a, false}, {rules.Acquire, b, false}, {rules.Renew, b, true}, {rules.Release, b, false}, {rules.Acquire, c, false}}, c, true},
	} {
		t.Run(story.name, func(t *testing.T) {
			s := rules.Found(rules.Line{Cluster: rules.Cluster{1}, Generation: 1, Nonce: 2}, seats(t, "1"))
			last := map[uint64]fleet.Epoch{}
			for i, step := range story.steps {
				s = s.Apply(3, uint64(i+10), rules.Command{Verb: step.verb, By: step.by, Settled: step.settled, Epoch: last[step.by]})
				if step.verb == rules.Acquire {
					last[step.by] = s.Epoch
				}
			}
			if s.Holder != story.holder || s.Settled != story.settled {
				t.Errorf("holder %d, settled %v", s.Holder, s.Settled)
			}
		})
	}
}

// TestEpochsOnlyGrow applies anything to anything, over recoveries.
func TestEpochsOnlyGrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rules.Found(rules.Line{Cluster: rules.Cluster{1}, Generation: 1, Nonce: rapid.Uint64().Draw(t, "nonce")}, []rules.Seat{seat(1, 1)})
		term, index := uint64(1), uint64(1)
		var latest fleet.Epoch
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			index++
			if rapid.IntRange(0, 4).Draw(t, "new term") == 0 {
				term++
			}
			c := rules.Command{
				Verb:       rapid.SampledFrom([]rules.Verb{rules.Acquire, rules.Renew, rules.Release, rules.Raise, "of a later version"}).Draw(t, "verb"),
				By:         uint64(rapid.IntRange(1, 3).Draw(t, "by")),
				Generation: uint64(rapid.IntRange(0, 9).Draw(t, "generation")), Nonce: rapid.Uint64().Draw(t, "nonce"), Epoch: s.Epoch,
			}
			before := s
			if rapid.IntRange(0, 9).Draw(t, "recovery") == 0 {
				s = s.Recover(rules.Line{Cluster: s.Line.Cluster, Generation: rules.NextGeneration(s, latest), Nonce: rapid.Uint64().Draw(t, "nonce")}, seat(1, 1))
				term = 1 // not even a term that falls matters
			} else {
				s = s.Apply(term, index, c)
			}
			if s.Epoch.Compare(before.Epoch) < 0 {
				t.Fatalf("%v after %v by %+v", s.Epoch, before.Epoch, c)
			}
			if s.Epoch != before.Epoch && s.Epoch.Compare(latest) <= 0 {
				t.Fatalf("acquired %v after %v", s.Epoch, latest)
			}
			latest = s.Epoch
			if back, err := rules.DecodeState(s.Encode()); err != nil || back.Epoch != s.Epoch || back.Line != s.Line || len(back.Seats) != len(s.Seats) {
				t.Fatalf("%+v reads back as %+v, %v", s, back, err)
			}
		}
	})
}

func TestAReplacedDiskIsAnotherSeat(t *testing.T) {
	if seat(1, 1).ID() == seat(1, 2).ID() || seat(1, 1).ID() == seat(2, 1).ID() || seat(1, 1).ID() == 0 {
		t.Error("two seats with one number")
	}
}

func TestTenure(t *testing.T) {
	start := rules.Moment{Boot: time.Hour, Wall: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	tenure := rules.Tenure{From: start, TTL: 30 * time.Second}
	for _, c := range []struct {
		name             string
		boot, wall       time.Duration
		begin, act, over bool
	}{
		{"at once", 0, 0, true, true, false},
		{"before two thirds", 19 * time.Second, 19 * time.Second, true, true, false},
		{"after two thirds", 20 * time.Second, 20 * time.Second, false, true, false},
		{"just before the margin", 23999 * time.Millisecond, 23999 * time.Millisecond, false, true, false},
		{"in the margin", 24 * time.Second, 24 * time.Second, false, false, false},
		{"after the ttl", 30 * time.Second, 30 * time.Second, false, false, true},
		{"the wall clock was set back", 24 * time.Second, -time.Hour, false, false, false},
		{"the wall clock was set forward", time.Second, time.Hour, false, false, false},
		{"the machine slept, and its wall clock was set back to hide it", 8 * time.Hour, time.Second, false, false, true},
	} {
		now := rules.Moment{Boot: start.Boot + c.boot, Wall: start.Wall.Add(c.wall)}
		if b, a, o := tenure.MayBegin(now), tenure.MayAct(now), tenure.Over(now); b != c.begin || a != c.act || o != c.over {
			t.Errorf("%s: begin %v, act %v, over %v", c.name, b, a, o)
		}
	}
}
