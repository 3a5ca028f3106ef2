package acmeclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"certswarm/testnet/ca"
)

// renewing is a client that has obtained a certificate from a CA with a script, and is about to renew it.
func renewing(ctx context.Context, t *testing.T, m *memFleet, faults *ca.Faults, change func(*ca.Config)) (*running, *ca.CA, Config) {
	t.Helper()
	authority := startCA(t, m, func(c *ca.Config) {
		c.Faults = faults
		if change != nil {
			change(c)
		}
	})
	cfg := configFor(m, authority)
	r := start(t, cfg, tenure{ctx: ctx})
	r.await(ctx, t, www, "at rest", func(s Status) bool { return issued(s) && !s.NextAttempt.IsZero() })
	return r, authority, cfg
}

// renewal asks for one and returns what it came to, or why it failed for now.
func (r *running) renewal(ctx context.Context, t *testing.T) (Outcome, error) {
	t.Helper()
	ticket, err := r.Obtain(ctx, www, Request{Renew: true})
	if err != nil {
		t.Fatal(err)
	}
	return r.Await(ctx, www, ticket.Attempt, StepVerified)
}

func TestARenewalSaysWhatItReplaces(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	r, authority, _ := renewing(ctx, t, m, new(ca.Faults), func(c *ca.Config) { c.NonceReject = 50 })
	first := m.installs()[0].Leaf
	o, err := r.renewal(ctx, t)
	if err != nil || o.Replaces != CertID(first) {
		t.Errorf("%+v, %v", o, err)
	}
	want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: 2, ca.Issued: 2})
}

// A newOrder that replaces a certificate: the request is lost, or the answer is, and the CA treats repetitions as Let's
// Encrypt does. The same node repeats it, or the next holder does.
func TestALostOrderIsFoundAgain(t *testing.T) {
	t.Parallel()
	for _, arrived := range []bool{false, true} {
		for _, dies := range []bool{false, true} {
			t.Run(fmt.Sprintf("request arrived: %v, the node dies: %v", arrived, dies), func(t *testing.T) {
				t.Parallel()
				ctx := fuse(t)
				m := newMemFleet().serving(t)
				faults := new(ca.Faults)
				faults.ReuseOrders()
				r, authority, cfg := renewing(ctx, t, m, faults, nil)
				lost := faults.On(ca.CallNewOrder)
				switch {
				case dies && arrived:
					lost.HoldAnswer()
				case dies:
					lost.Hold()
				case arrived:
					lost.LoseAnswer()
				default:
					lost.LoseRequest()
				}
				ticket, err := r.Obtain(ctx, www, Request{Renew: true})
				if err != nil {
					t.Fatal(err)
				}
				var key []byte
				if dies {
					if err := lost.Await(ctx, 1); err != nil {
						t.Fatal(err)
					}
					r.stop()
					key = m.journalOf(t, www).Attempt.Key
					cfg.Node = "fe2"
					r = start(t, cfg, tenure{ctx: ctx})
				}
				o := r.await(ctx, t, www, "renewed", func(s Status) bool { return issued(s) && s.Used.OrdersToday == 2 })
				if o.Attempt != ticket.Attempt {
					t.Errorf("the attempt %s was given up for %s", ticket.Attempt, o.Attempt)
				}
				if dies && string(m.installs()[1].Key) != string(key) {
					t.Error("the key was another one")
				}
				want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: 2, ca.Issued: 2})
			})
		}
	}
}

