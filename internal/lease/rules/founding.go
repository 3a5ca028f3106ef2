package rules

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"certswarm/internal/fleet"
)

// Standing is where a node says it is with the lease.
type Standing struct {
	Seat      Seat         `json:"-"`
	Line      Line         `json:"-"` // zero: no state
	List      [32]byte     `json:"-"` // fleet.Roster.Digest
	LogTerm   uint64       `json:"log_term"`
	LogIndex  uint64       `json:"log_index"` // of the end of its log
	Epoch     fleet.Epoch  `json:"epoch"`     // of the last acquire it knows of
	Seen      fleet.Epoch  `json:"seen"`      // the latest epoch anywhere, written files included
	Leader    fleet.NodeID `json:"leader"`    // whom it sees lead; zero: nobody
	Candidate fleet.NodeID `json:"candidate"` // whom it promised to let found; zero: nobody
}

// Compare orders standings as the logs behind them: the later one has everything that the earlier one has committed.
func (s Standing) Compare(other Standing) int {
	return cmp.Or(
		cmp.Compare(s.Line.Generation, other.Line.Generation),
		cmp.Compare(s.Line.Nonce, other.Line.Nonce),
		cmp.Compare(s.LogTerm, other.LogTerm),
		cmp.Compare(s.LogIndex, other.LogIndex))
}

// Neighbour is what is known of one member of the electorate that is connected.
type Neighbour struct {
	Heard bool // Standing was said in answer to something that was asked a moment ago
	Standing
}

// PromiseFor is for how long a node without state keeps its promise not to help another founder. Whoever founds counts promises only
// while they are younger than a sixth of this, by its own clock.
func PromiseFor(ttl time.Duration) time.Duration { return 2 * ttl }

// Favourite returns whom a node without state promises to let found: the first in rank among itself and the connected ones. It
// returns nobody while one of them has state, or has not said.
func Favourite(self fleet.NodeID, list fleet.Roster, connected map[fleet.NodeID]Neighbour) fleet.NodeID {
	for _, n := range connected {
		if !n.Heard || !n.Line.IsZero() {
			return fleet.NodeID{}
		}
	}
	for _, m := range ranked(list) {
		if _, up := connected[m.ID]; up || m.ID == self {
			return m.ID
		}
	}
	return fleet.NodeID{}
}

// Freed reports whether a promise binds no more although its time is not up: one to oneself never did, and a node that has
// promised itself to another will not found for longer than the promise it was given counts.
func Freed(self, promise fleet.NodeID, connected map[fleet.NodeID]Neighbour) bool {
	n, up := connected[promise]
	return promise == self || up && n.Heard && !n.Candidate.IsZero() && n.Candidate != promise
}

// ranked returns the electorate in the order in which it may found: who can hold the lease first.
func ranked(list fleet.Roster) []fleet.Member {
	electorate := Electorate(list)
	slices.SortFunc(electorate, func(a, b fleet.Member) int {
		return cmp.Or(cmp.Compare(b2i(a.Role == fleet.Witness), b2i(b.Role == fleet.Witness)), a.ID.Compare(b.ID))
	})
	return electorate
}

// MayFound says whether self, which has no state and has promised itself to candidate, may begin a cluster; "" is yes.
//
// Promises are given once: of two that do not see each other, a third cannot make founders of both, as long as none of them stands
// still for longer than a promise lasts. That founders are rare is all that promises are for; that no two of them ever act is up to
// Founders. And whoever is not connected yet may have state: it is waited for, for a while.
func MayFound(self, candidate fleet.NodeID, list fleet.Roster, connected map[fleet.NodeID]Neighbour, waited bool) (why string) {
	electorate := Electorate(list)
	if !among(electorate, self) {
		return "this node neither issues nor votes"
	}
	digest := list.Digest()
	agree := 1
	for _, id := range slices.SortedFunc(maps.Keys(connected), fleet.NodeID.Compare) {
		switch n := connected[id]; {
		case !n.Heard:
			return fmt.Sprintf("%s has not said yet whether it has the lease's state", list.NameOf(id))
		case !n.Line.IsZero():
			return fmt.Sprintf("%s has the lease's state", list.NameOf(id))
		case n.List == digest && n.Candidate == self:
			agree++
		}
	}
	switch {
	case candidate != self:
		return "another node is first in rank to begin the lease"
	case agree <= len(electorate)/2:
		return fmt.Sprintf("%d of %d nodes are here with the same peer list; a majority must be", agree, len(electorate))
	case agree < len(electorate) && !waited:
		return fmt.Sprintf("only %d of %d nodes are here; the others may have the lease's state and are waited for", agree, len(electorate))
	}
	return ""
}

