package syncer

import (
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// monday is some time.
var monday = time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)

// Only what a writer says is believed, and once an hour; whoever has just joined has nothing to bring back.
func TestWhoBeginsAnew(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *replica, g *wire.Greeting)
		anew   bool
	}{
		"it missed a deletion that is forgotten":    {func(*replica, *wire.Greeting) {}, true},
		"nothing was forgotten":                     {func(_ *replica, g *wire.Greeting) { g.Forgotten = nil }, false},
		"it holds what was forgotten":               {func(r *replica, g *wire.Greeting) { r.durable[g.Self] = 9 }, false},
		"what was forgotten is beyond what is held": {func(_ *replica, g *wire.Greeting) { g.Held = index.Summary{g.Self: 1} }, false},
		"it gave numbers that it does not know": {func(r *replica, g *wire.Greeting) {
			g.Forgotten, g.Held = nil, index.Summary{r.self: r.seq + 1}
		}, true},
		"all its numbers are known": {func(r *replica, g *wire.Greeting) { g.Forgotten, g.Held = nil, index.Summary{r.self: r.seq} }, false},
		"it has just joined":        {func(r *replica, _ *wire.Greeting) { r.fresh, r.joined = true, false }, false},
		"it joined in this run":     {func(r *replica, _ *wire.Greeting) { r.fresh, r.joined = true, true }, true},
		"the peer may not write":    {func(r *replica, _ *wire.Greeting) { r.mayWrite = func(fleet.NodeID) bool { return false } }, false},
		"it did so a moment ago":    {func(r *replica, _ *wire.Greeting) { r.rejoined = monday.Add(-time.Minute) }, false},
		"it did so once":            {func(r *replica, _ *wire.Greeting) { r.rejoined = monday.Add(-2 * time.Hour) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld("fe1", "fe2").start()
			r, other := w.machines[0].r, w.machines[1].r
			r.fresh, r.seq = false, 5
			r.durable[other.self] = 1
			g := wire.Greeting{Self: other.self, Held: index.Summary{other.self: 9}, Forgotten: index.Summary{other.self: 7}}
			c.change(r, &g)
			if anew := r.isOutdated(monday, other.self.Node, g); anew != c.anew {
				t.Errorf("it begins anew: %v", anew)
			}
		})
	}
}
