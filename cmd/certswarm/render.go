package main

import (
	"fmt"
	"strings"
	"time"

	"certswarm/internal/control"
)

// shownMissing is how many of the paths that a peer has not confirmed `status` names; `peers` names all that are known.
const shownMissing = 3

// renderStatus is the page of `status`: what needs a person comes first.
func renderStatus(s control.Status, now time.Time, look look) string {
	p := page{look: look}
	p.problems(s.Problems, now)
	p.line("")
	p.table("",
		[]cell{painted("lease", bold), leaseLine(s.Lease, now)},
		[]cell{painted("this node", bold), text(nodeLine(s))})
	p.directories(s.Directories)
	p.peers(s.Peers, now)
	p.certificates(s, now)
	return p.lines.String()
}

func (p *page) problems(all []control.Problem, now time.Time) {
	if len(all) == 0 {
		p.line("%s", p.dress(cell{"No problems.", green}))
		return
	}
	mild := func(problem control.Problem) bool { return problem.Severity == control.Warn }
	for _, problem := range all {
		if !mild(problem) {
			p.problem(problem, now)
		}
	}
	for _, problem := range all {
		if mild(problem) {
			p.problem(problem, now)
		}
	}
}

func (p *page) problem(problem control.Problem, now time.Time) {
	label := cell{"ERROR", red}
	if problem.Severity == control.Warn {
		label = cell{"warn ", yellow}
	}
	what := string(problem.Code)
	if !problem.Since.IsZero() {
		what += " for " + span(now.Sub(problem.Since.Time))
	}
	p.line("%s  %s  %s: %s", p.dress(label), p.dress(painted(nodeOf(problem), bold)), printable(what), printable(problem.Text))
	for i, line := range strings.Split(strings.TrimSpace(problem.Because), "\n") { // nginx's words have several lines
		switch {
		case line == "":
		case i == 0:
			p.line("       because  %s", printable(line))
		default:
			p.line("                %s", printable(line))
		}
	}
	if problem.Next != "" {
		p.line("       next     %s", printable(problem.Next))
	}
}

// nodeOf is where a problem must be looked at.
func nodeOf(problem control.Problem) string {
	if problem.Node == "" {
		return "fleet"
	}
	return problem.Node
}

func leaseLine(l control.Lease, now time.Time) cell {
	switch {
	case l.Engine == "":
		return cell{text: "none: nothing is issued here"}
	case l.Holder == "":
		return painted("nobody is known to hold it ("+l.Engine+")", red)
	}
	line := "held by " + l.Holder
	if l.HeldHere {
		line += ", this node"
	}
	line += " (" + l.Engine + ")"
	if !l.Renewed.IsZero() {
		line += ", renewed " + ago(l.Renewed, now, "")
	}
	return text(line)
}

func nodeLine(s control.Status) string {
	return fmt.Sprintf("%s (%s) in cluster %s, version %s, up %s", s.Node.Name, s.Node.Role, s.Cluster, s.Node.Version,
		span(time.Duration(s.Node.UptimeSeconds*float64(time.Second))))
}

func (p *page) directories(all []control.Directory) {
	if len(all) == 0 {
		return
	}
	p.heading("directories")
	var rows [][]cell
	for _, d := range all {
		state := painted(strings.ReplaceAll(string(d.State), "_", " "), stateColour(string(d.State)))
		rows = append(rows, []cell{text(d.Name), state, text(count(d.Files, "file")), text(d.Path), text(d.Reason)})
	}
	p.table("  ", rows...)
}

func (p *page) peers(all []control.Peer, now time.Time) {
	if len(all) == 0 {
		return
	}
	p.heading(fmt.Sprintf("peers: %d of %d connected", connected(all), len(all)))
	var rows [][]cell
	for _, peer := range all {
		rows = append(rows, []cell{text(peer.Name), peerState(peer, now), peerLack(peer)})
	}
	p.table("  ", rows...)
}

func connected(peers []control.Peer) (n int) {
	for _, p := range peers {
		if p.Connected {
			n++
		}
	}
	return n
}

