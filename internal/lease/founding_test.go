package lease_test

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/internal/lease/rules"
)

func TestFounding(t *testing.T) {
	bubble(t, "three that start together begin one cluster, at once", func(t *testing.T) {
		w := threeIssuers(t)
		w.start(0, 1, 2)
		w.anyHolder(5 * time.Second)
		w.voters(3, 2*time.Minute)
		w.oneCluster()
	})
	bubble(t, "one after the other, each cut off from the first for a while", func(t *testing.T) {
		w := threeIssuers(t)
		w.split([]int{0}, []int{1}) // 2 sees both
		w.start(0, 1, 2)
		w.anyHolder(3 * time.Minute)
		time.Sleep(time.Minute)
		w.heal()
		w.voters(3, 5*time.Minute)
		w.oneCluster()
	})
	bubble(t, "a minority of the list waits", func(t *testing.T) {
		w := threeIssuers(t)
		w.start(1)
		time.Sleep(10 * time.Minute)
		if w.holder() >= 0 {
			t.Error("one of three began a cluster alone")
		}
		if !w.problem(1, lease.NoHolder) {
			t.Error("it does not say that nobody holds")
		}
		w.start(2)
		w.anyHolder(2 * ttl)
		w.start(0)
		w.voters(3, 5*time.Minute)
		w.oneCluster()
	})
	bubble(t, "one that starts late finds the others and joins", func(t *testing.T) {
		w := newWorld(t, issuers(5)...)
		w.start(4, 3, 2)
		w.anyHolder(2 * ttl)
		w.start(0, 1)
		w.voters(5, 5*time.Minute)
		w.oneCluster()
	})
	bubble(t, "a promise outlives a restart", func(t *testing.T) {
		w := threeIssuers(t)
		w.latency = 700 * time.Millisecond // long enough to be in the middle
		w.split([]int{0}, []int{1})
		w.start(0, 2)
		w.until(10*time.Second, "2 has promised itself to 0", func() bool { return w.machines[2].disk.copy().Promise == w.machines[0].id })
		w.split([]int{0}, []int{2})
		w.kill(2)
		w.start(2, 1)
		time.Sleep(ttl)
		if w.holder() == 1 {
			t.Error("a node that was promised to another founder helped a second one")
		}
		w.heal()
		w.anyHolder(3 * time.Minute)
		w.voters(3, 5*time.Minute)
		w.oneCluster()
	})
	bubble(t, "lists that differ found nothing, until they agree", func(t *testing.T) {
		w := newWorld(t, issuers(4)...)
		w.machines[0].list = w.roster(0, 1, 2)
		w.machines[1].list = w.roster(0, 1, 3)
		w.machines[2].list = w.roster(0, 2, 3)
		w.machines[3].list = w.roster(1, 2, 3)
		w.start(0, 1, 2, 3)
		time.Sleep(10 * time.Minute)
		if w.holder() >= 0 {
			t.Error("somebody founded with a list of its own")
		}
		for i := range 4 {
			time.Sleep(5 * time.Minute)
			w.setList(w.roster(0, 1, 2, 3), i)
		}
		w.anyHolder(2 * ttl)
		w.voters(3, 5*time.Minute)
	})
}

func TestTwoClustersAreSaidAndKeptApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		w.fork() // two foundings: each acts for itself until a person ends one
		w.machines[0].list = w.roster(0)
		w.machines[1].list, w.machines[2].list = w.roster(1, 2), w.roster(1, 2)
		w.start(0, 1, 2)
		time.Sleep(5 * time.Minute)
		w.setList(w.roster(0, 1, 2), 0, 1, 2)
		time.Sleep(5 * time.Minute)
		for i := range w.machines {
			if !w.problem(i, lease.TwoClusters) {
				t.Errorf("fe%d does not say that there are two clusters", i+1)
			}
		}
		w.kill(0) // what the problem tells a person to do
		w.wipe(0)
		w.start(0)
		w.voters(3, 5*time.Minute)
		w.oneCluster()
		for i := range w.machines {
			if w.problem(i, lease.TwoClusters) {
				t.Errorf("fe%d still says so", i+1)
			}
		}
	})
}

