package agent

import (
	"slices"
	"testing"

	"certswarm/internal/fleet"
)

// A journal is saved when this node holds it, and most of all where the lease is voted for; whoever else is there gets time to.
func TestWhenAJournalIsSaved(t *testing.T) {
	for _, c := range []struct {
		issuers, connected, have string
		voted, want              bool
		without                  string
	}{
		{"abc", "bc", "abc", true, true, ""},
		{"abc", "bc", "ab", true, true, "c"},
		{"abc", "bc", "bc", true, false, "a"}, // not on this node, which must go on with it
		{"abc", "b", "ab", true, true, ""},
		{"abc", "", "a", true, false, ""}, // it is cut off
		{"abc", "", "ab", true, true, ""}, // and was not when it was acknowledged
		{"abc", "", "a", false, true, ""}, // by the list alone, or without the lease
		{"abc", "bc", "a", false, true, "bc"},
		{"abcd", "b", "ab", true, false, ""},
		{"ab", "", "a", true, true, ""}, // and a witness
		{"ab", "b", "a", true, true, "b"},
		{"a", "", "", true, false, "a"},
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
		got := judgeSave(ids("a")[0], issuers, ids(c.have), connected, c.voted)
		if got.enough != c.want || !slices.Equal(got.without, ids(c.without)) {
			t.Errorf("issuers %s, connected %s, held by %s, voted %v: %+v", c.issuers, c.connected, c.have, c.voted, got)
		}
	}
}
