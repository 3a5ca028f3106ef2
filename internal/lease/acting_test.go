package lease_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease"
)

// A program that runs under the lease ends when it is told to, in its own time. Until it has, nobody else may begin.
func TestTheNextHolderWaitsForWhoStillActs(t *testing.T) {
	giveAway := map[string]func(t *testing.T, w *world, holder int){
		"stopped":  func(_ *testing.T, w *world, holder int) { w.machines[holder].cancel() },
		"resigned": func(t *testing.T, w *world, holder int) { go w.machines[holder].raft.Resign(t.Context()) },
		"made a member": func(_ *testing.T, w *world, holder int) {
			w.machines[holder].role = fleet.Receive
			w.setList(w.roster(0, 1, 2, 3), 0, 1, 2, 3)
		},
	}
	for _, c := range []struct {
		name        string
		acts        time.Duration // 0: to the end
		least, most time.Duration // from the end of the right to the next one
	}{
		{"it leaves after a second", time.Second, time.Second, 2 * time.Second},
		{"it does not leave", 0, ttl, ttl + term},
	} {
		for how, give := range giveAway {
			bubble(t, how+", "+c.name, func(t *testing.T) {
				w := newWorld(t, issuers(4)...)
				holder := w.settled(3)
				grant := granted(t, w.machines[holder].raft)
				leave := grant.Enter()
				defer leave()
				give(t, w, holder)
				<-grant.Context().Done()
				ended := time.Now()
				if c.acts > 0 {
					time.AfterFunc(c.acts, leave)
				}
				next := w.anyHolder(2*ttl, holder)
				if took := w.machines[next].grantedAt().Sub(ended); took < c.least || took > c.most {
					t.Errorf("the next holder's right begins after %v", took)
				}
			})
		}
	}
}

func TestAStopEndsThoughSomebodyActs(t *testing.T) {
	conform(t, func(t *testing.T, r rig) {
		for name, acts := range map[string]time.Duration{"for a second": time.Second, "to the end": time.Hour} {
			e := r.engine(roster(t, r.member))
			stop := running(t, e)
			leave := granted(t, e).Enter()
			begin := time.Now()
			over := time.AfterFunc(acts, leave)
			stop()
			if took := time.Since(begin); took < min(acts, 2*time.Second) || took > min(acts, 2*time.Second)+300*time.Millisecond {
				t.Errorf("somebody acts %s: the stop took %v", name, took)
			}
			over.Stop()
			leave()
		}
	})
}

// A disk that hangs adds a second to that.
func TestAStopEndsThoughSomebodyActsAndTheDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &memoryDisk{}
		e := lease.NewRaft(lease.RaftConfig{
			Self: fe1.ID, Roster: roster(t, fe1), TTL: ttl, Network: nobody{}, Log: slog.New(slog.DiscardHandler),
			OpenDisk: func(anew bool) (lease.Disk, error) { return disk.handle(0, anew) },
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- e.Run(ctx) }()
		defer granted(t, e).Enter()()
		disk.fault(hanging)
		time.Sleep(ttl / 2) // a renewal is on its way
		begin := time.Now()
		cancel()
		err := <-ended
		if took := time.Since(begin); err == nil || took > 4100*time.Millisecond {
			t.Errorf("the stop took %v: %v", took, err)
		}
		disk.fault(healthy)
		time.Sleep(time.Minute) // what waited for the disk ends
	})
}

// A reload makes another engine: it is bound by who acts under the one before.
func TestTheNextEngineWaitsForWhoStillActs(t *testing.T) {
	conform(t, func(t *testing.T, r rig) {
		e := r.engine(roster(t, r.member))
		stop := running(t, e)
		grant := granted(t, e)
		leave := grant.Enter()
		stop()
		next := r.engine(roster(t, r.member))
		defer running(t, next)()
		time.Sleep(time.Minute)
		if next.View().HeldHere {
			t.Error("the next engine's right began while somebody acts under the one before")
		}
		leave()
		if again := granted(t, next); again.Epoch().Compare(grant.Epoch()) <= 0 {
			t.Errorf("%v comes after %v", again.Epoch(), grant.Epoch())
		}
	})
}

// A list whose order changes makes the other node the holder; it hears that somebody still acts.
func TestAnotherOrderWaitsForWhoStillActs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before, after := roster(t, fe1, fe2), roster(t, fe2, fe1)
		one, two := lease.NewStatic(fe1.ID, before, ttl, stateDir(t), nil), lease.NewStatic(fe2.ID, before, ttl, stateDir(t), nil)
		defer running(t, one)()
		defer running(t, two)()
		leave := granted(t, one).Enter()
		tell := func(from fleet.NodeID, by, to *lease.Static) {
			v := by.View()
			epoch := v.Acting
			if v.HeldHere {
				epoch = v.Epoch
			}
			to.Heard(from, epoch)
			synctest.Wait()
		}
		for _, e := range []*lease.Static{one, two} {
			e.SetRoster(after)
		}
		for range 100 {
			tell(fe1.ID, one, two)
			tell(fe2.ID, two, one)
			time.Sleep(time.Second)
		}
		if one.View().HeldHere || two.View().HeldHere {
			t.Error("somebody has the lease while a program acts under the one that ended")
		}
		changed := one.Changed()
		leave()
		<-changed
		tell(fe1.ID, one, two)
		granted(t, two)
	})
}

// A right that ended and comes back, on one node: two programs do not run side by side either.
func TestNoOtherRightBeginsWhileSomebodyActs(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, e lease.Elector){
		"a later epoch was seen": func(_ *testing.T, e lease.Elector) {
			e.Saw(fleet.Epoch{Generation: 1 << 20, Term: 1})
		},
		"another came first for a while": func(t *testing.T, e lease.Elector) {
			e.SetRoster(roster(t, fe2, fleet.Member{Name: "fe1", ID: fe1.ID, Role: fleet.Receive}))
			synctest.Wait()
			e.SetRoster(roster(t, fe1))
		},
	} {
		for engine, build := range engines {
			bubble(t, engine+", "+name, func(t *testing.T) {
				r := build(t)
				e := r.engine(roster(t, r.member))
				defer running(t, e)()
				grant := granted(t, e)
				leave := grant.Enter()
				time.Sleep(time.Minute)
				lose(t, e)
				<-grant.Context().Done()
				time.Sleep(time.Minute)
				if e.View().HeldHere {
					t.Error("another right began while somebody acts under the one before")
				}
				leave()
				leave() // once more makes no difference
				if again := granted(t, e); again.Epoch().Compare(grant.Epoch()) <= 0 {
					t.Errorf("%v comes after %v", again.Epoch(), grant.Epoch())
				}
			})
		}
	}
}
