package lease_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	_ "certswarm/internal/bubble"
	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/internal/lease/rules"
)

// world is a fleet inside a synctest bubble: machines with disks and clocks that can go wrong, on a network that can. On each machine that
// issues, somebody acts whenever the lease allows it; whatever is done is checked against what must never happen.
type world struct {
	t        *testing.T
	ttl      time.Duration
	machines []*machine
	rng      *rand.Rand

	mu      sync.Mutex
	latency time.Duration
	loss    float64
	dropped map[[2]int]bool // one way
	acts    history
	lingers bool // who acts takes some time to end
	forked  bool // a recovery ran while the majority was only cut off: two lines act until they meet
}

// machine is one node, over the lives of its process.
type machine struct {
	w      *world
	n      int
	role   fleet.Role
	id     fleet.NodeID
	disk   *memoryDisk
	open   func(anew bool) (lease.Disk, error) // a disk in files instead; nil: disk
	list   fleet.Roster
	digest [32]byte          // of list
	links  map[int]time.Time // guarded by w.mu: connected since
	luck   *rand.Rand        // guarded by w.mu: of what it sends
	later  bool              // guarded by w.mu: it speaks as a later version might
	sent   int               // guarded by w.mu

	raft   *lease.Raft // nil: down; written under w.mu
	life   int         // written under w.mu
	cancel context.CancelFunc
	ended  chan struct{}
	logs   *bytes.Buffer

	mu      sync.Mutex
	frozen  chan struct{} // nil: the process runs
	wall    time.Duration // how wrong the wall clock is
	granted time.Time
}

func (m *machine) grantedAt() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.granted
}

const ttl = 30 * time.Second

// term is how long a vote takes at most where the ttl is that of most tests.
const term = ttl / 3

// vote bounds how long one vote takes: raft draws an election timeout between ElectionTicks and twice that.
func vote(ttl time.Duration) time.Duration { return 2 * rules.ElectionTicks * rules.Tick(ttl) }

func newWorld(t *testing.T, roles ...fleet.Role) *world {
	t.Helper()
	w := &world{t: t, ttl: ttl, latency: time.Millisecond, dropped: map[[2]int]bool{}}
	for i, role := range roles {
		w.add(i, role)
	}
	all := make([]int, len(roles))
	for i := range all {
		all[i] = i
	}
	for _, m := range w.machines {
		m.list = w.roster(all...)
	}
	t.Cleanup(w.end)
	w.chance(uint64(len(roles)))
	return w
}

// chance sets what becomes of messages: of each machine's own, so that it makes no difference who of two that speak at one moment is first.
func (w *world) chance(seed uint64) {
	w.rng = rand.New(rand.NewPCG(seed, 1))
	for _, m := range w.machines {
		m.luck = rand.New(rand.NewPCG(seed, 100+uint64(m.n)))
	}
}

// three issuers are most fleets.
func threeIssuers(t *testing.T) *world {
	return newWorld(t, fleet.Issuer, fleet.Issuer, fleet.Issuer)
}

func (w *world) add(i int, role fleet.Role) {
	m := &machine{w: w, n: i, role: role, id: fleet.NodeID{byte(i + 1)}, disk: &memoryDisk{}, links: map[int]time.Time{}}
	m.disk.stop = m.pause
	w.machines = append(w.machines, m)
}

// roster returns the list of some machines.
func (w *world) roster(members ...int) fleet.Roster {
	var list []fleet.Member
	for _, i := range members {
		list = append(list, fleet.Member{Name: fmt.Sprintf("fe%d", i+1), ID: w.machines[i].id, Role: w.machines[i].role})
	}
	r, err := fleet.NewRoster(list)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// start runs a machine's process.
func (w *world) start(numbers ...int) {
	for _, i := range numbers {
		m := w.machines[i]
		if m.raft != nil {
			w.t.Fatalf("fe%d is up", i+1)
		}
		m.logs = &bytes.Buffer{}
		m.disk.open(m.life + 1)
		w.mu.Lock()
		m.life++
		m.digest = m.list.Digest()
		m.raft = lease.NewRaft(lease.RaftConfig{
			Self: m.id, Roster: m.list, TTL: w.ttl, Network: &cable{m, m.life}, Clock: m.clock,
			OpenDisk: m.opener(m.life),
			Log:      slog.New(slog.NewTextHandler(&tail{m: m}, &slog.HandlerOptions{Level: slog.LevelInfo})),
		})
		w.mu.Unlock()
		ctx, cancel := context.WithCancel(context.Background())
		m.cancel, m.ended = cancel, make(chan struct{})
		life, engine, ended := m.life, m.raft, m.ended
		var all sync.WaitGroup
		all.Go(func() {
			if err := engine.Run(ctx); err != nil {
				w.t.Errorf("fe%d: %v", i+1, err)
			}
		})
		all.Go(func() { m.act(ctx, engine, life) })
		go func() { all.Wait(); close(ended) }()
		w.link()
		synctest.Wait() // one after the other, always: they draw from one source
	}
}

// opener returns how a life opens the machine's disk.
func (m *machine) opener(life int) func(bool) (lease.Disk, error) {
	if m.open != nil {
		return m.open
	}
	return func(anew bool) (lease.Disk, error) { return m.disk.handle(life, anew) }
}

// tail keeps a machine's log for a test that fails.
type tail struct{ m *machine }

func (l *tail) Write(line []byte) (int, error) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.m.logs.Len() > 1<<16 {
		l.m.logs.Reset()
	}
	return l.m.logs.Write(line)
}

