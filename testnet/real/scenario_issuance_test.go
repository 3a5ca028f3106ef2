package real_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/ca"
	"certswarm/testnet/real"
)

// The scenarios of issuance play many stories at once, on one fleet that obtains many certificates: the CA's script has a
// trouble for each, told from the others by the name it is about. How often the CA was asked for what is what counts.

// issuing is a fleet for such stories: one certificate for each name. What operators wait minutes for takes a second.
func issuing(nodes int, faults *ca.Faults, names ...string) real.Config {
	c := real.Config{Addresses: addresses(nodes), Names: names[:1], Faults: faults, ACME: []string{
		"retry: [1s]", "challenge_wait: 2s", "budget: {orders_per_day: 3, orders_per_week: 5, failures_per_hour: 4}",
	}}
	for _, name := range names[1:] {
		c.More = append(c.More, []string{name})
	}
	return c
}

// cost is what the CA was asked for.
type cost struct{ accounts, orders, certificates int }

// once is what certificates cost, whatever happens on the way.
func once(certificates int) cost { return cost{1, certificates, certificates} }

// cost fails the test unless that is what the CA counted.
func (w *world) cost(want cost) {
	w.t.Helper()
	got := cost{w.CA.Count(ca.Account), w.CA.Count(ca.Order), len(w.CA.Issued())}
	if got != want {
		w.t.Errorf("the CA counted %+v, not %+v", got, want)
	}
}

// finalized fails the test unless the CA took so many CSRs for each of the names.
func finalized(t testing.TB, faults *ca.Faults, times int, names ...string) {
	t.Helper()
	for _, name := range names {
		if n := faults.Done(ca.CallFinalize, name); n != times {
			t.Errorf("%s was finalized %d times, not %d", name, n, times)
		}
	}
}

// shown returns the serial that every front-end shows for each name. It fails the test if two do not show the same, or one shows for
// a name what is for another.
func (w *world) shown(names ...string) map[string]string {
	w.t.Helper()
	serials, err := w.serials(names...)
	w.must(err)
	return serials
}

func (w *world) serials(names ...string) (map[string]string, error) {
	serials, of := map[string]string{}, map[string]string{}
	for _, name := range names {
		for _, n := range w.Nodes {
			leaf, err := n.Shown(w.ctx, name)
			if err != nil {
				return nil, err
			}
			serial := leaf.SerialNumber.Text(16)
			if first, ok := serials[name]; ok && first != serial {
				return nil, fmt.Errorf("%s shows serial %s for %s, others %s", n.Name, serial, name, first)
			}
			if other, ok := of[serial]; ok && other != name {
				return nil, fmt.Errorf("%s shows for %s the certificate of %s", n.Name, name, other)
			}
			serials[name], of[serial] = serial, name
		}
	}
	return serials, nil
}

// On empty disks, on the worst of days, every certificate is obtained, and none twice.
func TestColdStartOnABadDay(t *testing.T) {
	t.Parallel()
	faults := new(ca.Faults)
	faults.ReuseOrders()
	down := faults.On().Always().LoseRequest()
	faults.On(ca.CallDirectory).LoseAnswer()
	faults.On(ca.CallNewNonce).LoseAnswer()
	faults.On(ca.CallNewAccount).LoseAnswer()
	var names []string
	about := func(name string) func(...ca.Call) *ca.Rule {
		names = append(names, name+".example.com")
		return func(calls ...ca.Call) *ca.Rule { return faults.On(calls...).About(name + ".example.com") }
	}
	for name, call := range map[string]ca.Call{
		"new-order": ca.CallNewOrder, "order": ca.CallOrder, "authorization": ca.CallAuthz, "accept": ca.CallAccept,
		"finalize": ca.CallFinalize, "download": ca.CallCert,
	} {
		about("no-" + name)(call).LoseRequest()
		about("no-answer-to-" + name)(call).LoseAnswer()
	}
	storm := about("storm")().Times(12)
	storm.Refuse(ca.BadNonce)
	slow := about("slow")
	slow(ca.CallNewOrder, ca.CallAccept, ca.CallFinalize).Times(3).Delay(300 * time.Millisecond)
	stalled := about("stalled")(ca.CallOrder, ca.CallFinalize).Times(4).Processing()
	broken := about("broken")
	broken(ca.CallNewOrder).Times(3).Refuse(ca.Broken)
	broken(ca.CallFinalize).Refuse(ca.Broken)
	about("conflict")(ca.CallNewOrder).Refuse(ca.Conflict)
	limited, wait := about("limited"), 2*time.Second
	limited(ca.CallNewOrder).Refuse(ca.RateLimited(wait))
	dead := about("dead")(ca.CallAccept).FailValidation()
	about("healthy")

	w := start(t, issuing(2, faults, names...))
	w.await(reports(control.CAUnreachable, w.Nodes[0], "dead.example.com"))
	w.cost(cost{})
	down.End()
	w.await(real.Served)

	w.cost(cost{1, len(names) + 1, len(names)}) // the dead one took two orders
	finalized(t, faults, 1, names...)
	w.shown(names...)
	leftAlone(t, faults, "limited.example.com", wait)
	for what, rule := range map[string]*ca.Rule{"a storm of nonces": storm, "an order that stalls": stalled, "a dead authorization": dead} {
		if rule.Met() == 0 {
			t.Errorf("%s was never met: this test proves nothing of it", what)
		}
	}
	w.await(noProblems)
}

// leftAlone fails the test unless the CA was asked for an order about name once more after it had refused, and not before what
// it had asked for was over.
func leftAlone(t testing.TB, faults *ca.Faults, name string, wait time.Duration) {
	t.Helper()
	var refused time.Time
	for _, asked := range faults.Passages(ca.CallNewOrder, name) {
		switch {
		case refused.IsZero():
			refused = asked.Time
		case asked.Status == http.StatusCreated && asked.Time.Sub(refused) >= wait:
			return
		default:
			t.Errorf("the CA was asked for %s after %v, not %v: %+v", name, asked.Time.Sub(refused), wait, asked)
		}
	}
	t.Errorf("the CA was never asked for %s again", name)
}

// A CA that has forgotten the account is registered with once more, however many certificates notice it.
func TestForgottenAccount(t *testing.T) {
	t.Parallel()
	faults, names := new(ca.Faults), []string{"a.example.com", "b.example.com", "c.example.com"}
	held := faults.On(ca.CallNewOrder).Times(len(names)).Hold()
	w := start(t, issuing(1, faults, names...))
	w.must(held.Await(w.ctx, len(names)))
	w.CA.Forget()
	held.End()
	w.await(real.Served)
	w.cost(cost{2, len(names), len(names)})
	if n := faults.Done(ca.CallNewAccount, ""); n != 2 {
		t.Errorf("the CA was asked for an account %d times, not 2", n)
	}
	w.shown(names...)
}
