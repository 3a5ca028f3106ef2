package lease_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease"
)

// bubble runs a test in virtual time, beside others.
func bubble(t *testing.T, name string, test func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, test)
	})
}

// handover bounds how long it takes from the end of a holder without a word to another that may act: two votes, one of which may be split,
// and the wait that is owed.
const handover = 3*term + ttl

// others returns the machines but one.
func (w *world) others(than int) []int {
	var out []int
	for _, m := range w.machines {
		if m.n != than {
			out = append(out, m.n)
		}
	}
	return out
}

// TestAHolderThatFailsIsReplaced is one row for each way in which a holder can stop being one. Until it heals, somebody else must hold, having waited for as
// long as the old holder may act; after it healed, everything is as before.
func TestAHolderThatFailsIsReplaced(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(w *world, holder int)
		heal  func(w *world, holder int)
		slow  time.Duration // more than handover
	}{
		{"killed", func(w *world, h int) { w.kill(h) }, func(w *world, h int) { w.start(h) }, 0},
		{"stopped past the ttl", func(w *world, h int) { w.machines[h].freeze() }, func(w *world, h int) { w.machines[h].thaw() }, 0},
		{"cut off", func(w *world, h int) { w.isolate(h) }, func(w *world, h int) { w.heal() }, 0},
		{"mute", func(w *world, h int) { // it hears, and nobody hears it
			for _, o := range w.others(h) {
				w.cut(h, o)
			}
		}, func(w *world, h int) { w.heal() }, 0},
		{"deaf", func(w *world, h int) { // its heartbeats keep the others quiet until it notices that nobody answers
			for _, o := range w.others(h) {
				w.cut(o, h)
			}
		}, func(w *world, h int) { w.heal() }, term},
		{"its disk hangs", func(w *world, h int) { w.machines[h].disk.fault(hanging) }, func(w *world, h int) { w.machines[h].disk.fault(healthy) }, ttl / 3},
		{"its disk fails", func(w *world, h int) { w.machines[h].disk.fault(failing) }, func(w *world, h int) { w.machines[h].disk.fault(healthy) }, ttl / 3},
		{"its disk writes and says that it failed", func(w *world, h int) { w.machines[h].disk.fault(lying) }, func(w *world, h int) { w.machines[h].disk.fault(healthy) }, ttl / 3},
		{"re-imaged", func(w *world, h int) { w.kill(h); w.wipe(h) }, func(w *world, h int) { w.start(h) }, 0},
	} {
		bubble(t, c.name, func(t *testing.T) {
			w := threeIssuers(t)
			holder := w.settled(3)
			time.Sleep(time.Minute)
			c.fault(w, holder)
			begin := time.Now()
			next := w.anyHolder(handover+c.slow, holder)
			if waited := w.machines[next].grantedAt().Sub(begin); waited < ttl {
				t.Errorf("the successor acts after %v: the old holder's right may not be over", waited)
			}
			time.Sleep(10 * time.Minute)
			c.heal(w, holder)
			time.Sleep(5 * time.Minute)
			if w.holder() < 0 {
				t.Errorf("nobody holds after it healed\n%s", w.report())
			}
			for i := range w.machines {
				if n := w.votes(i); n != 3 {
					t.Errorf("fe%d sees %d voters in the end\n%s", i+1, n, w.report())
				}
				if p := w.machines[i].raft.View().Problems; len(p) > 0 {
					t.Errorf("fe%d still has problems: %v", i+1, p)
				}
			}
		})
	}
}

