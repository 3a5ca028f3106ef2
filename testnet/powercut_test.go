package testnet_test

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/durable"
	"certswarm/syncer"
	"certswarm/syncer/index"
	"certswarm/testnet"

	"golang.org/x/sys/unix"
)

var (
	allCuts  = flag.Bool("powercut.all", false, "strike every effect in every way, not a sample")
	cutShare = flag.Int("powercut.share", 12, "of how many strikes TestPowerCut takes one")
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
	t       *testing.T
	trial   *trial
	script  *script
	victim  int
	mu      sync.Mutex
	seen    []string // guarded by mu: what an observer should not have seen
	numbers map[number]index.Digest
	written bool // Publish has returned
	expiry  time.Time
	origins map[index.Origin]bool // that wrote before the victim ended; nil: it had promised nothing
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
	if !*allCuts {
		chance.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
		out = out[:len(out) / *cutShare]
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

// acknowledged reports whether the first node has told of all that is new and believes that the second has it.
func (s *stage) acknowledged() bool {
	for p, old := range s.script.old {
		if is, there := s.script.new[p]; is != old && !s.knows(p, there) {
			return false
		}
	}
	for p := range s.script.new {
		if _, old := s.script.old[p]; !old && !s.knows(p, true) {
			return false
		}
	}
	for _, p := range s.Status(0).Peers {
		if p.Name == "fe2" {
			return p.Connected && p.Behind == 0
		}
	}
	return false
}

// knows reports whether the first node's index has what its disk has at a path.
func (s *stage) knows(p string, there bool) bool {
	e := s.Directory(0).Lookup(index.MustPath(p))
	if e == nil || !there {
		return e == nil && !there
	}
	switch c := e.Content.(type) {
	case index.File:
		text, err := os.ReadFile(s.Path(0, p))
		return err == nil && c.Digest == sha256.Sum256(text)
	case index.Symlink:
		target, err := os.Readlink(s.Path(0, p))
		return err == nil && c.Target == target
	}
	return true
}

// sample notes who gave which number to what.
func (s *stage) sample() {
	for i := range 2 {
		if s.Live(i) {
			s.sampleBelow(s.Directory(i), index.Path{})
		}
	}
}

// authors returns all that gave numbers.
func (s *stage) authors() map[index.Origin]bool {
	out := map[index.Origin]bool{}
	for n := range s.numbers {
		out[n.origin] = true
	}
	return out
}

func (s *stage) sampleBelow(d *syncer.Directory, dir index.Path) {
	for _, e := range d.Find(dir) {
		n := number{e.Origin, e.Seq}
		if known, given := s.numbers[n]; given && known != e.Hash {
			s.t.Errorf("number %d of %s was given twice, the second time to %s", e.Seq, e.Origin.Node.Short(), e.Path)
		}
		s.numbers[n] = e.Hash
		if _, directory := e.Content.(index.Directory); directory {
			s.sampleBelow(d, e.Path)
		}
	}
}

// look is what an observer of the second node sees after an effect.
func (s *stage) look(e durable.Effect) {
	see := func(format string, args ...any) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.seen) < 5 {
			s.seen = append(s.seen, fmt.Sprintf("after %s %s: ", e.Act, e.Name)+fmt.Sprintf(format, args...))
		}
	}
	old, new := s.script.old, s.script.new
	now, err := glance(s.Path(1, "."))
	if err != nil {
		see("%v", err)
	}
	for p, is := range now {
		if hidden := strings.HasPrefix(path.Base(p), "."); !hidden && is != old[p] && is != new[p] && !strings.HasPrefix(is, "d") && !s.trial.joins && !s.passing(is) {
			see("%s is %.80q", p, is)
		}
	}
	for p, was := range old {
		is := new[p]
		if _, there := now[p]; !there && is != "" && is[0] == was[0] && !s.trial.joins {
			see("%s is not there", p)
		}
	}
	if s.trial.link != "" {
		if _, err := tls.LoadX509KeyPair(s.Path(1, s.trial.link+"/fullchain.pem"), s.Path(1, s.trial.link+"/privkey.pem")); err != nil {
			see("%v", err)
		}
	}
}

func (s *stage) passing(is string) bool {
	if s.trial.slow && (strings.HasSuffix(is, s.script.passing.key) || strings.HasSuffix(is, s.script.passing.chain)) {
		return true
	}
	return slices.ContainsFunc(s.trial.passes, func(content string) bool { return strings.HasSuffix(is, " "+content) })
}

