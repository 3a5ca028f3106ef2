package acmeclient

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/testnet/ca"
)

// These tests issue from a real CA (Pebble). It cannot live in a bubble of virtual time: time is real here, and nothing
// waits but on channels.

const www = "www.example.com"

// startCA returns a CA that validates at m's front-ends; change adjusts its settings.
func startCA(t *testing.T, m *memFleet, change func(*ca.Config)) *ca.CA {
	t.Helper()
	cfg := ca.Config{Addresses: m.addresses, HTTPPort: m.port}
	if change != nil {
		change(&cfg)
	}
	authority, err := ca.Start(context.WithoutCancel(t.Context()), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := authority.Close(); err != nil {
			t.Error(err)
		}
	})
	return authority
}

// configFor returns the configuration of a node called fe1 with one certificate.
func configFor(m *memFleet, authority *ca.CA) Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.Root())
	return Config{
		Directory:    authority.DirectoryURL(),
		Roots:        roots,
		Email:        "ops@example.com",
		AcceptTerms:  true,
		Certificates: []Certificate{{Name: www, Names: []string{www, "example.com"}}},
		Retry:        []time.Duration{time.Hour},
		UserAgent:    "certswarm/test",
		Node:         "fe1",
		Fleet:        m,
	}
}

// want compares what the CA counted.
func want(t *testing.T, authority *ca.CA, counts map[ca.Kind]int) {
	t.Helper()
	for kind, n := range counts {
		if got := authority.Count(kind); got != n {
			t.Errorf("the CA counted %d x %s, not %d", got, kind, n)
		}
	}
}

func TestIssuesOnceAndThenRests(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	authority := startCA(t, m, nil)
	cfg := configFor(m, authority)
	cfg.Certificates = append(cfg.Certificates, Certificate{Name: "rsa", Names: []string{"rsa.example.com"}, Key: RSA2048})
	cfg.Certificates = append(cfg.Certificates, Certificate{Name: "p384", Names: []string{"p384.example.com"}, Key: ECDSAP384})
	var steps []Step // of www; one worker calls Observe for it
	cfg.Observe = func(e Event) {
		if e.Name == www && e.Step != "" {
			steps = append(steps, e.Step)
		}
	}
	epoch := fleet.Epoch{Generation: 1, Term: 2, Index: 3}
	r := start(t, cfg, tenure{ctx: ctx, epoch: epoch})
	for _, c := range cfg.Certificates {
		s := r.await(ctx, t, c.Name, "issued", issued)
		if s.Verified["fe1"] != "current" || s.Used.OrdersToday != 1 || time.Until(s.NextAttempt) < 59*24*time.Hour {
			t.Errorf("%+v", s)
		}
	}
	r.stop()

	want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: 3, ca.Finalize: 3, ca.Issued: 3, ca.Validation: 12})
	if !slices.Equal(steps, stepOrder) {
		t.Errorf("steps: %v", steps)
	}
	for _, b := range m.installs() {
		if key, err := decodeKey(b.Key); err != nil || !samePublic(b.Leaf.PublicKey, key.Public()) || b.Epoch != epoch {
			t.Errorf("%s: installed with the wrong key or epoch %v (%v)", b.Name, b.Epoch, err)
		}
	}
	if n := m.presented(); n != 0 {
		t.Errorf("%d tokens were left on the front-ends", n)
	}
	j := m.journalOf(t, www)
	if j.Attempt != nil || len(j.History) != 1 || j.History[0].Serial == "" || j.Epoch != epoch {
		t.Errorf("journal: %+v", j)
	}

	// Another node takes over, finds all in order, and asks nothing of the CA.
	cfg.Node = "fe2"
	r = start(t, cfg, tenure{ctx: ctx, epoch: epoch})
	r.await(ctx, t, www, "issued", func(s Status) bool { return issued(s) && !s.NextAttempt.IsZero() })
	r.stop()
	want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: 3})
}