// TestAFollowerThatFailsChangesNothing is the same for a voter that does not hold.
func TestAFollowerThatFailsChangesNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(w *world, f int)
		heal  func(w *world, f int)
	}{
		{"killed", func(w *world, f int) { w.kill(f) }, func(w *world, f int) { w.start(f) }},
		{"stopped", func(w *world, f int) { w.machines[f].freeze() }, func(w *world, f int) { w.machines[f].thaw() }},
		{"cut off", func(w *world, f int) { w.isolate(f) }, func(w *world, f int) { w.heal() }},
		{"cut off from the holder only", func(w *world, f int) { w.cut(f, w.holder()); w.cut(w.holder(), f) }, func(w *world, f int) { w.heal() }},
		{"deaf", func(w *world, f int) {
			for _, o := range w.others(f) {
				w.cut(o, f)
			}
		}, func(w *world, f int) { w.heal() }},
		{"mute", func(w *world, f int) {
			for _, o := range w.others(f) {
				w.cut(f, o)
			}
		}, func(w *world, f int) { w.heal() }},
		{"its disk hangs", func(w *world, f int) { w.machines[f].disk.fault(hanging) }, func(w *world, f int) { w.machines[f].disk.fault(healthy) }},
		{"its disk fails", func(w *world, f int) { w.machines[f].disk.fault(failing) }, func(w *world, f int) { w.machines[f].disk.fault(healthy) }},
		{"its disk lies", func(w *world, f int) { w.machines[f].disk.fault(lying) }, func(w *world, f int) { w.machines[f].disk.fault(healthy) }},
		{"re-imaged", func(w *world, f int) { w.kill(f); w.wipe(f) }, func(w *world, f int) { w.start(f) }},
		{"its clock is an hour ahead", func(w *world, f int) { w.machines[f].setWall(time.Hour) }, func(w *world, f int) { w.machines[f].setWall(0) }},
	} {
		bubble(t, c.name, func(t *testing.T) {
			w := threeIssuers(t)
			holder := w.settled(3)
			epoch := w.machines[holder].raft.View().Epoch
			follower := w.others(holder)[0]
			c.fault(w, follower)
			time.Sleep(10 * time.Minute)
			c.heal(w, follower)
			time.Sleep(5 * time.Minute)
			if now := w.holder(); now != holder || w.machines[now].raft.View().Epoch != epoch {
				t.Errorf("the lease moved\n%s", w.report())
			}
			for i := range w.machines {
				if n := w.votes(i); n != 3 {
					t.Errorf("fe%d sees %d voters in the end", i+1, n)
				}
				if v := w.machines[i].raft.View(); v.Holder != w.machines[holder].id {
					t.Errorf("fe%d takes %s for the holder", i+1, v.Holder.Short())
				}
			}
		})
	}
}

// TestNothingIsPromisedThatIsNotOnTheDisk: with one voter down and the disk of another failing, no majority has a renewal on its disks, so
// none may count as committed.
func TestNothingIsPromisedThatIsNotOnTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		rest := w.others(holder)
		w.kill(rest[0])
		time.Sleep(time.Minute)
		w.machines[rest[1]].disk.fault(failing)
		last := w.machines[holder].raft.View().Renewed
		time.Sleep(time.Minute)
		// Renewals are ten seconds apart; of the last one the follower may tell that it was a few milliseconds later, when it learned of it.
		if now := w.machines[holder].raft.View().Renewed; now.Sub(last) > time.Second {
			t.Errorf("a renewal was committed %v after the disk began to fail", now.Sub(last))
		}
		if w.holder() >= 0 {
			t.Error("somebody still holds")
		}
	})
}

func TestADiskThatCannotWriteIsAProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		follower := w.others(w.settled(3))[0]
		w.machines[follower].disk.fault(failing)
		w.until(time.Minute, "said", func() bool { return w.problem(follower, lease.WriteFailed) })
		w.machines[follower].disk.fault(healthy)
		w.until(time.Minute, "over", func() bool { return !w.problem(follower, lease.WriteFailed) })
	})
}

func TestAStopHandsTheLeaseOverWithinASecond(t *testing.T) {
	for _, delay := range []time.Duration{time.Millisecond, 50 * time.Millisecond} {
		bubble(t, delay.String(), func(t *testing.T) {
			w := threeIssuers(t)
			w.latency = delay
			holder := w.settled(3)
			for range 5 {
				begin := time.Now()
				m, ended := w.machines[holder], make(chan time.Duration, 1)
				go func() { m.cancel(); <-m.ended; ended <- time.Since(begin) }()
				next := w.anyHolder(ttl, holder)
				if took := w.machines[next].grantedAt().Sub(begin); took > time.Second {
					t.Errorf("it took %v", took)
				}
				if took := <-ended; took > 600*time.Millisecond { // nothing is left to do for it
					t.Errorf("the stop took %v", took)
				}
				w.stop(holder)
				time.Sleep(time.Minute)
				w.start(holder)
				time.Sleep(time.Minute)
				holder = next
			}
		})
	}
}

