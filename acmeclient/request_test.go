package acmeclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/testnet/ca"
)

func TestWhatIsAskedForIsToldFromBeginToEnd(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	authority := startCA(t, m, nil)
	epoch := fleet.Epoch{Generation: 1, Term: 2, Index: 3}
	r := start(t, configFor(m, authority), tenure{ctx: ctx, epoch: epoch})
	first := r.await(ctx, t, www, "issued", issued)

	if _, err := r.Obtain(ctx, www, Request{Force: true}); !errors.Is(err, ErrInForce) {
		t.Errorf("asking for what is there: %v", err)
	}
	ticket, err := r.Obtain(ctx, www, Request{Renew: true})
	if err != nil || ticket.Joined || ticket.Attempt == first.Attempt {
		t.Fatalf("%+v, %v", ticket, err)
	}
	if o, err := r.Await(ctx, www, ticket.Attempt, StepOrdered); err != nil || !o.Step.reached(StepOrdered) {
		t.Errorf("ordered: %+v, %v", o, err)
	}
	o, err := r.Await(ctx, www, ticket.Attempt, StepVerified)
	if err != nil || o.Serial == "" || o.NotAfter.IsZero() || o.Served["fe1"] != "current" {
		t.Errorf("verified: %+v, %v", o, err)
	}
	r.await(ctx, t, www, "at rest", issued)
	r.stop()

	history, err := r.History(www) // also on a node that does not act
	if err != nil || len(history) != 2 || history[0].Attempt != ticket.Attempt || history[1].Attempt != first.Attempt {
		t.Fatalf("%+v, %v", history, err)
	}
	for _, o := range history {
		if o.Node != "fe1" || o.By != "fe1" || o.Epoch != epoch || o.Ended.Before(o.Started) || o.Error != "" || o.Orders != 1 {
			t.Errorf("%+v", o)
		}
	}
	if got := authority.Issued(); got[1] != history[0].Serial || got[0] != history[1].Serial {
		t.Errorf("issued %v, told %+v", got, history)
	}
	if _, err := r.Await(ctx, www, ticket.Attempt, StepVerified); err != nil {
		t.Errorf("of an attempt that is over: %v", err)
	}
	if _, err := r.Await(ctx, www, "of nobody", StepVerified); !errors.Is(err, ErrNotActing) {
		t.Errorf("of an attempt that never was: %v", err)
	}
}

func TestAwaitTellsWhyItFailedForNow(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	atBarrier, fail := make(chan struct{}), make(chan struct{})
	m.onBarrier = func(context.Context, []Token) error {
		close(atBarrier)
		<-fail
		return errors.New("fe2 answers 404")
	}
	authority := startCA(t, m, nil)
	r := start(t, configFor(m, authority), tenure{ctx: ctx})
	<-atBarrier
	ticket, err := r.Obtain(ctx, www, Request{})
	if err != nil || !ticket.Joined {
		t.Fatalf("%+v, %v", ticket, err)
	}
	close(fail)
	if _, err := r.Await(ctx, www, ticket.Attempt, StepVerified); err == nil || !strings.Contains(err.Error(), "fe2 answers 404") {
		t.Errorf("%v", err)
	}
	history, err := r.History(www)
	if err != nil || len(history) != 1 || !history[0].Ended.IsZero() || history[0].Code != CodeNotServed || history[0].Step != StepPresented {
		t.Errorf("%+v, %v", history, err)
	}
}

// counted is what must not change by a rehearsal.
func counted(t *testing.T, m *memFleet) string {
	t.Helper()
	j := m.journalOf(t, www)
	return fmt.Sprintf("%v %v %v %v %v", j.Orders, j.Invalid, len(j.History), j.LastError, len(m.installs()))
}

func TestARehearsalChangesNothing(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	authority, staging := startCA(t, m, nil), startCA(t, m, nil)
	cfg := configFor(m, authority)
	cfg.Roots.AppendCertsFromPEM(staging.Root())
	cfg.Staging = staging.DirectoryURL()
	var rehearsed atomic.Int32
	cfg.Observe = func(e Event) {
		if e.Rehearsal {
			rehearsed.Add(1)
		}
	}
	r := start(t, cfg, tenure{ctx: ctx})
	r.await(ctx, t, www, "issued", issued)
	before := counted(t, m)
	for range 3 { // more often than the budget for orders
		o, err := r.Rehearse(ctx, www)
		if err != nil || !o.Rehearsal || o.Step != StepChecked || o.Serial == "" || o.By != "fe1" {
			t.Fatalf("%+v, %v", o, err)
		}
	}
	if after := counted(t, m); after != before {
		t.Errorf("before %s, afterwards %s", before, after)
	}
	want(t, authority, map[ca.Kind]int{ca.Order: 1, ca.Issued: 1})
	want(t, staging, map[ca.Kind]int{ca.Account: 1, ca.Order: 3, ca.Issued: 3})
	if n := m.presented(); n != 0 {
		t.Errorf("%d tokens were left", n)
	}
	if n := rehearsed.Load(); n != 27 { // nine steps each
		t.Errorf("%d steps were told", n)
	}
	history, err := r.History(www)
	if err != nil || len(history) != 4 || !history[0].Rehearsal || history[3].Rehearsal {
		t.Errorf("%+v, %v", history, err)
	}
	if content, _ := m.Load(rehearsalPath(www)); strings.Contains(string(content), "PRIVATE") {
		t.Error("the key was kept")
	}
}

