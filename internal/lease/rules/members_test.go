package rules_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"

	"pgregory.net/rapid"
)

func node(n int) fleet.NodeID { return fleet.NodeID{byte(n)} }

func seat(n, incarnation int) rules.Seat {
	return rules.Seat{Node: node(n), Incarnation: uint64(incarnation)}
}

// list makes a peer list of "1 2 3w 4m": numbers of nodes, w for a witness, m for a member.
func list(t testing.TB, text string) fleet.Roster {
	t.Helper()
	var members []fleet.Member
	for word := range strings.FieldsSeq(text) {
		role := fleet.Issuer
		switch {
		case strings.HasSuffix(word, "w"):
			role = fleet.Witness
		case strings.HasSuffix(word, "m"):
			role = fleet.Receive
		}
		var n int
		if _, err := fmt.Sscanf(word, "%d", &n); err != nil {
			t.Fatal(err)
		}
		members = append(members, fleet.Member{Name: fmt.Sprintf("fe%d", n), ID: node(n), Role: role})
	}
	r, err := fleet.NewRoster(members)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// seats reads "1 2 3": first incarnations.
func seats(t testing.TB, text string) (out []rules.Seat) {
	for _, m := range list(t, text).Members() {
		out = append(out, rules.Seat{Node: m.ID, Incarnation: 1})
	}
	return out
}

func describe(s rules.Step) string {
	var parts []string
	part := func(what string, seats []rules.Seat) {
		for _, s := range seats {
			text := fmt.Sprintf("%s%d", what, s.Node[0])
			if s.Incarnation != 1 {
				text += fmt.Sprintf("'%d", s.Incarnation)
			}
			parts = append(parts, text)
		}
	}
	part("learn ", s.Learn)
	part("+", s.Promote)
	part("-", s.Remove)
	slices.Sort(parts)
	if s.Hand {
		parts = append(parts, "hand over")
	}
	if s.Refused {
		parts = append(parts, "refused")
	}
	return strings.Join(parts, ", ")
}

// TestNextStep is the policy of who votes. Node 1 leads. "ready" are connected, caught up and steady; "new" are connected with no log.
func TestNextStep(t *testing.T) {
	for _, c := range []struct {
		name             string
		list             string
		voters, learners string
		ready, new       string
		lagging          string // connected for long, without the whole log
		elsewhere        string // connected, and sitting on another seat: it lost its disk
		differ           string // have another list
		confirmed, joint bool
		want             string
	}{
		{name: "one alone is as wished", list: "1", voters: "1"},
		{name: "two issuers: one votes", list: "1 2", voters: "1", new: "2"},
		{name: "three: the first learns", list: "1 2 3", voters: "1", new: "2 3", want: "learn 2"},
		{name: "three: then the other", list: "1 2 3", voters: "1", learners: "2", new: "2 3", want: "learn 3"},
		{name: "three: one is ready, but two voters are no better than one", list: "1 2 3", voters: "1", learners: "2 3", ready: "2", new: "3"},
		{name: "three: both are ready", list: "1 2 3", voters: "1", learners: "2 3", ready: "2 3", want: "+2, +3"},
		{name: "three: one does not have the log yet", list: "1 2 3", voters: "1", learners: "2 3", ready: "2", lagging: "3"},
		{name: "three: a third that never came up is waited for", list: "1 2 3", voters: "1", learners: "2", ready: "2"},
		{name: "a witness votes", list: "1 2 3w", voters: "1", learners: "2 3", ready: "2 3", want: "+2, +3"},
		{name: "four: three vote, issuers first", list: "1 2w 3 4", voters: "1", new: "2 3 4", want: "learn 3"},
		{name: "four: whoever is there", list: "1 2 3 4", voters: "1", new: "3 4", want: "learn 3"},
		{name: "five from three: not four", list: "1 2 3 4 5", voters: "1 2 3", learners: "4 5", ready: "2 3 4", new: "5"},
		{name: "five from three", list: "1 2 3 4 5", voters: "1 2 3", learners: "4 5", ready: "2 3 4 5", want: "+4, +5"},
		{name: "members do not vote", list: "1 2m 3m", voters: "1", new: "2 3"},
		{name: "one leaves, another takes its place: first it learns", list: "1 2 4", voters: "1 2 3", ready: "2", new: "4", want: "learn 4"},
		{name: "one leaves: it votes until the other is ready", list: "1 2 4", voters: "1 2 3", learners: "4", ready: "2", new: "4"},
		{name: "one leaves, another takes its place", list: "1 2 4", voters: "1 2 3", learners: "4", ready: "2 4", want: "+4, -3"},
		{name: "one of three leaves for good: one voter is left, not two", list: "1 2", voters: "1 2 3", ready: "2", want: "-2, -3"},
		{name: "one of five leaves: three are left", list: "1 2 3 4", voters: "1 2 3 4 5", ready: "2 3 4", want: "-4, -5"},
		{name: "the one that is away goes", list: "1 2 3 4", voters: "1 2 3 4 5", ready: "3 4", want: "-2, -5"},
		{name: "a learner that is not wished any more", list: "1 2 3", voters: "1 2 3", learners: "4", ready: "2 3 4", want: "-4"},
		{name: "a lost disk: the old seat goes first", list: "1 2 3", voters: "1 2 3", ready: "2", elsewhere: "3", want: "-3"},
		{name: "a lost disk: the new seat learns", list: "1 2 3", voters: "1 2", ready: "2", elsewhere: "3", want: "learn 3'2"},
		{name: "a lost disk: two vote meanwhile", list: "1 2 3", voters: "1 2", learners: "3", ready: "2", new: "3"},
		{name: "a lost disk: and three again", list: "1 2 3", voters: "1 2", learners: "3", ready: "2 3", want: "+3"},
		{name: "a learner's lost disk", list: "1 2 3", voters: "1", learners: "2 3", ready: "2", elsewhere: "3", want: "-3"},
		{name: "a lost disk is seen to whatever the lists say", list: "1 2 3", voters: "1 2 3", ready: "2", elsewhere: "3", differ: "2", want: "-3"},
		{name: "a minority of the voters has the list", list: "1 2 4", voters: "1 2 3", ready: "2 3", new: "4", differ: "2 3"},
		{name: "half of the voters is no majority", list: "1 2 3", voters: "1 2", ready: "2", new: "3", differ: "2"},
		{name: "a majority has it", list: "1 2 4", voters: "1 2 3", ready: "2 3", new: "4", differ: "3", want: "learn 4"},
		{name: "most are dropped", list: "1 4 5", voters: "1 2 3", ready: "2 3", new: "4 5", want: "refused"},
		{name: "most are dropped, and a person agreed", list: "1 4 5", voters: "1 2 3", ready: "2 3", new: "4 5", confirmed: true, want: "learn 4"},
		{name: "an emptied list", list: "1", voters: "1 2 3", ready: "2 3", want: "refused"},
		{name: "an emptied list, and a person agreed", list: "1", voters: "1 2 3", ready: "2 3", confirmed: true, want: "-2, -3"},
		{name: "the leader itself must go: it hands over", list: "1m 2 3 4", voters: "1 2 3", learners: "4", ready: "2 3 4", want: "hand over"},
		{name: "a step is under way", list: "1 2 3", voters: "1", new: "2 3", joint: true},
		{name: "all as wished", list: "1 2 3", voters: "1 2 3", ready: "2 3"},
		{name: "all as wished, one is away", list: "1 2 3", voters: "1 2 3", ready: "2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wish := list(t, c.list)
			m := rules.Membership{
				Self: seat(1, 1), Steady: time.Minute, Wish: wish, Voters: seats(t, c.voters), Learners: seats(t, c.learners), Joint: c.joint,
				Reports: map[fleet.NodeID]rules.Report{},
			}
			report := func(who string, r rules.Report) {
				for _, s := range seats(t, who) {
					r.Seat, r.List = s, wish.Digest()
					if slices.Contains(strings.Fields(c.differ), fmt.Sprint(s.Node[0])) {
						r.List = [32]byte{1}
					}
					if slices.Contains(strings.Fields(c.elsewhere), fmt.Sprint(s.Node[0])) {
						r.Seat.Incarnation = 2
					}
					m.Reports[s.Node] = r
				}
			}
			report(c.new, rules.Report{For: time.Second})
			report(c.elsewhere, rules.Report{For: time.Second})
			report(c.lagging, rules.Report{For: time.Hour})
			report(c.ready, rules.Report{For: time.Minute, CaughtUp: true})
			if c.confirmed {
				m.Confirmed = wish.Digest()
			}
			if got := describe(rules.NextStep(m)); got != c.want {
				t.Errorf("the next step is %q, want %q", got, c.want)
			}
		})
	}
}

