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

// What was in doubt survives a restart, and nothing else does.
func TestAStateThatBeginsAnew(t *testing.T) {
	state := openState(t)
	s, m := openTestStore(t, state)
	w := newWorld("fe1")
	w.do([]string{"start", "fe1"})
	w.do([]string{"fe1", "writes", "a", "one", "b", "two"})
	r := w.find("fe1").r
	a, b := r.x.Live(index.MustPath("a")), r.x.Live(index.MustPath("b"))
	known := unsaved{put: []*index.Entry{a, b}, held: r.x.Held().Clone(), forgotten: index.Summary{r.self: 1}, doubtless: true}
	if err := s.save(known, r.keys); err != nil {
		t.Fatal(err)
	}
	if err := s.rejoin([]*index.Entry{a}, index.Summary{r.self: 8}, monday); err != nil {
		t.Fatal(err)
	}
	for run := range 2 {
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		var again memory
		s, again = openTestStore(t, state)
		if again.incarnation == m.incarnation || !again.fresh || len(again.entries)+len(again.held)+len(again.forgotten) > 0 || again.seq != uint64(run)*seqBlock {
			t.Errorf("run %d begins with %+v", run, again)
		}
		if len(again.doubt.content) != 1 || again.doubt.content[a.Path] != a.Content || again.doubt.until[r.self] != 8 || !again.rejoined.Equal(monday) {
			t.Errorf("in doubt are %+v since %s", again.doubt, again.rejoined)
		}
	}
	if err := s.save(unsaved{held: index.Summary{}, doubtless: true}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	s, m = openTestStore(t, state)
	if len(m.doubt.content)+len(m.doubt.until) > 0 {
		t.Errorf("still in doubt are %+v", m.doubt)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}
