package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/fleet"
)

// Obtain answers as the name says; what was asked for is in the attempt's id.
func (d *scripted) Obtain(ctx context.Context, o control.Order, tell func(control.Progress)) (control.Obtained, error) {
	done := control.Obtained{
		Name: o.Name, Attempt: fmt.Sprintf("%+v", o), Node: "fe2", DryRun: o.DryRun, Ordered: true, Issued: !o.NoWait, Served: !o.NoWait && !o.DryRun,
		Serial: "abc", NotAfter: control.At(time.Unix(2e9, 0)), Generation: 5,
	}
	switch o.Name {
	case "ww.example.com":
		return control.Obtained{}, fmt.Errorf("%w: ww.example.com; declared: www.example.com; did you mean www.example.com?", control.ErrUnknownCertificate)
	case "spent":
		return control.Obtained{}, errors.New("fe2: 2 of 2 orders per day are used up")
	case "slow":
		tell(control.Progress{Node: "fe1", Step: "waits", Text: "slow on fe3 at 127.0.0.1:443 (ecdsa) is stale"})
		<-ctx.Done()
		return control.Obtained{}, ctx.Err()
	case "good":
		done.Unneeded = true
	}
	tell(control.Progress{Node: "fe2", Step: "ordered", Text: "the CA has accepted\x1b the order"})
	return done, nil
}

func (d *scripted) Revoke(ctx context.Context, r control.Revocation, tell func(control.Progress)) (control.Revoked, error) {
	next, err := d.Obtain(ctx, control.Order{Name: r.Name, NoWait: r.NoWait}, tell)
	return control.Revoked{Name: r.Name, Serial: "999", Reason: r.Reason, Node: "fe2", Next: next}, err
}

func (d *scripted) Attempts(_ context.Context, name string) (control.Attempts, error) {
	a := control.Attempts{Name: name}
	if name == "ww.example.com" {
		return a, fmt.Errorf("%w: ww.example.com; declared: www.example.com; did you mean www.example.com?", control.ErrUnknownCertificate)
	}
	if name == "www.example.com" {
		at := func(seconds int64) control.Time { return control.At(time.Unix(1e9+seconds, 0)) }
		epoch := fleet.Epoch{Generation: 1, Nonce: 2, Term: 3, Index: 4}
		a.Attempts = control.List[control.Attempt]{
			{Attempt: "4", Started: at(300), Node: "fe1", By: "fe1", Epoch: epoch, Reason: "asked for", Outcome: control.UnderWay, Step: "presented"},
			{Attempt: "3", Started: at(200), Ended: at(201), Node: "fe1", Reason: "its age", Outcome: control.AttemptFailed, Step: "ordered", Error: "the CA said\x1b no"},
			{Attempt: "2", Started: at(100), Ended: at(101), Node: "fe1", By: "fe2", Epoch: epoch, Reason: "a rehearsal", Outcome: control.DryRunPassed, Serial: "d1", NotAfter: at(1e6)},
			{Attempt: "1", Started: at(0), Ended: at(1), Node: "fe1", By: "fe1", Epoch: epoch, Reason: "there is no certificate", Outcome: control.AttemptIssued, Serial: "abc", NotAfter: at(2e6), Revoked: at(90)},
		}
	}
	return a, nil
}

