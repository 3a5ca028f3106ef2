package testnet

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"certswarm/internal/durable"
	"certswarm/syncer"

	"golang.org/x/sys/unix"
)

// Outcome is what becomes of an effect on a node's disk.
type Outcome int

// The outcomes.
const (
	Killed   Outcome = iota // the process ends right before it
	Torn                    // the process ends in the middle of it
	PowerCut                // the machine stops right before it, and what was not synced may be lost
	Fails                   // it does not happen, and an error says so
	Lies                    // it happens, and an error says that it did not
)

// String returns the outcome in the words of a test's name.
func (o Outcome) String() string {
	return [...]string{"killed", "torn", "power cut", "fails", "lies"}[o]
}

// Fault strikes one of the effects of a node's agent.
type Fault struct {
	Effect  int // how many come before it
	Outcome Outcome
	Err     error   // of Fails and Lies
	Times   int     // how often the same effect is struck before it succeeds; default: 1
	Survive float64 // of PowerCut: which share of the changes that were not synced survives, the earliest first
}

// disk stands between a node's agent and its disk. It takes part in every effect of the replication; those of others it lets pass.
type disk struct {
	node *node

	mu      sync.Mutex
	armed   bool                 // guarded by mu
	fault   *Fault               // guarded by mu; nil: nothing is struck
	trace   []durable.Effect     // guarded by mu: since it was armed
	struck  *durable.Effect      // guarded by mu
	hits    int                  // guarded by mu
	dead    atomic.Bool          // the process is only waiting to be buried; set under mu
	losses  losses               // guarded by mu: what a power cut may take
	look    func(durable.Effect) // guarded by mu; nil: nobody looks
	delayed time.Duration        // guarded by mu
}

func (d *disk) of(n *node) { d.node = n }

func (d *disk) isDead() bool { return d.dead.Load() }

// errDead is what a process hears that does not know yet that it has ended. It looks like a full disk, for which nobody throws anything away.
var errDead = fmt.Errorf("the process has been killed: %w", unix.ENOSPC)

// interpose is a durable.Interposer.
func (d *disk) interpose(e durable.Effect, do func() error) error {
	if !d.concerns(e) {
		if d.isDead() {
			return errDead
		}
		return do()
	}
	d.dawdle(e)
	d.mu.Lock()
	if d.dead.Load() {
		d.mu.Unlock()
		return errDead
	}
	if !d.armed {
		d.mu.Unlock()
		return do()
	}
	defer d.mu.Unlock()
	n := len(d.trace)
	d.trace = append(d.trace, e)
	if d.fault != nil && (d.struck == nil && n == d.fault.Effect || d.struck != nil && d.hits < d.fault.Times && alike(*d.struck, e)) {
		return d.strike(e, do)
	}
	return d.happen(e, do)
}

// concerns reports whether an effect is one of the replication of the node's directory.
func (d *disk) concerns(e durable.Effect) bool {
	if e.Dir == d.node.state() {
		return strings.HasPrefix(e.Name, "sync") || strings.HasPrefix(e.Name, "archive")
	}
	return e.Dir == d.node.files() || e.Dir == filepath.Join(d.node.state(), "archive", directory)
}

// alike reports whether an effect is the same as another, tried again.
func alike(a, b durable.Effect) bool {
	switch {
	case a.Act != b.Act || a.Dir != b.Dir:
		return false
	case a.Act == durable.ActWriteIntent:
		return true
	case a.Act == durable.ActKeep:
		return path.Dir(a.Name) == path.Dir(b.Name)
	}
	return a.Name == b.Name
}

// dawdle takes its time over what is done without a lock: whoever waits for a lock stops a bubble's clock. What was struck is taken back under one.
func (d *disk) dawdle(e durable.Effect) {
	slow := []durable.Act{durable.ActStage, durable.ActSync, durable.ActSyncAll, durable.ActWriteIntent}
	d.mu.Lock()
	delay := d.delayed
	if d.struck != nil {
		delay = 0
	}
	d.mu.Unlock()
	if delay > 0 && slices.Contains(slow, e.Act) {
		time.Sleep(delay)
	}
}

// happen does an effect, and has it looked at. The lock is held.
func (d *disk) happen(e durable.Effect, do func() error) error {
	d.losses.expect(e)
	err := d.do(e, do)
	if d.dead.Load() {
		return errDead
	}
	d.losses.note(e, err)
	if d.look != nil {
		d.look(e)
	}
	return err
}

