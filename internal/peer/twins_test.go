package peer

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// A machine that was cloned with its key is named, with both addresses, for as long as both run.
func TestTwoDaemonsWithOneKey(t *testing.T) {
	for watcher := range 2 { // the arbiter of the pair, and the other
		t.Run(fmt.Sprint(watcher), func(t *testing.T) {
			inWorld(t, 3, time.Millisecond, func(t *testing.T, w *world) {
				cloned, both := 1-watcher, w.roster(0, 1)
				for i := range w.nodes {
					w.start(i, func(c *Config, _ *node) {
						c.Roster = both
						if i == 2 {
							c.Identity = w.nodes[cloned].id
						}
					})
				}
				name := func() []Refusal {
					return slices.DeleteFunc(w.nodes[watcher].mesh.Refusals().Recent, func(r Refusal) bool { return r.Reason != ReasonTwoDaemons })
				}
				w.until(30*time.Second, "said", func() bool { return len(name()) == 1 })
				want := fmt.Sprintf("two daemons run with the key of fe%d, at %s and %s", cloned+1, w.nodes[cloned].address, w.nodes[2].address)
				if r := name()[0]; r.Text != want || r.ID != w.nodes[cloned].id.ID() {
					t.Errorf("%+v", r)
				}
				w.pass(2 * time.Minute)
				if r := name(); len(r) != 1 || time.Since(r[0].Last) > RefusalSilence || time.Since(r[0].First) < 100*time.Second {
					t.Errorf("while it goes on: %+v", r)
				}
				w.nodes[2].stop()
				w.pass(2 * time.Minute)
				if r := name(); len(r) == 1 && time.Since(r[0].Last) < RefusalSilence {
					t.Errorf("after it ended: %+v", r)
				}
			})
		})
	}
}

// A node that is restarted again and again is no pair of twins, nor is one whose old connection is heard once more.
func TestOnlyWhatComesBackIsATwin(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	for name, c := range map[string]struct {
		sightings    string
		alone, pause int // seconds after the first, and after each other
		said         bool
	}{
		"restarts":             {"abcdefghij", 1, 1, false},
		"the same":             {"aaaaaaaaaa", 1, 1, false},
		"one late connection":  {"ababbb", 1, 1, false},
		"twins":                {"ababa", 1, 1, true},
		"twins, one long here": {"ababa", 3600, 1, true},
		"too seldom":           {"abababab", 1, 45, false},
		"three":                {"abcabc", 1, 1, true},
	} {
		var twins twins
		said := false
		for i, instance := range c.sightings {
			when := at(0)
			if i > 0 {
				when = at(c.alone + (i-1)*c.pause)
			}
			said = twins.note(sighting{string(instance), "address of " + string(instance), when}) != nil || said
		}
		if said != c.said {
			t.Errorf("%s: %v", name, said)
		}
	}
}
