package lease_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/internal/lease"
)

func roster(t *testing.T, members ...fleet.Member) fleet.Roster {
	t.Helper()
	r, err := fleet.NewRoster(members)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var (
	fe1 = fleet.Member{Name: "fe1", ID: fleet.NodeID{1}, Role: fleet.Issuer}
	fe2 = fleet.Member{Name: "fe2", ID: fleet.NodeID{2}, Role: fleet.Issuer}
)

func stateDir(t *testing.T) *durable.Root {
	t.Helper()
	root, err := durable.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

func TestNobodyElseIsGranted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := lease.NewStatic(fe2.ID, roster(t, fe1, fe2), 30*time.Second, stateDir(t), nil)
		defer running(t, s)()
		ctx, cancel := context.WithTimeout(t.Context(), 365*24*time.Hour)
		defer cancel()
		if _, err := s.Await(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the second issuer was granted the lease: %v", err)
		}
	})
}

func TestTheHolderIsNamedOnlyWhileItIsHeardFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := lease.NewStatic(fe2.ID, roster(t, fe1, fe2), 30*time.Second, stateDir(t), nil)
		defer running(t, s)()
		if v := s.View(); !v.Holder.IsZero() {
			t.Errorf("a holder before anybody was heard: %+v", v)
		}
		s.Heard(fe1.ID, fleet.Epoch{Term: 4, Index: 1})
		if v := s.View(); v.Holder != fe1.ID || v.Epoch.Term != 4 {
			t.Errorf("after its word: %+v", v)
		}
		time.Sleep(30 * time.Second)
		if v := s.View(); !v.Holder.IsZero() || v.Renewed.IsZero() {
			t.Errorf("after a ttl of silence: %+v", v)
		}
	})
}

func TestALaterEpochSeenInTheFleetRenewsTheGrantAboveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := lease.NewStatic(fe1.ID, roster(t, fe1, fe2), 30*time.Second, stateDir(t), nil) // its old state is lost
		defer running(t, s)()
		first := granted(t, s)
		seen := fleet.Epoch{Generation: 1, Nonce: 5, Term: 70, Index: 3}
		s.Saw(seen)
		<-first.Context().Done()
		if err := first.Check(); !errors.Is(err, lease.ErrLost) {
			t.Errorf("the old grant ended with %v", err)
		}
		if second := granted(t, s); second.Epoch().Compare(seen) <= 0 {
			t.Errorf("granted %v although %v was seen", second.Epoch(), seen)
		}
	})
}

func TestARosterThatPutsAnotherFirstTakesTheLeaseAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := lease.NewStatic(fe1.ID, roster(t, fe1, fe2), 30*time.Second, stateDir(t), nil)
		defer running(t, s)()
		g := granted(t, s)
		s.SetRoster(roster(t, fe2, fe1))
		<-g.Context().Done()
		if s.View().HeldHere {
			t.Error("still held")
		}
		s.SetRoster(roster(t, fe1, fe2))
		if again := granted(t, s); again.Epoch().Compare(g.Epoch()) <= 0 {
			t.Errorf("epoch %v does not follow %v", again.Epoch(), g.Epoch())
		}
	})
}

// Two nodes each of which comes first in its own list: they hear each other, and one of them holds the lease, whoever began.
func TestListsOfAnotherOrderMakeOneHolder(t *testing.T) {
	for name, first := range map[string]int{"the lower id began": 0, "the higher id began": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const ttl = 30 * time.Second
				members := [2]fleet.Member{fe1, fe2}
				var nodes [2]*lease.Static
				speak := func(d time.Duration) { // as their reports do
					for range d / (ttl / 3) {
						for i, n := range nodes {
							if v := n.View(); v.HeldHere {
								nodes[1-i].Heard(members[i].ID, v.Epoch)
							} else {
								nodes[1-i].Heard(members[i].ID, fleet.Epoch{})
							}
							synctest.Wait()
						}
						time.Sleep(ttl / 3)
					}
				}
				for i := range nodes {
					nodes[i] = lease.NewStatic(members[i].ID, roster(t, members[i], members[1-i]), ttl, stateDir(t), nil)
				}
				defer running(t, nodes[first])()
				old := granted(t, nodes[first])
				nodes[1-first].Heard(members[first].ID, old.Epoch())
				defer running(t, nodes[1-first])()
				speak(10 * time.Minute)
				held, second := nodes[first].View(), nodes[1-first].View()
				if !held.HeldHere || second.HeldHere || old.Check() != nil || second.Holder != members[first].ID {
					t.Fatalf("%+v and %+v", held, second)
				}
				if len(second.Problems) != 1 || second.Problems[0].Code != lease.TwoClusters || len(held.Problems) != 0 {
					t.Errorf("%+v and %+v", held.Problems, second.Problems)
				}
				// The lists are made the same, the second's first.
				nodes[first].SetRoster(roster(t, members[1-first], members[first]))
				speak(2 * ttl)
				if held, second := nodes[1-first].View(), nodes[first].View(); !held.HeldHere || second.HeldHere || len(held.Problems)+len(second.Problems) > 0 || held.Epoch.Compare(old.Epoch()) <= 0 {
					t.Errorf("%+v and %+v", held, second)
				}
			})
		})
	}
}

// Both hold it before they hear each other; and nobody acts under the epoch of the other.
func TestOfTwoHoldersTheLowerIdGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		low, high := fe1, fe2
		if high.ID.Compare(low.ID) < 0 {
			low, high = high, low
		}
		a := lease.NewStatic(low.ID, roster(t, low, high), 30*time.Second, stateDir(t), nil)
		b := lease.NewStatic(high.ID, roster(t, high, low), 30*time.Second, stateDir(t), nil)
		defer running(t, a)()
		defer running(t, b)()
		ga, gb := granted(t, a), granted(t, b)
		if ga.Epoch().Compare(gb.Epoch()) == 0 {
			t.Errorf("both act under %v", ga.Epoch())
		}
		a.Heard(high.ID, gb.Epoch())
		b.Heard(low.ID, ga.Epoch())
		<-gb.Context().Done()
		if ga.Check() != nil || b.View().HeldHere || b.View().Holder != low.ID {
			t.Errorf("%+v and %+v", a.View(), b.View())
		}
	})
}