// Where a whole fleet is reloaded at once, the others are not there at the moment when the holder ends.
func TestAStopHandsTheLeaseOverToThoseWhoComeBackInTime(t *testing.T) {
	for away := 30 * time.Millisecond; away < 800*time.Millisecond; away += 25 * time.Millisecond {
		bubble(t, away.String(), func(t *testing.T) {
			w := threeIssuers(t)
			holder := w.settled(3)
			time.Sleep(7 * away) // at some moment between two heartbeats, and two looks at the quorum
			begin := time.Now()
			w.isolate(holder)
			go w.machines[holder].cancel()
			time.Sleep(away)
			w.heal()
			next := w.anyHolder(2*ttl, holder)
			if took := w.machines[next].grantedAt().Sub(begin); took > away+500*time.Millisecond {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestResignGivesTheLeaseAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		other := w.others(holder)[0]
		if err := w.machines[other].raft.Resign(t.Context()); err == nil {
			t.Error("a node gave away what it does not have")
		}
		if err := w.machines[holder].raft.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.anyHolder(time.Second, holder)
		last := w.holder()
		w.isolate(last)
		w.anyHolder(handover, last)
		w.heal()
		time.Sleep(time.Minute)
		holder = w.holder()
		w.kill(w.others(holder)...)
		time.Sleep(2 * time.Second)
		if err := w.machines[holder].raft.Resign(t.Context()); err == nil {
			t.Error("a node gave the lease away to nobody")
		}
	})
}

// TestAHolderWhoseDiskHungAnswers: what was asked while the disk hung for longer than the lease lasts is answered when it goes on.
func TestAHolderWhoseDiskHungAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		for range 8 { // what is ready at one time is taken in any order
			w.machines[holder].disk.fault(hanging)
			next := w.anyHolder(handover+term, holder)
			answered := make(chan error)
			for range 4 {
				go func() { answered <- w.machines[holder].raft.Resign(t.Context()) }()
			}
			synctest.Wait()
			w.machines[holder].disk.fault(healthy)
			for range 4 {
				if err := <-answered; err == nil {
					t.Error("it gave away what it lost while its disk hung")
				}
			}
			time.Sleep(time.Minute)
			holder = next
		}
	})
}

// TestAReleaseDoesNotEndAnothersRight: a holder that gives the lease away while it still waits for its predecessor must not be taken for
// the last one that could act.
func TestAReleaseDoesNotEndAnothersRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, slices.Repeat([]fleet.Role{fleet.Issuer}, 5)...)
		first := w.settled(5)
		w.machines[first].freeze()
		froze := time.Now()
		var second int
		w.until(2*term, "another leader", func() bool {
			for _, o := range w.others(first) {
				if v := w.machines[o].raft.View(); v.Leader == w.machines[o].id {
					second = o
					return true
				}
			}
			return false
		})
		time.Sleep(time.Second) // it has acquired, and waits
		w.stop(second)
		third := w.anyHolder(handover, first)
		if waited := w.machines[third].grantedAt().Sub(froze); waited < ttl*8/10 {
			t.Errorf("fe%d acts %v after the holder froze", third+1, waited)
		}
	})
}

func TestOneIssuerHoldsAloneAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fleet.Issuer)
		for range 3 {
			w.start(0)
			w.anyHolder(time.Second)
			time.Sleep(time.Hour)
			w.kill(0)
		}
	})
}

func TestAWitnessVotesAndNeverHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fleet.Issuer, fleet.Issuer, fleet.Witness)
		holder := w.settled(3)
		for range 6 {
			w.kill(holder)
			next := w.anyHolder(2*handover, holder)
			if next == 2 {
				t.Fatal("the witness holds the lease")
			}
			w.start(holder)
			time.Sleep(2 * time.Minute)
			holder = next
		}
		w.kill(0, 1)
		time.Sleep(10 * time.Minute)
		if w.holder() >= 0 {
			t.Error("somebody holds without a majority")
		}
		w.start(0)
		w.anyHolder(2 * handover)
	})
}

func TestAWitnessThatIsElectedPassesTheLeadOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fleet.Issuer, fleet.Issuer, fleet.Witness)
		holder := w.settled(3)
		other := 1 - holder
		w.isolate(other) // its log falls behind: only the witness can be elected after the holder
		time.Sleep(time.Minute)
		w.kill(holder)
		w.heal()
		w.anyHolder(2*handover, holder)
	})
}

