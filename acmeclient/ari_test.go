package acmeclient

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	_ "certswarm/internal/bubble"
	"certswarm/testnet/ca"
)

func TestAWindowIsObeyedOnlyAsLongAsItIsTheSame(t *testing.T) {
	said := func(start, end time.Duration, again time.Duration) *suggestion {
		return &suggestion{Start: birth.Add(start), End: birth.Add(end), Again: again}
	}
	known := new(renewal).heard("a", said(day, 3*day, time.Hour), birth, 0.5)
	if !known.Chosen.Equal(birth.Add(2*day)) || !known.Ask.Equal(birth.Add(time.Hour)) {
		t.Fatalf("%+v", known)
	}
	now := birth.Add(time.Hour)
	for name, c := range map[string]struct {
		id     string
		said   *suggestion
		chosen time.Time
		ask    time.Duration
	}{
		"the same window":             {"a", said(day, 3*day, 0), known.Chosen, renewalPollRetry},
		"another window":              {"a", said(day, 5*day, 2*time.Hour), birth.Add(2 * day), 2 * time.Hour},
		"no answer":                   {"a", nil, known.Chosen, renewalPollRetry},
		"a window that ends at once":  {"a", said(day, day, time.Hour), known.Chosen, renewalPollRetry},
		"a window that ends before":   {"a", said(day, 0, time.Hour), known.Chosen, renewalPollRetry},
		"asked to come in a second":   {"a", said(day, 3*day, time.Second), known.Chosen, renewalPollMin},
		"asked to come in a year":     {"a", said(day, 3*day, 365*day), known.Chosen, renewalPollMax},
		"another certificate":         {"b", said(day, 3*day, time.Hour), birth.Add(day + 12*time.Hour), time.Hour},
		"another, but no answer":      {"b", nil, time.Time{}, renewalPollRetry},
		"another, in the past of now": {"b", said(-2*day, -day, time.Hour), birth.Add(-42 * time.Hour), time.Hour},
	} {
		got := known.heard(c.id, c.said, now, 0.25)
		if got.CertID != c.id || !got.Chosen.Equal(c.chosen) || !got.Ask.Equal(now.Add(c.ask)) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// adviser is a CA that answers about renewals, and to all else that it is broken. It counts what it is asked.
type adviser struct {
	mu     sync.Mutex
	answer func(id string) (status int, retryAfter, body string)
	asked  []time.Time // about renewals
	orders []time.Time // anything that leads to an order
}

func (a *adviser) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rec := &recorder{header: http.Header{}, status: http.StatusOK}
	switch {
	case r.URL.Path == "/dir":
		fmt.Fprint(rec, `{"newNonce":"https://ca.invalid/nonce","newAccount":"https://ca.invalid/account","newOrder":"https://ca.invalid/order","renewalInfo":"https://ca.invalid/ari/"}`)
	case strings.HasPrefix(r.URL.Path, "/ari/"):
		a.asked = append(a.asked, time.Now())
		status, again, body := a.answer(strings.TrimPrefix(r.URL.Path, "/ari/"))
		rec.status = status
		rec.header.Set("Retry-After", again)
		fmt.Fprint(rec, body)
	default:
		a.orders = append(a.orders, time.Now())
		rec.status = http.StatusForbidden
	}
	return rec.response(r), nil
}

func (a *adviser) times() (asked, orders []time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.asked), slices.Clone(a.orders)
}

