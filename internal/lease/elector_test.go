package lease_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/internal/lease/rules"
)

// rig is one issuer that is alone, with an engine of its own over the lives of its process.
type rig struct {
	member fleet.Member
	engine func(list fleet.Roster) lease.Elector
}

// engines are all that implement lease.Elector. Each passes the same tests, on a disk in real files.
var engines = map[string]func(t *testing.T) rig{
	"static": func(t *testing.T) rig {
		state, acting := stateDir(t), new(lease.Acting)
		return rig{fe1, func(list fleet.Roster) lease.Elector { return lease.NewStatic(fe1.ID, list, ttl, state, acting) }}
	},
	"raft": func(t *testing.T) rig {
		state, acting := stateDir(t), new(lease.Acting)
		return rig{fe1, func(list fleet.Roster) lease.Elector {
			return lease.NewRaft(lease.RaftConfig{
				Self: fe1.ID, Roster: list, TTL: ttl, Network: nobody{}, OpenDisk: lease.DiskIn(state), Acting: acting, Log: slog.New(slog.DiscardHandler),
			})
		}}
	},
}

// nobody is a network without anybody else.
type nobody struct{}

func (nobody) Send(fleet.NodeID, []byte) {}
func (nobody) Peers() []lease.Peer       { return nil }

// conform runs a test with each engine.
func conform(t *testing.T, test func(t *testing.T, r rig)) {
	t.Helper()
	for name, build := range engines {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, build(t)) })
		})
	}
}

// running starts an engine; stop ends it and waits.
func running(t *testing.T, e lease.Elector) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- e.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func granted(t *testing.T, e lease.Elector) lease.Grant {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	g, err := e.Await(ctx)
	if err != nil {
		t.Fatalf("no grant within an hour: %v", err)
	}
	return g
}

func TestElectorsGrantUnderEpochsThatGrowOverRestarts(t *testing.T) {
	conform(t, func(t *testing.T, r rig) {
		var last fleet.Epoch
		for range 4 {
			e := r.engine(roster(t, r.member))
			stop := running(t, e)
			g := granted(t, e)
			if g.Epoch().Compare(last) <= 0 {
				t.Errorf("epoch %v does not follow %v", g.Epoch(), last)
			}
			last = g.Epoch()
			if v := e.View(); !v.HeldHere || v.Holder != r.member.ID || v.Epoch != last {
				t.Errorf("the holder's own view: %+v", v)
			}
			time.Sleep(3 * time.Minute)
			if err := errors.Join(g.Check(), g.Begin()); err != nil {
				t.Errorf("after three minutes the holder may not act: %v", err)
			}
			again := granted(t, e)
			if again.Epoch() != last {
				t.Errorf("a second grant beside the first: %v and %v", again.Epoch(), last)
			}
			stop()
			if g.Check() == nil || g.Begin() == nil || g.Context().Err() == nil {
				t.Error("a grant outlived its engine")
			}
			if e.View().HeldHere {
				t.Error("a stopped engine says that it holds")
			}
		}
	})
}

func TestElectorsDoNotGrantTwiceAtATime(t *testing.T) {
	conform(t, func(t *testing.T, r rig) {
		e := r.engine(roster(t, r.member))
		defer running(t, e)()
		first := granted(t, e)
		e.Saw(fleet.Epoch{Generation: 1 << 40, Nonce: 5, Term: 70, Index: 3})
		<-first.Context().Done()
		if err := first.Check(); !errors.Is(err, lease.ErrLost) {
			t.Errorf("the grant that was too low ended with %v", err)
		}
		if second := granted(t, e); second.Epoch().Generation < 1<<40 || second.Epoch().Compare(first.Epoch()) <= 0 {
			t.Errorf("granted %v", second.Epoch())
		}
	})
}

func TestElectorsSayWhenTheirViewChanges(t *testing.T) {
	conform(t, func(t *testing.T, r rig) {
		e := r.engine(roster(t, r.member))
		changed := e.Changed()
		if e.View().HeldHere {
			t.Error("held before Run")
		}
		stop := running(t, e)
		granted(t, e)
		<-changed
		changed = e.Changed()
		stop()
		<-changed
	})
}

func TestElectorsAwaitEndsWithItsContext(t *testing.T) {
	conform(t, func(t *testing.T, r rig) {
		other := fleet.Member{Name: "fe0", ID: fleet.NodeID{0xff}, Role: fleet.Issuer}
		third := fleet.Member{Name: "fe9", ID: fleet.NodeID{0xfe}, Role: fleet.Issuer}
		e := r.engine(roster(t, other, r.member, third)) // somebody else's to hold, or a minority
		defer running(t, e)()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := e.Await(ctx); err == nil {
			t.Error("granted")
		}
		e.Heard(other.ID, fleet.Epoch{Generation: 1, Term: 4, Index: 1})
		if v := e.View(); v.Holder != other.ID || v.Epoch.Term != 4 || v.HeldHere {
			t.Errorf("after another's word: %+v", v)
		}
		time.Sleep(ttl)
		if v := e.View(); !v.Holder.IsZero() || v.Renewed.IsZero() {
			t.Errorf("a ttl after it: %+v", v)
		}
	})
}

