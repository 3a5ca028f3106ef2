package syncer

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"

	"pgregory.net/rapid"
)

func (w *world) start() *world {
	for _, m := range w.machines {
		w.do([]string{"start", m.name})
	}
	return w
}

// Whatever is written, deleted, cut, crashed, lost and delayed: once all are connected again and time passes, all have the same.
func TestReplicasConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld("fe1", "fe2", "fe3")
		w.maxDelete = 100
		path := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		text := rapid.SampledFrom([]string{"one", "two", "three"})
		for _, m := range w.machines {
			if rapid.Bool().Draw(t, "something lay there") {
				w.do([]string{m.name, "has", path.Draw(t, "path"), text.Draw(t, "text"), "for", "1h"})
			}
		}
		w.start()
		machine := rapid.IntRange(0, len(w.machines)-1)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			m, other := w.machines[machine.Draw(t, "machine")], w.machines[machine.Draw(t, "other")]
			switch rapid.IntRange(0, 11).Draw(t, "step") {
			case 0, 1:
				m.do("writes", []string{path.Draw(t, "path"), text.Draw(t, "text")})
			case 2:
				m.do("writes-unsaved", []string{path.Draw(t, "path"), text.Draw(t, "text"), path.Draw(t, "path"), text.Draw(t, "text")})
			case 3:
				m.do("deletes", []string{path.Draw(t, "path")})
			case 4, 5:
				w.speak(m, other, false, false)
			case 6:
				w.speak(m, other, true, false)
			case 7:
				m.apply(false)
			case 8:
				w.do([]string{"time", rapid.SampledFrom([]string{"1ms", "200ms", "1s", "11s"}).Draw(t, "time")})
			case 9:
				if m.links[other] {
					m.cut(other)
				}
			case 10:
				if m != other && !m.links[other] {
					m.meet(other, false)
				}
			case 11:
				m.do("restarts", nil)
			}
		}
		for _, m := range w.machines {
			m.observe(m.scan(), true)
		}
		w.reconnect()
		w.do([]string{"time", "2s"})
		w.settle()
		w.reconnect() // what a connection did not notice, the next one does
		w.settle()

		first := w.machines[0]
		for _, m := range w.machines {
			if got, want := m.files(), first.files(); got != want {
				t.Fatalf("%s has %s, %s has %s\n%s", m.name, got, first.name, want, w.out.String())
			}
			if m.r.x.Fingerprint() != first.r.x.Fingerprint() || !m.r.x.Held().Equal(first.r.x.Held()) {
				t.Fatalf("%s does not know what %s knows: %v, %v", m.name, first.name, m.r.x.Held(), first.r.x.Held())
			}
			if len(m.r.jobs) > 0 || len(m.r.covers) > 0 || m.r.state() != InSync {
				t.Fatalf("%s is not done: %s", m.name, m.r.state())
			}
			if left := index.Observe(m.r.x, m.scan(), m.r.same); len(left) > 0 {
				t.Fatalf("the disk of %s is not what it thinks: %v", m.name, left)
			}
		}
	})
}

// What becomes durable while greetings are under way is in neither of them.
func TestWhatIsSavedWhileGreetingIsTold(t *testing.T) {
	w := newWorld("fe1", "fe2")
	w.do([]string{"start", "fe1"})
	w.do([]string{"start", "fe2"})
	fe1, fe2 := w.machines[0], w.machines[1]
	for _, m := range w.machines {
		for other := range m.links {
			m.cut(other)
		}
	}
	fe1.do("writes-unsaved", []string{"a", "one"})
	fe1.greet(fe2, false, fe1.save)
	w.settle()
	if v := fe2.r.peers[fe1.id()]; !v.acked.Covers(fe2.r.x.Held()) {
		t.Errorf("fe1 has said that it holds %v, of %v", v.acked, fe2.r.x.Held())
	}
}

func (w *world) reconnect() {
	for i, m := range w.machines {
		for _, other := range w.machines[:i] {
			if m.links[other] {
				m.cut(other)
			}
			m.meet(other, false)
		}
	}
}

