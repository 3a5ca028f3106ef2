package ca

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// shelf keeps orders as Let's Encrypt does and Pebble does not: whoever asks again for what he has a pending order for
// is given that one; and a certificate has one replacement order at most.
type shelf struct {
	orders   map[string]*shelved // by account, names and profile
	replaced map[string]*shelved // by the certID that is replaced
	byPath   map[string]*shelved // by the path of the order, and of its finalization
}

// shelved is an order as it was last seen.
type shelved struct {
	location, status string
	body             []byte
}

// ReuseOrders makes the CA treat repeated orders as Let's Encrypt does: one without `replaces` gets the pending or ready
// order of the same account, names and profile; one with it is refused with 409 alreadyReplaced while there is an
// order that replaces the same certificate and is not invalid.
func (f *Faults) ReuseOrders() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reuse = &shelf{orders: map[string]*shelved{}, replaced: map[string]*shelved{}, byPath: map[string]*shelved{}}
}

// key identifies orders for the same.
func (w wish) key(account string) string {
	names := w.names()
	slices.Sort(names)
	return account + " " + strings.Join(names, ",") + " " + w.Profile
}

// fromShelf answers a repeated newOrder, and returns whether it did.
func (f *Faults) fromShelf(x *exchange) bool {
	var asked wish
	if x.call != CallNewOrder || json.Unmarshal(x.said.payload, &asked) != nil {
		return false
	}
	f.mu.Lock()
	var found shelved
	known := false
	if f.reuse != nil {
		order := f.reuse.orders[asked.key(x.said.account)]
		if asked.Replaces != "" {
			order = f.reuse.replaced[asked.Replaces]
		}
		if order != nil {
			found, known = *order, true
		}
	}
	f.mu.Unlock()
	switch {
	case !known:
		return false
	case asked.Replaces != "" && found.status != "invalid":
		x.refuse(AlreadyReplaced)
		return true
	case asked.Replaces == "" && (found.status == "pending" || found.status == "ready"):
		x.refuse(Refusal{Status: http.StatusCreated}) // for its nonce
		x.answer.header.Set("Content-Type", "application/json")
		x.answer.header.Set("Location", found.location)
		x.answer.body = *bytes.NewBuffer(found.body)
		return true
	}
	return false
}

// toShelf remembers an order that the CA has shown.
func (f *Faults) toShelf(x *exchange) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var order orderBody
	if f.reuse == nil || x.answer.status >= 300 || json.Unmarshal(x.answer.body.Bytes(), &order) != nil {
		return
	}
	switch x.call {
	case CallNewOrder:
		var asked wish
		_ = json.Unmarshal(x.said.payload, &asked) // the CA could read it
		location := x.answer.header.Get("Location")
		kept := &shelved{location, order.Status, bytes.Clone(x.answer.body.Bytes())}
		f.reuse.orders[asked.key(x.said.account)] = kept
		f.reuse.byPath[pathOf(location)], f.reuse.byPath[pathOf(order.Finalize)] = kept, kept
		if asked.Replaces != "" {
			f.reuse.replaced[asked.Replaces] = kept
		}
	case CallOrder, CallFinalize:
		if kept := f.reuse.byPath[x.request.URL.Path]; kept != nil {
			kept.status, kept.body = order.Status, bytes.Clone(x.answer.body.Bytes())
		}
	}
}