func TestCertCommands(t *testing.T) {
	for args, want := range map[string]struct {
		code           int
		stdout, stderr string // parts
	}{
		"cert issue www.example.com":                   {0, "www.example.com: generation 5 (serial abc, expires 2033-05-18T03:33:20Z) is served by every live node\n", "fe2      ordered    the CA has accepted"},
		"cert issue good":                              {0, "good: nothing to do, generation 5 (serial abc, expires 2033-05-18T03:33:20Z) is good, not due, and served by every live node\n", ""},
		"cert issue good --no-wait":                    {0, "good: nothing to do, generation 5 (serial abc, expires 2033-05-18T03:33:20Z) is good and not due\n", ""},
		"cert renew www.example.com --no-wait":         {0, "www.example.com: ordered by fe2\n", "what comes of it: certswarm cert history www.example.com"},
		"cert renew www.example.com --dry-run":         {0, "www.example.com: the dry run on fe2 came to a certificate (serial abc, ", ""},
		"cert issue a --json":                          {0, `"attempt": "{Name:a Renew:false Force:false DryRun:false NoWait:false}"`, ""},
		"cert issue a --json --force":                  {0, `"attempt": "{Name:a Renew:true Force:true DryRun:false NoWait:false}"`, ""},
		"cert renew a --json":                          {0, `"attempt": "{Name:a Renew:true Force:false DryRun:false NoWait:false}"`, ""},
		"cert renew a --json --dry-run --no-wait":      {0, `"attempt": "{Name:a Renew:true Force:false DryRun:true NoWait:true}"`, ""},
		"cert renew ww.example.com":                    {1, "", "no certificate is declared under that name: ww.example.com; declared: www.example.com; did you mean www.example.com?"},
		"cert renew spent":                             {1, "", "fe2: 2 of 2 orders per day are used up"},
		"cert renew slow --timeout 300ms":              {1, "", "slow is not finished within 300ms: slow on fe3 at 127.0.0.1:443 (ecdsa) is stale; what was begun goes on: certswarm cert history slow"},
		"cert renew":                                   {2, "", "cert renew takes one certificate, these are 0"},
		"cert issue a b":                               {2, "", "cert issue takes one certificate, these are 2"},
		"cert issue a --timeout -1s":                   {2, "", "lies in the past"},
		"cert issue a --timeout soon":                  {2, "", "soon"},
		"cert revoke www.example.com --yes":            {0, "www.example.com: serial 999 is revoked (unspecified)\nwww.example.com: generation 5 (serial abc, ", ""},
		"cert revoke a --yes --reason keyCompromise":   {0, "serial 999 is revoked (keyCompromise)", ""},
		"cert revoke a --yes --no-wait":                {0, "a: ordered by fe2", "certswarm cert history a"},
		"cert revoke a --yes --json":                   {0, `"next": {`, ""},
		"cert revoke a":                                {1, "", "Revoke a (reason unspecified)? It cannot be taken back. [y/N] \ncertswarm: nothing was revoked; without a question: certswarm cert revoke --yes a"},
		"cert revoke www.example.com":                  {1, "", "Revoke www.example.com, serial abc, obtained "},
		"cert revoke a --yes --reason boredom":         {2, "", "--reason boredom is none of unspecified, keyCompromise, "},
		"cert revoke a --yes --reason certificateHold": {2, "", "is none of"},
		"cert revoke ww.example.com":                   {1, "", "certswarm: no certificate is declared under that name: ww.example.com"},
		"cert revoke ww.example.com --yes":             {1, "", "did you mean www.example.com?"},
		"cert history www.example.com":                 {0, "2001-09-09T01:48:20Z  fe1, then fe2  1-0000000000000002.3.4  a rehearsal", ""},
		"cert history www.example.com --no-color":      {0, "failed after ordered: the CA said", ""},
		"cert history www.example.com --json":          {0, `"outcome": "under-way"`, ""},
		"cert history a":                               {0, "", "Nothing was tried for a yet.\n"},
		"cert history a --json":                        {0, `"attempts": []`, ""},
		"cert history":                                 {2, "", "cert history takes one certificate"},
	} {
		code, stdout, stderr := ask(serveControl(t, &scripted{statuses: []control.Status{healthyFleet()}}), strings.Fields(args)...)
		if code != want.code || !strings.Contains(stdout, want.stdout) || !strings.Contains(stderr, want.stderr) || want.stdout == "" && stdout != "" {
			t.Errorf("%s: exit %d\nstdout: %s\nstderr: %s", args, code, stdout, stderr)
		}
		if strings.Contains(stdout+stderr, "\x1b") {
			t.Errorf("%s: what others say reaches the terminal: %q", args, stdout+stderr)
		}
	}
}

// Whatever is not yes is no.
func TestRevokingAsks(t *testing.T) {
	for typed, want := range map[string]bool{"y\n": true, "yes\n": true, " YES \n": true, "n\n": false, "\n": false, "": false, "yesterday\n": false, "y": true} {
		var out bytes.Buffer
		if got := confirmed(strings.NewReader(typed), &out, "Revoke? "); got != want || !strings.HasPrefix(out.String(), "Revoke? ") {
			t.Errorf("%q is taken for %v, after %q", typed, got, out.String())
		}
	}
}

func TestCertCommandsWithoutADaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	for _, command := range []string{"cert issue www", "cert renew www", "cert revoke www --yes", "cert history www"} {
		if code, stdout, stderr := ask(socket, strings.Fields(command)...); code != 2 || stdout != "" || !strings.Contains(stderr, "no daemon answers at "+socket) {
			t.Errorf("%s: exit %d\nstdout: %s\nstderr: %s", command, code, stdout, stderr)
		}
	}
}
