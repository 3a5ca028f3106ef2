package acmeclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"certswarm/testnet/ca"
)

// The power is cut at the save of each step: before it takes effect, or after it did but nobody was told.
func TestPowerCutAtEveryArrowStillIssuesOnce(t *testing.T) {
	t.Parallel()
	for _, step := range stepOrder {
		for _, effect := range []string{"lost", "done but not told"} {
			t.Run(fmt.Sprintf("%s %s", step, effect), func(t *testing.T) {
				t.Parallel()
				ctx := fuse(t)
				m := newMemFleet().serving(t)
				authority := startCA(t, m, nil)
				cfg := configFor(m, authority)

				cut, power := context.WithCancel(ctx)
				var before journal
				m.onSave = func(path string, content []byte, store func()) error {
					if cut.Err() == nil && path == journalPath(www) && stepOf(content) == step {
						if effect != "lost" {
							store()
						}
						power()
						return errors.New("the power is off")
					}
					store()
					return nil
				}
				first := start(t, cfg, tenure{ctx: cut})
				<-first.done
				if _, err := m.Load(journalPath(www)); err == nil {
					before = *m.journalOf(t, www)
				}

				cfg.Node = "fe2"
				second := start(t, cfg, tenure{ctx: ctx})
				second.await(ctx, t, www, "issued", issued)
				second.stop()

				want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Issued: 1})
				installs := m.installs()
				if len(installs) != 1 {
					t.Fatalf("installed %d times", len(installs))
				}
				if before.Attempt != nil && string(before.Attempt.Key) != string(installs[0].Key) {
					t.Error("the attempt went on with another key")
				}
				orders := authority.Count(ca.Order)
				if lostAnswer := step == StepOrdered && effect == "lost"; orders != 1 && !lostAnswer {
					t.Errorf("%d orders were placed", orders)
				}
				if n := m.presented(); n != 0 {
					t.Errorf("%d tokens were left on the front-ends", n)
				}
			})
		}
	}
}

// dropping loses the first request to a path, or the answer to it after it took effect.
func dropping(prefix string, forward bool) func(http.Handler) http.Handler {
	var dropped atomic.Bool
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, prefix) && !dropped.Swap(true) {
				if forward {
					next.ServeHTTP(httptest.NewRecorder(), r)
				}
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		})
	}
}

func TestLostRequestsAndLostAnswers(t *testing.T) {
	t.Parallel()
	for name, prefix := range map[string]string{
		"newAccount":    "/sign-me-up",
		"newOrder":      "/order-plz",
		"order":         "/my-order/",
		"authorization": "/authZ/",
		"accept":        "/chalZ/",
		"finalize":      "/finalize-order/",
		"certificate":   "/certZ/",
	} {
		for _, forward := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, request arrived: %v", name, forward), func(t *testing.T) {
				t.Parallel()
				ctx := fuse(t)
				m := newMemFleet().serving(t)
				authority := startCA(t, m, func(c *ca.Config) { c.Middleware = dropping(prefix, forward) })
				r := start(t, configFor(m, authority), tenure{ctx: ctx})
				r.await(ctx, t, www, "issued", issued)
				orders := 1
				if name == "newOrder" && forward {
					orders = 2 // a CA like Let's Encrypt would have returned the first again
				}
				want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: orders, ca.Accept: 2, ca.Finalize: 1, ca.Issued: 1})
			})
		}
	}
}

func TestRefusedNoncesAreReplaced(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	authority := startCA(t, m, func(c *ca.Config) { c.NonceReject, c.RetryAfter = 50, time.Second })
	r := start(t, configFor(m, authority), tenure{ctx: ctx})
	r.await(ctx, t, www, "issued", issued)
	want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: 1, ca.Issued: 1})
}

