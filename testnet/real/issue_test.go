package real_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"certswarm/internal/control"
	"certswarm/internal/need"
	"certswarm/testnet/ca"
	"certswarm/testnet/frontend"
	"certswarm/testnet/real"
)

var names = []string{"www.example.com", "example.com"}

// The main job: one certificate, asked for by one node, validated at all, served by all. And then restarts, which must
// cost nothing.
func TestMainJob(t *testing.T) {
	for _, kind := range []string{"nginx", frontend.Standin} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := real.Config{Addresses: addresses(3), Names: names, FrontEnd: kind}
			if kind == "nginx" {
				c.FrontEnd = need.Tool(t, "nginx")
			}
			w := start(t, c)
			w.await(real.Served)
			w.barrierCameFirst(len(names))
			serial := w.servesOneCertificate()
			holder, others := w.acting()
			w.asked(holder.Name)

			w.await(real.Synced)
			others[0].Kill() // with everything in place
			w.must(others[0].Start(w.ctx))
			w.must(holder.Stop())
			w.must(holder.Start(w.ctx))
			w.await(real.Served)
			w.await(real.Synced)
			if again := w.servesOneCertificate(); again != serial {
				t.Errorf("after restarts serial %s is served, not %s", again, serial)
			}
		})
	}
}

// barrierCameFirst fails the test unless at each accept every front-end had served every token.
func (w *world) barrierCameFirst(tokens int) {
	w.t.Helper()
	accepts := w.Accepts()
	if len(accepts) == 0 || len(accepts) != w.CA.Accepts() {
		w.t.Errorf("%d accepts came to the door, %d through it", len(accepts), w.CA.Accepts())
	}
	for _, a := range accepts {
		for _, n := range w.Nodes {
			if got := len(a.Served[n.Name]); got != tokens {
				w.t.Errorf("the CA was told to look when the front-end of %s had served %d of %d tokens", n.Name, got, tokens)
			}
		}
	}
}

// servesOneCertificate fails the test unless the CA has issued one certificate and every front-end shows it. It returns
// the serial.
func (w *world) servesOneCertificate() string {
	w.t.Helper()
	issued := w.CA.Issued()
	if len(issued) != 1 {
		w.t.Fatalf("the CA issued %q", issued)
	}
	for _, n := range w.Nodes {
		for _, name := range names {
			leaf, err := n.Shown(w.ctx, name)
			w.must(err)
			if got := leaf.SerialNumber.Text(16); got != issued[0] {
				w.t.Errorf("%s shows serial %s for %s, not %s", n.Name, got, name, issued[0])
			}
		}
	}
	return issued[0]
}

// asked fails the test unless that node alone placed orders, and all say that it holds the lease.
func (w *world) asked(holder string) {
	w.t.Helper()
	for _, n := range w.Nodes {
		ordered := slices.ContainsFunc(n.Log.Events(), func(e real.Event) bool { return e.Attribute("step") == "ordered" })
		if ordered != (n.Name == holder) {
			w.t.Errorf("%s asked the CA for a certificate: %v", n.Name, ordered)
		}
		if got := w.status(n).Lease.Holder; got != holder {
			w.t.Errorf("%s says that the lease is held by %q", n.Name, got)
		}
	}
}

// While one front-end answers 404 the CA is not told to look; every node says which front-end it is. When that is
// repaired the certificate comes by itself.
func TestMisconfiguredFrontEnd(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{
		Addresses: addresses(3), Names: names, FrontEnd: need.Tool(t, "nginx"), Broken: map[string]bool{"fe2": true},
	})
	w.await(blames("fe2"))
	if n := len(w.Accepts()); n != 0 {
		t.Errorf("the CA was told to look %d times", n)
	}
	broken := w.Node("fe2")
	broken.FrontEndConfig.BreakChallenge = false
	w.must(broken.FrontEnd.Reload(w.ctx, broken.FrontEndConfig))
	w.await(real.Served)
	w.barrierCameFirst(len(names))
	w.servesOneCertificate()
	if n := w.CA.Count(ca.Order); n > 2 {
		t.Errorf("it took %d orders", n)
	}
	w.await(noProblems)
	refused := 0
	fetches, err := broken.Fetches()
	w.must(err)
	for _, f := range fetches {
		if f.ByAgent() && f.Status == http.StatusNotFound {
			refused++
		}
	}
	if refused == 0 {
		t.Error("the front-end was never asked while it was broken: this test proves nothing")
	}
}

// blames is true when every node names that one for not serving a challenge, and nobody else.
func blames(node string) real.Condition {
	return func(all []control.Status) (bool, string) {
		for _, s := range all {
			p, ok := problem(s, control.ChallengeNotServed)
			if !ok || p.Node != node {
				return false, fmt.Sprintf("%s blames %q: %q", s.Node.Name, p.Node, p.Text)
			}
		}
		return true, ""
	}
}

func noProblems(all []control.Status) (bool, string) {
	for _, s := range all {
		for _, p := range s.Problems {
			return false, fmt.Sprintf("%s says of %s: %s: %s", s.Node.Name, p.Node, p.Code, p.Text)
		}
	}
	return true, ""
}

// An agent that starts before its nginx says that this is down; once it is up that is forgotten.
func TestFrontEndComesLate(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(2), Names: names, FrontEnd: frontend.Standin})
	w.await(real.Served)
	w.await(real.Synced)
	late := w.Node("fe2")
	w.must(late.Stop())
	late.FrontEnd.Stop()
	w.must(late.Start(w.ctx))
	w.await(func(all []control.Status) (bool, string) {
		for _, s := range all {
			if _, ok := problem(s, control.NginxDown); !ok {
				return false, s.Node.Name + " does not say that an nginx is down"
			}
		}
		return true, ""
	})
	ctx, cancel := context.WithTimeout(w.ctx, fuse)
	defer cancel()
	again, err := frontend.Start(ctx, late.FrontEndConfig)
	w.must(err)
	late.FrontEnd = again
	w.await(real.Served)
	w.await(noProblems)
	w.servesOneCertificate()
}
