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
		holds, elected bool
	}{
		{fleet.Issuer, good, true, true},
		{fleet.Witness, good, false, true},
		{fleet.Receive, good, false, false},
		{fleet.Issuer, huge, false, false},
	} {
		got := report{Holds: c.epoch, Elected: fleet.NodeID{1}, ElectedUnder: c.epoch}.from(c.role)
		if got.Holds.IsZero() == c.holds || got.Elected.IsZero() == c.elected || got.ElectedUnder.IsZero() == c.elected {
			t.Errorf("a node with the role %v that speaks of the epoch %v: %+v", c.role, c.epoch, got)
		}
	}
}