func window(start, end time.Time) string {
	return fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q},"explanationURL":"https://ca.invalid/why"}`, start.Format(time.RFC3339Nano), end.Format(time.RFC3339Nano))
}

// ours puts a certificate in force that was issued from the journal; it lives for life.
func ours(t *testing.T, m *memFleet, life time.Duration) *Held {
	t.Helper()
	key := keysForTests[ECDSAP256]
	leaf := sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: www}, DNSNames: []string{www}, AuthorityKeyId: []byte{1}, SubjectKeyId: []byte{1},
		NotBefore: time.Now(), NotAfter: time.Now().Add(life),
	}, key, nil, nil)
	held := &Held{Leaf: leaf, Generation: 1}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[www] = held
	m.files[journalPath(www)] = fmt.Appendf(nil, `{"version":1,"name":%q,"declared":%q,"issued":[{"leaf":%q,"directory":"https://ca.invalid/dir"}]}`,
		www, www+" ecdsa-p256 ", fingerprint(leaf))
	return held
}

func advised(m *memFleet, a *adviser) Config {
	cfg := deadConfig(m, nil)
	cfg.Transport = a
	return cfg
}

// The window of a six-day certificate is three hours wide: the renewal begins at the instant that was chosen in it, on
// whatever node, and the CA is asked no more often than it wishes.
func TestTheChosenInstantIsMetExactlyAndSurvivesAHandOver(t *testing.T) {
	publicOf(t, ECDSAP256)
	synctest.Test(t, func(t *testing.T) {
		m := newMemFleet()
		held := ours(t, m, 160*time.Hour)
		start0, end := time.Now().Add(100*time.Hour), time.Now().Add(103*time.Hour+12*time.Minute)
		a := &adviser{answer: func(id string) (int, string, string) {
			if id != CertID(held.Leaf) {
				return http.StatusNotFound, "", ""
			}
			return http.StatusOK, "21600", window(start0, end)
		}}
		cfg := advised(m, a)
		first := start(t, cfg, tenure{ctx: t.Context()})
		time.Sleep(13 * time.Hour)
		first.stop()
		chosen := m.journalOf(t, www).Renewal.Chosen
		if asked, _ := a.times(); len(asked) != 3 || chosen.Before(start0) || chosen.After(end) {
			t.Fatalf("asked %d times in 13 hours, chosen %v", len(asked), chosen)
		}
		cfg.Node = "fe2"
		second := start(t, cfg, tenure{ctx: t.Context()})
		synctest.Wait()
		if s := second.Snapshot()[0]; !s.NextAttempt.Equal(chosen) {
			t.Errorf("after the hand-over the renewal is planned for %v, not %v", s.NextAttempt, chosen)
		}
		if asked, _ := a.times(); len(asked) != 3 {
			t.Errorf("the CA was asked anew after the hand-over")
		}
		time.Sleep(time.Until(chosen) + time.Second)
		synctest.Wait()
		_, orders := a.times()
		if len(orders) == 0 || orders[0].Before(chosen) || orders[0].Sub(chosen) > 100*time.Millisecond {
			t.Errorf("chosen is %v; the CA was first asked to act at %v", chosen, orders)
		}
		second.stop()
	})
}

func TestWhatIsNoAnswerChangesNothing(t *testing.T) {
	publicOf(t, ECDSAP256)
	synctest.Test(t, func(t *testing.T) {
		early := window(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
		for name, c := range map[string]struct {
			status int
			body   string
		}{
			"not found":       {http.StatusNotFound, ""},
			"in trouble":      {http.StatusInternalServerError, early},
			"not JSON":        {http.StatusOK, "<html>"},
			"no window":       {http.StatusOK, `{}`},
			"no times":        {http.StatusOK, `{"suggestedWindow":{"start":"soon","end":"later"}}`},
			"ends before":     {http.StatusOK, window(time.Now(), time.Now().Add(-time.Hour))},
			"out of all time": {http.StatusOK, `{"suggestedWindow":{"start":"2026-01-01T00:00:00Z","end":"9999-12-31T23:59:59-14:00"}}`},
		} {
			m := newMemFleet()
			ours(t, m, 90*day)
			due := time.Now().Add(60 * day)
			a := &adviser{answer: func(string) (int, string, string) { return c.status, "60", c.body }}
			r := start(t, advised(m, a), tenure{ctx: t.Context()})
			time.Sleep(25 * time.Hour)
			synctest.Wait()
			asked, orders := a.times()
			if len(asked) != 5 || len(orders) != 0 {
				t.Errorf("%s: asked %d times in 25 hours, ordered %d", name, len(asked), len(orders))
			}
			if s := r.Snapshot()[0]; s.State != StateIssued || s.NextAttempt.Sub(due).Abs() > time.Second {
				t.Errorf("%s: %+v, due %v", name, s, due)
			}
			r.stop()
		}
	})
}

// The CA is not asked about what has expired, was replaced, is another CA's, or when the operator does not want it.
func TestWhoseRenewalIsNotAskedFor(t *testing.T) {
	publicOf(t, ECDSAP256)
	synctest.Test(t, func(t *testing.T) {
		for name, change := range map[string]func(*memFleet, *Held, *Config){
			"expired":       func(*memFleet, *Held, *Config) { time.Sleep(91 * day) },
			"put back":      func(_ *memFleet, h *Held, _ *Config) { h.Newer = aged(t, 90*day, ECDSAP256, www).Leaf },
			"another CA's":  func(_ *memFleet, _ *Held, c *Config) { c.Directory = "https://ca.invalid/dir?other" },
			"brought here":  func(m *memFleet, _ *Held, _ *Config) { delete(m.files, journalPath(www)) },
			"not wanted":    func(_ *memFleet, _ *Held, c *Config) { c.NoARI = true },
			"a placeholder": func(_ *memFleet, h *Held, _ *Config) { h.Placeholder = true },
		} {
			m := newMemFleet()
			held := ours(t, m, 90*day)
			a := &adviser{answer: func(string) (int, string, string) {
				return http.StatusOK, "3600", window(time.Now().Add(50*day), time.Now().Add(51*day))
			}}
			cfg := advised(m, a)
			change(m, held, &cfg)
			r := start(t, cfg, tenure{ctx: t.Context()})
			time.Sleep(day)
			r.stop()
			if asked, _ := a.times(); len(asked) != 0 {
				t.Errorf("%s: asked %d times", name, len(asked))
			}
		}
	})
}

// A CA that wants every certificate renewed at once, however new, gets what the budget allows.
func TestAWindowInThePastCannotLoop(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	var faults ca.Faults
	faults.On(ca.CallRenewalInfo).Always().Suggest(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	authority := startCA(t, m, func(c *ca.Config) { c.Faults = &faults })
	r := start(t, configFor(m, authority), tenure{ctx: ctx})
	s := r.await(ctx, t, www, "out of budget", func(s Status) bool { return s.Code == CodeBudget })
	if s.Used.OrdersToday != 2 || time.Until(s.NextAttempt) < 23*time.Hour {
		t.Errorf("%+v", s)
	}
	want(t, authority, map[ca.Kind]int{ca.Order: 2, ca.Issued: 2})
	history, err := r.History(www)
	if err != nil || len(history) != 2 || history[0].Reason != "the CA's renewal window" || history[0].Replaces == "" || history[1].Replaces != "" {
		t.Errorf("%+v, %v", history, err)
	}
}

// Of several names, only the one whose window has come is renewed.
func TestAWindowInThePastForOneOfMany(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	var faults ca.Faults
	early := faults.On(ca.CallRenewalInfo).About("two.example.com")
	early.Suggest(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	authority := startCA(t, m, func(c *ca.Config) { c.Faults = &faults })
	cfg := configFor(m, authority)
	cfg.Certificates = nil
	for _, name := range []string{"one", "two", "three"} {
		cfg.Certificates = append(cfg.Certificates, Certificate{Name: name, Names: []string{name + ".example.com"}})
	}
	r := start(t, cfg, tenure{ctx: ctx})
	atRest := func(orders int) func(Status) bool {
		return func(s Status) bool {
			return issued(s) && s.Used.OrdersToday == orders && time.Until(s.NextAttempt) > day
		}
	}
	r.await(ctx, t, "one", "at rest", atRest(1))
	r.await(ctx, t, "two", "renewed", atRest(2))
	r.await(ctx, t, "three", "at rest", atRest(1))
	want(t, authority, map[ca.Kind]int{ca.Issued: 4})
}
