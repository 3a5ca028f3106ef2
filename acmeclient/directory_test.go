package acmeclient

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/testnet/ca"
)

const (
	oneCA   = "https://one.example/dir"
	otherCA = "https://other.example/dir"
)

func TestWhatOneCASaidMeansNothingToAnother(t *testing.T) {
	tokens := &order{Challenges: []challenge{{Token: Token{Token: "t"}}}}
	full := func(a *attempt) *journal {
		return &journal{Directory: oneCA, Declared: www, Failures: 4, NextAttempt: birth.Add(day), RetryAfter: birth.Add(time.Hour), LastError: "x", LastCode: CodeRefused,
			Orders: []mark{{birth, www}, {birth, www}}, Invalid: []mark{{birth, www}}, Renewal: &renewal{CertID: "a.b"}, Issued: []origin{{Leaf: "1", Directory: oneCA}}, Attempt: a}
	}
	for name, step := range map[string]Step{"ordered": StepPresented, "fetched, and not in force": StepChecked} {
		j := full(&attempt{ID: "1", Step: step, Order: tokens})
		if j.declare(www, oneCA, birth) || j.Attempt == nil || j.Failures != 4 {
			t.Fatalf("%s: the same CA changed %+v", name, j)
		}
		if !j.declare(www, otherCA, birth) || j.Attempt != nil || len(j.Cleanup) != 1 || len(j.History) != 1 {
			t.Fatalf("%s: the attempt goes on, or its tokens are forgotten: %+v", name, j)
		}
		if why := j.History[0].Error; !strings.Contains(why, oneCA) || !strings.Contains(why, otherCA) || !j.History[0].Ended.Equal(birth) {
			t.Errorf("%s: %+v", name, j.History[0])
		}
		if j.Failures != 0 || !j.NextAttempt.IsZero() || !j.RetryAfter.IsZero() || j.LastError != "" || j.LastCode != "" || j.Renewal != nil || j.used(www, birth) != (Usage{}) {
			t.Errorf("%s: what the other said is obeyed: %+v", name, j)
		}
		if j.Directory != otherCA || len(j.Issued) != 1 {
			t.Errorf("%s: %+v", name, j)
		}
		if j.declare(www, otherCA, birth) {
			t.Errorf("%s: said twice", name)
		}

		j.Orders = []mark{{birth.Add(time.Minute), www}}
		j.declare(www, oneCA, birth)
		if j.used(www, birth) != (Usage{OrdersToday: 2, OrdersWeek: 2, FailuresHour: 1}) || !j.RetryAfter.Equal(birth.Add(time.Hour)) || j.LastError != "" {
			t.Errorf("%s: back at the first: %+v", name, j)
		}
		j.prune(birth.Add(week))
		if _, known := j.Elsewhere[otherCA]; !known {
			t.Errorf("%s: an order that still counts is forgotten: %+v", name, j.Elsewhere)
		}
		if j.prune(birth.Add(week + time.Minute)); len(j.Elsewhere) != 0 {
			t.Errorf("%s: what no longer counts is kept: %+v", name, j.Elsewhere)
		}
	}

	j := full(&attempt{ID: "1", Step: StepInstalled, Order: tokens})
	if !j.declare(www, otherCA, birth) || j.History[0].Error != "" || len(j.Cleanup) != 1 {
		t.Errorf("what is in force did not fail: %+v", j.History)
	}
	j = full(&attempt{ID: "1", Step: StepPresented})
	j.Directory = "" // an earlier version wrote it
	if j.declare(www, otherCA, birth) || j.Attempt == nil || j.Directory != otherCA || j.Failures != 4 || j.RetryAfter.IsZero() {
		t.Errorf("a journal of one CA: %+v", j)
	}
}

// counting counts the requests that reach a CA, whatever it answers.
func counting(n *atomic.Int32) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n.Add(1)
			next.ServeHTTP(w, r)
		})
	}
}

// planned is a certificate whose holder acts, and waits until it is due.
func planned(s Status) bool { return issued(s) && !s.NextAttempt.IsZero() }

