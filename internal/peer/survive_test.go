package peer

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The bounds of the contract.
const (
	deadWithin      = 15 * time.Second
	reconnectWithin = 5 * time.Second
)

func TestADeadPeerIsNoticedAndAHealedOneFound(t *testing.T) {
	for _, silence := range []time.Duration{0, 700 * time.Millisecond, 2900 * time.Millisecond} {
		for _, outage := range []time.Duration{13 * time.Second, 16500 * time.Millisecond, 61 * time.Second} {
			t.Run(fmt.Sprint(silence, outage), func(t *testing.T) {
				inWorld(t, 2, 2*time.Millisecond, func(t *testing.T, w *world) {
					w.startAll()
					w.pass(silence)
					w.isolate(1)
					took := w.until(deadWithin, "noticed on both sides", func() bool {
						return !w.status(0, 1).Connected && !w.status(1, 0).Connected
					})
					if took < idleTimeout/2 {
						t.Errorf("a pause of %s was taken for death", took)
					}
					if heard := time.Since(w.status(0, 1).LastHeard); heard < idleTimeout/2 {
						t.Errorf("last heard %s ago", heard)
					}
					w.pass(outage - took)
					w.heal()
					w.until(reconnectWithin, "reconnect", func() bool { return w.connected(0, 1) })
					w.sameSession(0, 1)
				})
			})
		}
	}
}

func TestTheSilenceBeforeTheEndIsNotHearing(t *testing.T) {
	inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
		w.startAll()
		w.pass(time.Minute)
		w.isolate(1)
		cut := time.Now()
		w.pass(deadWithin)
		if heard := w.status(0, 1).LastHeard; heard.Sub(cut).Abs() > keepAlive+100*time.Millisecond {
			t.Errorf("last heard %s after it was cut off", heard.Sub(cut))
		}
	})
}

// The deaf side notices; that the other does too, although it hears the deaf side's questions until then, is the deaf side's last service.
func TestWherePacketsGetThroughOneWayBothSidesNotice(t *testing.T) {
	for _, deaf := range []int{0, 1} {
		t.Run(fmt.Sprint(deaf), func(t *testing.T) {
			inWorld(t, 2, 2*time.Millisecond, func(t *testing.T, w *world) {
				w.startAll()
				w.pass(time.Minute)
				lost := w.nodes[deaf].address
				w.router.setDrop(func(_, to string) bool { return to == lost })
				w.until(idleTimeout+keepAlive, "noticed on both sides", func() bool {
					return !w.status(0, 1).Connected && !w.status(1, 0).Connected
				})
			})
		})
	}
}

// However long an outage is, in one direction or both, both sides end up with the same session soon after it.
func TestAnyOutageHeals(t *testing.T) {
	for _, direction := range []string{"both", "to the arbiter", "from the arbiter"} {
		t.Run(direction, func(t *testing.T) {
			inWorld(t, 2, 2*time.Millisecond, func(t *testing.T, w *world) {
				w.startAll()
				for outage := 7 * time.Second; outage < 17*time.Second; outage += 310 * time.Millisecond {
					w.router.setDrop(func(from, to string) bool {
						switch direction {
						case "to the arbiter":
							return to == w.nodes[0].address
						case "from the arbiter":
							return from == w.nodes[0].address
						}
						return true
					})
					w.pass(outage)
					w.heal()
					w.pass(reconnectWithin)
					w.sameSession(0, 1)
					settled := w.nodes[0].sessions
					w.pass(15 * time.Second)
					w.sameSession(0, 1)
					if w.nodes[0].sessions != settled {
						t.Fatalf("after %s of outage it took more than %s to settle", outage, reconnectWithin)
					}
				}
			})
		})
	}
}

