package testnet_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
	"certswarm/testnet"

	"golang.org/x/sys/unix"
)

var (
	allCuts  = flag.Bool("powercut.all", false, "strike every effect in every way, not a sample")
	cutShare = flag.Int("powercut.share", 55*testnet.Slower, "of how many strikes TestPowerCut takes one")
	cutSeed  = flag.Uint64("powercut.seed", 1, "of the sample")
)

// trial is a change that is made on the first of two nodes, and what may be seen of it.
type trial struct {
	name    string
	before  func(s *stage)
	change  func(s *stage)
	publish func(s *stage) // the change, if the program makes it
	whole   []string       // path prefixes: what changes below each changes together
	link    string         // a directory's name that never leads to half a pair
	passes  []string       // contents that are there for a while
	kept    []string       // files whose earlier version must be in the archive of the second node
	joins   bool           // the second node first starts when the change is made
	slow    bool           // the second node's disk
	expires bool           // what is made expires at stage.expiry
}

// stage is one performance of a trial.
type stage struct {
	*testnet.Fleet
	t        *testing.T
	trial    *trial
	script   *script
	victim   int
	mu       sync.Mutex
	seen     []string // guarded by mu: what an observer should not have seen
	numbers  map[number]index.Digest
	written  bool // Publish has returned
	expiry   time.Time
	promised map[string]index.Digest // entries that the victim had acknowledged
	origins  map[index.Origin]bool   // that wrote before the victim ended; nil: it had promised nothing
}

// script is what a performance without faults showed.
type script struct {
	old, new map[string]string
	effects  [2][]durable.Effect
	pairs    [2]pair
	passing  pair // is there for a while
}

type number struct {
	origin index.Origin
	seq    uint64
}

// strike is one fault in one performance.
type strike struct {
	victim int
	fault  testnet.Fault
	cut    cutAt
	again  int // how many effects of its next start a killed process survives; -1: all
}

// cutAt says when the power goes after something failed.
type cutAt string

const (
	cutAtOnce = " then power cut"
	cutLater  = " power cut later"
)

// String returns the name of a test; -run finds it again.
func (k strike) String() string {
	text := fmt.Sprintf("fe%d %s at %d", k.victim+1, k.fault.Outcome, k.fault.Effect)
	switch k.fault.Outcome {
	case testnet.PowerCut:
		text += fmt.Sprintf(" survive %.0f of 2", 2*k.fault.Survive)
	case testnet.Fails:
		text += fmt.Sprintf(" %d times %s", k.fault.Times, unix.ErrnoName(k.fault.Err.(unix.Errno)))
	}
	text += string(k.cut)
	if k.again >= 0 {
		text += fmt.Sprintf(" again at %d", k.again)
	}
	return text
}

// TestPowerCut strikes the effects of a node on its disk, each in every way: after a restart what belongs together is there as it was
// before or as it is to be, whole, and the fleet comes to the same.
func TestPowerCut(t *testing.T) {
	for _, tr := range trials {
		t.Run(tr.name, func(t *testing.T) {
			script := rehearse(t, &tr)
			for _, k := range strikes(script) {
				t.Run(k.String(), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { perform(t, &tr, script, k) })
				})
			}
		})
	}
}

// strikes lists what can happen to each effect, or a sample of that.
func strikes(s *script) (out []strike) {
	chance := rand.New(rand.NewPCG(*cutSeed, 0))
	for victim := range 2 {
		n := len(s.effects[victim])
		for at := range n + 1 {
			add := func(f testnet.Fault) {
				f.Effect = at
				again := -1
				if chance.IntN(4) == 0 {
					again = chance.IntN(24)
				}
				var cut cutAt
				if f.Outcome == testnet.Fails || f.Outcome == testnet.Lies {
					cut = []cutAt{"", cutAtOnce, cutLater}[chance.IntN(3)]
				}
				out = append(out, strike{victim, f, cut, again})
			}
			add(testnet.Fault{Outcome: testnet.Killed})
			for _, survive := range []float64{0, 0.5, 1} {
				add(testnet.Fault{Outcome: testnet.PowerCut, Survive: survive})
			}
			if at == n {
				break // nothing is left to fail
			}
			add(testnet.Fault{Outcome: testnet.Torn})
			for _, times := range []int{1, 3} {
				add(testnet.Fault{Outcome: testnet.Fails, Err: unix.EIO, Times: times})
				add(testnet.Fault{Outcome: testnet.Fails, Err: unix.ENOSPC, Times: times})
			}
			add(testnet.Fault{Outcome: testnet.Lies, Err: unix.EIO})
		}
	}
	if *allCuts {
		return out
	}
	chance.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	out = out[:len(out) / *cutShare]
	return append(out, certain(s)...)
}

// certain lists the strikes that no sample goes without: the power goes before the state is saved, where whatever was said too early shows, and
// the last of several renames fails.
func certain(s *script) (out []strike) {
	for victim, effects := range s.effects {
		last, places := 0, 0
		for at, e := range effects {
			switch {
			case e.Act == durable.ActCommit && victim == 1:
				out = append(out, strike{victim: 1, fault: testnet.Fault{Effect: at, Outcome: testnet.PowerCut}, again: -1})
			case e.Act == durable.ActPlace:
				last, places = at, places+1
			}
		}
		if places > 1 {
			fails := testnet.Fault{Effect: last, Outcome: testnet.Fails, Err: unix.EIO, Times: 3}
			out = append(out,
				strike{victim: victim, fault: testnet.Fault{Effect: last, Outcome: testnet.Killed}, again: -1},
				strike{victim: victim, fault: testnet.Fault{Effect: last, Outcome: testnet.Lies, Err: unix.EIO}, again: -1},
				strike{victim: victim, fault: fails, again: -1},
				strike{victim: victim, fault: fails, cut: cutAtOnce, again: -1})
		}
	}
	return out
}

