package real_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"certswarm/internal/control"
	"certswarm/testnet/ca"
	"certswarm/testnet/frontend"
	"certswarm/testnet/real"
)

// A person asks for certificates on a node that does not hold the lease; what counts is what the CA issued and what is served.
func TestCertificatesByHand(t *testing.T) {
	t.Parallel()
	faults := new(ca.Faults)
	w := start(t, real.Config{Addresses: addresses(3), Names: names, FrontEnd: frontend.Standin, Faults: faults, Lease: []string{"ttl: 5s"}})
	w.await(real.Served)
	w.await(real.Synced)
	site := names[0]
	asker := w.bystander()
	first := w.issued(1)

	t.Run("what is good is not ordered again", func(t *testing.T) {
		w := w.in(t)
		var done control.Obtained
		w.said(asker, 0, &done, "cert", "issue", site)
		if !done.Unneeded || !done.Served || done.Serial != first {
			t.Errorf("%+v", done)
		}
		w.issued(1)
	})
	t.Run("a renewal is exactly one more certificate, served everywhere", func(t *testing.T) {
		w := w.in(t)
		var done control.Obtained
		w.said(asker, 0, &done, "cert", "renew", site)
		if serial := w.issued(2); !done.Served || done.Serial != serial || done.Generation != 2 || done.Joined {
			t.Errorf("%+v, and the CA issued %s", done, serial)
		}
		w.servedEverywhere(done.Serial)
	})
	t.Run("the budget is obeyed", func(t *testing.T) {
		w := w.in(t)
		if said := w.said(asker, 1, nil, "cert", "renew", site); !strings.Contains(said, "2 of 2 orders per day are used up") || !strings.Contains(said, "--force") {
			t.Error(said)
		}
		w.issued(2)
	})
	t.Run("a dry run changes nothing that is live", func(t *testing.T) {
		w := w.in(t)
		before, serial := w.live(), w.status(asker).Certificates[0].Serial
		var done control.Obtained
		w.said(asker, 0, &done, "cert", "renew", "--dry-run", site)
		if !done.DryRun || !done.Issued || done.Served || done.Serial != w.issued(3) { // this CA is its own staging
			t.Errorf("%+v", done)
		}
		if after := w.live(); after != before {
			t.Errorf("live leads to %s, before to %s", after, before)
		}
		w.servedEverywhere(serial)
	})
	t.Run("a name that is not declared", func(t *testing.T) {
		w := w.in(t)
		for _, command := range [][]string{{"cert", "issue"}, {"cert", "renew"}, {"cert", "revoke", "--yes"}, {"cert", "history"}, {"cert", "rollback"}} {
			if said := w.said(asker, 1, nil, append(command, "ww.example.com")...); !strings.Contains(said, "declared: "+site+"; did you mean "+site+"?") {
				t.Errorf("%q: %s", command, said)
			}
		}
	})
	t.Run("what is revoked is replaced, with another key", func(t *testing.T) {
		w := w.in(t)
		old, err := asker.Shown(w.ctx, site)
		w.must(err)
		w.said(asker, 1, nil, "cert", "revoke", site) // nobody says yes
		if n := faults.Done(ca.CallRevoke, ""); n != 0 {
			t.Fatalf("it was revoked %d times without a yes", n)
		}
		var done control.Revoked
		w.said(asker, 0, &done, "cert", "revoke", "--yes", "--reason", "superseded", site)
		if n := faults.Done(ca.CallRevoke, ""); n != 1 || done.Serial != old.SerialNumber.Text(16) || done.Next.Serial != w.issued(4) || !done.Next.Served {
			t.Errorf("revoked %d times: %+v", n, done)
		}
		w.servedEverywhere(done.Next.Serial)
		now, err := asker.Shown(w.ctx, site)
		w.must(err)
		if bytes.Equal(publicKey(t, old), publicKey(t, now)) {
			t.Error("the key is the old one")
		}
	})
	t.Run("all of it is history, on every node", func(t *testing.T) {
		w := w.in(t)
		serials := w.CA.Issued()
		for _, n := range w.Nodes {
			var history control.Attempts
			w.said(n, 0, &history, "cert", "history", site)
			if len(history.Attempts) != len(serials) {
				t.Fatalf("%s knows of %+v", n.Name, history)
			}
			for i, at := range history.Attempts { // the newest is the first
				want := control.Attempt{
					Outcome: control.AttemptIssued, Serial: serials[len(serials)-1-i], Attempt: at.Attempt, Started: at.Started, Ended: at.Ended, Node: at.Node,
					By: at.By, Epoch: at.Epoch, Reason: at.Reason, Step: "verified", NotAfter: at.NotAfter, Revoked: at.Revoked,
				}
				if i == 1 {
					want.Outcome, want.Step = control.DryRunPassed, "checked"
				}
				missing := at.Attempt == "" || at.Started.IsZero() || at.Ended.IsZero() || at.NotAfter.IsZero() || at.Epoch.IsZero() || at.Node == ""
				if at.Behind = nil; !sameAttempt(at, want) || missing || at.Revoked.IsZero() == (i == 2) {
					t.Errorf("%s has as number %d %+v, not %+v", n.Name, i, at, want)
				}
			}
		}
	})
	w.await(real.Synced)
	w.await(noProblems)
}