// do does an effect. What is staged may have to come over the network first, for which nobody is to wait.
func (d *disk) do(e durable.Effect, do func() error) error {
	if e.Act != durable.ActStage {
		return do()
	}
	d.mu.Unlock()
	err := do()
	d.mu.Lock()
	if d.dead.Load() {
		_ = os.Remove(tempOf(e)) // it came after the end
	}
	return err
}

// strike does with an effect what the fault says. The lock is held.
func (d *disk) strike(e durable.Effect, do func() error) error {
	d.struck = &e
	d.hits++
	switch d.fault.Outcome {
	case Fails:
		return d.fault.Err
	case Lies:
		if e.Act == durable.ActOpen || e.Act == durable.ActStage || e.Act == durable.ActPrepare {
			return d.fault.Err // what was opened would stay so; what was staged and says it is not was removed
		}
		return errors.Join(d.happen(e, do), d.fault.Err)
	case Torn:
		d.losses.tear(e, func() error { return d.do(e, do) })
	}
	d.dead.Store(true)
	return errDead
}

// Strike has a fault strike the effects of a node from now on, or of its next agent if it is down. What Effects tells begins anew.
func (f *Fleet) Strike(i int, fault Fault) {
	f.arm(i, &fault)
}

// Record begins to take down the effects of a node, without any fault.
func (f *Fleet) Record(i int) { f.arm(i, nil) }

func (f *Fleet) arm(i int, fault *Fault) {
	d := &f.nodes[i].disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if fault != nil {
		fault.Times = max(fault.Times, 1)
	}
	d.armed, d.fault, d.trace, d.struck, d.hits = true, fault, nil, nil, 0
	d.losses.in(filepath.Join(f.nodes[i].base, "lost"))
}

// Calm ends all faults of a node. One that was killed stays so.
func (f *Fleet) Calm(i int) {
	d := &f.nodes[i].disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dead.Load() {
		d.fault = nil
	}
}

// Effects returns what a node's agent did to its disk since Record or Strike.
func (f *Fleet) Effects(i int) []durable.Effect {
	d := &f.nodes[i].disk
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.trace)
}

// Struck returns the effect that a fault struck, nil while none was.
func (f *Fleet) Struck(i int) *durable.Effect {
	d := &f.nodes[i].disk
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.struck
}

// Dead reports whether a fault has ended a node's process.
func (f *Fleet) Dead(i int) bool { return f.nodes[i].disk.isDead() }

// Look has do called right after every effect of a node that is recorded, on the goroutine that did it; nil ends that.
func (f *Fleet) Look(i int, do func(durable.Effect)) {
	d := &f.nodes[i].disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.look = do
}

// SlowDisk has a node wait that long for what it does to its disk without holding up others.
func (f *Fleet) SlowDisk(i int, delay time.Duration) {
	d := &f.nodes[i].disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delayed = delay
}

// PullPlug cuts a node's power now, in a moment in which nothing moves. See Bury.
func (f *Fleet) PullPlug(i int, survive float64) {
	synctest.Wait()
	d := &f.nodes[i].disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = &Fault{Outcome: PowerCut, Survive: survive}
	d.dead.Store(true)
}

// Bury clears away a process that a fault has killed, and takes from the disk what the power cut took if it was one. The node is down then.
func (f *Fleet) Bury(i int) {
	f.t.Helper()
	n := f.nodes[i]
	d := &n.disk
	if !d.isDead() {
		f.t.Fatalf("%s is not dead", name(i))
	}
	if n.running() {
		_ = n.stop() // whatever it says is not heard
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fault.Outcome == PowerCut {
		if err := d.losses.take(d.fault.Survive); err != nil {
			f.t.Fatalf("%s: %v", name(i), err)
		}
	}
	if err := d.losses.forget(); err != nil {
		f.t.Fatal(err)
	}
	d.armed, d.fault, d.look = false, nil, nil
	d.dead.Store(false)
}

// TryStart starts a node that a fault may kill while it starts, or keep from it. It reports whether the node is up.
func (f *Fleet) TryStart(i int) bool {
	f.t.Helper()
	n := f.nodes[i]
	err := n.start(f.net, f.adjust(i))
	if err != nil && n.disk.happens() {
		f.t.Fatalf("%s does not start: %v", name(i), err)
	}
	return err == nil
}

// happens reports whether nothing was struck.
func (d *disk) happens() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.struck == nil
}

// Directory returns a running node's replicated directory, for what the engines ask of it.
func (f *Fleet) Directory(i int) *syncer.Directory { return f.nodes[i].dirs[0] }
