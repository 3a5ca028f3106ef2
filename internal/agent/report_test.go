package agent

import (
	"testing"

	"certswarm/internal/fleet"
)

// A node that cannot hold the lease does not, whatever it says, and no epoch is believed after which there could be no other.
func TestWhoseWordCountsForTheLease(t *testing.T) {
	good, huge := fleet.Epoch{Generation: 1, Term: 7, Index: 1}, fleet.Epoch{Generation: 1<<63 + 1, Term: 1, Index: 1}
	for _, c := range []struct {
		role           fleet.Role
		epoch          fleet.Epoch
		seats          int
		holds, elected bool
		votes          bool
	}{
		{fleet.Issuer, good, 3, true, true, true},
		{fleet.Witness, good, 3, false, true, true},
		{fleet.Receive, good, 3, false, false, false},
		{fleet.Issuer, huge, 3, false, false, true},
		{fleet.Issuer, good, mostSeats + 1, true, true, false},
	} {
		got := report{Holds: c.epoch, Elected: fleet.NodeID{1}, ElectedUnder: c.epoch, Leader: fleet.NodeID{1}, Voters: make([]seat, c.seats)}.from(c.role)
		if (len(got.Voters) > 0) != c.votes || got.Leader.IsZero() == c.votes {
			t.Errorf("a node with the role %v that tells of %d seats: %+v", c.role, c.seats, got)
		}
		if got.Holds.IsZero() == c.holds || got.Elected.IsZero() == c.elected || got.ElectedUnder.IsZero() == c.elected {
			t.Errorf("a node with the role %v that speaks of the epoch %v: %+v", c.role, c.epoch, got)
		}
	}
}