func TestElectorsRefuseWhatMakesNoSense(t *testing.T) {
	conform(t, func(t *testing.T, r rig) {
		e := r.engine(roster(t, r.member))
		defer running(t, e)()
		g := granted(t, e)
		for name, ask := range map[string]func(context.Context) error{"resign": e.Resign, "recover": e.Recover, "confirm": e.Confirm} {
			if err := ask(t.Context()); err == nil {
				t.Errorf("%s: a lone holder did it", name)
			}
		}
		if s, err := e.Standings(t.Context()); err != nil || len(s) != 1 || s[0].Node != r.member.ID || s[0].Leader != r.member.ID || !s[0].Heard {
			t.Errorf("standings: %+v, %v", s, err)
		}
		if g.Check() != nil {
			t.Error("asking ended the grant")
		}
	})
}

// TestARaftOnFilesIsARaft runs three engines on real files.
func TestARaftOnFilesIsARaft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		for _, m := range w.machines {
			state := stateDir(t)
			m.open = lease.DiskIn(state)
		}
		holder := w.settled(3)
		for range 3 {
			w.kill(holder)
			next := w.anyHolder(handover, holder)
			w.start(holder)
			time.Sleep(time.Minute)
			holder = next
		}
		w.voters(3, time.Minute)
		w.oneCluster()
	})
}

func TestGlassIsBrokenOnceADay(t *testing.T) {
	state := stateDir(t)
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	c := rules.Case{
		Names: []string{"b.example.com", "a.example.com"}, NotAfter: start.Add(48 * time.Hour), Due: 30 * 24 * time.Hour, Voters: 3,
		Issuers: []fleet.NodeID{fe1.ID}, Self: fe1.ID, Silent: start.Add(-time.Hour), After: 10 * time.Minute,
	}
	last := fleet.Epoch{Generation: 1, Term: 3, Index: 9}
	order := func(now time.Time, asked bool) error {
		t.Helper()
		c := c
		if asked {
			c.Asked = now
		}
		g, end, err := lease.NewGlass(state).Break(t.Context(), c, last, now) // another process each time
		if err != nil {
			return err
		}
		if g.Check() != nil || g.Epoch() != last {
			t.Errorf("granted %v: %v", g.Epoch(), g.Check())
		}
		end()
		if g.Check() == nil {
			t.Error("the grant did not end")
		}
		return lease.NewGlass(state).Ordered(c.Names, now)
	}
	if err := order(start, false); err == nil {
		t.Error("ordered without asking")
	}
	c.Asked = start
	for range 3 { // the CA cannot be reached: nothing is ordered, nothing is spent
		if _, end, err := lease.NewGlass(state).Break(t.Context(), c, last, start); err != nil {
			t.Fatal(err)
		} else {
			end()
		}
	}
	if err := order(start, true); err != nil {
		t.Fatal(err)
	}
	c.Names = []string{"a.example.com", "B.example.com"} // the same set
	if err := order(start.Add(23*time.Hour), true); err == nil {
		t.Error("twice a day")
	}
	if v, err := lease.NewGlass(state).Judge(c, start.Add(23*time.Hour)); err != nil || v.Answer != rules.Later || !v.At.Equal(start.Add(24*time.Hour)) {
		t.Errorf("judged %+v, %v", v, err)
	}
	if err := lease.NewGlass(state).Failed(c.Names, start.Add(24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := order(start.Add(24*time.Hour+time.Minute), true); err == nil {
		t.Error("right after a failed validation")
	}
	if err := order(start.Add(25*time.Hour), true); err != nil {
		t.Error(err)
	}
	if err := state.WriteFile("break-glass.json", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := order(start.Add(47*time.Hour), true); err == nil {
		t.Error("ordered although nobody can tell what was ordered before")
	}
}

// TestGarbageChangesNothing delivers what no member of the fleet sends.
func TestGarbageChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		epoch := w.machines[holder].raft.View().Epoch
		peer := w.machines[w.others(holder)[0]].id
		for size := range 200 {
			message := make([]byte, size)
			for i := range message {
				message[i] = byte(w.rng.IntN(256))
			}
			w.machines[holder].raft.Deliver(peer, message)
			if size > 2 {
				message = slices.Clone(message)
				message[0], message[1] = 1, byte(1+size%2)
				w.machines[holder].raft.Deliver(peer, message)
			}
			w.machines[holder].raft.Deliver(fleet.NodeID{99}, message)
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		if w.holder() != holder || w.machines[holder].raft.View().Epoch != epoch {
			t.Error("the lease moved")
		}
	})
}
