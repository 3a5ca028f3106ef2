package agent

import (
	"slices"
	"testing"

	"certswarm/internal/fleet"
)

// A journal is saved when this node holds it, and most of all where the lease is voted for; whoever else is there gets time to.
func TestWhenAJournalIsSaved(t *testing.T) {
	for _, c := range []struct {
		issuers, connected, have, voters string // no voters: the lease is not voted for
		want                             bool
		without                          string
	}{
		{"abc", "bc", "abc", "abc", true, ""},
		{"abc", "bc", "ab", "abc", true, "c"},
		{"abc", "bc", "bc", "abc", false, "a"}, // not on this node, which must go on with it
		{"abc", "b", "ab", "abc", true, ""},
		{"abc", "", "a", "abc", false, ""}, // it is cut off
		{"abc", "", "ab", "abc", true, ""}, // and was not when it was acknowledged
		{"abc", "", "a", "", true, ""},     // by the list alone, or without the lease
		{"abc", "bc", "a", "", true, "bc"},
		{"abcd", "b", "ab", "abcd", false, ""},
		{"ab", "", "a", "abw", true, ""}, // and a witness
		{"ab", "b", "a", "abw", true, "b"},
		{"a", "", "", "aw", false, "a"},
		{"abc", "", "a", "a", true, ""}, // it votes alone: the others are gone for good
		{"abc", "", "", "a", false, "a"},
		{"abc", "bc", "a", "a", false, "bc"}, // they are there, and will vote
		{"abcde", "b", "ab", "ab", true, ""},
		{"abcde", "b", "ab", "abc", true, ""},
		{"abcde", "b", "ab", "acd", false, ""},
		{"abc", "", "a", "abcwx", false, ""}, // elected with two witnesses
	} {
		ids := func(letters string) (out []fleet.NodeID) {
			for _, letter := range letters {
				out = append(out, fleet.NodeID{byte(letter)})
			}
			return out
		}
		var issuers []fleet.Member
		for _, id := range ids(c.issuers) {
			issuers = append(issuers, fleet.Member{ID: id})
		}
		connected := func(id fleet.NodeID) bool { return slices.Contains(ids(c.connected), id) }
		var votes func(fleet.NodeID) bool
		if c.voters != "" {
			votes = func(id fleet.NodeID) bool { return slices.Contains(ids(c.voters), id) }
		}
		got := judgeSave(ids("a")[0], issuers, ids(c.have), connected, votes, false)
		if got.enough != c.want || got.alone || !slices.Equal(got.without, ids(c.without)) {
			t.Errorf("issuers %s, connected %s, held by %s, voters %s: %+v", c.issuers, c.connected, c.have, c.voters, got)
		}
		// When it has waited for too long only this node's own disk counts.
		own := slices.Contains(ids(c.have), ids("a")[0])
		if late := judgeSave(ids("a")[0], issuers, ids(c.have), connected, votes, true); late.enough != own || late.alone != (!c.want && own) {
			t.Errorf("issuers %s, connected %s, held by %s, voters %s, late: %+v", c.issuers, c.connected, c.have, c.voters, late)
		}
	}
}