func TestReusedAuthorizationsNeedNoChallenge(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	authority := startCA(t, m, func(c *ca.Config) { c.AuthzReuse = 100 })
	r := start(t, configFor(m, authority), tenure{ctx: ctx})
	first := r.await(ctx, t, www, "issued", issued)
	id, err := poke(ctx, r, www, false)
	if err != nil || id == first.Attempt {
		t.Fatalf("Poke: %q, %v", id, err)
	}
	r.await(ctx, t, www, "issued again", func(s Status) bool { return issued(s) && s.Attempt == id })
	want(t, authority, map[ca.Kind]int{ca.Order: 2, ca.Issued: 2, ca.Accept: 2})
	if got := m.installs(); len(got) != 2 || string(got[0].Key) == string(got[1].Key) {
		t.Errorf("%d installed, or the key was used twice", len(got))
	}
}

// accepted reports whether any accept reached the CA, whatever it answered.
func accepted(authority *ca.CA) bool {
	return slices.ContainsFunc(authority.Events(), func(e ca.Event) bool { return e.Kind == ca.Accept })
}

func TestNothingIsAcceptedBeforeTheBarrier(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	atBarrier, healed := make(chan struct{}, 1), make(chan struct{})
	m.onBarrier = func(ctx context.Context, _ []Token) error {
		atBarrier <- struct{}{}
		select {
		case <-healed:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	authority := startCA(t, m, nil)
	r := start(t, configFor(m, authority), tenure{ctx: ctx})
	select {
	case <-atBarrier:
	case <-ctx.Done():
		t.Fatal("nobody came to the barrier")
	}
	r.await(ctx, t, www, "presented", func(s Status) bool { return s.Step == StepPresented && s.State == StateIssuing })
	if id, err := poke(ctx, r, www, true); err != nil || id == "" {
		t.Errorf("a request during an attempt does not join it: %q, %v", id, err)
	}
	if accepted(authority) {
		t.Fatal("the CA was told to validate while a front-end did not serve the token")
	}
	close(healed)
	r.await(ctx, t, www, "issued", issued)
	want(t, authority, map[ca.Kind]int{ca.Order: 1, ca.Accept: 2, ca.Issued: 1})
}

func TestABarrierThatFailsKeepsTheOrder(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	m.behind = []string{"fe9"}
	var broken atomic.Bool
	broken.Store(true)
	m.onBarrier = func(context.Context, []Token) error {
		if broken.Load() {
			return errors.New("fe2 answers 404")
		}
		return nil
	}
	authority := startCA(t, m, nil)
	r := start(t, configFor(m, authority), tenure{ctx: ctx})
	s := r.await(ctx, t, www, "failed", failed)
	if s.Code != CodeNotServed || !strings.Contains(s.LastError, "fe2 answers 404") || s.NextAttempt.IsZero() {
		t.Errorf("%+v", s)
	}
	if accepted(authority) {
		t.Fatal("the CA was told to validate")
	}
	broken.Store(false)
	if _, err := poke(ctx, r, www, false); err != nil {
		t.Fatal(err)
	}
	if s := r.await(ctx, t, www, "issued", issued); !slices.Equal(s.LeftBehind, m.behind) || s.LastError != "" {
		t.Errorf("%+v", s)
	}
	want(t, authority, map[ca.Kind]int{ca.Order: 1, ca.Issued: 1})
}

func TestABadChainIsNotInstalled(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	reversed := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, "/certZ/") {
				next.ServeHTTP(w, r)
				return
			}
			answer := httptest.NewRecorder()
			next.ServeHTTP(answer, r)
			chain, err := decodeChain(answer.Body.Bytes())
			if err != nil {
				t.Error(err)
			}
			for name, values := range answer.Header() {
				w.Header()[name] = values
			}
			for _, cert := range slices.Backward(chain) {
				_, _ = w.Write(encodeChain([][]byte{cert.Raw}))
			}
		})
	}
	authority := startCA(t, m, func(c *ca.Config) { c.Middleware = reversed })
	r := start(t, configFor(m, authority), tenure{ctx: ctx})
	s := r.await(ctx, t, www, "failed", failed)
	if s.Code != CodeChain {
		t.Errorf("%+v", s)
	}
	if n := len(m.installs()); n != 0 {
		t.Errorf("installed %d times", n)
	}
	r.stop()
	if j := m.journalOf(t, www); j.Attempt != nil || len(j.History) != 1 || j.History[0].Code != CodeChain {
		t.Errorf("journal: %+v", j)
	}
}

