package acmeclient

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

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

		// The CA does not come to an end.
		{step: StepAccepted, orders: 1, view: orderView{Status: acme.StatusPending, Stuck: true}, want: actOrder},
		{step: StepAccepted, orders: maxOrders, view: orderView{Status: acme.StatusPending, Stuck: true}, want: actAbandon, why: "3 orders"},
		{step: StepFinalized, orders: 1, view: orderView{Status: acme.StatusProcessing, Stuck: true}, want: actAbandon, why: "does not come to an end"},
		{step: StepServed, orders: 1, view: orderView{Status: acme.StatusPending, Open: 1, Stuck: true}, want: actAccept}, // it is our turn
		{step: StepFinalized, orders: 1, view: orderView{Status: acme.StatusValid, Stuck: true}, want: actFetch},
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

func TestForHowLongAnOrderIsWaitedFor(t *testing.T) {
	lasting := func(left time.Duration) *Held { return &Held{Leaf: &x509.Certificate{NotAfter: birth.Add(left)}} }
	for name, c := range map[string]struct {
		order      order
		held       *Held
		affordable bool
		want       bool
	}{
		"its end has come":                    {order: order{Placed: birth.Add(-day), Expires: birth.Add(-time.Second)}, held: lasting(20 * day), want: true},
		"its end is to come":                  {order: order{Placed: birth.Add(-6 * day), Expires: birth.Add(day), Waiting: birth.Add(-6 * day)}, held: lasting(20 * day), affordable: true},
		"the CA does not say when it ends":    {order: order{Placed: birth.Add(-29 * day)}, held: lasting(20 * day)},
		"it never did":                        {order: order{Placed: birth.Add(-31 * day)}, held: lasting(20 * day), want: true},
		"its end is absurd":                   {order: order{Placed: birth.Add(-31 * day), Expires: birth.Add(9000 * day)}, held: lasting(20 * day), want: true},
		"half of what was left is gone":       {order: order{Expires: birth.Add(day), Waiting: birth.Add(-41 * time.Hour)}, held: lasting(40 * time.Hour), affordable: true, want: true},
		"but the budget is used up":           {order: order{Expires: birth.Add(day), Waiting: birth.Add(-41 * time.Hour)}, held: lasting(40 * time.Hour)},
		"half of what was left is still left": {order: order{Expires: birth.Add(day), Waiting: birth.Add(-39 * time.Hour)}, held: lasting(40 * time.Hour), affordable: true},
		"there is no certificate":             {order: order{Expires: birth.Add(day), Waiting: birth.Add(-2 * time.Hour)}, affordable: true, want: true},
		"it was told a moment ago":            {order: order{Expires: birth.Add(day), Placed: birth.Add(-2 * day)}, affordable: true},
	} {
		if c.order.Placed.IsZero() {
			c.order.Placed = birth.Add(-2 * day)
		}
		if got := stuck(&c.order, c.held, c.affordable, birth); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
