package acmeclient

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"certswarm/testnet/ca"

	"golang.org/x/crypto/acme"
)

func TestTheGateTellsWhoseLimitItIs(t *testing.T) {
	refusal := func(status int, wait string) error {
		return &acme.Error{StatusCode: status, Header: http.Header{"Retry-After": {wait}}}
	}
	limited, busy := refusal(http.StatusTooManyRequests, "3600"), refusal(http.StatusServiceUnavailable, "60")
	type step struct {
		name string
		err  error
	}
	for name, c := range map[string]struct {
		steps []step
		shut  time.Duration
	}{
		"accepted":                        {[]step{{"a", nil}}, 0},
		"one name is limited":             {[]step{{"a", limited}}, 0},
		"the same one again":              {[]step{{"a", limited}, {"a", limited}}, 0},
		"two names in a row":              {[]step{{"a", limited}, {"b", limited}}, time.Hour},
		"another was accepted in between": {[]step{{"a", limited}, {"b", nil}, {"c", limited}}, 0},
		"the CA is busy":                  {[]step{{"a", busy}}, time.Minute},
		"busy, after all are limited":     {[]step{{"a", limited}, {"b", limited}, {"c", busy}}, time.Hour},
		"limited without an end":          {[]step{{"a", refusal(429, "")}, {"b", refusal(429, "")}}, 0},
		"refused for itself":              {[]step{{"a", refusal(403, "60")}, {"b", refusal(403, "60")}}, 0},
	} {
		var g gate
		for _, s := range c.steps {
			g.answered(s.name, s.err, birth)
		}
		r := g.shut(birth)
		if (r == nil) != (c.shut == 0) || r != nil && !r.Until.Equal(birth.Add(c.shut)) {
			t.Errorf("%s: %v, not %v", name, r, c.shut)
		}
		if r := g.shut(birth.Add(c.shut)); r != nil {
			t.Errorf("%s: still shut at its end: %v", name, r)
		}
	}
}

// many is a configuration with n certificates, n0 to n(n-1).
func many(m *memFleet, authority *ca.CA, n int) Config {
	cfg := configFor(m, authority)
	cfg.Certificates = nil
	for i := range n {
		name := fmt.Sprintf("n%d", i)
		cfg.Certificates = append(cfg.Certificates, Certificate{Name: name, Names: []string{name + ".example.com"}})
	}
	return cfg
}

// A CA that takes no more orders hears of a few names only; when it takes them again, it gets all.
func TestALimitOfTheAccountIsNotTriedWithEveryName(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	faults := new(ca.Faults)
	closed := faults.On(ca.CallNewOrder).Always()
	closed.Refuse(ca.RateLimited(time.Hour))
	authority := startCA(t, m, func(c *ca.Config) { c.Faults = faults })
	cfg := many(m, authority, 30)
	first := start(t, cfg, tenure{ctx: ctx})
	for _, c := range cfg.Certificates {
		if s := first.await(ctx, t, c.Name, "put off", failed); s.Code != CodeRateLimited || time.Until(s.NextAttempt) < 59*time.Minute {
			t.Errorf("%+v", s)
		}
	}
	first.stop()
	if n := closed.Met(); n > 1+maxOrdering {
		t.Errorf("the CA was asked for %d orders", n)
	}
	met := closed.Met()
	cfg.Node = "fe2"
	second := start(t, cfg, tenure{ctx: ctx})
	for _, c := range cfg.Certificates {
		second.await(ctx, t, c.Name, "put off", func(s Status) bool { return failed(s) && time.Until(s.NextAttempt) > 59*time.Minute })
	}
	if n := closed.Met(); n != met {
		t.Errorf("the next holder asked for %d orders", n-met)
	}
}

// The same without the lease: what fails, or stands at the barrier for ever, delays nobody.
func TestAVisitTriesSeveralNamesSideBySide(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(fuse(t))
	m := newMemFleet().serving(t)
	m.onBarrier = func(ctx context.Context, tokens []Token) error {
		if tokens[0].Host == "n0.example.com" {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	authority := startCA(t, m, nil)
	c, err := New(many(m, authority, 3))
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.Visit(ctx, tenure{ctx: ctx})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Visit(ctx, tenure{ctx: ctx}); err == nil {
		t.Error("two visits at a time")
	}
	stuck, others := make(chan error, 1), make(chan error, 2)
	go func() { stuck <- v.RunOne("n0", nil) }()
	for _, name := range []string{"n1", "n2"} {
		go func() { others <- v.RunOne(name, nil) }()
	}
	for range cap(others) {
		if err := <-others; err != nil {
			t.Error(err)
		}
	}
	cancel() // the lease is held again
	if err := <-stuck; err == nil {
		t.Error("what stood at the barrier is there")
	}
	v.End()
	want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: 3, ca.Issued: 2})
}

// One name that the CA limits, and one that stands at the barrier for ever, delay none of the others, which are issued side by side.
func TestManyNamesAreIssuedSideBySide(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	faults := new(ca.Faults)
	faults.On(ca.CallNewOrder).About("n3.example.com").Always().Refuse(ca.RateLimited(time.Hour))
	const together = 10
	var mu sync.Mutex
	met, all := 0, make(chan struct{})
	m.onBarrier = func(ctx context.Context, tokens []Token) error {
		if tokens[0].Host == "n7.example.com" {
			<-ctx.Done()
			return ctx.Err()
		}
		mu.Lock()
		if met++; met == together {
			close(all)
		}
		mu.Unlock()
		select { // nobody goes on before so many have come this far
		case <-all:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	authority := startCA(t, m, func(c *ca.Config) { c.Faults = faults })
	cfg := many(m, authority, together+2)
	r := start(t, cfg, tenure{ctx: ctx})
	for _, c := range cfg.Certificates {
		switch c.Name {
		case "n3":
			r.await(ctx, t, c.Name, "limited", func(s Status) bool { return s.Code == CodeRateLimited })
		case "n7":
		default:
			r.await(ctx, t, c.Name, "issued", issued)
		}
	}
	want(t, authority, map[ca.Kind]int{ca.Account: 1, ca.Order: together + 1, ca.Issued: together})
}
