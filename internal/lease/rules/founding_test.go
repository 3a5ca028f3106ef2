package rules_test

import (
	"strings"
	"testing"

	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"
)

func TestMayFound(t *testing.T) {
	three := list(t, "1 2 3")
	blank := func(promised int) rules.Neighbour {
		return rules.Neighbour{Heard: true, Standing: rules.Standing{List: three.Digest(), Candidate: node(promised)}}
	}
	unheard, stateful, otherList := blank(1), blank(1), blank(1)
	unheard.Heard = false
	stateful.Line = rules.Line{Cluster: rules.Cluster{1}, Generation: 1}
	otherList.List = [32]byte{1}
	type near = map[fleet.NodeID]rules.Neighbour
	for _, c := range []struct {
		name      string
		list      string
		self      int
		candidate int
		near      near
		waited    bool
		want      string // part of why not
	}{
		{"alone in its list", "1", 1, 1, near{}, false, ""},
		{"all are here", "1 2 3", 1, 1, near{node(2): blank(1), node(3): blank(1)}, false, ""},
		{"a majority is here", "1 2 3", 1, 1, near{node(2): blank(1)}, false, "waited for"},
		{"a majority is here, and the third was waited for", "1 2 3", 1, 1, near{node(2): blank(1)}, true, ""},
		{"a minority", "1 2 3", 1, 1, near{}, true, "1 of 3"},
		{"somebody has state", "1 2 3", 1, 1, near{node(2): blank(1), node(3): stateful}, true, "fe3 has the lease's state"},
		{"somebody has not said", "1 2 3", 1, 1, near{node(2): blank(1), node(3): unheard}, true, "fe3 has not said"},
		{"lists differ", "1 2 3", 1, 1, near{node(2): otherList, node(3): otherList}, true, "1 of 3"},
		{"promised to another", "1 2 3", 1, 2, near{node(2): blank(2), node(3): blank(2)}, true, "first in rank"},
		{"the third is promised to another, the second is not", "1 2 3", 1, 1, near{node(2): blank(2), node(3): blank(2)}, true, "1 of 3"},
		{"a member", "1m 2 3", 1, 1, near{}, true, "neither issues nor votes"},
	} {
		got := rules.MayFound(node(c.self), node(c.candidate), list(t, c.list), c.near, c.waited)
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestOnePromiseOneFounder: of all ways in which two founders may each count promises, none lets both have a majority.
func TestOnePromiseOneFounder(t *testing.T) {
	three := list(t, "1 2 3")
	for promise := 1; promise <= 3; promise++ {
		third := rules.Neighbour{Heard: true, Standing: rules.Standing{List: three.Digest(), Candidate: node(promise)}}
		founders := 0
		for self := 1; self <= 2; self++ { // 1 and 2 do not see each other
			if rules.MayFound(node(self), node(self), three, map[fleet.NodeID]rules.Neighbour{node(3): third}, true) == "" {
				founders++
			}
		}
		if founders > 1 {
			t.Errorf("with the third promised to %d, both found", promise)
		}
	}
}

func TestFavourite(t *testing.T) {
	three := list(t, "1w 2 3")
	blank := rules.Neighbour{Heard: true}
	stateful := rules.Neighbour{Heard: true, Standing: rules.Standing{Line: rules.Line{Generation: 1}}}
	type near = map[fleet.NodeID]rules.Neighbour
	for _, c := range []struct {
		name string
		self int
		near near
		want int
	}{
		{"an issuer before a witness", 1, near{node(2): blank, node(3): blank}, 2},
		{"oneself, alone", 3, near{}, 3},
		{"who is reachable", 3, near{node(1): blank}, 3},
		{"nobody while somebody has state", 3, near{node(1): blank, node(2): stateful}, 0},
		{"nobody while somebody has not said", 3, near{node(2): {}}, 0},
	} {
		want := fleet.NodeID{}
		if c.want > 0 {
			want = node(c.want)
		}
		if got := rules.Favourite(node(c.self), three, c.near); got != want {
			t.Errorf("%s: %v", c.name, got[0])
		}
	}
}

func TestMayRecover(t *testing.T) {
	three := list(t, "1 2 3")
	at := func(generation, term, index uint64) rules.Standing {
		return rules.Standing{Line: rules.Line{Cluster: rules.Cluster{1}, Generation: generation}, LogTerm: term, LogIndex: index}
	}
	led := at(1, 1, 1)
	led.Leader = node(3)
	for _, c := range []struct {
		name  string
		self  rules.Standing
		other rules.Neighbour
		want  string
	}{
		{"it has the most", at(1, 4, 9), rules.Neighbour{Heard: true, Standing: at(1, 4, 8)}, ""},
		{"as much", at(1, 4, 9), rules.Neighbour{Heard: true, Standing: at(1, 4, 9)}, ""},
		{"another has a longer log", at(1, 4, 9), rules.Neighbour{Heard: true, Standing: at(1, 4, 10)}, "recover there"},
		{"another has a later term", at(1, 4, 9), rules.Neighbour{Heard: true, Standing: at(1, 5, 2)}, "recover there"},
		{"another has a later generation", at(1, 4, 9), rules.Neighbour{Heard: true, Standing: at(2, 1, 1)}, "recover there"},
		{"another sees a leader", at(1, 4, 9), rules.Neighbour{Heard: true, Standing: led}, "sees fe3 lead"},
		{"another has not said", at(1, 4, 9), rules.Neighbour{Standing: at(1, 4, 8)}, "ask again"},
		{"it sees a leader itself", led, rules.Neighbour{Heard: true, Standing: at(1, 1, 1)}, "this node sees fe3"},
	} {
		got := rules.MayRecover(c.self, three, map[fleet.NodeID]rules.Neighbour{node(2): c.other})
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestForsaken(t *testing.T) {
	line := rules.Line{Cluster: rules.Cluster{1}, Generation: 1}
	other := rules.Line{Cluster: rules.Cluster{2}, Generation: 1}
	moved := func(n int) rules.Neighbour {
		return rules.Neighbour{Heard: true, Standing: rules.Standing{Seat: seat(n, 2), Line: other}}
	}
	blank := moved(2)
	blank.Line = rules.Line{}
	voters := seats(t, "1 2 3")
	type near = map[fleet.NodeID]rules.Neighbour
	for name, c := range map[string]struct {
		near near
		want bool
	}{
		"most have moved":                       {near{node(2): moved(2), node(3): moved(3)}, true},
		"one has":                               {near{node(2): moved(2)}, false},
		"two lost their disks, nothing founded": {near{node(2): blank, node(3): blank}, false},
	} {
		if got := rules.Forsaken(line, voters, c.near); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
