package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/fleet"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew")

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func before(d time.Duration) control.Time { return control.At(noon.Add(-d)) }
func after(d time.Duration) control.Time  { return control.At(noon.Add(d)) }

// healthyFleet is a fleet of three, told by fe2, in which nothing is wrong.
func healthyFleet() control.Status {
	served := func(node string) control.Served {
		return control.Served{Node: node, Listener: "127.0.0.1:443", KeyType: "ecdsa", State: control.Current}
	}
	return control.Status{
		Node:    control.Node{Name: "fe2", ID: fleet.NodeID{2}, Role: fleet.Issuer, Version: "1.2.3", UptimeSeconds: 300000, Serves: true},
		Cluster: "edge",
		Lease: control.Lease{Engine: "raft", Holder: "fe1", Epoch: fleet.Epoch{Generation: 1, Nonce: 7, Term: 2, Index: 9}, Renewed: before(3 * time.Second),
			Leader: "fe1", Wished: 3, Voters: control.List[control.Voter]{
				{Name: "fe1", Connected: true, Listed: true}, {Name: "fe2", Connected: true, Listed: true}, {Name: "fe3", Learner: true},
			}},
		Directories: []control.Directory{
			{Name: "certs", Path: "/etc/nginx/certs", Files: 31, Fingerprint: "00ff", State: control.InSync},
			{Name: "maps", Path: "/etc/nginx/maps", Files: 1, Fingerprint: "ab", State: control.InSync},
		},
		Peers: []control.Peer{
			{Name: "fe1", ID: fleet.NodeID{1}, Role: fleet.Issuer, Connected: true, Address: "10.0.0.1:7443", RTTSeconds: 0.0004, LastHeard: before(0), Version: "1.2.3", Serves: true},
			{Name: "fe3", ID: fleet.NodeID{3}, Role: fleet.Receive, Connected: true, Address: "10.0.0.3:7443", RTTSeconds: 0.0123, LastHeard: before(0), Version: "1.2.3", Serves: true},
		},
		Certificates: []control.Certificate{{
			Name: "www.example.com", Names: []string{"www.example.com", "example.com"}, Serial: "4f2a", NotAfter: after(60 * 24 * time.Hour), Generation: 7,
			State: control.Issued, NextAttempt: after(30 * 24 * time.Hour), Budget: control.Budget{OrdersWeek: 1},
			Served: []control.Served{served("fe1"), served("fe2"), served("fe3")},
		}},
	}
}

// troubledFleet is one in which everything is wrong that can be.
func troubledFleet() control.Status {
	s := healthyFleet()
	s.Lease.Holder, s.Lease.Renewed = "", control.Time{}
	s.Directories[0].State, s.Directories[0].Reason = control.Halted, "40 of 60 files deleted within 10 s"
	s.Directories[1].State, s.Directories[1].Reason = control.Behind, "no space left on device"
	s.Peers[0].Behind, s.Peers[0].Missing = 5, []string{"live/a/privkey.pem", "live/a/cert.pem", "live/a/chain.pem", "evil\x1b[2J"}
	s.Peers[1].Connected, s.Peers[1].LastHeard, s.Peers[1].Behind = false, before(5*time.Minute), 1
	s.Peers = append(s.Peers, control.Peer{Name: "backup", ID: fleet.NodeID{4}, Role: fleet.Witness, Version: "9\x1b]0;owned\a"})
	first := &s.Certificates[0]
	first.State, first.LastError, first.NextAttempt = control.Failed, "the CA says: too many certificates", after(5*time.Hour)
	first.NotAfter, first.Served[0].State = after(30*time.Hour), control.Stale
	first.Served = first.Served[:1]
	s.Certificates = append(s.Certificates,
		control.Certificate{Name: "new.example.com", Names: []string{"new.example.com"}, State: control.Placeholder, NextAttempt: before(time.Second)},
		control.Certificate{Name: "old.example.com", State: control.External, Serial: "1", Generation: 1, NotAfter: before(time.Hour)})
	s.Problems = []control.Problem{
		{Code: control.PeerLost, Severity: control.Warn, Since: before(5 * time.Minute), Node: "fe3", Text: "fe3 was last heard 5 min ago", Next: "certswarm peers"},
		{Code: control.NginxTestFailed, Severity: control.Error, Since: before(50 * time.Hour), Node: "fe1", Text: "nginx refuses its configuration",
			Because: "nginx: [emerg] unknown directive \"foo\"\nnginx: configuration file test failed\n", Next: "nginx -t"},
		{Code: control.NoLeaseHolder, Severity: control.Error, Text: "nobody holds the lease"},
	}
	return s
}