// A CA that works on an order for a second, and names an instant in the past as the time to ask again.
func TestAPastRetryAfterDoesNotMakeTheCABusier(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	var finalized atomic.Pointer[time.Time]
	var asked atomic.Int32
	slow := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			began := finalized.Load()
			if began == nil || !strings.HasPrefix(r.URL.Path, "/my-order/") || time.Since(*began) > time.Second {
				next.ServeHTTP(w, r)
				if strings.HasPrefix(r.URL.Path, "/finalize-order/") {
					now := time.Now()
					finalized.Store(&now)
				}
				return
			}
			asked.Add(1)
			answer := httptest.NewRecorder()
			next.ServeHTTP(answer, r)
			w.Header().Set("Replay-Nonce", answer.Header().Get("Replay-Nonce"))
			w.Header().Set("Retry-After", "Sun, 01 Mar 2020 12:00:00 GMT")
			_, _ = w.Write([]byte(`{"status":"processing"}`))
		})
	}
	authority := startCA(t, m, func(c *ca.Config) { c.Middleware = slow })
	r := start(t, configFor(m, authority), tenure{ctx: ctx})
	r.await(ctx, t, www, "issued", issued)
	want(t, authority, map[ca.Kind]int{ca.Order: 1, ca.Finalize: 1, ca.Issued: 1})
	if n := asked.Load(); n > 10 {
		t.Errorf("the CA was asked %d times in one second", n)
	}
}

func TestAnOrderThatVanishedAtTheBarrierIsPlacedAgain(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	var authority *ca.CA
	m.onBarrier = func(_ context.Context, tokens []Token) error {
		if authority.Count(ca.Order) == 1 {
			authority.Forget() // the orders, and the account with them
		}
		return nil
	}
	authority = startCA(t, m, nil)
	r := start(t, configFor(m, authority), tenure{ctx: ctx})
	s := r.await(ctx, t, www, "issued", issued)
	want(t, authority, map[ca.Kind]int{ca.Account: 2, ca.Order: 2, ca.Issued: 1})
	if s.Used.OrdersToday != 2 {
		t.Errorf("budget: %+v", s.Used)
	}
	r.stop()
	if n := m.presented(); n != 0 {
		t.Errorf("%d tokens were left, of the first order or the second", n)
	}
}

// The CA forgets the order when it has the CSR, or when the CSR was lost on its way. What it issued, if it did, nobody can fetch any more: the attempt is
// given up, and another with another key begins by the schedule.
func TestAnOrderThatVanishedAfterTheCSRIsGivenUp(t *testing.T) {
	t.Parallel()
	for _, arrived := range []bool{false, true} {
		t.Run(fmt.Sprintf("the CSR arrived: %v", arrived), func(t *testing.T) {
			t.Parallel()
			ctx := fuse(t)
			m := newMemFleet().serving(t)
			var lost atomic.Pointer[string] // the order's
			forgets := func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					id := path.Base(r.URL.Path)
					switch {
					case strings.HasPrefix(r.URL.Path, "/finalize-order/") && lost.CompareAndSwap(nil, &id):
						if arrived {
							next.ServeHTTP(httptest.NewRecorder(), r)
						}
						panic(http.ErrAbortHandler)
					case strings.HasPrefix(r.URL.Path, "/my-order/") && lost.Load() != nil && *lost.Load() == id:
						http.NotFound(w, r)
					default:
						next.ServeHTTP(w, r)
					}
				})
			}
			authority := startCA(t, m, func(c *ca.Config) { c.Middleware = forgets })
			cfg := configFor(m, authority)
			cfg.Retry = []time.Duration{time.Millisecond}
			r := start(t, cfg, tenure{ctx: ctx})
			r.await(ctx, t, www, "issued", issued)
			history, err := r.History(www)
			if err != nil || len(history) != 2 || history[0].Error != "" || !strings.Contains(history[1].Error, "no longer knows the order that was being finalized") {
				t.Errorf("%+v, %v", history, err)
			}
			wasted := 0
			if arrived {
				wasted = 1
			}
			want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: 2, ca.Finalize: 1 + wasted, ca.Issued: 1 + wasted})
			if got, all := m.installs(), authority.Issued(); len(got) != 1 || got[0].Leaf.SerialNumber.Text(16) != all[len(all)-1] {
				t.Errorf("installed is %+v, and the CA issued %q", got, all)
			}
			if n := m.presented(); n != 0 {
				t.Errorf("%d tokens were left", n)
			}
		})
	}
}