func (m *machine) files() string {
	out := map[string]string{}
	for p, found := range m.disk {
		out[p.String()] = m.textOf(found.Content)
	}
	return fmt.Sprint(out)
}

// liar is a writer that numbers and batches its entries as it likes.
func liar(number func(i int) (seq, batch uint64), n int) (index.Origin, ed25519.PublicKey, []*index.Entry) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	o := index.Origin{Node: fleet.IDOf(key.Public().(ed25519.PublicKey)), Incarnation: 1}
	entries := make([]*index.Entry, n)
	for i := range entries {
		seq, batch := number(i)
		entries[i] = &index.Entry{Path: index.MustPath(fmt.Sprintf("%05d", i)), Origin: o, Seq: seq, Batch: batch,
			Content: index.Symlink{Target: "x"}, Stamp: index.Stamp{Written: true, HLC: 1, Node: o.Node}}
	}
	wire.Scope{Cluster: "edge", Directory: "certs"}.Seal(entries, func(message []byte) []byte { return ed25519.Sign(key, message) })
	return o, key.Public().(ed25519.PublicKey), entries
}

// A relay must get through whatever numbers an origin gave: to the end, in frames that a receiver takes.
func TestRelayingALiarsNumbers(t *testing.T) {
	const n = 2*wire.MaxEntries + 7
	for name, number := range map[string]func(i int) (seq, batch uint64){
		"one batch for ever":     func(i int) (uint64, uint64) { return uint64(i + 1), 1 << 40 },
		"every number the same":  func(int) (uint64, uint64) { return 7, 7 },
		"batches that overlap":   func(i int) (uint64, uint64) { return uint64(i + 1), uint64(i + 1 + i%5000) },
		"honest, one by one":     func(i int) (uint64, uint64) { return uint64(i + 1), uint64(i + 1) },
		"honest, a thousand":     func(i int) (uint64, uint64) { return uint64(i + 1), uint64(i/1000*1000 + 1000) },
		"numbers far from small": func(i int) (uint64, uint64) { return 1<<63 + uint64(i), 1<<63 + uint64(i) },
	} {
		w := newWorld("fe1", "fe2").start()
		fe1, fe2 := w.machines[0].r, w.machines[1].id()
		o, key, entries := liar(number, n)
		fe1.keys[o.Node] = key
		for _, e := range entries {
			fe1.x.Merge(e)
		}
		fe1.x.Hold(o, entries[n-1].Seq)
		offered, after := 0, uint64(0)
		for frames := 0; ; frames++ {
			f, ok := fe1.next(w.now, fe2).(wire.Offer)
			if !ok {
				break
			}
			if f.Through <= after || f.After != after || len(f.Entries) > wire.MaxEntries || frames > n {
				t.Fatalf("%s: frame %d offers %d entries, %d..%d after %d", name, frames, len(f.Entries), f.After, f.Through, after)
			}
			for i, e := range f.Entries {
				if e.Seq > f.Through || i > 0 && e.Seq < f.Entries[i-1].Seq {
					t.Fatalf("%s: number %d in an offer through %d", name, e.Seq, f.Through)
				}
			}
			offered, after = offered+len(f.Entries), f.Through
		}
		if after != entries[n-1].Seq || offered != n && name != "every number the same" {
			t.Errorf("%s: %d of %d offered, through %d", name, offered, n, after)
		}
	}
}

// receiving is a replica and a peer that may send it whatever it likes.
func receiving(t *testing.T) (*world, *replica, fleet.NodeID) {
	w := newWorld("fe1", "fe2").start()
	return w, w.machines[0].r, w.machines[1].id()
}