func TestPages(t *testing.T) {
	for name, page := range map[string]string{
		"status-healthy":  renderStatus(healthyFleet(), noon, look{}),
		"status-troubled": renderStatus(troubledFleet(), noon, look{}),
		"status-colour":   renderStatus(troubledFleet(), noon, look{colour: true}),
		"status-alone":    renderStatus(control.Status{Node: control.Node{Name: "n", Role: fleet.Issuer, Version: "1"}, Cluster: "c"}, noon, look{}),
		"peers":           renderPeers(troubledFleet(), noon, look{}),
		"peers-none":      renderPeers(control.Status{}, noon, look{}),
		"certs":           renderCertificates(troubledFleet(), noon, look{}),
		"certs-none":      renderCertificates(control.Status{}, noon, look{}),
		"lease":           renderLease(healthyFleet(), noon, look{}),
		"lease-lost":      renderLease(troubledFleet(), noon, look{}),
		"lease-none":      renderLease(control.Status{}, noon, look{}),
		"verify": renderVerification(control.Verification{Results: []control.Result{
			{Node: "fe1", Name: "www.example.com", Listener: "127.0.0.1:443", KeyType: "ecdsa", State: control.Current, Serial: "4f2a"},
			{Node: "fe2", Name: "www.example.com", Listener: "[::1]:443", KeyType: "rsa", State: control.Stale, Serial: "1"},
			{Node: "fe3", Name: "www.example.com", State: control.Unreachable, Error: "fe3 is not connected"},
		}}, look{}),
		"verify-none": renderVerification(control.Verification{}, look{}),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if page != string(want) {
				t.Errorf("the page is\n%s", page)
			}
			if !strings.Contains(name, "colour") && strings.Contains(page, "\x1b") {
				t.Error("an escape sequence got onto the page")
			}
		})
	}
}

func TestHeldHereIsSaid(t *testing.T) {
	s := healthyFleet()
	s.Lease.Holder, s.Lease.HeldHere = "fe2", true
	if page := renderStatus(s, noon, look{}); !strings.Contains(page, "held by fe2, this node (raft)") {
		t.Error(page)
	}
	if page := renderLease(s, noon, look{}); !strings.Contains(page, "fe2 (this node)") {
		t.Error(page)
	}
}

// What this node was not told is not shown as if there were none.
func TestWhatNobodyHasToldIsNoZero(t *testing.T) {
	s := healthyFleet()
	s.Lease.Voters, s.Certificates[0].Budget = nil, control.Budget{}
	if page := renderLease(s, noon, look{}); !strings.Contains(page, "none is known here; 3 should vote by the peer list\n") || strings.Contains(page, "0 of 3") {
		t.Error(page)
	}
	const spent, unknown = "0 orders today, 0 this week", "budget        not known here"
	if page := renderCertificates(s, noon, look{}); !strings.Contains(page, spent) {
		t.Errorf("the holder is heard, and has spent nothing: %s", page)
	}
	s.Peers[0].Connected = false
	if page := renderCertificates(s, noon, look{}); !strings.Contains(page, unknown) {
		t.Errorf("the holder is not heard: %s", page)
	}
	s.Lease.HeldHere = true
	if page := renderCertificates(s, noon, look{}); !strings.Contains(page, spent) {
		t.Errorf("this node knows it itself: %s", page)
	}
}

func TestWhatServesNothingIsSaid(t *testing.T) {
	s := healthyFleet()
	s.Node.Serves, s.Peers = false, nil
	if page := renderStatus(s, noon, look{}); !strings.Contains(page, "no live node has an nginx") {
		t.Error(page)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"live/ä/privkey.pem": "live/ä/privkey.pem",
		"a\x1b[31mb":         `a\x1b[31mb`,
		"a\nb\tc":            `a\nb\tc`,
		"\xff\u202e":         `\xff\u202e`,
		"\ufffd":             "\ufffd",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q is shown as %s, not %s", in, got, want)
		}
	}
}

func TestSpansHaveTheUnitThatMatters(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0 s":     -time.Hour,
		"119 s":   2*time.Minute - 1,
		"2 min":   2 * time.Minute,
		"119 min": 2*time.Hour - 1,
		"2 h":     2 * time.Hour,
		"47 h":    48*time.Hour - 1,
		"2 days":  48 * time.Hour,
	} {
		if got := span(d); got != want {
			t.Errorf("%v is %q, not %q", d, got, want)
		}
	}
}

// Who serves a certificate, and who does not, stands in one line of status, as long as a line holds it.
func TestWhoServesWhat(t *testing.T) {
	for _, c := range []struct{ does, doesNot, want string }{
		{"fe1 fe2 fe3", "", "served by 3 of 3 nodes"},
		{"fe1 fe2", "fe3", "served by 2 of 3 nodes: fe1, fe2; not by fe3"},
		{"", "fe1 fe2", "served by 0 of 2 nodes; not by fe1, fe2"},
		{"a b", "c d e", "served by 2 of 5 nodes: a, b; not by c, d, e"},
		{"a b c", "d e f", "served by 3 of 6 nodes"},
		{"a\x1b[2J", "b", `served by 1 of 2 nodes: a\x1b[2J; not by b`},
	} {
		var served []control.Served
		for _, node := range strings.Fields(c.does) {
			served = append(served, control.Served{Node: node, State: control.Current})
		}
		for _, node := range strings.Fields(c.doesNot) {
			served = append(served, control.Served{Node: node, State: control.Stale})
		}
		got := servedBy(control.Certificate{State: control.Issued, Served: served}, strings.Fields(c.does+" "+c.doesNot))
		if got.text != c.want || (got.paint == green) != (c.doesNot == "") {
			t.Errorf("%q and not %q: %q in %q, want %q", c.does, c.doesNot, got.text, got.paint, c.want)
		}
	}
}