// glance is Tree while things move.
func glance(root string) (map[string]string, error) {
	tree := map[string]string{}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err == nil && p != root {
			var is string
			if is, err = testnet.Describe(p); err == nil {
				tree[strings.TrimPrefix(p, root+"/")] = is
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return tree, err
}

// atRest checks the victim's tree while nobody can help it: nothing of ours lies about, and what changes together is the old or the new. What
// was vouched for is the new.
func (s *stage) atRest(when string, vouched bool) {
	s.t.Helper()
	now, old, new := s.Tree(s.victim), s.script.old, s.script.new
	for p, is := range now {
		if strings.Contains(p, ".certswarm-") {
			s.t.Errorf("%s fe%d has left %s", when, s.victim+1, p)
		}
		if is != old[p] && is != new[p] && is[0] != 'd' && !s.trial.joins && !s.passing(is) {
			s.t.Errorf("%s fe%d has %s as %.80q", when, s.victim+1, p, is)
		}
	}
	if s.victim == 0 && s.trial.publish == nil {
		return // what people wrote there is theirs
	}
	for _, prefix := range s.trial.whole {
		s.wholeAtRest(when, prefix, now, vouched)
	}
	if vouched && len(s.trial.whole) == 0 {
		s.wholeAtRest(when, "", now, true)
	}
}

// wholeAtRest checks what is below a prefix; directories are of no account.
func (s *stage) wholeAtRest(when, prefix string, now map[string]string, vouched bool) {
	s.t.Helper()
	var news, olds []string
	for p := range union(s.script.old, s.script.new) {
		was, is := s.script.old[p], s.script.new[p]
		if was == is || !strings.HasPrefix(p, prefix) || strings.HasPrefix(was+is, "d") {
			continue
		}
		switch now[p] {
		case is:
			news = append(news, p)
		case was:
			olds = append(olds, p)
		}
	}
	slices.Sort(news)
	slices.Sort(olds)
	switch {
	case len(news) > 0 && len(olds) > 0:
		s.t.Errorf("%s fe%d has the new %.300q, the old %.300q", when, s.victim+1, news, olds)
	case vouched && len(olds) > 0:
		s.t.Errorf("%s fe%d does not have %.300q, although that was promised", when, s.victim+1, olds)
	}
}

func union(a, b map[string]string) map[string]bool {
	all := map[string]bool{}
	for _, m := range []map[string]string{a, b} {
		for p := range m {
			all[p] = true
		}
	}
	return all
}

// finish ends all trouble and checks what comes of it.
func (s *stage) finish() {
	s.t.Helper()
	for i := range 2 {
		if !s.Live(i) {
			s.Start(i)
		}
		s.SlowDisk(i, 0)
	}
	if s.Struck(s.victim) != nil {
		s.Advance(6 * time.Second) // what failed is tried again
	}
	s.Settle()
	if s.trial.publish != nil && !maps.Equal(s.Tree(0), s.script.new) {
		s.wholeAtRest("in the end", "", s.Tree(0), s.written && !s.trial.expires)
		s.trial.publish(s) // as whoever was interrupted does
		s.Settle()
	}
	s.sample()
	s.AssertSame()
	if s.origins != nil && !maps.Equal(s.origins, s.authors()) {
		s.t.Errorf("fe%d began a new incarnation: what it acknowledged it does not know", s.victim+1)
	}
	for _, difference := range testnet.Differences(s.script.new, s.Tree(0)) {
		s.t.Errorf("there should be, and is: %s", difference)
	}
	if s.trial.expires {
		s.Advance(time.Until(s.expiry) + time.Second)
		s.Settle()
		s.AssertSame()
		for p, is := range s.Tree(0) {
			if s.script.old[p] == "" && is[0] != 'd' {
				s.t.Errorf("%s has not expired", p)
			}
		}
	}
	for _, file := range s.trial.kept {
		if len(s.Archived(1, file)) == 0 {
			s.t.Errorf("%s was replaced on fe2 and is nowhere kept", file)
		}
	}
	for i := range 2 {
		for _, p := range s.Status(i).Problems {
			if p.Node == fmt.Sprintf("fe%d", i+1) && p.Code != control.StateDamaged {
				s.t.Errorf("fe%d has a problem: %s %s", i+1, p.Code, p.Text)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seen := range s.seen {
		s.t.Errorf("fe2 %s", seen)
	}
}
