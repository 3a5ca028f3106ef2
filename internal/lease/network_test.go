package lease_test

import (
	"slices"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease"
)

func TestALossyAndSlowNetwork(t *testing.T) {
	for _, c := range []struct {
		name    string
		loss    float64
		latency time.Duration
	}{{"30 % loss", 0.3, time.Millisecond}, {"2 s latency", 0, time.Second}, {"both, a little", 0.1, 300 * time.Millisecond}} {
		bubble(t, c.name, func(t *testing.T) {
			w := threeIssuers(t)
			w.settled(3)
			w.mu.Lock()
			w.loss, w.latency = c.loss, c.latency
			w.mu.Unlock()
			held := 0
			for range 200 {
				time.Sleep(10 * time.Second)
				if w.holder() >= 0 {
					held++
				}
			}
			t.Logf("somebody held in %d of 200 looks", held)
			if held < 60 {
				t.Errorf("somebody held in only %d of 200 looks", held)
			}
			w.mu.Lock()
			w.loss, w.latency = 0, time.Millisecond
			w.mu.Unlock()
			w.anyHolder(2 * handover)
		})
	}
}

func TestPartitions(t *testing.T) {
	bubble(t, "the majority goes on, the minority does not", func(t *testing.T) {
		w := newWorld(t, slices.Repeat([]fleet.Role{fleet.Issuer}, 5)...)
		holder := w.settled(5)
		rest := w.others(holder)
		w.split([]int{holder, rest[0]}, rest[1:])
		next := w.anyHolder(handover, holder, rest[0])
		time.Sleep(10 * time.Minute)
		if w.machines[holder].raft.View().HeldHere || w.machines[rest[0]].raft.View().HeldHere {
			t.Error("a minority holds")
		}
		w.heal()
		time.Sleep(time.Minute)
		if w.holder() != next {
			t.Error("healing took the lease from who had it")
		}
	})
	bubble(t, "everybody alone", func(t *testing.T) {
		w := threeIssuers(t)
		w.settled(3)
		w.split([]int{0}, []int{1}, []int{2})
		time.Sleep(10 * time.Minute)
		if w.holder() >= 0 {
			t.Error("somebody holds alone")
		}
		for i := range 3 {
			if !w.problem(i, lease.NoHolder) {
				t.Errorf("fe%d does not say so", i+1)
			}
		}
		w.heal()
		w.anyHolder(handover)
	})
	bubble(t, "a chain: the ends do not see each other", func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		rest := w.others(holder)
		w.split([]int{holder}, rest[:1])
		time.Sleep(10 * time.Minute)
		if w.holder() < 0 {
			t.Error("nobody holds")
		}
		w.heal()
		time.Sleep(5 * time.Minute)
		if w.holder() < 0 {
			t.Error("nobody holds in the end")
		}
	})
}