func sameAttempt(a, b control.Attempt) bool {
	one, err1 := json.Marshal(a)
	other, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(one, other)
}

// in is the same fleet in a part of the story.
func (w *world) in(t *testing.T) *world { return &world{w.Fleet, t, w.ctx} }

// bystander returns a node that does not hold the lease.
func (w *world) bystander() *real.Node {
	w.t.Helper()
	for _, n := range w.Nodes {
		if s := w.status(n); s.Lease.Holder != "" && !s.Lease.HeldHere {
			return n
		}
	}
	w.t.Fatal("nobody but the holder is there")
	return nil
}

// said runs a command on a node, which must exit with code. The answer is JSON, or, where nothing can take it, whatever is said.
func (w *world) said(n *real.Node, code int, answer any, args ...string) string {
	w.t.Helper()
	command := n.Certswarm(w.ctx, append(args, "--json")...)
	var data, talk bytes.Buffer
	command.Stdout, command.Stderr = &data, &talk
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || command.ProcessState.ExitCode() != code {
		w.t.Fatalf("%q on %s: %v, not exit %d\n%s%s", args, n.Name, err, code, data.String(), talk.String())
	}
	if answer != nil {
		if err := json.Unmarshal(data.Bytes(), answer); err != nil {
			w.t.Fatalf("%q on %s: %v\n%s", args, n.Name, err, data.String())
		}
	}
	return data.String() + talk.String()
}

// issued fails the test unless the CA has issued so many certificates. It returns the serial of the last.
func (w *world) issued(n int) string {
	w.t.Helper()
	serials := w.CA.Issued()
	if len(serials) != n {
		w.t.Fatalf("the CA issued %q, not %d", serials, n)
	}
	return serials[n-1]
}

// servedEverywhere fails the test unless every front-end shows that serial, by now.
func (w *world) servedEverywhere(serial string) {
	w.t.Helper()
	for _, n := range w.Nodes {
		leaf, err := n.Shown(w.ctx, names[0])
		w.must(err)
		if got := leaf.SerialNumber.Text(16); got != serial {
			w.t.Errorf("%s shows serial %s, not %s", n.Name, got, serial)
		}
	}
}

// live is where the nodes' links lead, and what is in the directories.
func (w *world) live() string {
	w.t.Helper()
	var text []string
	for _, n := range w.Nodes {
		target, err := os.Readlink(filepath.Join(n.Certs, "live", names[0]))
		w.must(err)
		archived, err := os.ReadDir(filepath.Join(n.Certs, "archive", names[0]))
		w.must(err)
		for _, generation := range archived {
			target += " " + generation.Name()
		}
		text = append(text, target)
	}
	return strings.Join(text, "; ")
}

func publicKey(t *testing.T, leaf *x509.Certificate) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
