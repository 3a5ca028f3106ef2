package agent

import (
	"testing"
	"time"

	"certswarm/syncer/pairs"
)

// With a key that is used again several certificates fit; the one that was in force at the same time is meant.
func TestTheNearestMatchIsTaken(t *testing.T) {
	a, b := pairs.PublicKey{1}, pairs.PublicKey{2}
	at := time.Now()
	versions := []keptHalf{
		{a, "later", at.Add(time.Hour)}, {b, "another key", at}, {a, "a moment before", at.Add(-time.Second)}, {a, "long before", at.Add(-time.Hour)},
		{pairs.PublicKey{}, "an encrypted one", at},
	}
	if v, found := matching(a, at, versions); !found || v.version != "a moment before" {
		t.Errorf("%+v, %v", v, found)
	}
	for _, unfit := range []pairs.PublicKey{{}, {9}} {
		if v, found := matching(unfit, at, versions); found {
			t.Errorf("%+v", v)
		}
	}
}
