package lease_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease"
)

func issuers(n int) []fleet.Role { return slices.Repeat([]fleet.Role{fleet.Issuer}, n) }

// line returns the generation and nonce that a machine's fleet has, of any epoch it knows.
func (w *world) line(i int) [2]uint64 {
	e := w.machines[i].raft.View().Epoch
	return [2]uint64{e.Generation, e.Nonce}
}

// oneCluster fails the test unless everybody that runs sees the same holder, under one epoch.
func (w *world) oneCluster() {
	w.t.Helper()
	synctest.Wait()
	holder, epoch := fleet.NodeID{}, fleet.Epoch{}
	for _, m := range w.machines {
		if m.raft == nil {
			continue
		}
		v := m.raft.View()
		if holder.IsZero() {
			holder, epoch = v.Holder, v.Epoch
		}
		if v.Holder.IsZero() || v.Holder != holder || v.Epoch != epoch {
			w.t.Fatalf("not everybody sees one holder\n%s", w.report())
		}
	}
}

func TestGrowthAndShrinking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, issuers(5)...)
		lists := []fleet.Roster{w.roster(0), w.roster(0, 1), w.roster(0, 1, 2), w.roster(0, 1, 2, 3, 4)}
		for _, m := range w.machines {
			m.list = lists[0]
		}
		w.start(0)
		w.anyHolder(time.Second)
		for step, votes := range []int{1, 1, 3, 5} {
			list := lists[step]
			w.setList(list, 0, 1, 2, 3, 4) // the new one is down at first
			time.Sleep(10 * time.Minute)
			if w.holder() != 0 {
				t.Fatalf("a list that grew while the new node was down moved the lease\n%s", w.report())
			}
			for i := range list.Len() {
				if w.machines[i].raft == nil {
					w.start(i)
				}
			}
			time.Sleep(5 * time.Minute)
			if n := w.votes(0); n != votes {
				t.Fatalf("%d members: %d voters, want %d\n%s", list.Len(), n, votes, w.report())
			}
		}
		// and back, one by one, as configuration runs do
		for _, list := range []fleet.Roster{w.roster(0, 1, 2, 3), w.roster(0, 1, 2)} {
			for i := range 5 {
				time.Sleep(4 * time.Minute)
				w.setList(list, i)
			}
		}
		time.Sleep(10 * time.Minute)
		if n := w.votes(w.holder()); n != 3 {
			t.Errorf("%d voters in the end\n%s", n, w.report())
		}
	})
}

func TestListsThatChangeHalfWayChangeNothing(t *testing.T) {
	bubble(t, "one template was botched", func(t *testing.T) {
		w := newWorld(t, issuers(5)...)
		holder := w.settled(5)
		w.setList(w.roster(holder, w.others(holder)[0]), holder)
		time.Sleep(10 * time.Minute)
		if n := w.votes(holder); n != 5 {
			t.Errorf("%d voters: one list of five was enough", n)
		}
		w.setList(w.roster(0, 1, 2, 3, 4), holder)
		time.Sleep(5 * time.Minute)
		if w.holder() < 0 || w.votes(holder) != 5 {
			t.Errorf("not as before\n%s", w.report())
		}
	})
	bubble(t, "reverted half-way", func(t *testing.T) {
		w := newWorld(t, issuers(5)...)
		holder := w.settled(5)
		for _, i := range w.others(holder)[:2] {
			w.setList(w.roster(w.others((holder+1)%5)...), i)
		}
		time.Sleep(10 * time.Minute)
		w.setList(w.roster(0, 1, 2, 3, 4), 0, 1, 2, 3, 4)
		time.Sleep(5 * time.Minute)
		if n := w.votes(w.holder()); n != 5 {
			t.Errorf("%d voters", n)
		}
	})
	bubble(t, "most are dropped at once: a person must say so", func(t *testing.T) {
		w := newWorld(t, issuers(5)...)
		holder := w.settled(5)
		small := w.roster(holder, w.others(holder)[0])
		w.setList(small, 0, 1, 2, 3, 4)
		w.heal()
		time.Sleep(10 * time.Minute)
		if n := len(w.machines[holder].raft.View().Voters); n != 5 {
			t.Fatalf("%d voters without anybody's word", n)
		}
		// Those that were dropped are gone from the mesh: nothing can be committed, and the lease is rebuilt on the word of a person.
		if w.holder() >= 0 {
			t.Errorf("a holder that reaches 2 of 5 voters\n%s", w.report())
		}
		time.Sleep(time.Minute)
		if err := w.machines[holder].raft.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.anyHolder(ttl + time.Minute)
	})
	bubble(t, "most lose their vote: a person must say so", func(t *testing.T) {
		w := newWorld(t, issuers(5)...)
		holder := w.settled(5)
		rest := w.others(holder)
		for _, i := range rest[:3] {
			w.machines[i].role = fleet.Receive
		}
		w.setList(w.roster(0, 1, 2, 3, 4), 0, 1, 2, 3, 4)
		w.until(time.Minute, "refused", func() bool { return w.problem(holder, lease.ListRefused) })
		if err := w.machines[rest[3]].raft.Confirm(t.Context()); err == nil {
			t.Error("confirmed on a node that does not lead")
		}
		time.Sleep(10 * time.Minute)
		if n := w.votes(holder); n != 5 {
			t.Fatalf("%d voters without anybody's word", n)
		}
		if err := w.machines[holder].raft.Confirm(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.until(time.Minute, "one voter", func() bool { return w.votes(holder) == 1 })
		if w.holder() != holder {
			t.Error("the lease moved")
		}
		if err := w.machines[holder].raft.Confirm(t.Context()); err == nil {
			t.Error("there was something to confirm")
		}
	})
}

func TestAHolderThatTheListMakesAMemberHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, issuers(4)...)
		holder := w.settled(3)
		w.machines[holder].role = fleet.Receive
		w.setList(w.roster(0, 1, 2, 3), 0, 1, 2, 3)
		next := w.anyHolder(time.Minute, holder)
		w.until(10*time.Minute, "its seat goes to the fourth", func() bool {
			return w.votes(next) == 3 && !slices.ContainsFunc(w.machines[next].raft.View().Voters, func(v lease.Voter) bool { return v.Node == w.machines[holder].id })
		})
	})
}

