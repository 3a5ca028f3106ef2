package acmeclient

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/testnet/ca"
)

// The halves of an RSA and ECDSA pair have the same names. A CA that returns the pending order of those names to whoever asks again, as Let's
// Encrypt does, still issues one certificate for each key: the second order is placed when the first has come to its end.
func TestAPairOfKeysIsOrderedOneAfterTheOther(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	faults := new(ca.Faults)
	faults.ReuseOrders()
	authority := startCA(t, m, func(c *ca.Config) { c.Faults = faults })
	cfg := configFor(m, authority)
	ecdsa := cfg.Certificates[0]
	rsa := ecdsa
	rsa.Name, rsa.Key, rsa.Names = "rsa", RSA2048, slices.Clone(ecdsa.Names)
	slices.Reverse(rsa.Names) // a set is a set
	cfg.Certificates = append(cfg.Certificates, rsa)
	var mu sync.Mutex
	var open []string           // certificates with an order that has not come to its end
	both := make(chan struct{}) // closed when one has its order and the other would have its own
	arrive := sync.OnceFunc(func() { close(both) })
	m.onBarrier = func(ctx context.Context, _ []Token) error {
		select {
		case <-both:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ordered := make(chan struct{}) // closed when both have had their order
	placed := 0
	m.onSave = func(_ string, content []byte, store func()) error {
		if stepOf(content) == StepInstalled { // what is left of one attempt keeps the other from nothing
			select {
			case <-ordered:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		store()
		return nil
	}
	cfg.Observe = func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(e.Text, "another order for the same names") {
			arrive()
		}
		switch e.Step {
		case StepOrdered:
			if placed++; placed == 2 {
				close(ordered)
			}
			if len(open) > 0 {
				arrive()
			}
			if open = append(open, e.Name); len(open) > 1 {
				t.Errorf("orders are open for %v", open)
			}
		case StepValid:
			open = slices.DeleteFunc(open, func(name string) bool { return name == e.Name })
		}
	}
	r := start(t, cfg, tenure{ctx: ctx})
	for _, c := range cfg.Certificates {
		if s := r.await(ctx, t, c.Name, "issued", issued); s.LastError != "" {
			t.Errorf("%s: %s", c.Name, s.LastError)
		}
	}
	r.stop()
	want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: 2, ca.Finalize: 2, ca.Issued: 2})
	for _, b := range m.installs() {
		if wanted := map[string]KeyType{www: ECDSAP256, "rsa": RSA2048}[b.Name]; keyTypeOf(b.Leaf.PublicKey) != wanted {
			t.Errorf("%s has a key of type %s", b.Name, keyTypeOf(b.Leaf.PublicKey))
		}
	}
}

// Two certificates of one kind, found for the same names, hide each other from clients: the half that has the wrong one is replaced
// at once. Where nothing is hidden it may stay until it is due.
func TestAFoundCertificateDoesNotHideTheOtherHalfOfAPair(t *testing.T) {
	publicOf(t, ECDSAP256)
	publicOf(t, RSA2048)
	for others, due := range map[string]bool{"www.example.com": true, "other.example.com": false} {
		synctest.Test(t, func(t *testing.T) {
			m, d := newMemFleet(), new(deadCA)
			found := func(names ...string) *Held {
				held := aged(t, 90*day, RSA2048, names...)
				held.Leaf.NotBefore, held.Leaf.NotAfter = time.Now(), time.Now().Add(90*day)
				return held
			}
			m.held[www], m.held["rsa"] = found(www), found(others)
			cfg := deadConfig(m, d)
			cfg.Certificates = append(cfg.Certificates, Certificate{Name: "rsa", Names: []string{others}, Key: RSA2048})
			r := start(t, cfg, tenure{ctx: t.Context()})
			time.Sleep(20 * time.Second) // the first try is over, the second to come
			synctest.Wait()
			for _, s := range r.Snapshot() {
				if wanted := due && s.Name == www; failed(s) != wanted {
					t.Errorf("beside one for %s: %+v", others, s)
				}
			}
			r.stop()
		})
	}
}
