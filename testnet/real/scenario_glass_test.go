package real_test

import (
	"strings"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"
	"certswarm/testnet/ca"
	"certswarm/testnet/real"
)

// firstInLine returns the node whose turn to break the glass for those names comes first, and the others. Nothing that an operator sees tells who
// that is, and the others come a minute later each.
func (w *world) firstInLine(names ...string) (first *real.Node, others []*real.Node) {
	w.t.Helper()
	now := time.Now()
	c := rules.Case{Names: names, Voters: len(w.Nodes), Silent: now}
	for _, n := range w.Nodes {
		id, err := fleet.ParseNodeID(n.ID)
		w.must(err)
		c.Issuers = append(c.Issuers, id)
	}
	for i, n := range w.Nodes {
		c.Self = c.Issuers[i]
		if rules.JudgeGlass(c, now).Answer == rules.Later {
			others = append(others, n)
		} else {
			first = n
		}
	}
	if first == nil || len(others) != len(w.Nodes)-1 {
		w.t.Fatalf("of %d nodes it is not one whose turn it is, for %d must wait", len(w.Nodes), len(others))
	}
	return first, others
}

// Two of three nodes die before anything was ordered. Nobody can hold the lease any more: the one that is left orders the certificate all the same, once, and says
// so. The others find it when they come back, and order nothing.
func TestGlassIsBrokenWithoutMajority(t *testing.T) {
	t.Parallel()
	faults := new(ca.Faults)
	down := faults.On().Always().LoseRequest()
	c := issuing(3, faults, names[0])
	c.Names = names
	c.Lease = []string{"engine: raft", "ttl: 2s", "break_glass: {after: 2s}"}
	w := start(t, c)
	w.await(agreed(3))
	left, others := w.firstInLine(names...)
	w.must(w.CA.Point(left.Address)) // names lead to nobody who is dead
	for _, n := range others {
		n.Kill()
	}
	w.await(func(all []control.Status) (bool, string) {
		return all[0].Lease.Holder == "", all[0].Lease.Holder + " is still said to hold the lease"
	})
	w.cost(cost{})
	down.End()
	w.await(reports(control.BreakGlass, left, names[0]+" was ordered without the lease", "majority", "lease show"))
	w.await(reports(control.NoLeaseHolder, left))
	w.await(real.Served)
	w.cost(once(1))
	leaf, err := left.Shown(w.ctx, names[0])
	w.must(err)
	if serial := leaf.SerialNumber.Text(16); serial != w.CA.Issued()[0] {
		t.Errorf("%s shows serial %s, and the CA issued %q", left.Name, serial, w.CA.Issued())
	}

	for _, n := range others {
		w.must(n.Start(w.ctx))
	}
	w.await(agreed(3))
	w.await(real.Served)
	w.await(real.Synced)
	w.servesOneCertificate()
	w.cost(once(1))
	w.await(quietBut(control.BreakGlass))
	for _, n := range w.Nodes {
		var told control.Attempts
		w.said(n, 0, &told, "cert", "history", names[0])
		if len(told.Attempts) != 1 || told.Attempts[0].By != left.Name || !strings.HasSuffix(told.Attempts[0].Reason, ", without the lease") {
			t.Errorf("%s knows of %+v", n.Name, told.Attempts)
		}
	}
}
