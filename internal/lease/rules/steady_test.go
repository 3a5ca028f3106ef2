package rules_test

import (
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"
)

// Beside a single voter nobody need be steady for long: it has no quorum to lose. Beside several he must.
func TestASingleVoterSoonHasCompany(t *testing.T) {
	for _, c := range []struct {
		voters, learners string
		connected        time.Duration
		votes            bool
	}{
		{"1", "2 3", 4 * time.Second, false},
		{"1", "2 3", 5 * time.Second, true},
		{"1 2 3", "4 5", 59 * time.Second, false},
		{"1 2 3", "4 5", time.Minute, true},
	} {
		wish := list(t, c.voters+" "+c.learners)
		m := rules.Membership{
			Self: seat(1, 1), Steady: rules.Steady(30 * time.Second), Wish: wish, Voters: seats(t, c.voters), Learners: seats(t, c.learners),
			Reports: map[fleet.NodeID]rules.Report{},
		}
		for _, s := range append(m.Voters, m.Learners...) {
			m.Reports[s.Node] = rules.Report{Seat: s, For: c.connected, List: wish.Digest(), CaughtUp: true}
		}
		if step := rules.NextStep(m); len(step.Promote) > 0 != c.votes {
			t.Errorf("beside %s, connected for %v: %+v", c.voters, c.connected, step)
		}
	}
}