// A rehearsal that fails, that is broken off, or whose node dies, leaves nothing behind and delays nothing.
func TestARehearsalThatComesToNothing(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	authority, staging := startCA(t, m, nil), startCA(t, m, nil)
	cfg := configFor(m, authority)
	cfg.Roots.AppendCertsFromPEM(staging.Root())
	cfg.Staging = staging.DirectoryURL()
	r := start(t, cfg, tenure{ctx: ctx})
	r.await(ctx, t, www, "issued", issued)
	before := counted(t, m)

	var broken atomic.Bool
	broken.Store(true)
	atBarrier := make(chan struct{}, 1)
	m.onBarrier = func(ctx context.Context, _ []Token) error {
		if broken.Load() {
			return errors.New("fe2 answers 404")
		}
		atBarrier <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	if o, err := r.Rehearse(ctx, www); err == nil || !strings.Contains(err.Error(), "fe2 answers 404") || o.Code != CodeNotServed || o.Error == "" {
		t.Errorf("%+v, %v", o, err)
	}
	broken.Store(false)
	impatient, leave := context.WithCancel(ctx)
	go func() { <-atBarrier; leave() }()
	if o, err := r.Rehearse(impatient, www); err == nil || !strings.Contains(o.Error, "broken off after presented") {
		t.Errorf("%+v, %v", o, err)
	}
	if n := m.presented(); n != 0 {
		t.Errorf("%d tokens were left", n)
	}
	go func() { <-atBarrier; r.end() }()
	if _, err := r.Rehearse(ctx, www); !errors.Is(err, ErrNotActing) {
		t.Errorf("when the tenure ends: %v", err)
	}
	r.stop()
	if after := counted(t, m); after != before {
		t.Errorf("before %s, afterwards %s", before, after)
	}

	if n := m.presented(); n == 0 {
		t.Fatal("the power was not cut in the middle")
	}
	cfg.Node, m.onBarrier = "fe2", nil
	second := start(t, cfg, tenure{ctx: ctx})
	second.await(ctx, t, www, "at rest", func(s Status) bool { return issued(s) && !s.NextAttempt.IsZero() })
	if n := m.presented(); n != 0 {
		t.Errorf("the next holder leaves %d tokens", n)
	}
	want(t, staging, map[ca.Kind]int{ca.Order: 3, ca.Issued: 0})
}

func TestWhatWasRevokedIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("answer lost: %v", lost), func(t *testing.T) {
			t.Parallel()
			ctx := fuse(t)
			m := newMemFleet().serving(t)
			authority := startCA(t, m, func(c *ca.Config) {
				if lost {
					c.Middleware = dropping("/revoke-cert", true)
				}
			})
			r := start(t, configFor(m, authority), tenure{ctx: ctx})
			r.await(ctx, t, www, "issued", issued)
			serial, err := r.Revoke(ctx, www, "", "keyCompromise")
			if lost {
				if err == nil {
					t.Fatal("the answer was not lost")
				}
				serial, err = r.Revoke(ctx, www, "", "keyCompromise")
			}
			if err != nil || serial != authority.Issued()[0] {
				t.Fatalf("%q, %v", serial, err)
			}
			r.await(ctx, t, www, "replaced", func(s Status) bool { return issued(s) && s.Used.OrdersToday == 2 })
			if again, err := r.Revoke(ctx, www, serial, "keyCompromise"); err != nil || again != serial {
				t.Errorf("said again: %q, %v", again, err)
			}
			if other, err := r.Revoke(ctx, www, "abc", ""); err == nil || !strings.Contains(err.Error(), "no longer in force") {
				t.Errorf("one that is not in force: %q, %v", other, err)
			}
			history, err := r.History(www)
			if err != nil || len(history) != 2 || history[0].Reason != "it was revoked" || !history[0].Revoked.IsZero() || time.Since(history[1].Revoked) > time.Minute {
				t.Errorf("%+v, %v", history, err)
			}
			if got := m.installs(); len(got) != 2 || string(got[0].Key) == string(got[1].Key) {
				t.Errorf("%d installed, or the key was kept", len(got))
			}
			want(t, authority, map[ca.Kind]int{ca.Order: 2, ca.Issued: 2})
		})
	}
}

func TestRevocationNeedsAReasonACertificateAndTheLease(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	var asked atomic.Int32
	authority := startCA(t, m, func(c *ca.Config) {
		c.Middleware = func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/revoke-cert" {
					asked.Add(1)
				}
				next.ServeHTTP(w, r)
			})
		}
	})
	stuck := make(chan struct{})
	m.onBarrier = func(ctx context.Context, _ []Token) error {
		close(stuck)
		<-ctx.Done()
		return ctx.Err()
	}
	var refuse atomic.Bool
	r := start(t, configFor(m, authority), tenure{ctx: ctx, check: func() error {
		if refuse.Load() {
			return errors.New("the watchdog barked")
		}
		return nil
	}})
	<-stuck
	if _, err := r.Revoke(ctx, www, "", "hold"); err == nil || !strings.Contains(err.Error(), "keyCompromise") {
		t.Errorf("for no reason: %v", err)
	}
	if _, err := r.Revoke(ctx, www, "", ""); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("of nothing: %v", err)
	}
	m.mu.Lock()
	m.held[www] = aged(t, 90*day, ECDSAP256, www)
	m.mu.Unlock()
	refuse.Store(true)
	if _, err := r.Revoke(ctx, www, "", ""); !errors.Is(err, errNoAuthority) {
		t.Errorf("without permission: %v", err)
	}
	r.stop()
	if _, err := r.Revoke(ctx, www, "", ""); !errors.Is(err, ErrNotActing) {
		t.Errorf("without the lease: %v", err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the CA was asked %d times", n)
	}
}
