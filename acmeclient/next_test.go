package acmeclient

import (
	"strings"
	"testing"

	"golang.org/x/crypto/acme"
)

func TestNextFollowsTheOrderNotTheMemory(t *testing.T) {
	for _, c := range []struct {
		step   Step
		orders int // 0: none placed
		view   orderView
		want   action
		why    string
	}{
		{step: StepIntent, want: actOrder},

		{step: StepOrdered, orders: 1, view: orderView{Status: acme.StatusPending}, want: actPresent},
		{step: StepOrdered, orders: 1, view: orderView{Status: acme.StatusReady}, want: actFinalize}, // authorizations were reused
		{step: StepPresented, orders: 1, view: orderView{Status: acme.StatusPending, Open: 2}, want: actAwait},
		{step: StepServed, orders: 1, view: orderView{Status: acme.StatusPending, Open: 2}, want: actAccept},
		{step: StepAccepted, orders: 1, view: orderView{Status: acme.StatusPending}, want: actPoll},
		{step: StepAccepted, orders: 1, view: orderView{Status: acme.StatusReady}, want: actFinalize},
		{step: StepFinalized, orders: 1, view: orderView{Status: acme.StatusProcessing}, want: actPoll},
		{step: StepFinalized, orders: 1, view: orderView{Status: acme.StatusValid}, want: actFetch},

		// An answer, or a save, was lost.
		{step: StepPresented, orders: 1, view: orderView{Status: acme.StatusPending}, want: actPoll}, // accepted already
		{step: StepServed, orders: 1, view: orderView{Status: acme.StatusPending, Open: 1}, want: actAccept},
		{step: StepFinalized, orders: 1, view: orderView{Status: acme.StatusReady}, want: actFinalize}, // it did not arrive
		{step: StepReady, orders: 1, view: orderView{Status: acme.StatusValid}, want: actFetch},        // it did

		// Past the CA: it is not asked any more.
		{step: StepValid, orders: 1, want: actCheck},
		{step: StepChecked, orders: 1, want: actInstall},
		{step: StepInstalled, orders: 1, want: actVerify},
		{step: StepVerified, orders: 1, want: actDone},

		// The order is dead.
		{step: StepServed, orders: 1, view: orderView{Gone: true}, want: actOrder},
		{step: StepServed, orders: maxOrders, view: orderView{Gone: true}, want: actAbandon, why: "3 orders"},
		{step: StepFinalized, orders: 1, view: orderView{Gone: true}, want: actAbandon, why: "being finalized"},
		{step: StepAccepted, orders: 1, view: orderView{Status: acme.StatusInvalid, Detail: "403 www"}, want: actAbandon, why: "invalid: 403 www"},
		{step: StepAccepted, orders: 1, view: orderView{Status: "strange"}, want: actAbandon, why: "strange"},
	} {
		a := &attempt{Step: c.step, Orders: c.orders}
		if c.orders > 0 {
			a.Order = &order{URL: "https://ca/order/1"}
		}
		got, why := next(a, c.view)
		if got != c.want || !strings.Contains(why, c.why) || (why == "") != (c.why == "") {
			t.Errorf("after %s, the CA saying %+v: action %d (%q), not %d (%q)", c.step, c.view, got, why, c.want, c.why)
		}
	}
}