// The configuration names another CA while an order is pending at the first, which is not asked for anything any more.
func TestAnotherCAIsConfiguredWhileAnOrderIsPending(t *testing.T) {
	t.Parallel()
	for _, inForce := range []bool{false, true} {
		t.Run(fmt.Sprintf("a good certificate is in force: %v", inForce), func(t *testing.T) {
			t.Parallel()
			ctx := fuse(t)
			m := newMemFleet().serving(t)
			var asked atomic.Int32
			first, second := startCA(t, m, func(c *ca.Config) { c.Middleware = counting(&asked) }), startCA(t, m, nil)
			cfg := configFor(m, first)
			cfg.Roots.AppendCertsFromPEM(second.Root())
			promised, orders := "", 1
			if inForce {
				r := start(t, cfg, tenure{ctx: ctx})
				r.await(ctx, t, www, "at rest", planned)
				r.stop()
				orders = 2
			}
			atBarrier := make(chan struct{})
			m.onBarrier = func(ctx context.Context, _ []Token) error {
				close(atBarrier)
				<-ctx.Done()
				return ctx.Err()
			}
			r := start(t, cfg, tenure{ctx: ctx})
			if inForce {
				r.await(ctx, t, www, "at rest", planned)
				var err error
				if promised, err = poke(ctx, r, www, false); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-atBarrier:
			case <-ctx.Done():
				t.Fatal("nobody came to the barrier")
			}
			r.stop()
			want(t, first, map[ca.Kind]int{ca.Order: orders})
			before := asked.Load()
			m.onBarrier = nil

			cfg.Directory = second.DirectoryURL()
			r = start(t, cfg, tenure{ctx: ctx})
			s := r.await(ctx, t, www, "at rest", planned)
			if s.LastError != "" || time.Until(s.NextAttempt) < 59*day || m.presented() != 0 {
				t.Errorf("%+v, %d tokens were left", s, m.presented())
			}
			if inForce {
				if o, err := r.Await(ctx, www, promised, StepVerified); err == nil || !strings.Contains(err.Error(), cfg.Directory) || o.Ended.IsZero() {
					t.Errorf("whoever waited is told %+v, %v", o, err)
				}
				want(t, second, map[ca.Kind]int{ca.Account: 0, ca.Order: 0}) // another CA is no reason to order
				if o, err := r.renewal(ctx, t); err != nil || o.Replaces != "" {
					t.Errorf("asked for at the second: %+v, %v", o, err)
				}
			}
			r.stop()
			want(t, second, map[ca.Kind]int{ca.Account: 1, ca.Order: 1, ca.Issued: 1})
			if n := asked.Load(); n != before {
				t.Errorf("the first was asked %d times more", n-before)
			}
			j := m.journalOf(t, www)
			closed := slices.IndexFunc(j.History, func(o Outcome) bool { return strings.Contains(o.Error, first.DirectoryURL()) })
			if closed < 0 || j.used(nameSet(cfg.Certificates[0].Names), time.Now()).OrdersToday != 1 {
				t.Errorf("%+v", j)
			}
		})
	}
}

// A rehearsal goes by its own directory: what the staging CA that was configured before asked for does not hold up the next.
func TestAnotherStagingCAIsConfigured(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	faults := new(ca.Faults)
	busy, idle := startCA(t, m, func(c *ca.Config) { c.Faults = faults }), startCA(t, m, nil)
	faults.On(ca.CallNewOrder).Always().Refuse(ca.RateLimited(2 * time.Hour))
	authority := startCA(t, m, nil)
	cfg := configFor(m, authority)
	cfg.Roots.AppendCertsFromPEM(busy.Root())
	cfg.Roots.AppendCertsFromPEM(idle.Root())
	for _, c := range []struct {
		staging string
		passes  bool
	}{{busy.DirectoryURL(), false}, {idle.DirectoryURL(), true}, {busy.DirectoryURL(), false}} {
		cfg.Staging = c.staging
		r := start(t, cfg, tenure{ctx: ctx})
		r.await(ctx, t, www, "at rest", planned)
		if o, err := r.Rehearse(ctx, www); (err == nil) != c.passes {
			t.Errorf("%+v, %v", o, err)
		}
		r.stop()
	}
	want(t, authority, map[ca.Kind]int{ca.Order: 1, ca.Issued: 1})
	want(t, idle, map[ca.Kind]int{ca.Order: 1, ca.Issued: 1})
}

// Whoever waits for an attempt that has no tokens yet is told all the same that it is over.
func TestAnAttemptThatAnotherConfigurationEndsIsJournalled(t *testing.T) {
	publicOf(t, ECDSAP256)
	for name, change := range map[string]func(*Config){
		"another CA":       func(c *Config) { c.Directory = otherCA },
		"another key type": func(c *Config) { c.Certificates[0].Key = ECDSAP384 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemFleet()
				m.held[www] = heldNow(t, 90*day) // found, and so good for either declaration
				cfg := deadConfig(m, new(deadCA))
				r := start(t, cfg, tenure{ctx: t.Context()})
				synctest.Wait()
				ticket, err := r.Obtain(t.Context(), www, Request{Renew: true})
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				r.stop()
				if a := m.journalOf(t, www).Attempt; a == nil || a.Step != StepIntent {
					t.Fatalf("the attempt under way is %+v", a)
				}
				change(&cfg)
				r = start(t, cfg, tenure{ctx: t.Context()})
				synctest.Wait()
				patience, leave := context.WithTimeout(t.Context(), time.Hour)
				defer leave()
				if o, err := r.Await(patience, www, ticket.Attempt, StepVerified); err == nil || o.Ended.IsZero() {
					t.Errorf("%+v, %v", o, err)
				}
				r.stop()
			})
		})
	}
}
