package index

import (
	"maps"
	"slices"
)

// Summary is, for every origin, the highest sequence number up to which everything is held. One vector answers what a peer
// lacks, what it has acknowledged, and what may be forgotten.
type Summary map[Origin]uint64

// Clone returns an independent copy.
func (s Summary) Clone() Summary {
	out := maps.Clone(s)
	if out == nil {
		out = Summary{}
	}
	return out
}

// Raise adds what other holds beyond s.
func (s Summary) Raise(other Summary) {
	for o, seq := range other {
		s[o] = max(s[o], seq)
	}
}

// Covers reports whether s holds everything that other does.
func (s Summary) Covers(other Summary) bool {
	for o, seq := range other {
		if s[o] < seq {
			return false
		}
	}
	return true
}

// Equal reports whether the two hold the same; an origin of which nothing is held is no difference.
func (s Summary) Equal(other Summary) bool { return s.Covers(other) && other.Covers(s) }

// Origins returns the origins in an order that is the same every time.
func (s Summary) Origins() []Origin { return slices.SortedFunc(maps.Keys(s), Origin.Compare) }

// Floor returns what all of the summaries hold: the lowest number of each origin. Nothing is held by none.
func Floor(all ...Summary) Summary {
	if len(all) == 0 {
		return Summary{}
	}
	out := all[0].Clone()
	for _, s := range all[1:] {
		for o := range out {
			out[o] = min(out[o], s[o])
		}
	}
	return out
}