// stop ends a process as SIGTERM does.
func (w *world) stop(numbers ...int) {
	for _, i := range numbers {
		w.machines[i].cancel()
	}
	for _, i := range numbers {
		w.machines[i].down()
	}
	w.link()
}

// kill ends a process as kill -9 does: nothing that it still does has an effect.
func (w *world) kill(numbers ...int) {
	for _, i := range numbers {
		m := w.machines[i]
		w.mu.Lock()
		m.life++ // its cable, its disk and its deeds are those of an earlier life from here on
		w.mu.Unlock()
		m.disk.open(m.life)
		m.thaw()
		m.cancel()
		m.down()
	}
	w.link()
}

// down waits for the end of a process.
func (m *machine) down() {
	<-m.ended
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	m.raft = nil
}

// wipe takes everything from the disk of a machine that is down.
func (w *world) wipe(numbers ...int) {
	for _, i := range numbers {
		w.machines[i].disk.wipe()
	}
}

func (w *world) end() {
	for _, m := range w.machines {
		if m.raft != nil {
			m.disk.fault(healthy)
			m.thaw()
			w.kill(m.n)
		}
		if w.t.Failed() && m.logs != nil {
			w.t.Logf("the log of fe%d:\n%s", m.n+1, lastLines(m.logs.String(), 40))
		}
	}
	if err := w.acts.check(); err != nil && !w.forked {
		w.t.Error(err)
	}
}

func lastLines(text string, most int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

// fork says that two lines act until they meet.
func (w *world) fork() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forked = true
}

// cut drops what goes from a to b; mute and deaf are made of it.
func (w *world) cut(a, b int) {
	w.mu.Lock()
	w.dropped[[2]int{a, b}] = true
	w.mu.Unlock()
	w.link()
}

// split cuts every connection between the sides.
func (w *world) split(sides ...[]int) {
	for i, side := range sides {
		for _, other := range sides[i+1:] {
			for _, a := range side {
				for _, b := range other {
					w.cut(a, b)
					w.cut(b, a)
				}
			}
		}
	}
}

// isolate cuts one machine off.
func (w *world) isolate(i int) {
	for _, m := range w.machines {
		if m.n != i {
			w.cut(i, m.n)
			w.cut(m.n, i)
		}
	}
}

func (w *world) heal() {
	w.mu.Lock()
	clear(w.dropped)
	w.mu.Unlock()
	w.link()
}

// link makes and ends sessions: two nodes are connected while both are up, have each other in their lists, and packets go at least one way. (A
// session that goes one way only ends by itself after a while; here it does not, which is harder.)
func (w *world) link() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.machines {
		for _, b := range w.machines {
			if a.n >= b.n {
				continue
			}
			up := a.raft != nil && b.raft != nil && !(w.dropped[[2]int{a.n, b.n}] && w.dropped[[2]int{b.n, a.n}]) && knows(a, b) && knows(b, a)
			_, linked := a.links[b.n]
			switch {
			case up && !linked:
				a.links[b.n], b.links[a.n] = time.Now(), time.Now()
			case !up && linked:
				delete(a.links, b.n)
				delete(b.links, a.n)
			}
		}
	}
}

func knows(a, b *machine) bool {
	_, ok := a.list.ByID(b.id)
	return ok
}

// setList gives a machine another peer list.
func (w *world) setList(list fleet.Roster, numbers ...int) {
	for _, i := range numbers {
		m := w.machines[i]
		w.mu.Lock()
		m.list, m.digest = list, list.Digest()
		w.mu.Unlock()
		if m.raft != nil {
			m.raft.SetRoster(list)
		}
	}
	w.link()
}

