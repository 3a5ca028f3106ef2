package real_test

import (
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/ca"
	"certswarm/testnet/real"
)

// What the CA says about renewals decides for the certificate that it is said of, and for no other; what makes no sense decides nothing.
// A renewal whose order was lost is the one that was ordered. A chain that is
// not one is fetched again; if it stays so, the old certificate stays too.
func TestRenewalsThatTheCASuggests(t *testing.T) {
	t.Parallel()
	faults := new(ca.Faults)
	faults.ReuseOrders()
	now := time.Now()
	atOnce := func(name string) { // the window of the first certificate is over; that of the next is as ever
		faults.On(ca.CallRenewalInfo).About(name).Suggest(now.Add(-48*time.Hour), now.Add(-24*time.Hour))
	}
	const (
		quiet, past, lost             = "quiet.example.com", "past.example.com", "lost.example.com"
		malformed, backwards, refused = "malformed.example.com", "backwards.example.com", "refused.example.com"
		reversed, strange             = "reversed.example.com", "strange.example.com"
	)
	faults.On(ca.CallRenewalInfo).About(malformed).Always().Say(`{"suggestedWindow":{"start":"yesterday`)
	faults.On(ca.CallRenewalInfo).About(backwards).Always().Suggest(now.Add(-24*time.Hour), now.Add(-48*time.Hour))
	faults.On(ca.CallRenewalInfo).About(refused).Always().Refuse(ca.Broken)
	atOnce(past)
	atOnce(lost)
	loss := faults.On(ca.CallNewOrder).About(lost).Skip(1).LoseAnswer()
	atOnce(reversed)
	atOnce(strange)
	reverse := faults.On(ca.CallCert).About(reversed).Skip(1).ReverseChain()
	confuse := faults.On(ca.CallCert).About(strange).Skip(1).Always().StrangeChain()
	renewal := faults.On(ca.CallNewOrder).About(strange).Skip(1).Hold()
	repair := faults.On(ca.CallNewOrder).About(strange).Skip(1).Hold()

	w := start(t, issuing(1, faults, quiet, past, lost, malformed, backwards, refused, reversed, strange))
	w.must(renewal.Await(w.ctx, 1))
	var before map[string]string
	w.eventually(func() (err error) { before, err = w.serials(strange); return err })
	renewal.End()
	w.await(reports(control.ChainRefused, w.Nodes[0], strange))
	w.must(repair.Await(w.ctx, 1)) // by the schedule
	if now := w.shown(strange); now[strange] != before[strange] {
		t.Errorf("%s shows serial %s, whose chain is broken, not %s", strange, now[strange], before[strange])
	}
	confuse.End()
	repair.End()
	w.await(real.Served)
	w.cost(cost{1, 13, 13})
	finalized(t, faults, 1, quiet, malformed, backwards, refused)
	finalized(t, faults, 2, past, lost, reversed)
	finalized(t, faults, 3, strange)
	if now := w.shown(quiet, past, lost, malformed, backwards, refused, reversed, strange); now[strange] == before[strange] {
		t.Errorf("%s still shows serial %s", strange, now[strange])
	}
	if loss.Met() != 1 || reverse.Met() != 1 {
		t.Errorf("the answer to an order was lost %d times, and %d chains were reversed: this test proves nothing of it", loss.Met(), reverse.Met())
	}
	w.await(noProblems)
}