// A CA's replica that lags behind does not know an order that was just placed.
func TestOneEarlyNotFoundCostsNoOrder(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	var lagged atomic.Bool
	lagging := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/my-order/") && !lagged.Swap(true) {
				http.NotFound(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	authority := startCA(t, m, func(c *ca.Config) { c.Middleware = lagging })
	r := start(t, configFor(m, authority), tenure{ctx: ctx})
	r.await(ctx, t, www, "issued", issued)
	want(t, authority, map[ca.Kind]int{ca.Order: 1, ca.Issued: 1})
}

func TestAnOrderIsNotReplacedBeyondTheBudget(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	var authority *ca.CA
	m.onBarrier = func(context.Context, []Token) error {
		authority.Forget()
		return nil
	}
	authority = startCA(t, m, nil)
	cfg := configFor(m, authority)
	cfg.Budget = Budget{OrdersPerDay: 1, OrdersPerWeek: 4, FailuresPerHour: 4}
	r := start(t, cfg, tenure{ctx: ctx})
	s := r.await(ctx, t, www, "failed", failed)
	if s.Code != CodeBudget || time.Until(s.NextAttempt) < 23*time.Hour {
		t.Errorf("%+v", s)
	}
	want(t, authority, map[ca.Kind]int{ca.Order: 1, ca.Issued: 0})
}

func TestAForgottenAccountIsRegisteredOnce(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	authority := startCA(t, m, nil)
	r := start(t, configFor(m, authority), tenure{ctx: ctx})
	r.await(ctx, t, www, "issued", issued)
	authority.Forget()
	id, err := poke(ctx, r, www, false)
	if err != nil {
		t.Fatal(err)
	}
	r.await(ctx, t, www, "issued again", func(s Status) bool { return issued(s) && s.Attempt == id })
	want(t, authority, map[ca.Kind]int{ca.Account: 2, ca.Order: 2, ca.Issued: 2})
}

func TestEveryIrreversibleCallIsPermittedFirst(t *testing.T) {
	t.Parallel()
	const questions = 2 // for each call: before anything is done for it, and as its request leaves
	calls := []string{"newAccount", "newOrder", "accept", "accept of the second name", "finalize"}
	for permitted := range questions * len(calls) {
		n := permitted / questions
		t.Run(fmt.Sprintf("%s, question %d", calls[n], permitted%questions+1), func(t *testing.T) {
			t.Parallel()
			ctx := fuse(t)
			m := newMemFleet().serving(t)
			authority := startCA(t, m, nil)
			var asked atomic.Int32
			refused := make(chan struct{})
			first := start(t, configFor(m, authority), tenure{ctx: ctx, check: func() error {
				if int(asked.Add(1)) <= permitted {
					return nil
				}
				if asked.Load() == int32(permitted)+1 {
					close(refused)
				}
				return errors.New("the watchdog barked")
			}})
			select {
			case <-refused:
			case <-ctx.Done():
				t.Fatal("nobody asked for permission")
			}
			first.stop()
			accepts := min(max(n-2, 0), 2)
			want(t, authority, map[ca.Kind]int{ca.Account: min(n, 1), ca.Order: min(max(n-1, 0), 1), ca.Accept: accepts, ca.Finalize: 0})

			second := start(t, configFor(m, authority), tenure{ctx: ctx})
			second.await(ctx, t, www, "issued", issued)
			want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: 1, ca.Issued: 1})
		})
	}
}