// Another order replaces the certificate, and it is not ours.
func TestAReplacementByOthers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		visible bool // that others have renewed
		refused int
		orders  int
		without bool // replaces
	}{
		"that is here already":     {true, 1, 1, false},
		"that comes to nothing":    {false, 2, 2, false},
		"that is not seen to come": {false, 3, 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := fuse(t)
			m := newMemFleet().serving(t)
			faults := new(ca.Faults)
			r, authority, cfg := renewing(ctx, t, m, faults, nil)
			r.stop()
			cfg.Retry = []time.Duration{time.Millisecond}
			refused := faults.On(ca.CallNewOrder).Times(c.refused)
			refused.Refuse(ca.AlreadyReplaced)
			r = start(t, cfg, tenure{ctx: ctx, check: func() error { // the last moment before newOrder
				if c.visible {
					m.mu.Lock()
					defer m.mu.Unlock()
					leaf := aged(t, 90*day, ECDSAP256, www, "example.com").Leaf
					leaf.NotBefore, leaf.NotAfter = time.Now(), time.Now().Add(90*day)
					m.held[www] = &Held{Leaf: leaf, Generation: 2}
				}
				return nil
			}})
			r.await(ctx, t, www, "at rest", func(s Status) bool { return issued(s) && !s.NextAttempt.IsZero() })
			_, err := r.renewal(ctx, t)
			if c.visible {
				if err == nil || !strings.Contains(err.Error(), "replaced by others") {
					t.Errorf("%v", err)
				}
				s := r.await(ctx, t, www, "at rest", func(s Status) bool { return !s.NextAttempt.IsZero() })
				if s.State != StateIssued || s.LastError != "" || time.Until(s.NextAttempt) < day {
					t.Errorf("%+v", s)
				}
			} else {
				// The tries follow each other so fast that the last may be over before anybody looks at the first.
				if err != nil && !strings.Contains(err.Error(), "replaces the certificate in force already") {
					t.Errorf("%v", err)
				}
				r.await(ctx, t, www, "renewed", func(s Status) bool { return issued(s) && s.Used.OrdersToday == 2 })
				if history, err := r.History(www); err != nil || (history[0].Replaces == "") != c.without {
					t.Errorf("%+v, %v", history, err)
				}
			}
			if n := refused.Met(); n != c.refused {
				t.Errorf("refused %d times", n)
			}
			want(t, authority, map[ca.Kind]int{ca.Order: c.orders, ca.Issued: c.orders})
		})
	}
}

// A CA that will not hear of what is replaced gets an order without: at once where it says so, after one more try where it
// might be unwell.
func TestAnOrderIsPlacedWithoutWhatTheCADoesNotLike(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		refusal ca.Refusal
		times   int
	}{
		"malformed":    {ca.Refusal{Status: http.StatusBadRequest, Type: "malformed"}, 1},
		"unauthorized": {ca.Refusal{Status: http.StatusForbidden, Type: "unauthorized"}, 1},
		"unwell":       {ca.Broken, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := fuse(t)
			m := newMemFleet().serving(t)
			faults := new(ca.Faults)
			r, authority, _ := renewing(ctx, t, m, faults, nil)
			refused := faults.On(ca.CallNewOrder).Times(c.times)
			refused.Refuse(c.refusal)
			if o, err := r.renewal(ctx, t); err != nil || o.Replaces != "" {
				t.Errorf("%+v, %v", o, err)
			}
			want(t, authority, map[ca.Kind]int{ca.Order: 2, ca.Issued: 2})
		})
	}
}

// A replica of the CA that lags behind shows the order as ready after it was finalized, and the challenge as open after it
// was accepted: the second finalize and the second accept cost nothing.
func TestASecondFinalizeAndASecondAccept(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		post, status string
		stale        int // resources that are shown as they were
	}{
		"finalize": {"/finalize-order/", "ready", 1},
		"accept":   {"/chalZ/", "pending", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := fuse(t)
			m := newMemFleet().serving(t)
			var mu sync.Mutex
			seen := map[string][]byte{} // as it was before
			posted, stale := 0, map[string]bool{}
			lagging := func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					answer := httptest.NewRecorder()
					next.ServeHTTP(answer, r)
					mu.Lock()
					defer mu.Unlock()
					body := answer.Body.Bytes()
					shows := strings.HasPrefix(r.URL.Path, "/my-order/") || strings.HasPrefix(r.URL.Path, "/authZ/")
					switch {
					case strings.HasPrefix(r.URL.Path, c.post) && posted == 0:
						posted++
						panic(http.ErrAbortHandler)
					case strings.HasPrefix(r.URL.Path, c.post):
						posted++
					case shows && posted == 1 && !stale[r.URL.Path] && seen[r.URL.Path] != nil:
						stale[r.URL.Path] = true
						body = seen[r.URL.Path]
					case shows && posted == 0 && strings.Contains(string(body), fmt.Sprintf(`"status": %q`, c.status)):
						seen[r.URL.Path] = body
					}
					for name, values := range answer.Header() {
						w.Header()[name] = values
					}
					w.Header().Del("Content-Length")
					w.WriteHeader(answer.Code)
					_, _ = w.Write(body)
				})
			}
			authority := startCA(t, m, func(c *ca.Config) { c.Middleware = lagging })
			cfg := configFor(m, authority)
			cfg.Certificates[0].Names = []string{www}
			r := start(t, cfg, tenure{ctx: ctx})
			r.await(ctx, t, www, "issued", issued)
			mu.Lock()
			defer mu.Unlock()
			if posted != 2 || len(stale) != c.stale {
				t.Errorf("%d times posted; shown as before: %v", posted, stale)
			}
			want(t, authority, map[ca.Kind]int{ca.Order: 1, ca.Issued: 1})
		})
	}
}

