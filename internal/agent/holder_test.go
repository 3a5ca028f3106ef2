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

// acme: comes to one node after the other. A holder without it is named, and leaves the lease to the others when they all have it.
func TestAHolderWithoutACMEPassesTheLeaseOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		options := withCertificates(testnet.Options{Nodes: 3})
		const section = "acme: {accept_terms: true, http01_address: '127.0.0.1:1'}\ncertificates: [{name: www.example.com}]\n"
		with := options.Config
		options.Config = func(i int, yaml string) string { return strings.Replace(with(i, yaml), section, "# nothing yet\n", 1) }
		var requests atomic.Int32
		edges := options.Edges
		options.Edges = func(i int, e *agent.Edges) {
			edges(i, e)
			e.CA = counted{&requests}
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
		introduce((holder + 1) % 3)
		for i := range 3 {
			s := f.Status(i)
			if want := "fe" + string(rune('1'+holder)) + " holds the lease, and has no acme:"; !tells(s, control.NoLeaseHolder, want) {
				t.Errorf("fe%d does not say that %s: %+v", i+1, want, s.Problems)
			}
		}
		if !f.Status(holder).Lease.HeldHere {
			t.Error("the lease has moved to where it may be of no more use")
		}
		introduce((holder + 2) % 3)
		f.Advance(leaseTTL)
		if s := f.Status(holder); s.Lease.HeldHere || s.Lease.Holder == "" || tells(s, control.NoLeaseHolder, "") {
			t.Errorf("the lease is %+v, %+v", s.Lease, s.Problems)
		}
		if requests.Load() == 0 {
			t.Error("nobody asks the CA")
		}
	})
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