func TestWhatIsUnderWayIsBounded(t *testing.T) {
	w, r, from := receiving(t)
	o, key, entries := liar(func(i int) (uint64, uint64) { return uint64(i + 1), uint64(i + 1) }, 1000)
	offer := func(i int, inline int) {
		f := wire.Offer{Directory: "certs", Origin: o, Key: key, After: uint64(i), Through: uint64(i + 1), Entries: entries[i : i+1]}
		if inline > 0 {
			f.Inline = map[index.Digest][]byte{{1}: make([]byte, inline)}
		}
		r.receive(w.now, from, f)
	}
	for i := range entries {
		offer(i, 0)
	}
	if len(r.jobs) != maxJobs || !r.peers[from].again {
		t.Errorf("%d offers wait, and the rest is asked for again: %v", len(r.jobs), r.peers[from].again)
	}

	w, r, from = receiving(t)
	for i := range 40 {
		offer(i, 6<<20)
	}
	if got := len(r.jobs) * 6 << 20; got > maxWaiting+6<<20 {
		t.Errorf("%d bytes wait", got)
	}

	w, r, from = receiving(t)
	offer(0, 0)
	for i := range 1000 { // empty ones wait for the first
		r.receive(w.now, from, wire.Offer{Directory: "certs", Origin: o, Key: key, After: 1, Through: uint64(i + 2)})
	}
	if len(r.covers) > maxJobs {
		t.Errorf("%d empty offers wait", len(r.covers))
	}
}

func TestInventedOriginsDoNotFillAGreeting(t *testing.T) {
	w, r, from := receiving(t)
	for i := range 3 * maxOrigins {
		key := make(ed25519.PublicKey, ed25519.PublicKeySize)
		binary.BigEndian.PutUint64(key, uint64(i))
		r.receive(w.now, from, wire.Offer{Directory: "certs", Origin: index.Origin{Node: fleet.IDOf(key)}, Key: key, Through: 1})
	}
	if n := len(r.x.Held()); n > maxOrigins || n > wire.MaxOrigins || len(r.keys) > maxOrigins {
		t.Errorf("%d origins and %d keys are held", n, len(r.keys))
	}
}

// An offer that waits for a job must not make the next one look like a gap.
func TestOffersFollowOnWhatWaits(t *testing.T) {
	w, r, from := receiving(t)
	o, key, entries := liar(func(i int) (uint64, uint64) { return uint64(i + 1), uint64(i + 1) }, 3)
	offer := func(after, through uint64, entries ...*index.Entry) {
		r.receive(w.now, from, wire.Offer{Directory: "certs", Origin: o, Key: key, After: after, Through: through, Entries: entries})
	}
	offer(0, 1, entries[0])
	offer(1, 2) // nothing of it is left
	offer(2, 3, entries[2])
	if r.peers[from].again || len(r.jobs) != 2 {
		t.Errorf("%d jobs; asked again: %v", len(r.jobs), r.peers[from].again)
	}
	w.machines[0].apply(false)
	if got := r.x.Held()[o]; got != 3 || len(r.covers) > 0 {
		t.Errorf("held through %d, %d covers are left", got, len(r.covers))
	}
}

// A revert whose content nobody has waits while somebody is away, longer each time; it does not spin.
func TestARevertWithoutContentWaits(t *testing.T) {
	w := newWorld("fe1", "fe3")
	for _, m := range w.machines {
		m.writers = []string{"fe1"}
	}
	w.start()
	fe1, fe3 := w.machines[0], w.machines[1]
	fe1.do("writes", []string{"a", "one"})
	w.settle()
	fe3.cut(fe1)
	fe3.do("writes", []string{"a", "mine"})
	for tries, wait := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		j := fe3.r.work(w.now)
		if j == nil || !j.isRevert() {
			t.Fatalf("try %d: %v", tries, j)
		}
		fe3.r.abandon(w.now, j, j.entries[0])
		if again := fe3.r.work(w.now); again != nil {
			t.Fatal("it is tried again at once")
		}
		if at := fe3.r.wake(w.now); !at.Equal(w.now.Add(wait)) {
			t.Fatalf("after try %d it wakes after %s, not %s", tries, at.Sub(w.now), wait)
		}
		w.now = w.now.Add(wait)
	}
	fe3.apply(false)
	if got := fe3.files(); got != `map[a:"one"]` {
		t.Errorf("in the end fe3 has %s", got)
	}
}