// TestStepsKeepAMajority walks from any voters towards any list with nodes that come and go, and wants every step to go from an odd number to
// an odd one (a lost disk aside), to keep the leader, and the walk to end where the list wants it.
func TestStepsKeepAMajority(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var words []string
		for i := range 8 {
			if kind := rapid.SampledFrom([]string{"", "", "w", "m", "-"}).Draw(t, "kind"); i == 0 || kind != "-" {
				if i == 0 && kind != "w" {
					kind = ""
				}
				words = append(words, fmt.Sprint(i+1)+kind)
			}
		}
		var roster []fleet.Member
		for _, w := range words {
			m := fleet.Member{Name: "n" + w, Role: fleet.Issuer}
			var n int
			_, _ = fmt.Sscanf(w, "%d", &n)
			m.ID = node(n)
			if strings.HasSuffix(w, "w") {
				m.Role = fleet.Witness
			} else if strings.HasSuffix(w, "m") {
				m.Role = fleet.Receive
			}
			roster = append(roster, m)
		}
		wish, err := fleet.NewRoster(roster)
		if err != nil {
			t.Fatal(err)
		}
		m := rules.Membership{Self: seat(1, 1), Steady: time.Minute, Wish: wish, Confirmed: wish.Digest()}
		for n := range rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "voters") {
			m.Voters = append(m.Voters, seat(n+1, 1))
		}
		for round := range 60 {
			settled := round > 20
			m.Reports = map[fleet.NodeID]rules.Report{}
			for n := 2; n <= 8; n++ {
				if settled || rapid.Bool().Draw(t, "up") {
					m.Reports[node(n)] = rules.Report{
						Seat: seat(n, 1), List: wish.Digest(), For: time.Hour, CaughtUp: settled || rapid.Bool().Draw(t, "has the log"),
					}
				}
			}
			step := rules.NextStep(m)
			before := len(m.Voters)
			m.Learners = append(m.Learners, step.Learn...)
			for _, s := range step.Promote {
				m.Learners = slices.DeleteFunc(m.Learners, func(l rules.Seat) bool { return l == s })
				m.Voters = append(m.Voters, s)
			}
			for _, s := range step.Remove {
				gone := func(l rules.Seat) bool { return l == s }
				m.Voters, m.Learners = slices.DeleteFunc(m.Voters, gone), slices.DeleteFunc(m.Learners, gone)
			}
			if len(m.Voters)%2 == 0 || len(m.Voters) > 5 || !slices.Contains(m.Voters, m.Self) {
				t.Fatalf("%d voters, then %d", before, len(m.Voters))
			}
		}
		if want := rules.Votes(len(rules.Electorate(wish))); len(m.Voters) != want || len(m.Learners) != 0 {
			t.Fatalf("the walk to %v ends with %d voters and %d learners, want %d", words, len(m.Voters), len(m.Learners), want)
		}
	})
}