// The chain is here, and the CA forgets everything: the order, even the account. It is published all the same.
func TestWhatWasFetchedNeedsNoCA(t *testing.T) {
	t.Parallel()
	for _, step := range []Step{StepChecked, StepInstalled, StepVerified} {
		for _, stored := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, saved: %v", step, stored), func(t *testing.T) {
				t.Parallel()
				ctx := fuse(t)
				m := newMemFleet().serving(t)
				authority := startCA(t, m, nil)
				cut, power := context.WithCancel(ctx)
				m.onSave = func(path string, content []byte, store func()) error {
					if cut.Err() == nil && path == journalPath(www) && stepOf(content) == step {
						if stored {
							store()
						}
						power()
						return errors.New("the power is off")
					}
					store()
					return nil
				}
				cfg := configFor(m, authority)
				<-start(t, cfg, tenure{ctx: cut}).done
				if j := m.journalOf(t, www); j.Attempt.CertURL == "" || len(j.Attempt.Chain) == 0 {
					t.Fatal("the certificate's URL and chain were not journalled before they were used")
				}
				authority.Forget()
				cfg.Node, cfg.NoARI = "fe2", true
				r := start(t, cfg, tenure{ctx: ctx})
				r.await(ctx, t, www, "issued", issued)
				if n := len(m.installs()); n != 1 {
					t.Errorf("installed %d times", n)
				}
				want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: 1, ca.Issued: 1})
			})
		}
	}
}

// What came spoilt is fetched again, not ordered again.
func TestASpoiltChainIsFetchedAgain(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*ca.Rule){
		"a stranger's issuer": func(r *ca.Rule) { r.StrangeChain() },
		"in another order":    func(r *ca.Rule) { r.ReverseChain() },
		"no PEM":              func(r *ca.Rule) { r.Say("<html>") },
		"lost":                func(r *ca.Rule) { r.LoseAnswer() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := fuse(t)
			m := newMemFleet().serving(t)
			faults := new(ca.Faults)
			spoilt := faults.On(ca.CallCert)
			spoil(spoilt)
			authority := startCA(t, m, func(c *ca.Config) { c.Faults = faults })
			r := start(t, configFor(m, authority), tenure{ctx: ctx})
			r.await(ctx, t, www, "issued", issued)
			if spoilt.Met() != 1 {
				t.Error("it was not spoilt")
			}
			want(t, authority, map[ca.Kind]int{ca.Order: 1, ca.Finalize: 1, ca.Issued: 1})
		})
	}
}

// An authorization that is dead ends the attempt, and is not polled for ever.
func TestADeadAuthorizationEndsTheAttempt(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"deactivated", "expired", "revoked"} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			ctx := fuse(t)
			m := newMemFleet().serving(t)
			var told atomic.Bool
			dead := func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasPrefix(r.URL.Path, "/chalZ/") {
						told.Store(true)
						w.WriteHeader(http.StatusInternalServerError) // nothing will ever become of it
						return
					}
					answer := httptest.NewRecorder()
					next.ServeHTTP(answer, r)
					body := answer.Body.String()
					if strings.HasPrefix(r.URL.Path, "/authZ/") && told.Load() {
						body = strings.Replace(body, `"status": "pending"`, fmt.Sprintf(`"status": %q`, status), 1)
						body = strings.Replace(body, `"status":"pending"`, fmt.Sprintf(`"status":%q`, status), 1)
					}
					for name, values := range answer.Header() {
						w.Header()[name] = values
					}
					w.Header().Del("Content-Length")
					w.WriteHeader(answer.Code)
					_, _ = w.Write([]byte(body))
				})
			}
			authority := startCA(t, m, func(c *ca.Config) { c.Middleware = dead })
			r := start(t, configFor(m, authority), tenure{ctx: ctx})
			s := r.await(ctx, t, www, "failed", failed)
			if !strings.Contains(s.LastError, "the authorization is "+status) {
				t.Errorf("%+v", s)
			}
			r.stop()
			if j := m.journalOf(t, www); j.Attempt != nil || len(j.Invalid) != 0 {
				t.Errorf("%+v", j)
			}
			want(t, authority, map[ca.Kind]int{ca.Order: 1})
		})
	}
}