// A tombstone must outlive every older version that is still on its way to the disk.
func TestATombstoneWaitsForTheJobsItBeats(t *testing.T) {
	w, r, from := receiving(t)
	fe1, fe2 := w.machines[0], w.machines[1]
	o, key, entries := liar(func(i int) (uint64, uint64) { return uint64(i + 1), uint64(i + 1) }, 1)
	p := entries[0].Path
	r.receive(w.now, from, wire.Offer{Directory: "certs", Origin: o, Key: key, Through: 1, Entries: entries})
	slow := r.work(w.now) // its content is being fetched

	dead := &index.Entry{Path: p, Origin: fe2.r.self, Content: index.Tombstone{}, Stamp: index.Stamp{Written: true, HLC: 2, Node: from}}
	fe2.r.number([]*index.Entry{dead})
	fe2.r.adopt([]*index.Entry{dead})
	fe2.save()
	w.settle()
	if r.x.Tombstones() != 1 {
		t.Fatal("the tombstone is forgotten")
	}
	if plan := r.plan(slow); len(plan) != 0 {
		t.Fatalf("what was deleted comes back: %v", plan)
	}
	r.finish(w.now, slow, nil, false)
	w.settle()
	if r.x.Live(p) != nil || len(fe1.disk) > 0 {
		t.Error("what was deleted came back")
	}
}

// Own numbers beyond what the state says: it is older than what was sent under it. They are given, and no number below them is used.
func TestAnOldStateLearnsItsNumbers(t *testing.T) {
	w := newWorld("fe1", "fe2").start()
	fe1, fe2 := w.machines[0], w.machines[1]
	fe1.do("writes", []string{"a", "one"})
	fe1.r.seq = fe1.ceiling + 500 // of which the state that is restored below knows nothing
	fe1.r.ceiling = fe1.r.seq + 10
	fe1.do("writes", []string{"b", "two"})
	given := fe1.r.seq
	w.settle()
	fe1.stop()
	fe1.entries, fe1.held = map[index.Path]*index.Entry{}, index.Summary{}
	fe1.ceiling, fe1.disk = 0, map[index.Path]index.Found{}
	fe1.start()
	fe1.r.rejoined = w.now // it may not begin anew again so soon
	fe1.meet(fe2, false)
	w.settle()
	if fe1.r.seq < given || fe1.files() != `map[a:"one" b:"two"]` {
		t.Errorf("the next number is %d, %d was given; it has %s", fe1.r.seq+1, given, fe1.files())
	}
	if fe1.r.room(1) {
		t.Error("a number is given that is not reserved")
	}
	fe1.r.ceiling = fe1.r.seq + 10
	fe1.do("writes", []string{"c", "three"})
	w.settle()
	if fe2.files() != fe1.files() {
		t.Errorf("fe2 has %s", fe2.files())
	}
}

func TestStamps(t *testing.T) {
	w := newWorld("fe1").start()
	fe1 := w.machines[0]
	r := fe1.r
	t0 := index.HLCOf(w.now)
	found := func(modified, changed time.Duration) index.Change {
		return index.Change{Path: index.MustPath("a"), Content: w.content("x"),
			Found: index.Found{Modified: w.now.Add(modified), Changed: w.now.Add(changed)}}
	}
	stamp := func(c index.Change) index.Stamp { s := r.stampFor(w.now, c); s.Node = fleet.NodeID{}; return s }

	first, second := stamp(found(-time.Hour, 0)), stamp(found(-time.Hour, 0))
	if !first.Written || first.HLC < t0 || second.HLC <= first.HLC {
		t.Errorf("two writes in one moment: %+v, %+v", first, second)
	}
	w.now = w.now.Add(-time.Hour)
	if third := stamp(found(0, 0)); third.HLC <= second.HLC {
		t.Errorf("the clock went back, and so did the stamps: %+v", third)
	}
	w.now = w.now.Add(time.Hour)

	r.seeded, r.fresh = false, false // changed while the agent was down
	if got := stamp(found(-2*time.Hour, -time.Hour)); !got.Written || got.HLC != index.HLCOf(w.now.Add(-time.Hour)) {
		t.Errorf("dated %v, not by its ctime", got.HLC.Time())
	}
	if got := stamp(found(0, time.Hour)); got.HLC != index.HLCOf(w.now) {
		t.Errorf("a ctime in the future: %v", got.HLC.Time())
	}
	known := &index.Entry{Path: index.MustPath("a"), Origin: r.self, Stamp: index.Stamp{Written: true, HLC: t0 + 5}, Content: w.content("old")}
	r.x.Merge(known)
	if got := stamp(found(0, -time.Hour)); got.HLC != t0+6 {
		t.Errorf("older than what it replaces: %d", got.HLC-t0)
	}

	r.fresh = true // was merely found
	if got := stamp(found(-time.Hour, 0)); got.Written || got.HLC != index.HLCOf(w.now.Add(-time.Hour)) {
		t.Errorf("%+v", got)
	}
	if got := stamp(found(time.Hour, 0)); got.HLC != index.HLCOf(w.now) {
		t.Errorf("modified in the future: %v", got.HLC.Time())
	}
}

