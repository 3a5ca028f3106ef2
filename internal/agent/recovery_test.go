package agent_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet"
)

// What `lease recover` would do is said before anybody is asked, and so is which voters are not there.
func TestWhatARecoveryWouldDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 3, Latency: time.Millisecond})
		f.Settle()
		holder := voting(t, f, 3, 3, 5*time.Minute)
		asked := func() (page, refused string, rebuilds bool) {
			t.Helper()
			r, err := f.Agent(0).Recovery(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range r.Standings {
				page += fmt.Sprintf("%s %v, ", s.Node, s.Reached)
			}
			if r.Rebuilds == (r.Confirm == "") || r.Rebuilds == (r.Refused != "") {
				t.Errorf("%+v", r)
			}
			return page, r.Refused, r.Rebuilds
		}
		if _, refused, _ := asked(); !strings.Contains(refused, fmt.Sprintf("this node sees fe%d lead", holder+1)) {
			t.Errorf("while all is well it is refused because %q", refused)
		}
		f.Crash(1)
		f.Crash(2)
		f.Advance(2 * time.Minute)
		if err := f.Agent(0).ResignLease(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "nobody is known to hold the lease") {
			t.Errorf("what nobody holds is given away: %v", err)
		}
		if page, refused, rebuilds := asked(); !rebuilds || page != "fe1 true, fe2 false, fe3 false, " {
			t.Errorf("without the others: %s; %v, %s", page, rebuilds, refused)
		}
	})
}

// A node that was removed from the lists of the others, and not told, is not to take the lease from them: it is cut off, they are not gone.
func TestACutOffNodeDoesNotRebuildTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 3})
		f.Settle()
		voting(t, f, 3, 3, 5*time.Minute)
		id := f.Agent(2).ID().String()
		without(t, f, 0, "fe3")
		without(t, f, 1, "fe3")
		f.Advance(2 * time.Minute)
		refused := func(want string) {
			t.Helper()
			r, err := f.Agent(2).Recovery(t.Context())
			if err != nil || r.Rebuilds || r.Confirm != "" || r.Refused != want || !slices.ContainsFunc(r.Standings, func(s control.Standing) bool { return s.Node == "fe1" && s.Refuses }) {
				t.Errorf("%+v, %v", r, err)
			}
			if err := f.Agent(2).RecoverLease(t.Context()); err == nil || err.Error() != want {
				t.Errorf("it was rebuilt: %v", err)
			}
		}
		alive := "fe1 is alive and refuses this node (its peer list lacks " + id + "): mend the lists; this node may have been removed"
		refused(alive)
		if p := problem(f.Status(2), control.NoLeaseHolder, "fe3"); p.Next != "certswarm config show" {
			t.Errorf("%+v", p)
		}
		f.Stop(2) // a new process has to ask first
		f.Start(2)
		refused(alive)
		f.Crash(0)
		f.Crash(1)
		f.Advance(time.Minute)
		refused("fe1 refused this node when it was last seen alive (its peer list lacks " + id +
			"): mend the lists; this node may have been removed; if it is gone for good, remove it from peers: here first")
	})
}

// The same for a node whose cluster: was mistyped.
func TestANodeOfAnotherClusterDoesNotRebuildTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 3, Config: func(node int, yaml string) string {
			if node == 2 {
				return strings.Replace(yaml, "cluster: testnet", "cluster: testent", 1)
			}
			return yaml
		}})
		f.Advance(10 * time.Second)
		const want = `fe1 is alive and refuses this node (it belongs to another cluster than "testent"): make cluster: the same`
		r, err := f.Agent(2).Recovery(t.Context())
		if err != nil || r.Refused != want {
			t.Errorf("%+v, %v", r, err)
		}
		if err := f.Agent(2).RecoverLease(t.Context()); err == nil || err.Error() != want {
			t.Errorf("it was rebuilt: %v", err)
		}
	})
}

// The holder is a peer's name; a holder that this node's list lacks has none here.
func TestAHolderThatIsNotListedHasNoName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 3})
		f.Settle()
		holder := voting(t, f, 3, 3, 5*time.Minute)
		other := (holder + 1) % 3
		without(t, f, other, fmt.Sprintf("fe%d", holder+1))
		for range 20 {
			f.Advance(time.Second)
			if l := f.Status(other).Lease; l.Holder != "" && !strings.HasPrefix(l.Holder, "fe") {
				t.Fatalf("%+v", l)
			}
		}
		if f.Status(other).Lease.Epoch.IsZero() {
			t.Error("nobody is known to hold the lease: this test shows nothing")
		}
	})
}
