package agent_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent"
	"certswarm/internal/control"
	"certswarm/testnet"
)

// mute is a CA that lets everybody wait, until it is told to fail.
type mute struct{ fails atomic.Bool }

func (m *mute) RoundTrip(r *http.Request) (*http.Response, error) {
	if m.fails.Load() {
		return nil, errors.New("there is no CA here")
	}
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// withOrders is a fleet with a good certificate in force, nobody's nginx, and a CA that never gives another.
func withOrders(t *testing.T, options testnet.Options, ca http.RoundTripper) *testnet.Fleet {
	t.Helper()
	options = withCertificates(options)
	config, edges := options.Config, options.Edges
	options.Config = func(node int, yaml string) string {
		return strings.Replace(config(node, yaml), "nginx: {enabled: true", "nginx: {enabled: false", 1)
	}
	options.Edges = func(node int, e *agent.Edges) {
		edges(node, e)
		e.CA = ca
	}
	f := testnet.NewDown(t, options)
	key, certificate := pair(t, 0x10)
	for file, text := range map[string]string{"privkey.pem": key, "fullchain.pem": certificate} {
		place := f.Path(0, "live/"+www+"/"+file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(place), 0o755), os.WriteFile(place, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for node := range options.Nodes {
		f.Start(node)
	}
	f.Settle()
	f.Advance(20 * time.Second)
	f.Settle()
	return f
}

// following is a command that somebody gave and still watches.
type following struct {
	mu    sync.Mutex
	told  []string // guarded by mu
	done  control.Obtained
	err   error
	ended atomic.Bool
}

func obtain(ctx context.Context, a *agent.Agent, o control.Order) *following {
	f := &following{}
	go func() {
		f.done, f.err = a.Obtain(ctx, o, func(p control.Progress) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.told = append(f.told, p.Text)
		})
		f.ended.Store(true)
	}()
	return f
}

func (f *following) heard(part string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Contains(strings.Join(f.told, "\n"), part)
}

func TestCertificatesAreAskedForOnAnyNode(t *testing.T) {
	ca := &mute{}
	ca.fails.Store(true)
	synctest.Test(t, func(t *testing.T) {
		f := withOrders(t, testnet.Options{Nodes: 3, Roles: []string{"issuer", "issuer", "member"}}, ca)
		ask := func(node int, o control.Order) (control.Obtained, error) {
			t.Helper()
			o.Name = www
			asked := obtain(t.Context(), f.Agent(node), o)
			for range 60 {
				if f.Advance(time.Second); asked.ended.Load() {
					return asked.done, asked.err
				}
			}
			t.Fatalf("%+v on fe%d takes longer than a minute", o, node+1)
			return control.Obtained{}, nil
		}
		for node := range 3 {
			done, err := ask(node, control.Order{})
			want := control.Obtained{Name: www, Node: "fe1", Unneeded: true, Issued: true, Served: true, Serial: "10", Generation: 1, NotAfter: done.NotAfter}
			if err != nil || done != want || done.NotAfter.IsZero() {
				t.Errorf("on fe%d, with a good one in force: %+v, %v", node+1, done, err)
			}
		}
		for node := range 3 {
			for o, parts := range map[control.Order][]string{
				{Renew: true}:  {"fe1: ", "there is no CA here", "tried again by itself at "},
				{DryRun: true}: {"the dry run failed; nothing in force was touched: fe1: ", "there is no CA here"},
			} {
				if _, err := ask(node, o); err == nil || !contains(err.Error(), parts) {
					t.Errorf("%+v on fe%d: %v", o, node+1, err)
				}
			}
			failed, rehearsed := 0, 0
			history, err := f.Agent(node).Attempts(t.Context(), www)
			for _, at := range history.Attempts {
				switch {
				case at.Outcome == control.UnderWay && strings.Contains(at.Error, "there is no CA here") && at.Node == "fe1":
					failed++
				case at.Outcome == control.DryRunFailed:
					rehearsed++
				}
			}
			if err != nil || history.Name != www || failed != 1 || rehearsed != node+1 || len(history.Attempts) != failed+rehearsed {
				t.Errorf("fe%d knows of %+v, %v", node+1, history, err)
			}
		}
		if c := f.Status(2).Certificates[0]; c.Serial != "10" || c.Generation != 1 || c.Budget.OrdersToday != 0 {
			t.Errorf("something was changed: %+v", c)
		}

		tell := func(control.Progress) {}
		_, forced := f.Agent(2).Obtain(t.Context(), control.Order{Name: www, Force: true}, tell)
		_, revoked := f.Agent(2).Revoke(t.Context(), control.Revocation{Name: www, Reason: "superseded"}, tell)
		_, unknown := f.Agent(1).Obtain(t.Context(), control.Order{Name: "ww.example.com"}, tell)
		_, unheard := f.Agent(1).Revoke(t.Context(), control.Revocation{Name: "other"}, tell)
		_, untold := f.Agent(1).Attempts(t.Context(), "WWW.example.com")
		for text, err := range map[string]error{
			"fe1: fe3 only receives, and may not go beyond the budget; on an issuer: fe1, fe2":                                      forced,
			"fe3 only receives, and may not have a certificate revoked; on an issuer: fe1, fe2":                                     revoked,
			"no certificate is declared under that name: ww.example.com; declared: www.example.com; did you mean www.example.com?":  unknown,
			"no certificate is declared under that name: other; declared: www.example.com":                                          unheard,
			"no certificate is declared under that name: WWW.example.com; declared: www.example.com; did you mean www.example.com?": untold,
		} {
			if err == nil || err.Error() != text {
				t.Errorf("%v, not %s", err, text)
			}
		}
		f.Stop(0)
		f.Advance(time.Minute)
		if _, err := ask(1, control.Order{Renew: true}); err == nil || !strings.Contains(err.Error(), "nobody holds the lease") || !strings.Contains(err.Error(), "certswarm lease show") {
			t.Error(err)
		}
		for node := 1; node < 3; node++ {
			if history, err := f.Agent(node).Attempts(t.Context(), www); err != nil || len(history.Attempts) != 4 {
				t.Errorf("without a holder fe%d knows of %+v, %v", node+1, history, err)
			}
		}
		f.Stop(1)
		if history, err := f.Agent(2).Attempts(t.Context(), www); err == nil || !contains(err.Error(), []string{"the journal is with the issuers", "fe1: ", "fe2: "}) {
			t.Errorf("without an issuer fe3 knows of %+v, %v", history, err)
		}
	})
}

func contains(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// The holder dies in the middle. Whoever asked goes on with the same attempt where the journal still is, and asks anew where it is lost.
func TestWhoAskedOutlivesTheHolder(t *testing.T) {
	for name, c := range map[string]struct {
		wiped bool
		says  string
	}{
		"the journal is there": {false, ""},
		"the journal is lost":  {true, "nobody knows of the attempt any more: asking anew"},
	} {
		t.Run(name, func(t *testing.T) {
			ca := &mute{}
			synctest.Test(t, func(t *testing.T) {
				f := withOrders(t, testnet.Options{Nodes: 2, Roles: []string{"issuer", "member"}}, ca)
				asked := obtain(t.Context(), f.Agent(1), control.Order{Name: www, Renew: true})
				f.Advance(2 * time.Second)
				if !asked.heard("begins attempt ") || asked.ended.Load() {
					t.Fatalf("it heard %q, %v", asked.told, asked.err)
				}
				f.Crash(0)
				f.Advance(time.Minute)
				if !asked.heard("does not answer") || !asked.heard("waiting for the next holder") || asked.ended.Load() {
					t.Fatalf("without a holder it heard %q, %v", asked.told, asked.err)
				}
				if c.wiped {
					f.Wipe(0)
				}
				f.Start(0)
				f.Advance(30 * time.Second)
				if asked.ended.Load() || c.says != "" && !asked.heard(c.says) || c.says == "" && asked.heard("asking anew") {
					t.Fatalf("it heard %q, %v", asked.told, asked.err)
				}
				ca.fails.Store(true)
				f.Advance(2 * time.Minute)
				if !asked.ended.Load() || asked.err == nil || !strings.Contains(asked.err.Error(), "fe1: ") {
					t.Errorf("it heard %q, %v", asked.told, asked.err)
				}
			})
		})
	}
}

// A reload on the node where somebody asks ends nothing, and asks for nothing twice.
func TestAReloadLosesNoErrand(t *testing.T) {
	ca := &mute{}
	synctest.Test(t, func(t *testing.T) {
		f := withOrders(t, testnet.Options{Nodes: 2, Roles: []string{"issuer", "member"}}, ca)
		asked := obtain(t.Context(), f.Agent(1), control.Order{Name: www, Renew: true})
		f.Advance(2 * time.Second)
		if err := reconfigure(t, f, 1, "nginx: {", "lease: {ttl: 20s}\nnginx: {"); err != nil {
			t.Fatal(err)
		}
		f.Advance(20 * time.Second)
		begun := 0
		asked.mu.Lock()
		for _, text := range asked.told {
			if strings.HasPrefix(text, "begins attempt ") || strings.HasPrefix(text, "an attempt is under way") {
				begun++
			}
		}
		asked.mu.Unlock()
		if begun != 1 || asked.ended.Load() {
			t.Errorf("it heard %q, %v", asked.told, asked.err)
		}
		enough := errors.New("enough")
		ctx, giveUp := context.WithCancelCause(t.Context())
		joins := obtain(ctx, f.Agent(1), control.Order{Name: www, Renew: true})
		f.Advance(time.Second)
		giveUp(enough)
		f.Advance(time.Second)
		if !joins.heard("an attempt is under way already: ") || !joins.ended.Load() || !errors.Is(joins.err, enough) {
			t.Errorf("whoever gives up heard %q, %v", joins.told, joins.err)
		}
		ca.fails.Store(true)
		f.Advance(2 * time.Minute)
		if !asked.ended.Load() || asked.err == nil || !strings.Contains(asked.err.Error(), "there is no CA here") {
			t.Errorf("in the next house it heard %q, %v", asked.told, asked.err)
		}
	})
}

// The journal waits for an issuer that has just died until it is known to have, and not for ever: nothing else may change then.
func TestAnIssuerThatDiesHoldsUpNoJournal(t *testing.T) {
	for _, delay := range []time.Duration{0, 5 * time.Second} {
		ca := &mute{}
		ca.fails.Store(true)
		synctest.Test(t, func(t *testing.T) {
			f := withOrders(t, testnet.Options{Nodes: 2}, ca)
			f.Crash(1)
			f.Advance(delay)
			asked := obtain(t.Context(), f.Agent(0), control.Order{Name: www, Renew: true})
			f.Advance(time.Minute)
			if !asked.ended.Load() || asked.err == nil || !strings.Contains(asked.err.Error(), "there is no CA here") {
				t.Errorf("it heard %q, %v", asked.told, asked.err)
			}
		})
	}
}

// Between two holders there is nobody for a moment. Who asks then waits for the next one, and for no longer than that takes.
func TestWhoAsksDuringATakeoverWaits(t *testing.T) {
	for _, comes := range []bool{true, false} {
		ca := &mute{}
		ca.fails.Store(true)
		synctest.Test(t, func(t *testing.T) {
			f := withOrders(t, testnet.Options{Nodes: 2, Roles: []string{"issuer", "member"}}, ca)
			f.Stop(0)
			f.Advance(35 * time.Second) // until then it may still be there
			asked := obtain(t.Context(), f.Agent(1), control.Order{Name: www, Renew: true})
			f.Advance(10 * time.Second)
			if asked.ended.Load() || !asked.heard("waiting for the next holder") {
				t.Fatalf("it heard %q, %v", asked.told, asked.err)
			}
			why := "nobody holds the lease"
			if comes {
				f.Start(0)
				why = "there is no CA here"
			}
			f.Advance(2 * time.Minute)
			if !asked.ended.Load() || asked.err == nil || !strings.Contains(asked.err.Error(), why) {
				t.Errorf("it heard %q, %v", asked.told, asked.err)
			}
		})
	}
}