func TestWallClocksThatJump(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour, 10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour} {
		bubble(t, jump.String(), func(t *testing.T) {
			w := threeIssuers(t)
			holder := w.settled(3)
			grant, err := w.machines[holder].raft.Await(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			w.machines[holder].setWall(jump)
			if err := grant.Check(); (err != nil) != (jump > 0) {
				t.Errorf("right after the jump: %v", err)
			}
			w.anyHolder(ttl) // it is still the only one who could hold; a clock that is merely wrong loses nobody the lease for long
			if now := w.machines[holder].raft.View().Epoch; (now.Compare(grant.Epoch()) > 0) != (jump > 0) {
				t.Errorf("a right that ended came back under the same epoch, or another one ended: %v, then %v", grant.Epoch(), now)
			}
			time.Sleep(10 * time.Minute)
			w.machines[holder].setWall(0)
			time.Sleep(time.Minute)
			if w.holder() != holder {
				t.Error("the lease moved")
			}
		})
	}
}

// TestARightThatEndedUnnoticedDoesNotComeBack: nobody asks while the clock is wrong, and when it is right again there is another tenure.
func TestARightThatEndedUnnoticedDoesNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		for range 8 { // somebody may ask after all: whoever acts on that machine
			grant, err := w.machines[holder].raft.Await(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			w.machines[holder].setWall(time.Hour)
			time.Sleep(w.ttl / 2)
			w.machines[holder].setWall(0)
			time.Sleep(w.ttl / 2)
			if grant.Context().Err() == nil || grant.Check() == nil {
				t.Errorf("the right under %v is still good", grant.Epoch())
			}
			w.anyHolder(ttl)
			w.oneCluster()
		}
	})
}

// TestTheRightCountsFromTheProposal: what the commit of a renewal takes on a slow network is the holder's loss.
func TestTheRightCountsFromTheProposal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		w.mu.Lock()
		w.latency = 1500 * time.Millisecond // a commit takes 3 to 6 s
		w.mu.Unlock()
		time.Sleep(time.Minute)
		before := w.machines[holder].disk.loggedAt()
		w.until(ttl, "another renewal is proposed", func() bool { return w.machines[holder].disk.loggedAt().After(before) })
		proposed := w.machines[holder].disk.loggedAt()
		time.Sleep(8 * time.Second) // it is committed, and the next is not proposed yet
		if !w.machines[holder].disk.loggedAt().Equal(proposed) {
			t.Fatal("the next renewal came too early for this test")
		}
		grant, err := w.machines[holder].raft.Await(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.machines[holder].disk.fault(hanging) // nothing ends the right now but the deadline
		var begin, act time.Time
		for range 300 {
			if grant.Begin() == nil {
				begin = time.Now()
			}
			if grant.Check() == nil {
				act = time.Now()
			}
			time.Sleep(100 * time.Millisecond)
		}
		if d := act.Sub(proposed); d > ttl*8/10 || d < ttl*8/10-time.Second {
			t.Errorf("the last step was taken %v after the renewal was proposed", d)
		}
		if d := begin.Sub(proposed); d > ttl*2/3 || d < ttl*2/3-time.Second {
			t.Errorf("new work was last started %v after the renewal was proposed", d)
		}
	})
}

// TestASuspendedMachineKnowsThatItsRightIsOver: the boot clock goes on while nothing runs, and the first thing asked afterwards is Check.
func TestASuspendedMachineKnowsThatItsRightIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		grant, err := w.machines[holder].raft.Await(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.machines[holder].freeze()
		checked := make(chan error, 1)
		go func() { checked <- grant.Check() }() // a step that was about to be taken
		time.Sleep(2 * ttl)
		w.machines[holder].thaw()
		if err := <-checked; err == nil {
			t.Error("the step was taken after others could act")
		}
		if err := grant.Begin(); err == nil {
			t.Error("new work was started")
		}
	})
}

func TestAllRestartedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		w.settled(3)
		for range 5 {
			w.kill(0, 1, 2)
			time.Sleep(time.Second)
			w.start(0, 1, 2)
			w.anyHolder(handover)
		}
	})
}

func TestHundredsOfRenewalsAreCompacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		follower := w.others(holder)[0]
		w.kill(follower)
		time.Sleep(150 * time.Minute) // 900 renewals
		for _, m := range w.machines {
			if n := len(m.disk.copy().Entries); m.n != follower && n > 800 {
				t.Errorf("fe%d keeps %d entries", m.n+1, n)
			}
		}
		w.start(follower) // what it lacks is no longer in any log
		time.Sleep(time.Minute)
		w.kill(holder)
		w.anyHolder(handover, holder)
	})
}