func TestRefusals(t *testing.T) {
	w, r, _ := receiving(t)
	r.mayLease = func(fleet.NodeID) bool { return false }
	id := w.machines[1].id()
	for want, e := range map[string]*index.Entry{
		"": {Content: index.File{Size: r.maxFile}, Stamp: index.Stamp{HLC: index.HLCOf(w.now.Add(futureLimit))}},
		"1048577 bytes; max_file_size is 1048576":         {Content: index.File{Size: r.maxFile + 1}},
		"the clock of fe2 is 10m0s ahead":                 {Content: index.Tombstone{}, Stamp: index.Stamp{HLC: index.HLCOf(w.now.Add(futureLimit)) + 1}},
		"fe2 may not hold the lease, yet wrote under one": {Content: index.Tombstone{}, Stamp: index.Stamp{Epoch: fleet.Epoch{Term: 1}}},
		"somebody is not one of the writers of certs":     {Content: index.Tombstone{}, Origin: index.Origin{Node: fleet.NodeID{9}}},
	} {
		e.Path = index.MustPath("a")
		if e.Origin.Node.IsZero() {
			e.Origin.Node = id
		}
		r.mayWrite = func(who fleet.NodeID) bool { return who == id }
		if got := r.refuse(w.now, e.Origin.Node, e); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

// A newcomer gets what a node wrote before it left the fleet, from whoever may write; not from whoever may not.
func TestWhatARetiredNodeWroteIsTakenFromAWriter(t *testing.T) {
	w, r, _ := receiving(t)
	writer, stranger := w.machines[1].id(), fleet.NodeID{8}
	r.mayWrite = func(who fleet.NodeID) bool { return who == writer }
	e := &index.Entry{Path: index.MustPath("a"), Content: index.Tombstone{}, Origin: index.Origin{Node: fleet.NodeID{9}}}
	if got := r.refuse(w.now, writer, e); got != "" {
		t.Errorf("refused although a writer vouches for it: %s", got)
	}
	if got := r.refuse(w.now, stranger, e); got == "" {
		t.Error("taken on the word of somebody who may not write")
	}
	members := r.members()
	r.members = func() []fleet.NodeID { return append(members, fleet.NodeID{9}) }
	if got := r.refuse(w.now, writer, e); got == "" {
		t.Error("a member that may not write wrote by way of a relay")
	}
}

// What could not be saved is tried again, whole.
func TestUntake(t *testing.T) {
	w := newWorld("fe1").start()
	r := w.machines[0].r
	w.machines[0].do("writes-unsaved", []string{"a", "one", "b", "two"})
	r.dirty[index.MustPath("gone")] = true
	u := r.takeDirty()
	if again := r.takeDirty(); !again.Empty() {
		t.Errorf("taken twice: %+v", again)
	}
	r.untake(u)
	again := r.takeDirty()
	names := func(entries []*index.Entry) []string {
		var out []string
		for _, e := range entries {
			out = append(out, e.Path.String())
		}
		slices.Sort(out)
		return out
	}
	if !slices.Equal(names(u.Put), names(again.Put)) || !slices.Equal(u.Remove, again.Remove) || !maps.Equal(u.Held, again.Held) {
		t.Errorf("took %+v, then %+v", u, again)
	}
	if r.durable[r.self] != 0 {
		t.Error("durable before it was saved")
	}
	r.persisted(w.now, again)
	if r.durable[r.self] != 2 {
		t.Errorf("durable through %d", r.durable[r.self])
	}
}