// rehearse performs a trial without a fault.
func rehearse(t *testing.T, tr *trial) *script {
	t.Helper()
	s := &script{pairs: [2]pair{newPair(t), newPair(t)}, passing: newPair(t)}
	synctest.Test(t, func(t *testing.T) {
		st := prepare(t, tr, s)
		s.old = st.Tree(0)
		for i := range 2 {
			st.Record(i)
		}
		st.play()
		st.Settle()
		st.AssertSame()
		s.new = st.Tree(0)
		for i := range 2 {
			s.effects[i] = st.Effects(i)
		}
	})
	if maps.Equal(s.old, s.new) {
		t.Fatal("nothing changed")
	}
	if testing.Verbose() {
		for i := range 2 {
			for k, e := range s.effects[i] {
				t.Logf("fe%d %d: %s %s (synced: %v)", i+1, k, e.Act, e.Name, e.Synced)
			}
		}
	}
	return s
}

// prepare starts a fleet and brings it to where the change begins.
func prepare(t *testing.T, tr *trial, s *script) *stage {
	st := &stage{t: t, trial: tr, script: s, numbers: map[number]index.Digest{}}
	st.Fleet = testnet.NewDown(t, testnet.Options{Nodes: 2, Latency: 2 * time.Millisecond})
	st.Start(0)
	if !tr.joins {
		st.Start(1)
	}
	for i := range 8 { // so that no trial is a mass deletion
		st.Write(0, fmt.Sprintf("other/%d", i), "of no concern")
	}
	tr.before(st)
	st.Settle()
	return st
}

// play makes the change.
func (s *stage) play() {
	if s.trial.slow {
		s.SlowDisk(1, 5*time.Millisecond)
	}
	if s.trial.joins {
		for tries := 0; !s.TryStart(1) && !s.Dead(1); tries++ { // whoever looks after it starts it again
			if tries > 3 {
				s.t.Fatal("fe2 does not start")
			}
		}
	}
	if s.trial.publish != nil {
		s.trial.publish(s)
	} else {
		s.trial.change(s)
	}
}

// perform makes the change while a fault strikes, and looks at everything.
func perform(t *testing.T, tr *trial, script *script, k strike) {
	s := prepare(t, tr, script)
	s.victim, s.written = k.victim, false
	s.Record(1 - k.victim)
	s.Strike(k.victim, k.fault)
	s.Look(1, func(e durable.Effect) { s.look(e) })
	s.play()
	for range 100 {
		if s.Dead(k.victim) {
			break
		}
		s.Advance(40 * time.Millisecond)
		s.sample()
		if k.victim == 1 && !s.Dead(1) {
			for _, prefix := range tr.whole {
				s.wholeAtRest("meanwhile", prefix, s.Tree(1), false)
			}
		}
		if struck := s.Struck(k.victim); k.cut == cutAtOnce && struck != nil && struck.Act != durable.ActCommit {
			s.PullPlug(k.victim, 1)
		}
	}
	if (k.fault.Outcome == testnet.PowerCut || k.cut == cutLater) && !s.Dead(k.victim) {
		s.PullPlug(k.victim, k.fault.Survive)
	}
	if s.Dead(k.victim) {
		s.restart(k)
	}
	s.Calm(k.victim)
	s.finish()
	if struck := s.Struck(k.victim); t.Failed() && struck != nil {
		t.Logf("struck: %s %s in %s", struck.Act, struck.Name, struck.Dir)
	}
}

// restart buries the victim and starts it where nobody can help it.
func (s *stage) restart(k strike) {
	struck := s.Struck(s.victim)
	defer func() {
		if s.t.Failed() {
			s.t.Logf("it was struck before %+v", struck)
		}
	}()
	s.Advance(20 * time.Millisecond) // what it said arrives
	s.sample()
	vouched := !s.trial.expires && (s.written && s.victim == 0 || s.victim == 1 && s.acknowledged())
	if vouched {
		s.origins = s.authors()
		s.promised = map[string]index.Digest{}
		for p, is := range s.script.new {
			if e := s.Directory(0).Lookup(index.MustPath(p)); is != s.script.old[p] && e != nil && s.victim == 1 {
				s.promised[p] = e.Hash
			}
		}
	}
	s.CutAll(s.victim)
	s.Bury(s.victim)
	if k.again >= 0 {
		s.Strike(s.victim, testnet.Fault{Effect: k.again, Outcome: testnet.Killed})
		s.TryStart(s.victim)
		for range 5 {
			if !s.Dead(s.victim) {
				s.Advance(40 * time.Millisecond)
			}
		}
		s.Calm(s.victim)
		if s.Dead(s.victim) {
			s.Bury(s.victim)
			s.Start(s.victim)
		}
	} else {
		s.Start(s.victim)
	}
	for _, when := range []string{"at once", "after a while"} {
		s.atRest(when, vouched)
		s.Advance(3 * time.Second)
		s.sample()
	}
	s.Heal()
}
