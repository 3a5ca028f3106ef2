package lease_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/internal/lease/rules"
)

var (
	soak = flag.Duration("soak", 0, "how much virtual time each fleet of TestChaos lives through; 0: as much as fits into a test run")
	seed = flag.Uint64("seed", 1, "of TestChaos; 0: another one every time")
)

// firstSeed returns the seed, another one every time if none was asked for.
func firstSeed() uint64 {
	if *seed == 0 {
		return rand.Uint64N(1e9)
	}
	return *seed
}

// TestChaos lets everything go wrong at once, for a long time. What must never happen is checked at every step that is taken under the
// lease, and by porcupine in the end; between the storms, a fleet that could have a holder must have one.
func TestChaos(t *testing.T) {
	first := firstSeed()
	for i, c := range []struct {
		name  string
		roles []fleet.Role
		ttl   time.Duration // what lasts ten times as long costs a tenth
		hours int
	}{
		{"three issuers", issuers(3), 30 * time.Second, 12},
		{"three issuers, slowly", issuers(3), 5 * time.Minute, 120},
		{"five issuers, slowly", issuers(5), 5 * time.Minute, 60},
		{"two issuers and a witness", []fleet.Role{fleet.Issuer, fleet.Issuer, fleet.Witness}, 2 * time.Minute, 40},
		{"seven of which five vote", issuers(7), 5 * time.Minute, 30},
	} {
		number := first + uint64(i)
		alone(t, c.name, number, func(t *testing.T) {
			w := newWorld(t, c.roles...)
			w.ttl, w.lingers = c.ttl, true
			w.chance(number)
			life := time.Duration(c.hours) * time.Hour / slower
			if *soak > 0 {
				life = *soak
			}
			storm := &storm{w: w, rng: rand.New(rand.NewPCG(number, 2))}
			defer storm.tell(first)
			for i := range w.machines {
				w.start(i)
			}
			w.anyHolder(3 * w.ttl)
			for begin := time.Now(); time.Since(begin) < life && !t.Failed(); {
				storm.blow()
				storm.calm(0)
			}
			t.Logf("%d steps were taken under the lease, %d faults, seed %d", w.acts.count, len(storm.log), number)
		})
	}
}

// TestChaosFromTheBeginning lets everything go wrong while a fleet is being founded, and wants one cluster when it is over.
func TestChaosFromTheBeginning(t *testing.T) {
	rounds := max(uint64(15/slower), 5) // of each size the same
	if *soak > 0 {
		rounds = uint64(*soak / time.Minute)
	}
	first := firstSeed()
	for i := range rounds {
		number := first + i
		n := 3 + int(number%5)
		alone(t, fmt.Sprintf("%d issuers, seed %d", n, number), number, func(t *testing.T) {
			w := newWorld(t, issuers(n)...)
			w.chance(number)
			storm := &storm{w: w, rng: rand.New(rand.NewPCG(number, 2))}
			defer storm.tell(number)
			for i := range w.machines {
				if storm.rng.IntN(4) == 0 {
					storm.killed = append(storm.killed, i) // it starts when it is over, or in the middle
				} else {
					w.start(i)
				}
			}
			storm.blow()
			// Whoever promised itself to a founder that went away does so again after a while, and who is not there yet is waited for.
			storm.calm(rules.PromiseFor(w.ttl) + w.ttl)
			w.voters(rules.Votes(n), 10*time.Minute)
			w.oneCluster()
		})
	}
}

// alone runs a test in virtual time, beside no other, and nothing in it at one time with something else: so that what the engine and raft draw is
// drawn from the seed in the same order every time, as far as Go lets one have it.
func alone(t *testing.T, name string, seed uint64, test func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed)
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
		synctest.Test(t, test)
	})
}

type storm struct {
	w      *world
	rng    *rand.Rand
	log    []string
	killed []int
	wiped  int // in this storm: a minority, or only a person can help
}

func (s *storm) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%v ", time.Now().Format(time.TimeOnly))+fmt.Sprintf(format, args...))
}

// tell says how a test that failed can be run again.
func (s *storm) tell(seed uint64) {
	if s.w.t.Failed() {
		s.w.t.Logf("run again with -seed %d; the last faults:\n%s", seed, strings.Join(s.log[max(0, len(s.log)-25):], "\n"))
	}
}

// blow lets a few things go wrong, one after the other, some of them at once.
func (s *storm) blow() {
	s.wiped = 0
	for range 2 + s.rng.IntN(7) {
		s.fault(s.rng.IntN(len(s.w.machines)))
		time.Sleep(time.Duration(s.rng.Int64N(int64(s.w.ttl))))
		if s.rng.IntN(4) == 0 {
			time.Sleep(time.Duration(s.rng.Int64N(int64(4 * s.w.ttl))))
		}
	}
}