func TestSimultaneousDialsLeaveOneConnection(t *testing.T) {
	// Past 125 ms of latency the second node dials before it has heard from the first.
	for _, latency := range []time.Duration{0, 100 * time.Millisecond, 124 * time.Millisecond, 125 * time.Millisecond, 130 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond} {
		t.Run(latency.String(), func(t *testing.T) {
			inWorld(t, 3, latency, func(t *testing.T, w *world) {
				w.startAll()
				for i := range w.nodes {
					for j := range i {
						w.sameSession(i, j)
						if s, _ := w.nodes[j].mesh.Session(w.nodes[i].id.ID()); !s.Dialled() {
							t.Errorf("the connection of fe%d and fe%d is not the arbiter's", j+1, i+1)
						}
					}
				}
				w.pass(time.Minute)
				for i, n := range w.nodes {
					if n.sessions != 2 {
						t.Errorf("fe%d had %d sessions with 2 peers", i+1, n.sessions)
					}
				}
			})
		})
	}
}

// With packets lost at random, so that Hellos and verdicts arrive late and in any order, the two still agree.
func TestTheTwoAgreeUnderLoss(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		percent := rapid.Uint64Range(5, 40).Draw(rt, "percent lost")
		latency := time.Duration(rapid.IntRange(0, 300).Draw(rt, "latency")) * time.Millisecond
		inWorld(t, 2, latency, func(t *testing.T, w *world) {
			state := seed
			w.router.setDrop(func(string, string) bool {
				state = state*6364136223846793005 + 1442695040888963407
				return (state>>33)%100 < percent
			})
			w.start(0)
			w.start(1)
			w.pass(6 * time.Second)
			w.heal()
			w.pass(deadWithin + reconnectWithin)
			w.sameSession(0, 1)
		})
	})
}

func TestARestartedPeerTakesItsPlaceAtOnce(t *testing.T) {
	for restarted, name := range []string{"the arbiter", "the other"} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
				w.startAll()
				stays := 1 - restarted
				old, _ := w.nodes[stays].mesh.Session(w.nodes[restarted].id.ID())
				w.kill(restarted)
				if !w.status(stays, restarted).Connected {
					t.Fatal("the one that stays cannot know yet")
				}
				w.start(restarted)
				took := w.until(reconnectWithin, "new session", func() bool { return w.connected(0, 1) })
				if took > time.Second {
					t.Errorf("took %s", took)
				}
				w.sameSession(0, 1)
				if old.conn.Context().Err() == nil {
					t.Error("the old connection lives on")
				}
				w.pass(time.Minute)
				if w.nodes[stays].sessions != 2 || w.nodes[restarted].sessions != 1 {
					t.Errorf("%d and %d sessions", w.nodes[stays].sessions, w.nodes[restarted].sessions)
				}
			})
		})
	}
}

// The arbiter's verdicts travel on different connections, so that an earlier one may arrive later.
func TestALateVerdictIsNotFollowed(t *testing.T) {
	inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
		w.startAll()
		follower := w.nodes[1].mesh
		current, _ := follower.Session(w.nodes[0].id.ID())
		late := &Session{mesh: follower, peer: current.peer, hello: current.hello, name: current.name}
		late.name.Number--
		if err := follower.adopt(late); !errors.Is(err, errDuplicate) {
			t.Errorf("adopt: %v", err)
		}
		w.sameSession(0, 1)
	})
}

func TestSupersedes(t *testing.T) {
	byArbiter := claim{byArbiter: true, instance: "x", number: 7}
	byOther := claim{instance: "x", number: 7}
	for name, c := range map[string]struct {
		current, next claim
		want          bool
	}{
		"a tie goes to the arbiter's":           {byOther, claim{byArbiter: true, instance: "x"}, true},
		"a tie is lost by the other's":          {byArbiter, claim{instance: "x"}, false},
		"the other has seen an earlier one end": {byArbiter, claim{instance: "x", ended: 6}, false},
		"the other has lost the current one":    {byArbiter, claim{instance: "x", ended: 7}, true},
		"the arbiter dialled again":             {byArbiter, claim{byArbiter: true, instance: "x"}, true},
		"the other dialled again":               {byOther, claim{instance: "x"}, true},
		"the other was restarted":               {byArbiter, claim{instance: "y"}, true},
		"the other was restarted after its own": {byOther, claim{instance: "y"}, true},
	} {
		if got := supersedes(c.current, c.next); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
