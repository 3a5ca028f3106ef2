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
		s := lease.NewStatic(fe2.ID, roster(t, fe1, fe2), 30*time.Second, stateDir(t))
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
		s := lease.NewStatic(fe2.ID, roster(t, fe1, fe2), 30*time.Second, stateDir(t))
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
		s := lease.NewStatic(fe1.ID, roster(t, fe1, fe2), 30*time.Second, stateDir(t)) // its old state is lost
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
		s := lease.NewStatic(fe1.ID, roster(t, fe1, fe2), 30*time.Second, stateDir(t))
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