func (s *storm) fault(i int) {
	w, m := s.w, s.w.machines[i]
	if m.raft == nil {
		if s.rng.IntN(2) == 0 {
			s.note("fe%d starts", i+1)
			w.start(i)
			s.killed = slices.DeleteFunc(s.killed, func(k int) bool { return k == i })
		}
		return
	}
	switch s.rng.IntN(16) {
	case 0, 1:
		s.note("fe%d is killed", i+1)
		w.kill(i)
		s.killed = append(s.killed, i)
	case 2:
		s.note("fe%d is stopped", i+1)
		if !m.isFrozen() {
			m.disk.fault(healthy)
			w.stop(i)
			s.killed = append(s.killed, i)
		}
	case 3, 4:
		s.note("fe%d freezes", i+1)
		m.freeze()
	case 5:
		s.note("fe%d thaws", i+1)
		m.thaw()
	case 6:
		s.note("fe%d is cut off", i+1)
		w.isolate(i)
	case 7:
		j := s.rng.IntN(len(w.machines))
		if i != j {
			s.note("nothing goes from fe%d to fe%d", i+1, j+1)
			w.cut(i, j)
		}
	case 8:
		half := s.rng.Perm(len(w.machines))
		at := 1 + s.rng.IntN(len(half)-1)
		s.note("the fleet is split: %v and %v", half[:at], half[at:])
		w.split(half[:at], half[at:])
	case 9:
		s.note("the network heals")
		w.heal()
	case 10:
		wrong := []trouble{failing, lying, hanging}[s.rng.IntN(3)]
		s.note("the disk of fe%d: trouble %d", i+1, wrong)
		m.disk.fault(wrong)
	case 11:
		s.note("the disk of fe%d is well", i+1)
		m.disk.fault(healthy)
	case 12:
		jump := time.Duration(s.rng.Int64N(int64(4*time.Hour))) - 2*time.Hour
		s.note("the wall clock of fe%d is wrong by %v", i+1, jump)
		m.setWall(jump)
	case 13:
		if s.wiped == 0 && len(s.killed) == 0 && w.votesEverywhere() {
			s.wiped++
			s.note("fe%d is re-imaged", i+1)
			w.kill(i)
			w.wipe(i)
			s.killed = append(s.killed, i)
		}
	case 14:
		w.mu.Lock()
		w.loss, w.latency = s.rng.Float64()*0.3, time.Duration(1+s.rng.Int64N(300))*time.Millisecond
		s.note("the network loses %.0f %% and takes %v", 100*w.loss, w.latency)
		w.mu.Unlock()
	case 15:
		s.note("fe%d is asked to resign", i+1)
		s.resign(i)
	}
}

func (s *storm) resign(i int) {
	engine, ctx := s.w.machines[i].raft, s.w.t.Context()
	go func() { _ = engine.Resign(ctx) }() // it may not hold, or not answer before its end
}

// votesEverywhere reports whether all that should vote do, so that a disk may be lost without losing what only a person could bring back.
func (w *world) votesEverywhere() bool {
	holder := w.holder()
	if holder < 0 {
		return false
	}
	v := w.machines[holder].raft.View()
	return len(v.Voters) == v.Wished && !slices.ContainsFunc(v.Voters, func(v lease.Voter) bool { return v.Learner || !v.Connected })
}

// calm puts everything right, and wants a holder in time, and then the same one until the next storm.
func (s *storm) calm(longer time.Duration) {
	w := s.w
	s.note("calm")
	w.heal()
	w.mu.Lock()
	w.loss, w.latency = 0, time.Millisecond
	w.mu.Unlock()
	for _, m := range w.machines {
		m.setWall(0)
		m.disk.fault(healthy)
		m.thaw()
		synctest.Wait()
	}
	w.start(s.killed...)
	s.killed = nil
	// A disk that failed is looked at again. What it brings back, or what was cut off, can unseat a holder that held through the storm: then
	// there are votes, two of which may be split, and the wait for the right of whoever held before. After that, nobody loses the lease in fair weather.
	settles := rules.RenewEvery(w.ttl) + 3*vote(w.ttl) + w.ttl + longer
	begin := time.Now()
	w.anyHolder(settles)
	time.Sleep(settles - time.Since(begin))
	before := w.epoch()
	time.Sleep(time.Duration(s.rng.Int64N(int64(10 * w.ttl))))
	if after := w.epoch(); before.IsZero() || after != before {
		w.t.Fatalf("%v in fair weather: held under %q, then %q\n%s", time.Since(begin), before, after, w.report())
	}
}

// epoch returns under which epoch somebody holds, zero if nobody does. An epoch is granted once.
func (w *world) epoch() fleet.Epoch {
	holder := w.holder()
	if holder < 0 {
		return fleet.Epoch{}
	}
	return w.machines[holder].raft.View().Epoch
}