// act is who works on the machine: one irreversible step after another, each after it asked whether it may.
func (m *machine) act(ctx context.Context, engine *lease.Raft, life int) {
	for {
		called := m.w.acts.tick()
		grant, err := engine.Await(ctx)
		if err != nil {
			return
		}
		m.mu.Lock()
		m.granted = time.Now()
		m.mu.Unlock()
		var leave func()
		if m.w.lingers && called%3 == 0 {
			leave = grant.Enter()
		}
		for first := true; ; first = false {
			if !first {
				called = m.w.acts.tick()
			}
			if grant.Check() != nil {
				break
			}
			m.did(called, life, grant.Epoch(), first)
			select {
			case <-time.After(time.Duration(1+called%7) * 1037 * time.Millisecond): // at no moment at which renewals are
			case <-grant.Context().Done():
			}
		}
		<-grant.Context().Done()
		if leave != nil {
			time.AfterFunc(time.Duration(called%6)*700*time.Millisecond, leave)
		}
	}
}

func (m *machine) did(called int64, life int, epoch fleet.Epoch, first bool) {
	m.w.mu.Lock()
	dead, forked := m.life != life, m.w.forked
	m.w.mu.Unlock()
	if dead {
		return // killed: the step was never taken
	}
	if err := m.w.acts.acted(called, m.n, epoch, first); err != nil && !forked {
		m.w.t.Error(err)
	}
}

// holder returns who may act now, -1 if nobody.
func (w *world) holder() int {
	synctest.Wait()
	holder := -1
	for _, m := range w.machines {
		if m.raft != nil && !m.isFrozen() && m.raft.View().HeldHere {
			if holder >= 0 && !w.forked {
				w.t.Errorf("fe%d and fe%d both hold the lease", holder+1, m.n+1)
			}
			holder = m.n
		}
	}
	return holder
}

func (m *machine) isFrozen() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.frozen != nil
}

// until waits in virtual time, and returns how long it took.
func (w *world) until(limit time.Duration, what string, done func() bool) time.Duration {
	w.t.Helper()
	begin := time.Now()
	glance := min(max(limit/600, 5*time.Millisecond), 500*time.Millisecond)
	for !done() {
		if time.Since(begin) > limit {
			w.t.Fatalf("after %v still not: %s\n%s", limit, what, w.report())
		}
		time.Sleep(glance)
		synctest.Wait()
	}
	return time.Since(begin)
}

// anyHolder waits for a holder, other than those named.
func (w *world) anyHolder(limit time.Duration, not ...int) int {
	w.t.Helper()
	holder := -1
	w.until(limit, fmt.Sprintf("a holder (other than %v)", not), func() bool {
		holder = w.holder()
		return holder >= 0 && !slices.Contains(not, holder)
	})
	return holder
}

// voters waits until so many vote and see it, and nobody learns.
func (w *world) voters(n int, limit time.Duration) {
	w.t.Helper()
	w.until(limit, fmt.Sprintf("everybody sees %d voters", n), func() bool {
		sees := 0
		for _, m := range w.machines {
			if m.raft == nil {
				continue
			}
			if v := w.votes(m.n); v == n {
				sees++
			} else if v != 0 {
				return false
			}
		}
		return sees >= n
	})
	time.Sleep(5 * time.Second) // the change itself has two halves
}

// votes counts the voters that a machine sees, -1 while somebody learns.
func (w *world) votes(i int) int {
	n := 0
	for _, v := range w.machines[i].raft.View().Voters {
		if v.Learner {
			return -1
		}
		n++
	}
	return n
}

// report is for tests that fail.
func (w *world) report() string {
	var b strings.Builder
	for _, m := range w.machines {
		if m.raft == nil {
			fmt.Fprintf(&b, "fe%d is down\n", m.n+1)
			continue
		}
		v := m.raft.View()
		fmt.Fprintf(&b, "fe%d: holder %s epoch %v held %v leader %s voters", m.n+1, m.list.NameOf(v.Holder), v.Epoch, v.HeldHere, m.list.NameOf(v.Leader))
		for _, voter := range v.Voters {
			fmt.Fprintf(&b, " %s(learner %v, connected %v)", m.list.NameOf(voter.Node), voter.Learner, voter.Connected)
		}
		for _, p := range v.Problems {
			fmt.Fprintf(&b, "\n  %s: %s", p.Code, p.Text)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// problem reports whether a machine has one.
func (w *world) problem(i int, code lease.ProblemCode) bool {
	return slices.ContainsFunc(w.machines[i].raft.View().Problems, func(p lease.Problem) bool { return p.Code == code })
}

// settled starts a fleet and returns its holder once all vote.
func (w *world) settled(votes int) int {
	w.t.Helper()
	for i := range w.machines {
		w.start(i)
	}
	holder := w.anyHolder(ttl)
	w.voters(votes, 5*time.Minute)
	return holder
}