// Founders returns who votes first in the cluster that self begins, and the electorate whose majority must have it on disk before
// anything in it counts. A member that is not connected stands there with a vacant seat.
//
// A node takes up one cluster and no other, and of two majorities of one list somebody is in both: so whatever becomes of founders,
// promises and disks in the middle of it, one cluster of a list can be acted in. And it is on a majority before anybody acts, so that it
// outlives its founder.
func Founders(self Seat, list fleet.Roster, connected map[fleet.NodeID]Neighbour) (voters, electorate []Seat) {
	digest := list.Digest()
	voters = []Seat{self}
	for _, m := range ranked(list) {
		n := connected[m.ID]
		switch {
		case m.ID == self.Node:
			electorate = append(electorate, self)
		case !n.Heard:
			electorate = append(electorate, Seat{Node: m.ID})
		default:
			electorate = append(electorate, n.Seat)
			if n.List == digest && n.Candidate == self.Node {
				voters = append(voters, n.Seat)
			}
		}
	}
	return voters[:Votes(len(voters))], electorate
}

// NextGeneration returns the generation of a founding or recovery: above everything that anybody is known to have seen.
func NextGeneration(own State, seen fleet.Epoch) uint64 {
	return max(own.Line.Generation, own.Generation, seen.Generation) + 1
}

// MayRecover says why self must not go on alone, "" if it may. connected is everybody who can be reached, by node.
func MayRecover(self Standing, list fleet.Roster, connected map[fleet.NodeID]Neighbour) (why string) {
	if !self.Leader.IsZero() {
		return fmt.Sprintf("this node sees %s lead: there is a majority, and nothing to recover", list.NameOf(self.Leader))
	}
	for _, m := range Electorate(list) {
		n, up := connected[m.ID]
		switch {
		case !up:
		case !n.Heard:
			return fmt.Sprintf("%s is connected but has not said where it stands; ask again in a few seconds", m.Name)
		case !n.Leader.IsZero():
			return fmt.Sprintf("%s sees %s lead: there is a majority, and nothing to recover", m.Name, list.NameOf(n.Leader))
		case n.Compare(self) > 0:
			return fmt.Sprintf("%s has more of the log than this node; recover there", m.Name)
		}
	}
	return ""
}

// Forsaken reports whether a line can never again have a majority, because so many of its voters gave up their seats and have sat
// down in another cluster. Whoever is left of it may follow them.
//
// While nobody ever acted in it, as far as is known (acted is false), it is forsaken sooner: when so many of those that should take it up can
// not, because they took up another, or sit on another seat, or were not there when it was founded. Nothing is lost with it.
func Forsaken(line Line, acted bool, voters []Seat, connected map[fleet.NodeID]Neighbour) bool {
	for _, n := range connected {
		acted = acted || n.Heard && n.Line == line && !n.Epoch.IsZero()
	}
	gone := 0
	for _, seat := range voters {
		n, up := connected[seat.Node]
		up = up && n.Heard
		elsewhere := up && !n.Line.IsZero() && n.Line.Cluster != line.Cluster
		moved := up && n.Seat != seat
		if acted && moved && elsewhere || !acted && (moved || elsewhere || seat.Vacant()) {
			gone++
		}
	}
	return len(voters) > 0 && len(voters)-gone <= len(voters)/2
}
