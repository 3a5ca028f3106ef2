package lease_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/lease"
)

func TestRecovery(t *testing.T) {
	bubble(t, "refused while there is a majority", func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		for i := range 3 {
			if err := w.machines[i].raft.Recover(t.Context()); err == nil {
				t.Errorf("fe%d rebuilt a lease that fe%d holds", i+1, holder+1)
			}
		}
		follower := w.others(holder)[0]
		w.split([]int{follower}, []int{holder}) // it still reaches one that sees the holder
		time.Sleep(5 * time.Minute)
		if err := w.machines[follower].raft.Recover(t.Context()); err == nil {
			t.Error("rebuilt although a peer sees the holder")
		}
		standings, err := w.machines[follower].raft.Standings(t.Context())
		if err != nil || len(standings) != 2 || standings[0].Node != w.machines[follower].id || standings[1].Leader != w.machines[holder].id || !standings[1].Heard {
			t.Errorf("standings: %+v, %v", standings, err)
		}
	})
	bubble(t, "the majority is gone for good", func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		left := w.others(holder)[0]
		before := w.line(left)
		gone := w.others(left)
		w.kill(gone...)
		time.Sleep(10 * time.Minute)
		if w.holder() >= 0 {
			t.Fatal("a minority holds")
		}
		if err := w.machines[left].raft.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.anyHolder(ttl + time.Minute)
		if after := w.line(left); after[0] != before[0]+1 {
			t.Errorf("generation %d after %d", after[0], before[0])
		}
		w.wipe(gone...)
		w.start(gone...)
		w.voters(3, 10*time.Minute)
		w.oneCluster()
	})
	bubble(t, "the majority was only cut off, and comes back", func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		left := w.others(holder)[0]
		w.isolate(left)
		for range 4 { // the terms of the majority run ahead of what is rebuilt
			time.Sleep(time.Minute)
			holder = w.anyHolder(handover, left)
			if err := w.machines[holder].raft.Resign(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		holder = w.anyHolder(handover, left)
		time.Sleep(time.Minute)
		w.fork() // a person said that the others are gone, and was wrong
		if err := w.machines[left].raft.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.until(5*time.Minute, "both sides hold, under epochs that differ", func() bool {
			a, b := w.machines[left].raft.View(), w.machines[holder].raft.View()
			return a.HeldHere && b.HeldHere && a.Epoch.Compare(b.Epoch) > 0
		})
		w.heal()
		for _, o := range w.others(left) {
			w.cut(left, o) // at first it only hears them, and they do not know
		}
		time.Sleep(2 * time.Minute)
		if !w.machines[left].raft.View().HeldHere {
			t.Error("what was rebuilt gave way to the later terms of what it supersedes")
		}
		w.heal()
		w.until(time.Minute, "one holder: what was rebuilt supersedes", func() bool {
			return w.machines[left].raft.View().HeldHere && !w.machines[holder].raft.View().HeldHere
		})
		w.voters(3, 10*time.Minute)
		w.oneCluster()
		if w.holder() != left {
			t.Error("the lease moved")
		}
	})
	bubble(t, "two persons at once", func(t *testing.T) {
		w := newWorld(t, issuers(5)...)
		w.settled(5)
		w.kill(2, 3, 4)
		w.split([]int{0}, []int{1})
		time.Sleep(5 * time.Minute)
		w.fork()
		for _, i := range []int{0, 1} {
			if err := w.machines[i].raft.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Minute)
		w.start(2, 3, 4)
		time.Sleep(time.Minute)
		w.heal()
		w.voters(5, 15*time.Minute)
		w.oneCluster()
	})
}

// TestAClusterThatMostHaveLeftIsLeft: two were re-imaged while the third was away, and began anew.
func TestAClusterThatMostHaveLeftIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		w.settled(3)
		w.kill(0, 1, 2)
		w.wipe(0, 1)
		latest := w.acts.latest
		w.start(0, 1)
		for i := range 2 {
			w.machines[i].raft.Saw(latest)
		}
		w.anyHolder(handover)
		w.start(2)
		w.voters(3, 10*time.Minute)
		w.oneCluster()
	})
}

// Two of three voters were reinstalled one right after the other: all are connected, and no vote can be won. That is said, with what mends it.
func TestVotersThatWereReinstalledAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		left := w.settled(3)
		others := w.others(left)
		w.kill(others...)
		w.wipe(others...)
		w.start(others...)
		time.Sleep(5 * ttl)
		synctest.Wait()
		problems := w.machines[left].raft.View().Problems
		at := slices.IndexFunc(problems, func(p lease.Problem) bool { return p.Code == lease.NoHolder })
		if at < 0 || problems[at].Next != "certswarm lease recover" ||
			!strings.Contains(problems[at].Text, "without the state that they voted with are fe") || !strings.HasSuffix(problems[at].Text, "of 3 voters") {
			t.Fatalf("%+v\n%s", problems, w.report())
		}
		if err := w.machines[left].raft.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.until(5*time.Minute, "held, and all vote", func() bool { return w.holder() >= 0 && w.votes(left) == 3 })
		if w.problem(left, lease.NoHolder) {
			t.Error("it is still a problem")
		}
	})
}
