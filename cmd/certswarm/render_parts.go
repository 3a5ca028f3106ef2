package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"certswarm/internal/control"
)

// renderPeers is the page of `peers`.
func renderPeers(s control.Status, now time.Time, look look) string {
	p := page{look: look}
	if len(s.Peers) == 0 {
		p.line("No peers: this node is a fleet of one.")
		return p.lines.String()
	}
	rows := [][]cell{header("NAME", "ROLE", "STATE", "ADDRESS", "BEHIND", "VERSION", "ID")}
	for _, peer := range s.Peers {
		behind := cell{text: "-"}
		if peer.Behind > 0 {
			behind = cell{count(peer.Behind, "change"), yellow}
		}
		rows = append(rows, []cell{text(peer.Name), text(string(peer.Role)), peerState(peer, now), orDash(peer.Address), behind, orDash(peer.Version), text(peer.ID.String())})
	}
	p.table("", rows...)
	for _, peer := range s.Peers {
		if len(peer.Missing) == 0 {
			continue
		}
		p.heading(peer.Name + " has not confirmed")
		for _, path := range peer.Missing {
			p.line("  %s", printable(path))
		}
		if more := peer.Behind - len(peer.Missing); more > 0 {
			p.line("  and %d more", more)
		}
	}
	return p.lines.String()
}

// renderCertificates is the page of `certs`.
func renderCertificates(s control.Status, now time.Time, look look) string {
	p := page{look: look}
	if len(s.Certificates) == 0 {
		p.line("No certificates are declared.")
		return p.lines.String()
	}
	for i, c := range s.Certificates {
		if i > 0 {
			p.line("")
		}
		p.line("%s  %s", p.dress(painted(c.Name, bold)), p.dress(painted(string(c.State), stateColour(string(c.State)))))
		p.certificate(c, s, now)
	}
	return p.lines.String()
}

func (p *page) certificate(c control.Certificate, s control.Status, now time.Time) {
	expires := expiry(c, now)
	if !c.NotAfter.IsZero() {
		expires.text += ", " + c.NotAfter.UTC().Format(time.RFC3339)
	}
	rows := [][]cell{
		{text("names"), text(strings.Join(c.Names, ", "))},
		{text("expiry"), expires},
	}
	if c.Serial != "" {
		rows = append(rows, []cell{text("serial"), text(fmt.Sprintf("%s (generation %d)", c.Serial, c.Generation))})
	}
	rows = append(rows, []cell{text("next attempt"), text(in(c.NextAttempt, now, "not planned"))})
	if c.LastError != "" {
		rows = append(rows, []cell{text("last error"), painted(c.LastError, red)})
	}
	rows = append(rows,
		[]cell{text("budget"), budgetLine(c, s)},
		[]cell{text("listeners"), servedBy(c, s.Serving())})
	if len(c.Unused) > 0 {
		rows = append(rows, []cell{text("unused"), text("no server uses it in the nginx of " + strings.Join(c.Unused, ", "))})
	}
	p.table("  ", rows...)
	var listeners [][]cell
	for _, at := range c.Served {
		listeners = append(listeners, []cell{text(at.Node), text(at.Listener), text(at.KeyType), painted(string(at.State), stateColour(string(at.State)))})
	}
	p.table("    ", listeners...)
}

// budgetLine is what was spent. Whoever holds the lease tells; nothing is known, rather than spent, where that one is not heard.
func budgetLine(c control.Certificate, s control.Status) cell {
	told := s.Lease.HeldHere || slices.ContainsFunc(s.Peers, func(p control.Peer) bool { return p.Connected && p.Name == s.Lease.Holder })
	if !told && c.Budget == (control.Budget{}) {
		return text("not known here: whoever holds the lease tells it, and is not heard")
	}
	return text(fmt.Sprintf("%s today, %d this week; %s this hour", count(c.Budget.OrdersToday, "order"), c.Budget.OrdersWeek, count(c.Budget.FailuresHour, "failure")))
}

// renderVerification is the page of `verify`.
func renderVerification(v control.Verification, look look) string {
	p := page{look: look}
	if len(v.Results) == 0 {
		p.line("Nothing to verify: no certificate is declared, no node has an nginx, or no server of one uses it.")
		return p.lines.String()
	}
	rows := [][]cell{header("NODE", "CERTIFICATE", "LISTENER", "KEY", "STATE", "SERIAL")}
	for _, r := range v.Results {
		shown := orDash(r.Serial)
		if r.Error != "" {
			shown = text(r.Error)
		}
		rows = append(rows, []cell{text(r.Node), text(r.Name), orDash(r.Listener), orDash(r.KeyType), painted(string(r.State), stateColour(string(r.State))), shown})
	}
	p.table("", rows...)
	return p.lines.String()
}

func header(names ...string) []cell {
	row := make([]cell, len(names))
	for i, name := range names {
		row[i] = cell{name, bold}
	}
	return row
}

func orDash(s string) cell {
	if s == "" {
		return cell{text: "-"}
	}
	return text(s)
}