func TestRetryAfterIsObeyedByEveryNodeAndNeverForced(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	var asked atomic.Int32
	limited := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/order-plz" {
				next.ServeHTTP(w, r)
				return
			}
			asked.Add(1)
			w.Header().Set("Retry-After", "7200")
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = w.Write([]byte(`{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many"}`))
		})
	}
	authority := startCA(t, m, func(c *ca.Config) { c.Middleware = limited })
	cfg := configFor(m, authority)
	cfg.Retry = []time.Duration{time.Millisecond}
	for _, node := range []string{"fe1", "fe2"} {
		cfg.Node = node
		r := start(t, cfg, tenure{ctx: ctx})
		s := r.await(ctx, t, www, "rate-limited", func(s Status) bool { return failed(s) && !s.NextAttempt.IsZero() })
		if s.Code != CodeRateLimited || time.Until(s.RetryAfter) < 119*time.Minute || s.NextAttempt.Before(s.RetryAfter) {
			t.Errorf("%s: %+v", node, s)
		}
		refusal := new(Refusal)
		if _, err := poke(ctx, r, www, true); !errors.As(err, &refusal) || refusal.Code != CodeRateLimited {
			t.Errorf("%s: Poke by force: %v", node, err)
		}
		r.stop()
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the CA was asked for an order %d times", n)
	}
}

func TestTheBudgetStopsWhatKeepsFailing(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	m.onBarrier = func(_ context.Context, tokens []Token) error {
		spoilt := slices.Clone(tokens)
		for i := range spoilt {
			spoilt[i].KeyAuthorization = "nonsense"
		}
		return m.Present(ctx, spoilt)
	}
	addresses := m.addresses
	m.addresses = nil // nobody checks: the CA finds out
	authority := startCA(t, m, func(c *ca.Config) { c.Addresses = addresses })
	cfg := configFor(m, authority)
	cfg.Certificates[0].Names = []string{www}
	cfg.Retry = []time.Duration{time.Millisecond}
	r := start(t, cfg, tenure{ctx: ctx})
	exhausted := func(s Status) bool { return failed(s) && time.Until(s.NextAttempt) > time.Hour }
	s := r.await(ctx, t, www, "out of budget", exhausted)
	if s.Used != (Usage{OrdersToday: 2, OrdersWeek: 2, FailuresHour: 2}) || s.Code != CodeNotServed {
		t.Errorf("%+v", s)
	}
	want(t, authority, map[ca.Kind]int{ca.Order: 2, ca.Invalid: 2})

	refusal := new(Refusal)
	if _, err := poke(ctx, r, www, false); !errors.As(err, &refusal) || refusal.Code != CodeBudget {
		t.Errorf("Poke: %v", err)
	}
	for n := 3; n <= 4; n++ {
		if _, err := poke(ctx, r, www, true); err != nil {
			t.Fatalf("Poke by force: %v", err)
		}
		r.await(ctx, t, www, "failed again", func(s Status) bool { return exhausted(s) && s.Used.FailuresHour == n })
	}
	if _, err := poke(ctx, r, www, true); !errors.As(err, &refusal) || refusal.Code != CodeBudget {
		t.Errorf("Poke by force after four failed validations: %v", err)
	}
	want(t, authority, map[ca.Kind]int{ca.Order: 4})
}

func TestOneFailingNameDoesNotDelayAnother(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	m.onBarrier = func(ctx context.Context, tokens []Token) error {
		if tokens[0].Host == "stuck.example.com" {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	authority := startCA(t, m, nil)
	cfg := configFor(m, authority)
	cfg.Certificates = append(cfg.Certificates,
		Certificate{Name: "stuck", Names: []string{"stuck.example.com"}},
		Certificate{Name: "profile", Names: []string{"profile.example.com"}, Profile: "tlsclient"})
	r := start(t, cfg, tenure{ctx: ctx})
	r.await(ctx, t, "stuck", "at the barrier", func(s Status) bool { return s.Step == StepPresented })
	s := r.await(ctx, t, "profile", "failed", failed)
	if s.Code != CodeRefused || !strings.Contains(s.LastError, `no profile "tlsclient"; it has: default`) {
		t.Errorf("%+v", s)
	}
	r.await(ctx, t, www, "issued", issued)
	want(t, authority, map[ca.Kind]int{ca.Order: 2, ca.Issued: 1}) // none for the profile that is unknown
}
