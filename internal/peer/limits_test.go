package peer

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"certswarm/internal/fleet"
)

func TestTheGateIsSharedFairly(t *testing.T) {
	var g gate
	host := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	greedy := 0
	for range handshakesMax {
		if g.enter(host(0)) == nil {
			greedy++
		}
	}
	if greedy != handshakesPerHost {
		t.Errorf("one address has %d handshakes in flight", greedy)
	}
	if g.crowded() {
		t.Error("one address makes a crowd")
	}
	others := 0
	for i := range handshakesMax {
		if g.enter(host(i+1)) == nil {
			others++
		}
	}
	if greedy+others != handshakesMax || !g.crowded() {
		t.Errorf("%d and %d in flight", greedy, others)
	}
	for range greedy {
		g.leave(host(0))
	}
	for i := range others {
		g.leave(host(i + 1))
	}
	if g.inFlight != 0 || len(g.perHost) != 0 || g.crowded() {
		t.Errorf("left behind: %d, %v", g.inFlight, g.perHost)
	}
}

// When many handshakes are in flight a caller first proves its address, one round trip; when too many are, it is
// turned away, and finds its way later.
func TestACrowdIsKeptInOrder(t *testing.T) {
	const latency = 50 * time.Millisecond
	for name, c := range map[string]struct {
		inFlight    int
		least, most time.Duration
	}{
		"calm":     {0, 5 * latency, 5*latency + 20*time.Millisecond},
		"crowded":  {handshakesCalm, 7 * latency, 7*latency + 20*time.Millisecond},
		"overfull": {handshakesMax, 2 * time.Second, 2*time.Second + reconnectWithin},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 2, latency, func(t *testing.T, w *world) {
				full := w.start(1, func(c *Config, _ *node) { // it does not dial itself
					c.Roster = rosterOf(t, fleet.Member{Name: "fe1", ID: w.nodes[0].id.ID()})
				})
				crowd := func(n int) {
					full.gate.mu.Lock()
					full.gate.inFlight += n
					full.gate.mu.Unlock()
				}
				crowd(c.inFlight)
				time.AfterFunc(2*time.Second, func() { crowd(-c.inFlight) })
				w.start(0)
				took := w.until(c.most, "connect", func() bool { return w.connected(0, 1) })
				if took < c.least {
					t.Errorf("took %s", took)
				}
				if refused := full.Refusals().Counts[ReasonTooMany] > 0; refused != (c.inFlight >= handshakesMax) {
					t.Errorf("refusals: %+v", full.Refusals())
				}
				w.pass(2 * time.Second)
			})
		})
	}
}

func TestRefusalsAreBoundedAndTheLogIsNotFlooded(t *testing.T) {
	var r refusals
	now := time.Unix(1, 0)
	lines := 0
	for i := range 1000 { // a thousand keys in ten seconds
		now = now.Add(10 * time.Millisecond)
		var id [32]byte
		id[0], id[1] = byte(i), byte(i>>8)
		if r.add(Refusal{ID: id, Address: fmt.Sprint(i), Reason: ReasonUnknownKey}, now) {
			lines++
		}
	}
	if lines != refusalLinesAtAll || len(r.recent) != refusalsKept || r.counts[ReasonUnknownKey] != 1000 {
		t.Errorf("%d lines, %d kept, %v", lines, len(r.recent), r.counts)
	}
	if last := r.recent[refusalsKept-1]; last.Address != "999" {
		t.Errorf("the last is %+v", last)
	}
}

func TestOneNodesRefusalsAreOneEntry(t *testing.T) {
	var r refusals
	now := time.Unix(1, 0)
	var lines []time.Duration
	for at := time.Duration(0); at < 150*time.Second; at += time.Second {
		if r.add(Refusal{ID: [32]byte{1}, Address: "a", Reason: ReasonWrongCluster}, now.Add(at)) {
			lines = append(lines, at)
		}
	}
	if len(lines) != 3 || lines[1] != time.Minute || len(r.recent) != 1 || r.recent[0].Times != 150 || !r.recent[0].First.Equal(now) {
		t.Errorf("lines at %v, %+v", lines, r.recent)
	}
}

func TestWindowsShareABudget(t *testing.T) {
	var pot windows
	grown := 0
	var first *hold
	for range 100 {
		h := &hold{}
		if first == nil {
			first = h
		}
		if pot.grow(h, connWindowMax) {
			grown++
		}
	}
	if grown != windowBudget/connWindowMax {
		t.Errorf("%d windows grew", grown)
	}
	pot.release(first)
	if pot.grow(first, 1) {
		t.Error("a connection that is gone took from the budget")
	}
	if !pot.grow(&hold{}, connWindowMax) {
		t.Error("what was given back cannot be had")
	}
}