// The CA is down for a while, breaks down, does not know the account, and takes its time: each at every call once.
func TestTroubleAtEveryCall(t *testing.T) {
	t.Parallel()
	calls := []ca.Call{ca.CallDirectory, ca.CallNewNonce, ca.CallNewAccount, ca.CallNewOrder, ca.CallOrder, ca.CallAuthz, ca.CallAccept, ca.CallFinalize, ca.CallCert}
	for name, trouble := range map[string]func(*ca.Rule){
		"in trouble, twice": func(r *ca.Rule) { r.Times(2).Refuse(ca.Broken) },
		"bad nonces":        func(r *ca.Rule) { r.Times(3).Refuse(ca.BadNonce) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := fuse(t)
			m := newMemFleet().serving(t)
			faults := new(ca.Faults)
			for _, call := range calls {
				if name == "bad nonces" && slices.Contains([]ca.Call{ca.CallDirectory, ca.CallNewNonce}, call) {
					continue // they are not signed
				}
				trouble(faults.On(call))
			}
			authority := startCA(t, m, func(c *ca.Config) { c.Faults = faults })
			cfg := configFor(m, authority)
			cfg.Certificates[0].Names = []string{www}
			cfg.Retry = []time.Duration{time.Millisecond}
			r := start(t, cfg, tenure{ctx: ctx})
			r.await(ctx, t, www, "issued", issued)
			want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: 1, ca.Issued: 1})
		})
	}
}

// diesWhileProcessing is a fleet whose holder has finalized an order, was told that the CA is at it, and died; cfg is another node's.
func diesWhileProcessing(ctx context.Context, t *testing.T) (m *memFleet, authority *ca.CA, cfg Config, processing *ca.Rule) {
	m = newMemFleet().serving(t)
	faults := new(ca.Faults)
	processing = faults.On(ca.CallOrder, ca.CallFinalize).Always()
	processing.Processing()
	authority = startCA(t, m, func(c *ca.Config) { c.Faults = faults })
	cfg = configFor(m, authority)
	first := start(t, cfg, tenure{ctx: ctx})
	if err := processing.Await(ctx, 2); err != nil {
		t.Fatal(err)
	}
	first.stop()
	cfg.Node = "fe2"
	return m, authority, cfg, processing
}

// The CA never comes to an end with an order: it is given up at its end, and another brings the certificate.
func TestAnOrderThatNeverEndsIsGivenUp(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m, authority, cfg, processing := diesWhileProcessing(ctx, t)
	j := m.journalOf(t, www)
	if o := j.Attempt.Order; !o.Expires.After(o.Placed) {
		t.Fatalf("the order's end is not known: %+v", o)
	}
	j.Attempt.Order.Expires = time.Now().Add(-time.Minute)
	content, err := json.Marshal(j)
	if err == nil {
		err = m.Save(ctx, journalPath(www), content)
	}
	if err != nil {
		t.Fatal(err)
	}
	cfg.Retry = []time.Duration{time.Millisecond}
	cfg.Observe = func(e Event) {
		if e.Step == StepOrdered {
			processing.End()
		}
	}
	second := start(t, cfg, tenure{ctx: ctx})
	second.await(ctx, t, www, "issued", issued)
	second.stop()
	if j := m.journalOf(t, www); len(j.History) != 2 || !strings.Contains(j.History[0].Error, "does not come to an end") {
		t.Errorf("%+v", j.History)
	}
	want(t, authority, map[ca.Kind]int{ca.Order: 2})
}

// The holder dies while the CA is at it; the next one waits for the same order.
func TestAnOrderThatIsProcessedIsWaitedForByWhoeverIsThere(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	_, authority, cfg, processing := diesWhileProcessing(ctx, t)
	met := processing.Met()
	second := start(t, cfg, tenure{ctx: ctx})
	if err := processing.Await(ctx, met+2); err != nil {
		t.Fatal(err)
	}
	processing.End()
	second.await(ctx, t, www, "issued", issued)
	want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: 1, ca.Finalize: 1, ca.Issued: 1})
}
