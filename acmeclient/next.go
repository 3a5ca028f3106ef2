package acmeclient

import (
	"fmt"
	"time"

	"golang.org/x/crypto/acme"
)

// action is what an attempt must do now.
type action int

const (
	actOrder    action = iota // place an order, the first or another
	actPresent                // learn the challenges and journal their tokens
	actAwait                  // publish the tokens and wait at the barrier
	actAccept                 // tell the CA to validate what it has not begun to
	actPoll                   // wait until the order's status is another
	actFinalize               // submit the CSR
	actFetch                  // fetch the certificate
	actCheck
	actInstall
	actVerify
	actDone
	actAbandon // the attempt can come to nothing
)

// orderView is what the CA says of the attempt's order.
type orderView struct {
	Status string
	Gone   bool // there is no such order, or no longer
	Stuck  bool // the CA does not bring it to an end: see stuck
	Open   int  // challenges that the CA was not yet told to validate
	Detail string
}

// next decides what an attempt does, from the journal and from what the CA said when it was asked just now: whatever
// happened before a crash, or to an answer that was lost, the order's own state tells. For actAbandon it says why.
func next(a *attempt, view orderView) (action, string) {
	switch {
	case a.Step.reached(StepVerified):
		return actDone, ""
	case a.Step.reached(StepInstalled):
		return actVerify, ""
	case a.Step.reached(StepChecked):
		if a.Rehearsal {
			return actDone, ""
		}
		return actInstall, ""
	case a.Step.reached(StepValid):
		return actCheck, ""
	case a.Order == nil:
		return actOrder, ""
	case view.Gone, view.Stuck && waits(a, view):
		switch {
		case a.Step.reached(StepFinalized) && view.Gone:
			return actAbandon, "the CA no longer knows the order that was being finalized"
		case a.Step.reached(StepFinalized):
			return actAbandon, "the CA does not come to an end with the order that was being finalized"
		case a.Orders >= maxOrders:
			return actAbandon, fmt.Sprintf("the CA no longer knows, or never ends, any of the %d orders that were placed", a.Orders)
		}
		return actOrder, ""
	}
	switch view.Status {
	case acme.StatusPending:
		switch {
		case !a.Step.reached(StepPresented):
			return actPresent, ""
		case waits(a, view):
			return actPoll, ""
		case !a.Step.reached(StepServed):
			return actAwait, ""
		}
		return actAccept, ""
	case acme.StatusReady:
		return actFinalize, ""
	case acme.StatusProcessing:
		return actPoll, ""
	case acme.StatusValid:
		return actFetch, ""
	}
	why := "the CA declared the order " + view.Status
	if view.Detail != "" {
		why += ": " + view.Detail
	}
	return actAbandon, why
}

// waits reports whether the CA alone can bring the order any further.
func waits(a *attempt, view orderView) bool {
	return view.Status == acme.StatusProcessing || view.Status == acme.StatusPending && a.Step.reached(StepPresented) && view.Open == 0
}

const (
	orderLife     = 30 * day  // of an order whose end the CA does not say, or puts absurdly far away
	orderPatience = time.Hour // for how long an order is waited for, whatever is at stake
)

// orderEnd is when an order ends, given what the CA says of that (zero: nothing).
func orderEnd(expires, placed time.Time) time.Time {
	if most := placed.Add(orderLife); expires.IsZero() || expires.After(most) {
		return most
	}
	return expires.UTC()
}

// stuck reports whether an order that only the CA can bring further is waited for no longer: it is past its end, or it was waited for
// longer than the certificate in force (nil: there is none) still lasts, and another may be placed.
func stuck(o *order, held *Held, affordable bool, now time.Time) bool {
	left := orderPatience
	if held != nil && !held.Placeholder {
		left = max(left, held.Leaf.NotAfter.Sub(now))
	}
	return now.After(orderEnd(o.Expires, o.Placed)) || affordable && !o.Waiting.IsZero() && now.Sub(o.Waiting) > left
}
