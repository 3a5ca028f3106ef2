package rules_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"

	"pgregory.net/rapid"
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

func TestFounders(t *testing.T) {
	type near = map[fleet.NodeID]rules.Neighbour
	for _, c := range []struct {
		name       string
		list       string
		here       string // who is connected and promised itself to 1
		voters     string
		electorate string // vacant seats in brackets
	}{
		{"alone in its list", "1", "", "1", "1"},
		{"all of three", "1 2 3", "2 3", "1 2 3", "1 2 3"},
		{"two of three: one votes, both must have it", "1 2 3", "2", "1", "1 2 [3]"},
		{"three of five", "1 2 3 4 5", "3 5", "1 3 5", "1 [2] 3 [4] 5"},
		{"four of five", "1 2 3 4 5", "2 3 4", "1 2 3", "1 2 3 4 [5]"},
		{"seven", "1 2 3 4 5 6 7", "2 3 4 5 6 7", "1 2 3 4 5", "1 2 3 4 5 6 7"},
		{"witnesses come last, members not at all", "1 2w 3w 4 5m", "2 3 4", "1 4 2", "1 4 2 3"},
	} {
		list := list(t, c.list)
		here := near{}
		for word := range strings.FieldsSeq(c.here) {
			n, _ := strconv.Atoi(word)
			here[node(n)] = rules.Neighbour{Heard: true, Standing: rules.Standing{Seat: seat(n, 1), List: list.Digest(), Candidate: node(1)}}
		}
		voters, electorate := rules.Founders(seat(1, 1), list, here)
		if got := row(voters); got != c.voters {
			t.Errorf("%s: the voters are %s, want %s", c.name, got, c.voters)
		}
		if got := row(electorate); got != c.electorate {
			t.Errorf("%s: the electorate is %s, want %s", c.name, got, c.electorate)
		}
	}
	three := list(t, "1 2 3")
	other := rules.Neighbour{Heard: true, Standing: rules.Standing{Seat: seat(3, 1), List: three.Digest(), Candidate: node(2)}}
	silent := rules.Neighbour{Standing: rules.Standing{Seat: seat(2, 1), List: three.Digest(), Candidate: node(1)}}
	if voters, electorate := rules.Founders(seat(1, 1), three, near{node(2): silent, node(3): other}); row(voters) != "1" || row(electorate) != "1 [2] 3" {
		t.Errorf("with one silent and one promised to another: %s of %s", row(voters), row(electorate))
	}
}

// row names seats by their nodes, vacant ones in brackets.
func row(seats []rules.Seat) string {
	var words []string
	for _, s := range seats {
		word := fmt.Sprint(s.Node[0])
		if s.Vacant() {
			word = "[" + word + "]"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// TestTwoFoundersCannotBothHaveAMajority: whoever founds and whoever takes it up, of two clusters of one list at most one is on a majority of its
// electorate, because each node takes up one; and what cannot be on a majority any more is forsaken by those who see everybody.
func TestTwoFoundersCannotBothHaveAMajority(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 7).Draw(t, "members")
		var members []fleet.Member
		for i := range n {
			members = append(members, fleet.Member{Name: fmt.Sprint("fe", i+1), ID: node(i + 1), Role: fleet.Issuer})
		}
		all, err := fleet.NewRoster(members)
		if err != nil {
			t.Fatal(err)
		}
		lines := []rules.Line{{Cluster: rules.Cluster{1}, Generation: 1}, {Cluster: rules.Cluster{2}, Generation: 1}}
		var electorates [2][]rules.Seat
		for k := range lines {
			here := map[fleet.NodeID]rules.Neighbour{}
			for i := range n {
				if rapid.Bool().Draw(t, "is there") {
					here[node(i+1)] = rules.Neighbour{Heard: true, Standing: rules.Standing{Seat: seat(i+1, 1), List: all.Digest(), Candidate: node(1 + k%n)}}
				}
			}
			_, electorates[k] = rules.Founders(seat(1+k%n, 1), all, here)
		}
		took := make([]int, n) // which cluster each took up; 2: none
		now := map[fleet.NodeID]rules.Neighbour{}
		for i := range n {
			took[i] = rapid.IntRange(0, 2).Draw(t, "takes up")
			if took[i] < 2 && !slices.Contains(electorates[took[i]], seat(i+1, 1)) {
				took[i] = 2 // it is not in it under this seat
			}
			standing := rules.Standing{Seat: seat(i+1, 1)}
			if took[i] < 2 {
				standing.Line = lines[took[i]]
			}
			now[node(i+1)] = rules.Neighbour{Heard: true, Standing: standing}
		}
		majorities := 0
		for k, line := range lines {
			have, could := 0, 0
			for _, s := range electorates[k] {
				if s.Vacant() {
					continue
				}
				if i := int(s.Node[0]) - 1; took[i] == k {
					have, could = have+1, could+1
				} else if took[i] == 2 {
					could++
				}
			}
			if have > n/2 {
				majorities++
			}
			if got, want := rules.Forsaken(line, false, electorates[k], now), could <= n/2; got != want {
				t.Fatalf("%d have it, %d of %d could: forsaken %v", have, could, n, got)
			}
		}
		if majorities > 1 {
			t.Fatal("two clusters are on a majority each")
		}
	})
}

func TestForsaken(t *testing.T) {
	line := rules.Line{Cluster: rules.Cluster{1}, Generation: 1}
	other := rules.Line{Cluster: rules.Cluster{2}, Generation: 1}
	at := func(n, incarnation int, line rules.Line) rules.Neighbour {
		return rules.Neighbour{Heard: true, Standing: rules.Standing{Seat: seat(n, incarnation), Line: line}}
	}
	moved := func(n int) rules.Neighbour { return at(n, 2, other) }
	silent := moved(3)
	silent.Heard = false
	active := at(4, 1, line)
	active.Epoch.Generation = 1
	blank := rules.Line{}
	voters := seats(t, "1 2 3")
	vacant := []rules.Seat{seat(1, 1), seat(2, 1), seat(3, 0)}
	type near = map[fleet.NodeID]rules.Neighbour
	for name, c := range map[string]struct {
		acted  bool
		voters []rules.Seat
		near   near
		want   bool
	}{
		"most have moved":                              {true, voters, near{node(2): moved(2), node(3): moved(3)}, true},
		"one has":                                      {true, voters, near{node(2): moved(2)}, false},
		"one has, another is not heard":                {true, voters, near{node(2): moved(2), node(3): silent}, false},
		"two lost their disks, nothing founded":        {true, voters, near{node(2): at(2, 2, blank), node(3): at(3, 2, blank)}, false},
		"two may still move back":                      {true, voters, near{node(2): at(2, 1, other), node(3): at(3, 1, other)}, false},
		"nobody acted: two took up another":            {false, voters, near{node(2): at(2, 1, other), node(3): at(3, 1, other)}, true},
		"nobody acted: one did":                        {false, voters, near{node(2): at(2, 1, other)}, false},
		"nobody acted: one did, and one was not there": {false, vacant, near{node(2): at(2, 1, other)}, true},
		"nobody acted: two sit elsewhere":              {false, voters, near{node(2): at(2, 2, blank), node(3): at(3, 2, line)}, true},
		"nobody acted, but a peer knows better":        {false, voters, near{node(2): at(2, 2, blank), node(3): at(3, 2, blank), node(4): active}, false},
		"nobody acted, nobody is heard":                {false, voters, near{node(3): silent}, false},
		"there are no voters":                          {false, nil, near{node(2): moved(2)}, false},
	} {
		if got := rules.Forsaken(line, c.acted, c.voters, c.near); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
