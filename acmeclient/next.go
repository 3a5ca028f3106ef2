package acmeclient

import (
	"fmt"

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
	case view.Gone:
		switch {
		case a.Step.reached(StepFinalized):
			return actAbandon, "the CA no longer knows the order that was being finalized"
		case a.Orders >= maxOrders:
			return actAbandon, fmt.Sprintf("the CA no longer knows any of the %d orders that were placed", a.Orders)
		}
		return actOrder, ""
	}
	switch view.Status {
	case acme.StatusPending:
		switch {
		case !a.Step.reached(StepPresented):
			return actPresent, ""
		case view.Open == 0:
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
