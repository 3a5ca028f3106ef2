package rules

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"certswarm/internal/fleet"
)

// Steady is for how long a learner must have been connected before it votes, 60 s with a ttl of 30 s: a node that comes and goes would
// take the quorum with it. Beside a single voter it is a twelfth of that.
func Steady(ttl time.Duration) time.Duration { return 2 * ttl }

// Electorate returns the members that may vote: issuers and witnesses.
func Electorate(list fleet.Roster) []fleet.Member {
	return slices.DeleteFunc(list.Members(), func(m fleet.Member) bool { return m.Role != fleet.Issuer && m.Role != fleet.Witness })
}

// Votes returns how many of so many that may vote do: an even number would only add somebody who can be missing.
func Votes(electorate int) int {
	switch {
	case electorate >= 5:
		return 5
	case electorate >= 3:
		return 3
	}
	return min(electorate, 1)
}

// Report is what the leader knows of a node now.
type Report struct {
	Seat     Seat          // on which it sits now; zero: it was not heard yet
	For      time.Duration // connected for this long
	List     [32]byte      // fleet.Roster.Digest of its own list
	CaughtUp bool          // it has the whole log
}

// Membership is what the next step is decided from.
type Membership struct {
	Self      Seat          // the leader
	Steady    time.Duration // see Steady
	Wish      fleet.Roster
	Voters    []Seat
	Learners  []Seat
	Joint     bool                    // a step is half done
	Reports   map[fleet.NodeID]Report // of everybody connected, the leader not included
	Confirmed [32]byte                // the digest of a list to which a person agreed although it drops most voters
}

// Step is one change of who votes, made as a whole.
type Step struct {
	Learn   []Seat // become learners
	Promote []Seat // learners that become voters
	Remove  []Seat
	Hand    bool // give the leadership to another voter: the leader itself must go

	// Refused says that the list asks for something that only a person may agree to.
	Refused bool
	Why     string // nothing is done although the list wants something; "" when all is as wished
}

// IsZero reports whether nothing is to be done.
func (s Step) IsZero() bool { return len(s.Learn)+len(s.Promote)+len(s.Remove) == 0 && !s.Hand }

// NextStep returns the one change by which a leader brings who votes nearer to the list.
//
// The number of voters that is aimed at is odd, and steps go from odd to odd. The exception is a voter whose disk is gone: its seat can
// never vote again and only counts against the others, so it goes first, and alone.
func NextStep(m Membership) Step {
	if m.Joint {
		return Step{Why: "the last change of the voters is not finished"}
	}
	for _, seat := range slices.Concat(m.Voters, m.Learners) {
		if now := m.Reports[seat.Node].Seat; !now.IsZero() && now != seat && seat.Node != m.Self.Node {
			return Step{Remove: []Seat{seat}}
		}
	}
	if agree := m.agreeing(); agree <= len(m.Voters)/2 {
		if m.wished() {
			return Step{}
		}
		return Step{Why: fmt.Sprintf("only %d of %d voters have the leader's peer list", agree, len(m.Voters))}
	}
	electorate := Electorate(m.Wish)
	dropped := slices.DeleteFunc(slices.Clone(m.Voters), func(s Seat) bool { return among(electorate, s.Node) })
	if len(dropped) > len(m.Voters)/2 && m.Confirmed != m.Wish.Digest() {
		return Step{Refused: true, Why: fmt.Sprintf("the peer list drops %d of %d voters at once", len(dropped), len(m.Voters))}
	}
	desired := m.desired(electorate)
	for _, seat := range m.Learners {
		if !slices.Contains(desired, seat.Node) {
			return Step{Remove: []Seat{seat}}
		}
	}
	if step := m.shift(desired); !step.IsZero() {
		return step
	}
	var missing int
	for _, node := range desired {
		if sits(m.Voters, node) {
			continue
		}
		missing++
		if seat := m.Reports[node].Seat; !sits(m.Learners, node) && !seat.IsZero() {
			return Step{Learn: []Seat{seat}}
		}
	}
	if missing += Votes(len(electorate)) - len(desired); missing > 0 {
		return Step{Why: fmt.Sprintf("%d more must be connected for %s and have the log before they vote", missing, m.Steady)}
	}
	return Step{}
}

// agreeing counts the voters whose own list is the leader's.
func (m Membership) agreeing() (n int) {
	for _, seat := range m.Voters {
		if r, ok := m.Reports[seat.Node]; seat.Node == m.Self.Node || ok && r.List == m.Wish.Digest() {
			n++
		}
	}
	return n
}

// wished reports whether who votes is what the list wants already.
func (m Membership) wished() bool {
	electorate := Electorate(m.Wish)
	return len(m.Voters) == Votes(len(electorate)) && len(m.Learners) == 0 &&
		!slices.ContainsFunc(m.Voters, func(s Seat) bool { return !among(electorate, s.Node) })
}

// desired chooses who should vote: whoever does so far as the list has them, then learners, then whoever is connected.
func (m Membership) desired(electorate []fleet.Member) []fleet.NodeID {
	const never = 6
	preference := func(member fleet.Member) int {
		_, connected := m.Reports[member.ID]
		switch {
		case member.ID == m.Self.Node:
			return 0
		case sits(m.Voters, member.ID) && connected:
			return 1
		case sits(m.Voters, member.ID):
			return 2
		case sits(m.Learners, member.ID) && connected:
			return 3
		case connected:
			return 4
		case sits(m.Learners, member.ID):
			return 5
		}
		return never
	}
	slices.SortFunc(electorate, func(a, b fleet.Member) int {
		return cmp.Or(
			cmp.Compare(preference(a), preference(b)),
			cmp.Compare(b2i(a.Role == fleet.Witness), b2i(b.Role == fleet.Witness)),
			a.ID.Compare(b.ID))
	})
	var out []fleet.NodeID
	for _, member := range electorate[:Votes(len(electorate))] {
		if preference(member) < never {
			out = append(out, member.ID)
		}
	}
	return out
}

// shift returns the largest step that is ready: learners that become voters, voters that leave, from an odd number to an odd one.
func (m Membership) shift(desired []fleet.NodeID) Step {
	var ready, leaving []Seat
	steady := m.Steady
	if len(m.Voters) == 1 { // it has no quorum to lose, and until somebody votes with it nobody can take over
		steady /= 12
	}
	for _, seat := range m.Learners {
		if r := m.Reports[seat.Node]; r.CaughtUp && r.For >= steady {
			ready = append(ready, seat)
		}
	}
	for _, seat := range m.Voters {
		if !slices.Contains(desired, seat.Node) {
			leaving = append(leaving, seat)
		}
	}
	if sits(leaving, m.Self.Node) {
		if len(m.Voters) > 1 {
			return Step{Hand: true}
		}
		leaving = nil
	}
	var best Step
	most := 0
	for in := range len(ready) + 1 {
		for out := range len(leaving) + 1 {
			voters := len(m.Voters) + in - out
			fits := voters%2 == 1 && voters <= Votes(5) && (voters >= len(m.Voters) || voters >= Votes(len(Electorate(m.Wish))))
			if fits && (in+out > most || in+out == most && out > len(best.Remove)) {
				most, best = in+out, Step{Promote: ready[:in], Remove: leaving[:out]}
			}
		}
	}
	return best
}

func sits(seats []Seat, node fleet.NodeID) bool {
	return slices.ContainsFunc(seats, func(s Seat) bool { return s.Node == node })
}

func among(members []fleet.Member, node fleet.NodeID) bool {
	return slices.ContainsFunc(members, func(m fleet.Member) bool { return m.ID == node })
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
