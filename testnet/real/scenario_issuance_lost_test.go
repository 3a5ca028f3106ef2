package real_test

import (
	"cmp"
	"fmt"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/ca"
	"certswarm/testnet/real"
)

// arrows are the moments of an issuance at which whoever drives it may be lost: before the CA has heard of the step, and after it
// has, with nobody there to hear the answer.
var arrows = []struct {
	name string
	call ca.Call
	hold func(*ca.Rule) *ca.Rule
}{
	{"before-order.example.com", ca.CallNewOrder, (*ca.Rule).Hold},
	{"after-order.example.com", ca.CallNewOrder, (*ca.Rule).HoldAnswer},
	{"before-accept.example.com", ca.CallAccept, (*ca.Rule).Hold},
	{"after-accept.example.com", ca.CallAccept, (*ca.Rule).HoldAnswer},
	{"before-finalize.example.com", ca.CallFinalize, (*ca.Rule).Hold},
	{"after-finalize.example.com", ca.CallFinalize, (*ca.Rule).HoldAnswer},
	{"before-download.example.com", ca.CallCert, (*ca.Rule).Hold},
	{"after-download.example.com", ca.CallCert, (*ca.Rule).HoldAnswer},
}

// interrupted is a fleet whose holder stands at all arrows at once, each of its certificates at another, while the CA wants to be
// left alone with one more.
type interrupted struct {
	*world
	faults *ca.Faults
	names  []string
	held   []*ca.Rule
	wait   time.Duration
}

const limited = "limited.example.com"

func interrupt(t *testing.T, change func(*real.Config), nodes int) *interrupted {
	i := &interrupted{faults: new(ca.Faults), names: []string{limited}, wait: 4 * time.Second}
	i.faults.ReuseOrders()
	refused := i.faults.On(ca.CallNewOrder).About(limited).Refuse(ca.RateLimited(i.wait))
	for _, a := range arrows {
		i.names = append(i.names, a.name)
		i.held = append(i.held, a.hold(i.faults.On(a.call).About(a.name)))
	}
	c := issuing(nodes, i.faults, i.names...)
	change(&c)
	i.world = start(t, c)
	for _, rule := range append(i.held, refused) {
		i.must(rule.Await(i.ctx, 1))
	}
	i.await(func(all []control.Status) (bool, string) { // the holder has taken it down; or it took so long that all is over
		ok, why := reports(control.RateLimited, i.Node(cmp.Or(all[0].Lease.Holder, "fe1")), limited)(all)
		return ok || i.faults.Done(ca.CallNewOrder, limited) > 0, why
	})
	return i
}

// judge fails the test unless each certificate was obtained once, and the CA's wish was obeyed by whoever came after.
func (i *interrupted) judge() {
	i.t.Helper()
	i.cost(once(len(i.names)))
	finalized(i.t, i.faults, 1, i.names...)
	i.shown(i.names...)
	leftAlone(i.t, i.faults, limited, i.wait)
}

// The holder is killed at every arrow. Restarted, it goes on with what there is.
func TestHolderKilledAndRestarted(t *testing.T) {
	t.Parallel()
	i := interrupt(t, func(*real.Config) {}, 1)
	holder := i.Nodes[0]
	holder.Kill()
	i.must(holder.Start(i.ctx))
	i.await(real.Served)
	i.judge()
	i.await(noProblems)
}

// succeeds prepares a fleet in which another issuer can take over: it votes, and quickly.
func succeeds(c *real.Config) { c.Lease = []string{"engine: raft", "ttl: 2s"} }

// voting is true when as many nodes vote as should, and somebody holds the lease.
func voting(all []control.Status) (bool, string) {
	for _, s := range all {
		votes := 0
		for _, v := range s.Lease.Voters {
			if !v.Learner {
				votes++
			}
		}
		if votes < s.Lease.Wished || s.Lease.Holder == "" {
			return false, fmt.Sprintf("%s says that %d of %d vote, and %q holds the lease", s.Node.Name, votes, s.Lease.Wished, s.Lease.Holder)
		}
	}
	return true, ""
}

// loses takes the holder out of service, where names no longer lead to it, and returns it with the others.
func (i *interrupted) loses() (holder *real.Node, others []*real.Node) {
	i.t.Helper()
	i.await(voting)
	holder = i.Node(cmp.Or(i.status(i.Nodes[0]).Lease.Holder, "fe1"))
	var addresses []string
	for _, n := range i.Nodes {
		if n != holder {
			others = append(others, n)
			addresses = append(addresses, n.Address)
		}
	}
	i.must(i.CA.Point(addresses...))
	return holder, others
}

// The holder is killed at every arrow, and stays dead. Another issuer goes on with its orders and its keys.
func TestHolderKilledAndSucceeded(t *testing.T) {
	t.Parallel()
	i := interrupt(t, succeeds, 3)
	holder, others := i.loses()
	holder.Kill()
	i.awaitOn(real.Served, others...)
	i.cost(once(len(i.names)))
	if i.status(others[0]).Lease.Holder == holder.Name {
		t.Errorf("%s is dead, and said to hold the lease", holder.Name)
	}
	i.must(holder.Start(i.ctx))
	i.await(real.Served)
	i.judge()
	i.await(noProblems)
}

// The holder stands still at every arrow, for longer than its lease lasts. When it goes on, the answers that it was waiting for are there, and
// another issuer has done all of it.
func TestHolderFrozenAndSucceeded(t *testing.T) {
	t.Parallel()
	i := interrupt(t, succeeds, 3)
	holder, others := i.loses()
	holder.Freeze()
	i.awaitOn(real.Served, others...)
	i.cost(once(len(i.names)))
	for _, rule := range i.held {
		rule.End()
	}
	holder.Thaw()
	i.await(real.Served)
	i.await(noProblems)
	want := once(len(i.names))
	want.orders++ // one newOrder was on its way when the holder stood still; nobody goes on with what came of it
	i.cost(want)
	finalized(t, i.faults, 1, i.names...)
	i.shown(i.names...)
	leftAlone(t, i.faults, limited, i.wait)
}

// The holder is cut off from the others at every arrow, and both sides reach the CA. All that it was waiting for comes to pass in that
// moment, so that it goes on for as long as its lease lasts; the others go on as soon as it has ended.
func TestLeaseSplit(t *testing.T) {
	t.Parallel()
	i := interrupt(t, func(c *real.Config) { succeeds(c); c.Relayed = true }, 3)
	holder, others := i.loses()
	i.Relay.Part(holder)
	for _, rule := range i.held {
		rule.End()
	}
	i.awaitOn(real.Served, others...)
	i.cost(once(len(i.names)))
	if s := i.status(holder); s.Lease.HeldHere {
		t.Errorf("%s still believes to hold the lease", holder.Name)
	}
	i.Relay.Heal()
	i.await(real.Served)
	i.judge()
	i.await(noProblems)
}