// TestAFounderThatFails: whatever becomes of a founder, there is one cluster in the end, and never two in which somebody acts.
func TestAFounderThatFails(t *testing.T) {
	bubble(t, "right after it first acted", func(t *testing.T) {
		w := threeIssuers(t)
		w.start(0, 1, 2)
		founder := w.anyHolder(5 * time.Second)
		epoch := w.machines[founder].raft.View().Epoch
		w.kill(founder)
		next := w.anyHolder(handover)
		if e := w.machines[next].raft.View().Epoch; e.Generation != epoch.Generation || e.Nonce != epoch.Nonce {
			t.Errorf("%v after %v: the others began another cluster", e, epoch)
		}
		time.Sleep(5 * time.Minute)
		w.start(founder)
		w.voters(3, 5*time.Minute)
		w.oneCluster()
	})
	bubble(t, "and its disk with it", func(t *testing.T) {
		w := threeIssuers(t)
		w.start(0, 1, 2)
		founder := w.anyHolder(5 * time.Second)
		w.kill(founder)
		w.wipe(founder)
		w.start(founder)
		w.anyHolder(handover)
		w.voters(3, 5*time.Minute)
		w.oneCluster()
	})
	for name, fault := range map[string]func(m *machine){
		"it stands still in the middle":           (*machine).freeze,
		"its disk writes and says that it failed": func(m *machine) { m.disk.fault(lying) },
		"its disk hangs":                          func(m *machine) { m.disk.fault(hanging) },
	} {
		bubble(t, name+", and others found meanwhile", func(t *testing.T) {
			w := threeIssuers(t)
			first := w.machines[0]
			founding := make(chan struct{})
			first.disk.before = func(c lease.Change) {
				if c.Reset {
					first.disk.before = nil
					fault(first)
					close(founding)
				}
			}
			w.start(0, 1, 2)
			<-founding
			w.isolate(0)
			w.anyHolder(rules.PromiseFor(ttl)+2*ttl, 0)
			first.disk.fault(healthy)
			first.thaw()
			time.Sleep(time.Minute) // it has founded too, and reaches nobody
			if first.disk.copy().Snapshot == nil {
				t.Fatal("it did not")
			}
			if first.raft.View().HeldHere {
				t.Error("it holds alone")
			}
			w.heal()
			w.voters(3, 5*time.Minute)
			w.oneCluster()
		})
	}
	bubble(t, "nobody has heard of it yet", func(t *testing.T) {
		w := threeIssuers(t)
		first := w.machines[0]
		founding := make(chan struct{})
		first.disk.before = func(c lease.Change) {
			if c.Reset {
				first.disk.before = nil
				close(founding)
				first.freeze()
			}
		}
		w.start(0, 1, 2)
		<-founding
		w.isolate(0)
		first.thaw()
		time.Sleep(time.Second)
		w.heal() // before the others are free to found: it is what it founded that they join
		w.anyHolder(2*term + time.Second)
		if w.holder() != 0 {
			t.Errorf("the founder does not hold\n%s", w.report())
		}
		w.voters(3, 5*time.Minute)
		w.oneCluster()
	})
}

// TestALargeListCanFound: what a founder sends grows with the list.
func TestALargeListCanFound(t *testing.T) {
	var all []rules.Seat
	for i := range 250 {
		all = append(all, rules.Seat{Node: fleet.NodeID{byte(i), 1}, Incarnation: math.MaxUint64 - uint64(i)})
	}
	line := rules.Line{Cluster: rules.Cluster{1}, Generation: math.MaxUint64, Nonce: math.MaxUint64}
	if n := len(rules.Found(line, all).Encode()) + 12*len(all); n > lease.MaxMessage {
		t.Errorf("%d bytes", n)
	}
}
