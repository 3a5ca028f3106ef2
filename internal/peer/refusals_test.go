package peer

import (
	"strings"
	"testing"
	"time"

	"certswarm/internal/fleet"
)

// A refusal after a long silence is another one, with a beginning of its own.
func TestARefusalBeginsAnewAfterASilence(t *testing.T) {
	var r refusals
	begin := time.Unix(1, 0)
	for _, at := range []time.Duration{0, 59 * time.Second, 118 * time.Second, time.Hour, time.Hour + time.Second} {
		r.add(Refusal{ID: [32]byte{1}, Reason: ReasonWrongCluster}, begin.Add(at))
		want, times := begin, uint64(1+at/(59*time.Second))
		if at >= time.Hour {
			want, times = begin.Add(time.Hour), 1+uint64((at-time.Hour)/time.Second)
		}
		if got := r.recent[0]; !got.First.Equal(want) || got.Times != times || len(r.recent) != 1 {
			t.Errorf("after %s: %+v", at, got)
		}
	}
	if r.counts[ReasonWrongCluster] != 5 {
		t.Errorf("counted %v", r.counts)
	}
}

func TestARefusalIsForgottenOnceItsNodeIsLetIn(t *testing.T) {
	now := time.Unix(1, 0)
	for name, c := range map[string]struct {
		refused Refusal
		last    time.Duration // before the node is let in
		stays   bool
	}{
		"of the node":                     {Refusal{ID: [32]byte{1}, Reason: ReasonUnknownKey}, time.Second, false},
		"of whoever answered for it":      {Refusal{ID: [32]byte{2}, Reason: ReasonOtherKey, Dialled: [32]byte{1}}, time.Second, false},
		"of another":                      {Refusal{ID: [32]byte{2}, Reason: ReasonUnknownKey}, time.Second, true},
		"of a node that has a double":     {Refusal{ID: [32]byte{1}, Reason: ReasonTwoDaemons}, 2 * time.Second, true},
		"of a node that had a double":     {Refusal{ID: [32]byte{1}, Reason: ReasonTwoDaemons}, RefusalSilence, false},
		"of another node with its double": {Refusal{ID: [32]byte{2}, Reason: ReasonTwoDaemons}, RefusalSilence, true},
	} {
		var r refusals
		r.add(c.refused, now)
		r.forget([32]byte{1}, now.Add(c.last))
		if stays := len(r.recent) == 1; stays != c.stays || r.counts[c.refused.Reason] != 1 {
			t.Errorf("%s: stays %v, counted %v", name, stays, r.counts)
		}
	}
}

func TestASessionEndsWhatWasRefusedBefore(t *testing.T) {
	inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
		mesh := w.start(0, func(c *Config, _ *node) { c.Roster = w.roster(0) })
		w.start(1)
		w.pass(10 * time.Second)
		before := mesh.Refusals()
		if len(before.Recent) != 1 {
			t.Fatalf("refusals: %+v", before)
		}
		mesh.SetRoster(w.roster())
		w.until(5*time.Second, "let in", func() bool { return w.connected(0, 1) })
		w.nodes[1].stop()
		w.pass(time.Minute)
		if after := mesh.Refusals(); len(after.Recent) != 0 || after.Counts[ReasonUnknownKey] < before.Counts[ReasonUnknownKey] {
			t.Errorf("refusals: %+v", after)
		}
	})
}

// Whoever is not connected is told of by kind, and that it refused this node is remembered while it is silent.
func TestOfWhatKindAFailureIs(t *testing.T) {
	for name, c := range map[string]struct {
		start   func(w *world)
		failure Failure
	}{
		"its list lacks this node": {func(w *world) {
			w.start(1, func(c *Config, _ *node) { c.Roster = w.roster(1) })
		}, FailureRefused},
		"it removes this node": {func(w *world) {
			w.start(1).SetRoster(w.roster())
			w.pass(2 * time.Second)
			w.nodes[1].mesh.SetRoster(w.roster(1))
			w.pass(5 * time.Millisecond) // before the next dial
		}, FailureRefused},
		"it has another cluster": {func(w *world) {
			w.start(1, func(c *Config, _ *node) { c.Cluster = "staging" })
		}, FailureOtherCluster},
		"another key answers": {func(w *world) {
			w.nodes[1].id = testIdentity(77)
			w.start(1, func(c *Config, _ *node) { c.Roster = w.roster(0) })
		}, FailureOtherKey},
		"it is silent": {func(*world) {}, FailureSilence},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
				w.start(0)
				id, was := w.nodes[1].id, w.nodes[1].id.ID()
				status := func() PeerStatus {
					for _, p := range w.nodes[0].mesh.Peers() {
						if p.ID == was {
							return p
						}
					}
					return PeerStatus{}
				}
				w.pass(100 * time.Millisecond)
				c.start(w)
				if !strings.HasPrefix(name, "it removes") {
					w.pass(10 * time.Second)
				}
				refuses := Failure("")
				if c.failure.Refuses() {
					refuses = c.failure
				}
				if p := status(); p.Failure != c.failure || p.Refuses != refuses {
					t.Errorf("%+v", p)
				}
				if w.nodes[1].mesh != nil {
					w.kill(1)
					w.pass(10 * time.Second)
				}
				if p := status(); p.Failure != FailureSilence || p.Refuses != refuses {
					t.Errorf("once it is silent: %+v", p)
				}
				w.nodes[1].id = id
				w.start(1)
				w.until(10*time.Second, "connected", func() bool { return w.connected(0, 1) })
				if p := status(); p.Failure != "" || p.Refuses != "" {
					t.Errorf("once it is connected: %+v", p)
				}
			})
		})
	}
}

// Of several addresses the one where the peer itself was met says most.
func TestTheMostTellingFailure(t *testing.T) {
	silence, refused, other := &failure{FailureSilence, "a"}, &failure{FailureRefused, "b"}, &failure{FailureOtherKey, "c"}
	m := &Mesh{}
	for _, c := range []struct {
		failures allFailed
		want     Failure
	}{
		{allFailed{silence, refused}, FailureRefused},
		{allFailed{refused, other}, FailureRefused},
		{allFailed{silence, allFailed{other}}, FailureOtherKey},
		{allFailed{errRemoved}, ""},
	} {
		if kind, text := m.diagnose(c.failures); kind != c.want || text != c.failures.Error() {
			t.Errorf("%v: %q, %q", c.failures, kind, text)
		}
	}
}

// What a changed list brings is told from what was there from the beginning, whichever mesh of a process began with it.
func TestWhenAPeerCameIntoTheList(t *testing.T) {
	inWorld(t, 3, time.Millisecond, func(t *testing.T, w *world) {
		mesh := w.start(0, func(c *Config, _ *node) { c.Roster = w.roster(0, 1) })
		w.pass(time.Hour)
		now := time.Now()
		mesh.SetRoster(w.roster())
		w.pass(time.Minute)
		if first, second := w.status(0, 1).Added, w.status(0, 2).Added; !first.IsZero() || !second.Equal(now) {
			t.Errorf("added at %v and %v, now it was %v", first, second, now)
		}
		next, err := New(Config{
			Identity: w.nodes[0].id, Cluster: "edge", Conn: mesh.conn, Roster: w.roster(), Heard: map[fleet.NodeID]time.Time{w.nodes[1].id.ID(): {}},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range next.Peers() {
			if p.Added.IsZero() != (p.ID == w.nodes[1].id.ID()) {
				t.Errorf("in the next mesh: %+v", p)
			}
		}
	})
}
