package agent_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent"
	"certswarm/internal/control"
	"certswarm/testnet"
)

// acme: comes to one node after the other, and to some maybe never. A holder without it is named as long as nobody else can do better, and then
// leaves the lease to the one that has it: not to whoever takes it, and not only once all have it.
func TestAHolderWithoutACMEPassesTheLeaseOn(t *testing.T) {
	for _, first := range []int{1, 2} { // nodes after the holder: each of those who could take it over
		synctest.Test(t, func(t *testing.T) {
			options := withCertificates(testnet.Options{Nodes: 3})
			const section = "acme: {accept_terms: true, http01_address: '127.0.0.1:1'}\ncertificates: [{name: www.example.com}]\n"
			with := options.Config
			options.Config = func(i int, yaml string) string { return strings.Replace(with(i, yaml), section, "# nothing yet\n", 1) }
			var requests atomic.Int32
			edges := options.Edges
			options.Edges = func(i int, e *agent.Edges) {
				edges(i, e)
				e.CA = refusing{&requests} // one that cannot be reached would move the lease
			}
			f := testnet.New(t, options)
			f.Settle()
			holder := voting(t, f, 3, 3, 5*time.Minute)
			introduce := func(i int) {
				t.Helper()
				if err := reconfigure(t, f, i, "# nothing yet\n", section); err != nil {
					t.Fatal(err)
				}
				f.Advance(leaseTTL / 2)
			}
			able, last := (holder+first)%3, (holder+3-first)%3
			name := func(i int) string { return "fe" + string(rune('1'+i)) }

			begun := f.Status(holder).Lease.Epoch
			f.Cut(holder, able)
			f.Advance(leaseTTL)
			if l := f.Status(last).Lease; l.Holder != name(holder) || l.Epoch != begun {
				t.Fatalf("the lease is given to those who can do no better: it was %v's under %v, and is %+v", name(holder), begun, l)
			}
			introduce(able)
			if want := name(holder) + " holds the lease, and has no acme:"; !f.Status(holder).Lease.HeldHere || !tells(f.Status(last), control.NoLeaseHolder, want) {
				t.Errorf("%s does not keep what nobody who is there can take, or %s does not say so: %+v", name(holder), name(last), f.Status(last))
			}
			f.Heal()
			f.Advance(leaseTTL)
			for i := range 3 {
				if s := f.Status(i); s.Lease.Holder != name(able) || tells(s, control.NoLeaseHolder, "") {
					t.Errorf("by %s it is not %s that holds the lease: %+v, %+v", name(i), name(able), s.Lease, s.Problems)
				}
			}
			if s := f.Status(able); !slices.ContainsFunc(s.Problems, func(p control.Problem) bool {
				return p.Code == control.WriteFailed && strings.Contains(p.Text, "without acme: in the configuration: ") && strings.Contains(p.Next, ": add acme: ")
			}) {
				t.Errorf("%s does not say that it waits for others who have acme:, too: %+v", name(able), s.Problems)
			}
			if now := f.Status(able).Lease.Epoch; now.Term != begun.Term+1 {
				t.Errorf("from %v to %v the lease went round", begun, now)
			}
			f.Stop(able)
			f.Advance(2 * leaseTTL)
			if s := f.Status(last); s.Lease.Holder == "" || tells(s, control.NoLeaseHolder, "") {
				t.Errorf("somebody who is gone shall do it: %+v, %+v", s.Lease, s.Problems)
			}
			f.Start(able)
			f.Advance(2 * leaseTTL)
			epoch := f.Status(able).Lease.Epoch
			introduce(last)
			if l := f.Status(able).Lease; !l.HeldHere || l.Epoch != epoch || requests.Load() == 0 {
				t.Errorf("the lease moved for nothing, or nobody asks the CA (%d requests): %+v", requests.Load(), l)
			}
		})
	}
}

// Whoever becomes the holder acts on what the fleet knows, not on what it knew when it was there last.
func TestANewHolderAsksWhatTheOthersKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests atomic.Int32
		options := withCertificates(testnet.Options{Nodes: 3})
		with := options.Config
		options.Config = func(i int, yaml string) string { return with(i, yaml) + "lease: {engine: static}\n" }
		edges := options.Edges
		options.Edges = func(i int, e *agent.Edges) {
			edges(i, e)
			if i == 1 {
				e.CA = counted{&requests}
			}
		}
		f := testnet.NewDown(t, options)
		f.Start(1)
		f.Advance(20 * time.Second) // what a start waits for is over
		if err := reconfigure(t, f, 1, peerLine(t, f, 1, "fe1"), ""); err != nil {
			t.Fatal(err)
		}
		f.Advance(5 * time.Second)
		if l := f.Status(1).Lease; !l.HeldHere || requests.Load() > 0 {
			t.Errorf("fe2 asked the CA %d times before it heard from fe3, with the lease %+v", requests.Load(), l)
		}
		f.Advance(5 * time.Second)
		if requests.Load() == 0 {
			t.Error("fe2 waits for ever for a node that is gone")
		}
	})
}

// Each of two nodes comes first in its own list. They hear each other: one holds the lease, and both know what is wrong.
func TestAPairWithListsOfAnotherOrderHasOneHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 2, Config: func(node int, yaml string) string {
			first, second := strings.Index(yaml, "  - {name: fe1"), strings.Index(yaml, "  - {name: fe2")
			end := second + strings.Index(yaml[second:], "\n") + 1
			if node == 1 {
				return yaml[:first] + yaml[second:end] + yaml[first:second] + yaml[end:]
			}
			return yaml
		}})
		f.Settle()
		f.Advance(2 * time.Minute)
		held := 0
		for node := range 2 {
			s := f.Status(node)
			if s.Lease.HeldHere {
				held++
			}
			if !slices.ContainsFunc(s.Problems, func(p control.Problem) bool { return p.Code == control.TwoClusters }) {
				t.Errorf("fe%d does not say it: %+v", node+1, s.Problems)
			}
		}
		if a, b := f.Status(0).Lease, f.Status(1).Lease; held != 1 || a.Holder != b.Holder || a.Epoch != b.Epoch {
			t.Errorf("%d hold the lease: %+v and %+v", held, a, b)
		}
	})
}