func peerState(p control.Peer, now time.Time) cell {
	switch {
	case p.Connected:
		return cell{fmt.Sprintf("connected, %.1f ms", p.RTTSeconds*1000), green}
	case p.LastHeard.IsZero():
		return cell{"never heard", red}
	}
	return cell{"lost, last heard " + ago(p.LastHeard, now, ""), red}
}

func peerLack(p control.Peer) cell {
	if p.Behind == 0 {
		if !p.Connected {
			return cell{}
		}
		return cell{text: "has every file"}
	}
	p.Missing = p.Missing[:min(len(p.Missing), shownMissing)]
	return painted("has not confirmed "+control.Unconfirmed(p), yellow)
}

func (p *page) certificates(s control.Status, now time.Time) {
	if len(s.Certificates) == 0 {
		return
	}
	p.heading("certificates")
	serving := s.Serving()
	var rows [][]cell
	for _, c := range s.Certificates {
		rows = append(rows, []cell{text(c.Name), painted(string(c.State), stateColour(string(c.State))), expiry(c, now), servedBy(c, serving)})
	}
	p.table("  ", rows...)
	var faults [][]cell
	for _, c := range s.Certificates {
		if c.LastError != "" {
			faults = append(faults, []cell{text(c.Name), painted(c.LastError, red), text("next attempt " + in(c.NextAttempt, now, "not planned"))})
		}
	}
	p.table("    ", faults...)
	p.table("    ", notServing(s.Certificates, serving)...)
}

// notServing lists what keeps a live node from counting as serving a certificate.
func notServing(certificates []control.Certificate, serving []string) (rows [][]cell) {
	for _, c := range certificates {
		if c.State == control.Placeholder {
			continue // the state says it
		}
		for _, node := range serving {
			seen := false
			for _, at := range c.Served {
				if at.Node != node {
					continue
				}
				seen = true
				if at.State != control.Current {
					rows = append(rows, []cell{text(c.Name), text(node), text(at.Listener), text(at.KeyType), painted(string(at.State), stateColour(string(at.State)))})
				}
			}
			if !seen {
				rows = append(rows, []cell{text(c.Name), text(node), {}, {}, {"not seen at any listener yet", yellow}})
			}
		}
	}
	return rows
}

func expiry(c control.Certificate, now time.Time) cell {
	switch left := c.NotAfter.Sub(now); {
	case c.NotAfter.IsZero():
		return cell{text: "no certificate yet"}
	case left <= 0:
		return cell{"expired " + ago(c.NotAfter, now, ""), red}
	case left < 48*time.Hour:
		return cell{"expires " + in(c.NotAfter, now, ""), red}
	}
	return cell{text: "expires " + in(c.NotAfter, now, "")}
}

// shownServing is up to how many nodes are called by name where some of them do not serve a certificate: what a line holds.
const shownServing = 5

func servedBy(c control.Certificate, serving []string) cell {
	if len(serving) == 0 {
		return cell{text: "no live node has an nginx"}
	}
	if c.State == control.Placeholder {
		return cell{"a placeholder is served", yellow}
	}
	var does, doesNot []string
	for _, node := range serving {
		if c.ServedBy(node) {
			does = append(does, node)
		} else {
			doesNot = append(doesNot, node)
		}
	}
	told, p := fmt.Sprintf("served by %d of %s", len(does), count(len(serving), "node")), green
	if len(doesNot) > 0 {
		p = red
	}
	if len(doesNot) > 0 && len(serving) <= shownServing {
		if len(does) > 0 {
			told += ": " + strings.Join(does, ", ")
		}
		told += "; not by " + strings.Join(doesNot, ", ")
	}
	return painted(told, p)
}

// stateColour is for the states of directories, certificates and listeners alike.
func stateColour(state string) paint {
	switch state {
	case string(control.InSync), string(control.Issued), string(control.Current):
		return green
	case string(control.Halted), string(control.Failed), string(control.Stale), string(control.Unreachable):
		return red
	case string(control.External):
		return plain
	}
	return yellow
}