func TestReimaged(t *testing.T) {
	for _, c := range []struct {
		name string
		n    int
		// alone: whether nobody but a person can bring the lease back
		alone bool
	}{{"one of three", 1, false}, {"two of three", 2, true}, {"all", 3, false}} {
		bubble(t, c.name, func(t *testing.T) {
			w := threeIssuers(t)
			holder := w.settled(3)
			before := w.line(holder)
			gone := append([]int{holder}, w.others(holder)...)[:c.n]
			for _, i := range gone {
				w.machines[i].raft.Saw(w.machines[i].raft.View().Epoch) // files carry it
			}
			w.kill(0, 1, 2)
			w.wipe(gone...)
			w.start(0, 1, 2)
			for i := range 3 {
				w.machines[i].raft.Saw(w.acts.latest)
			}
			if c.alone {
				time.Sleep(10 * time.Minute)
				if w.holder() >= 0 {
					t.Fatal("somebody holds with two new disks of three")
				}
				left := w.others(holder)[1]
				for _, i := range gone {
					if err := w.machines[i].raft.Recover(t.Context()); err == nil || !strings.Contains(err.Error(), "recover there") {
						t.Errorf("recovered where there is less of the state: %v", err)
					}
				}
				if err := w.machines[left].raft.Recover(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			w.anyHolder(2 * handover)
			w.voters(3, 10*time.Minute)
			w.oneCluster()
			if after := w.line(w.holder()); (c.n > 1) != (after != before) {
				t.Errorf("generation %v after %v", after, before)
			}
		})
	}
	bubble(t, "one after the other, a week of it", func(t *testing.T) {
		w := threeIssuers(t)
		w.settled(3)
		for i := range 6 {
			w.kill(i % 3)
			w.wipe(i % 3)
			time.Sleep(10 * time.Minute)
			w.start(i % 3)
			w.anyHolder(handover)
			w.voters(3, 10*time.Minute)
			w.oneCluster()
		}
	})
}

// TestAnOldStateThatIsPutBack: a disk that went back in time has forgotten votes and acknowledgements.
func TestAnOldStateThatIsPutBack(t *testing.T) {
	for _, who := range []string{"a follower", "the holder"} {
		bubble(t, who, func(t *testing.T) {
			w := threeIssuers(t)
			holder := w.settled(3)
			victim := holder
			if who == "a follower" {
				victim = w.others(holder)[0]
			}
			old := w.machines[victim].disk.copy()
			time.Sleep(10 * time.Minute)
			w.kill(victim)
			w.machines[victim].disk.restore(old)
			w.start(victim)
			w.until(time.Minute, "it leaves the seat whose promises it forgot", func() bool {
				return w.machines[victim].disk.copy().Incarnation != old.Incarnation
			})
			w.anyHolder(handover)
			w.voters(3, 10*time.Minute)
			w.oneCluster()
		})
	}
	bubble(t, "everybody at once: epochs go on above what was written", func(t *testing.T) {
		w := threeIssuers(t)
		w.settled(3)
		var old []lease.Kept
		for _, m := range w.machines {
			old = append(old, m.disk.copy())
		}
		for range 3 { // epochs go up
			holder := w.holder()
			w.kill(holder)
			w.anyHolder(handover, holder)
			w.start(holder)
			time.Sleep(2 * time.Minute)
		}
		w.kill(0, 1, 2)
		for i, m := range w.machines {
			m.disk.restore(old[i])
		}
		latest := w.acts.latest
		w.start(0, 1, 2)
		for _, m := range w.machines {
			m.raft.Saw(latest)
		}
		holder := w.anyHolder(2 * handover)
		if e := w.machines[holder].raft.View().Epoch; e.Compare(latest) <= 0 {
			t.Errorf("granted %v although %v was written", e, latest)
		}
	})
}

func TestADamagedDiskJoinsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		victim := w.others(w.settled(3))[0]
		w.kill(victim)
		w.machines[victim].disk.fault(unreadable)
		w.start(victim)
		w.until(time.Minute, "said", func() bool { return w.problem(victim, lease.StateDamaged) })
		w.voters(3, 10*time.Minute)
		w.until(time.Minute, "over", func() bool { return !w.problem(victim, lease.StateDamaged) })
	})
}

func TestALaterEpochInTheFilesIsSurpassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		grant, _ := w.machines[holder].raft.Await(t.Context())
		seen := fleet.Epoch{Generation: 9, Nonce: 1, Term: 70, Index: 3}
		w.machines[w.others(holder)[0]].raft.Saw(seen)
		<-grant.Context().Done()
		next, err := w.machines[w.anyHolder(time.Minute)].raft.Await(t.Context())
		if err != nil || next.Epoch().Compare(seen) <= 0 {
			t.Errorf("granted %v although %v was seen: %v", next.Epoch(), seen, err)
		}
	})
}

func TestMembersHaveNoPartInTheVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fleet.Issuer, fleet.Issuer, fleet.Issuer, fleet.Receive)
		holder := w.settled(3)
		w.machines[3].raft.Heard(w.machines[holder].id, w.machines[holder].raft.View().Epoch)
		if v := w.machines[3].raft.View(); v.Holder != w.machines[holder].id || len(v.Voters) > 0 {
			t.Errorf("a member's view: %+v", v)
		}
		saves := w.machines[3].disk.count()
		time.Sleep(10 * time.Minute)
		if n := w.machines[3].disk.count(); n != saves {
			t.Errorf("a member's disk was written %d times", n-saves)
		}
		if v := w.machines[3].raft.View(); !v.Holder.IsZero() {
			t.Errorf("ten minutes after the last word there is a holder: %+v", v)
		}
	})
}

// TestWhoDoesNotVoteIsQuiet: of seven five vote. The others took the cluster up when it began and do not ask around for ever after, even
// one that was away when its seat was given to another.
func TestWhoDoesNotVoteIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, issuers(7)...)
		holder := w.settled(5)
		var idle []int
		for _, m := range w.machines {
			if len(m.raft.View().Voters) == 0 {
				idle = append(idle, m.n)
			}
		}
		if len(idle) != 2 {
			t.Fatalf("%d do not vote\n%s", len(idle), w.report())
		}
		away := w.others(holder)[0] // a voter, or it need not be away
		for slices.Contains(idle, away) {
			away++
		}
		w.isolate(away)
		w.machines[away].role = fleet.Receive
		w.setList(w.roster(0, 1, 2, 3, 4, 5, 6), w.others(away)...)
		time.Sleep(5 * time.Minute) // somebody else gets its seat
		w.machines[away].role = fleet.Issuer
		w.setList(w.roster(0, 1, 2, 3, 4, 5, 6), 0, 1, 2, 3, 4, 5, 6)
		w.heal()
		time.Sleep(2 * time.Minute)
		if n := len(w.machines[away].raft.View().Voters); n != 0 {
			t.Errorf("who lost its seat while it was away sees %d voters\n%s", n, w.report())
		}
		w.oneCluster()
		before := map[int]int{}
		for _, m := range w.machines {
			before[m.n] = m.sentSoFar()
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for _, m := range w.machines {
			// One word to each every third of the ttl; heartbeats are answered, and so is a renewal, twice if a heartbeat went along with it.
			if n := m.sentSoFar() - before[m.n]; m.n != holder && n > 3*6*60+60 {
				t.Errorf("fe%d sent %d messages in ten minutes\n%s", m.n+1, n, w.report())
			}
		}
	})
}
