package agent

import (
	"slices"
	"strings"
	"testing"

	"certswarm/internal/fleet"
)

// A journal is saved when all that are there hold it, and most of all where the lease is voted for.
func TestWhenAJournalIsSaved(t *testing.T) {
	for _, c := range []struct {
		issuers, connected, have string
		voted, want              bool
	}{
		{"abc", "abc", "abc", true, true},
		{"abc", "abc", "ab", true, false},
		{"abc", "ab", "ab", true, true},
		{"abc", "a", "a", true, false}, // it is cut off
		{"abc", "a", "ab", true, true}, // and was not when it was acknowledged
		{"abc", "a", "a", false, true}, // by the list alone, or without the lease
		{"abcd", "ab", "ab", true, false},
		{"ab", "a", "a", true, true}, // and a witness
		{"ab", "ab", "a", true, false},
		{"a", "a", "", true, false},
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
		if got := enoughHold(issuers, ids(c.have), connected, c.voted); got != c.want {
			t.Errorf("issuers %s, connected %s, held by %s, voted %v: %v", strings.ToUpper(c.issuers), c.connected, c.have, c.voted, got)
		}
	}
}
