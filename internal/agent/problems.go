package agent

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/internal/peer"
	"certswarm/syncer"
)

// refusalMemory is for how long a refused connection stays a problem.
const refusalMemory = 10 * time.Minute

// expiring is the fraction of a certificate's life below which it is a problem that it was not renewed; due is where it should have been.
const (
	dueLeft      = 0.25
	expiringLeft = 0.10
)

func (h *house) problem(code control.Code, since time.Time, text, because, next string) control.Problem {
	return control.Problem{
		Code: code, Severity: code.Severity(), Since: control.At(since), Node: h.self.Name, Text: text, Because: because, Next: next,
	}
}

// problemsHere is what is wrong on this node, for itself and for its report.
func (h *house) problemsHere() []control.Problem {
	out := []control.Problem{}
	for _, d := range h.syncer.Directories() {
		out = append(out, h.directoryProblems(d)...)
	}
	out = append(out, h.nginxProblems()...)
	out = append(out, h.standingProblems()...)
	out = append(out, h.obtainingProblems()...)
	out = append(out, h.outageProblems()...)
	out = append(out, h.unsavedProblems()...)
	out = append(out, h.barrierProblems()...)
	out = append(out, h.refusalProblems()...)
	out = append(out, h.votingProblems()...)
	out = append(out, h.glassProblems()...)
	return out
}

func (h *house) faultProblem(d *syncer.Directory, f syncer.Fault) control.Problem {
	what := d.Name
	if f.Path != "" {
		what += "/" + printable(f.Path)
	}
	p := h.problem(control.Code(f.Code), f.Since, what+": "+f.Text, "", "")
	switch f.Code {
	case syncer.DirectoryHalted:
		p.Because = "so many deletions at once are more often an accident than a wish"
		p.Next = fmt.Sprintf("on %s: certswarm resume %s --restore, or --accept to let them go out", h.self.Name, d.Name)
		if d.Root().Replaced() != nil {
			p.Because = "a directory that is not there says nothing about its files; it is taken up as soon as it is back"
			p.Next = fmt.Sprintf("on %s: ls -ld %s; findmnt; or, if another is to take its place: certswarm resume %s --restore", h.self.Name, d.Path, d.Name)
		}
	case syncer.DiskFull:
		p.Next = "df -h " + d.Path + " " + h.cfg.StateDir // the archive and the state database may lie elsewhere
	case syncer.HeldFile, syncer.NameRefused, syncer.DirectoryUnreadable, syncer.OwnershipFailed:
		p.Next = fmt.Sprintf("ls -la %s/%s", d.Path, printable(f.Path))
	case syncer.ClockSkew:
		p.Next = "timedatectl status"
		if !f.Node.IsZero() {
			p.Node = h.name(f.Node)
			p.Next = fmt.Sprintf("on %s: timedatectl status", p.Node)
		}
	case syncer.EditReverted:
		p.Because = "who may write here is writers: in the configuration, and what the lease holder wrote is its own"
		p.Next = fmt.Sprintf("ls %s/archive/%s/%s", h.cfg.StateDir, d.Name, printable(f.Path))
	case syncer.EntryRefused:
		p.Because = "the others keep what they had there"
		p.Next = "certswarm config show"
	case syncer.WatchLimited:
		p.Next = "sysctl fs.inotify"
	default:
		p.Next = "journalctl -u certswarm -n 50"
	}
	return p
}

func (h *house) nginxProblems() []control.Problem {
	h.findings.mu.Lock()
	defer h.findings.mu.Unlock()
	var out []control.Problem
	for _, f := range h.findings.problems {
		next := h.nginxTest()
		if f.Name != "" {
			next = "certswarm verify " + f.Name
		}
		out = append(out, h.problem(control.Code(f.Code), f.since, f.Text, "", next))
	}
	slices.SortFunc(out, func(a, b control.Problem) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Text, b.Text))
	})
	return out
}

// nginxTest is how a person tests the nginx that is configured.
func (h *house) nginxTest() string {
	c := h.cfg.Nginx
	command := quoted(cmp.Or(c.Binary, "nginx")) + " -t"
	if c.Prefix != "" {
		command += " -p " + quoted(c.Prefix)
	}
	if c.Config != "" {
		command += " -c " + quoted(c.Config)
	}
	if command == "nginx -t" {
		return command
	}
	return fmt.Sprintf("on %s: %s", h.self.Name, command)
}

// quoted is a path as a shell takes it.
func quoted(path string) string {
	if !strings.ContainsFunc(path, func(r rune) bool { return notInHost(r) && !strings.ContainsRune("/_+=@%,", r) }) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// obtainingProblems is what keeps this node, as the holder of the lease, from obtaining certificates.
func (h *house) obtainingProblems() []control.Problem {
	if h.acme == nil || !h.elector.View().HeldHere {
		return nil
	}
	var out []control.Problem
	for _, s := range h.acme.Snapshot() {
		if s.LastError == "" || s.Code == "" {
			continue
		}
		because := ""
		if !s.NextAttempt.IsZero() {
			because = "tried again at " + s.NextAttempt.UTC().Format(time.RFC3339)
		}
		out = append(out, h.problem(control.Code(s.Code), time.Time{}, s.Name+": "+s.LastError, because, "certswarm certs"))
	}
	return out
}

func (h *house) barrierProblems() []control.Problem {
	h.blocked.mu.Lock()
	defer h.blocked.mu.Unlock()
	var out []control.Problem
	for _, b := range h.blocked.nodes {
		p := h.problem(control.ChallengeNotServed, b.since,
			fmt.Sprintf("%s does not serve the challenge for %s: %s", b.node, b.host, b.reason),
			"the CA is not told to look before every reachable front-end serves it", b.next())
		p.Node = b.node
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b control.Problem) int { return cmp.Compare(a.Text, b.Text) })
	return out
}

// next asks as the node did that does not serve. Its address comes from that node, and is to be pasted into a shell.
func (b blockage) next() string {
	host, port, err := net.SplitHostPort(b.address)
	if _, noPort := strconv.ParseUint(port, 10, 16); err != nil || noPort != nil || strings.ContainsFunc(host, notInHost) {
		return fmt.Sprintf("on %s: journalctl -u certswarm -n 50", b.node)
	}
	return fmt.Sprintf("on %s: curl -i -H 'Host: %s' http://%s/.well-known/acme-challenge/%s", b.node, b.host, b.address, b.token)
}

func notInHost(r rune) bool {
	return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '.' && r != '-' && r != ':'
}

// refusalProblems names who knocked and was not let in.
func (h *house) refusalProblems() []control.Problem {
	var out []control.Problem
	for _, r := range h.mesh.Refusals().Recent {
		if time.Since(r.Last) > refusalMemory || r.ID.IsZero() {
			continue // who did not even prove a key is a counter, no problem
		}
		if h.mended(r) {
			continue
		}
		code, text := control.PeerRefused, h.name(r.ID)+": "+r.Text
		if r.Reason == peer.ReasonWrongCluster {
			code, text = control.TwoClusters, h.name(r.ID)+" "+r.Text
		}
		next := "certswarm config show"
		switch r.Reason {
		case peer.ReasonUnknownKey:
			next = "if it belongs here, add its id to peers: on every node"
		case peer.ReasonTwoDaemons:
			text, next = r.Text, "stop one of them and give it its own key: move its state_dir away, then certswarm identity generate"
		}
		p := h.problem(code, r.First, text, fmt.Sprintf("%s from %s, %d times", r.ID, r.Address, r.Times), next)
		if r.Reason == peer.ReasonTwoDaemons {
			p.Node = h.name(r.ID) // every node sees it
		}
		out = append(out, p)
	}
	return out
}

// mended reports whether what a connection was refused for is no longer so.
func (h *house) mended(r peer.Refusal) bool {
	_, connected := h.mesh.Session(r.ID)
	_, listed := h.roster.Load().ByID(r.ID)
	switch r.Reason {
	case peer.ReasonTwoDaemons: // they are connected, one after the other
		return !listed || time.Since(r.Last) > peer.RefusalSilence
	case peer.ReasonUnknownKey:
		return listed
	case peer.ReasonOtherKey:
		_, wanted := h.roster.Load().ByID(r.Dialled)
		return connected || !wanted
	case peer.ReasonWrongCluster:
		return connected || !listed
	}
	return connected
}

// fleetProblems is what is wrong anywhere, as far as this node knows: its own problems, those in the reports of connected peers, and what
// only shows from outside. The errors come first.
func (h *house) fleetProblems(s control.Status) control.List[control.Problem] {
	all := h.problemsHere()
	links := map[fleet.NodeID]peer.PeerStatus{}
	for _, link := range h.mesh.Peers() {
		links[link.ID] = link
	}
	for _, p := range s.Peers {
		if !p.Connected {
			if link := links[p.ID]; !h.mayYetConnect(p, link) {
				all = append(all, h.lostPeer(p, link))
			}
			continue
		}
		rep, _ := h.reports.get(p.ID)
		all = append(all, rep.Problems...)
	}
	all = append(all, h.holderProblems(s)...)
	all = append(all, h.certificateProblems(s)...)

	seen := map[string]bool{}
	out := control.List[control.Problem]{}
	for _, p := range all {
		key := string(p.Code) + "\x00" + p.Node + "\x00" + p.Text
		if !seen[key] {
			seen[key] = true
			out = append(out, p)
		}
	}
	slices.SortStableFunc(out, func(a, b control.Problem) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Code, b.Code))
	})
	return out
}

// rank puts what explains other problems before them.
func rank(p control.Problem) int {
	if p.Code == control.TwoClusters {
		return 0
	}
	return 1
}

// connectTime is within which every peer that can be reached is connected (internal/peer).
const connectTime = 5 * time.Second

// mayYetConnect reports whether a house, or a peer in its list, is too new, or the house too old, for it to mean anything that the peer is not
// connected.
func (h *house) mayYetConnect(p control.Peer, link peer.PeerStatus) bool {
	gone := !p.LastHeard.IsZero() && time.Since(p.LastHeard.Time) >= connectTime
	return (h.left.Load() || time.Since(h.built) < connectTime || time.Since(link.Added) < connectTime) && !gone
}

func (h *house) lostPeer(p control.Peer, link peer.PeerStatus) control.Problem {
	since := p.LastHeard.Time
	text := fmt.Sprintf("%s is not connected", p.Name)
	switch {
	case !since.IsZero():
	case link.Added.After(h.started):
		since = link.Added
		text = fmt.Sprintf("%s was never connected since it was added", p.Name)
	default:
		since = h.started
		text = fmt.Sprintf("%s was never connected since this agent started", p.Name)
	}
	next := fmt.Sprintf("on %s: systemctl status certswarm", p.Name)
	switch link.Failure {
	case peer.FailureRefused:
		next = fmt.Sprintf("on %s: certswarm config show; if this node belongs there, add its id to peers:", p.Name)
	case peer.FailureOtherCluster:
		next = "certswarm config show; make cluster: the same"
	case peer.FailureOtherKey:
		next = fmt.Sprintf("certswarm config show; correct the address of %s, or its id", p.Name)
	}
	problem := h.problem(control.PeerLost, since, text, link.LastError, next)
	problem.Node = p.Name
	return problem
}

// certificateProblems says which certificates run out, and which were never there.
func (h *house) certificateProblems(s control.Status) []control.Problem {
	var out []control.Problem
	inForce, told := h.inForce()
	if !told {
		return nil // who is not connected is a problem already
	}
	for _, c := range s.Certificates {
		if c.NotAfter.IsZero() {
			if c.State == control.Failed || time.Since(h.started) > 5*time.Minute {
				p := h.problem(control.PlaceholderServed, h.started, c.Name+" is still a placeholder: browsers refuse it", c.LastError, "certswarm certs")
				out = append(out, p)
			}
			continue
		}
		held, known := inForce[c.Name]
		if !known {
			continue // it changed just now
		}
		life := held.NotAfter.Sub(held.NotBefore)
		left := time.Until(held.NotAfter)
		code := control.Code("")
		switch {
		case left < time.Duration(float64(life)*expiringLeft):
			code = control.CertificateExpiring
		case left < time.Duration(float64(life)*dueLeft):
			code = control.CertificateDue
		default:
			continue
		}
		p := h.problem(code, held.NotAfter.Add(-time.Duration(float64(life)*dueLeft)),
			fmt.Sprintf("%s expires at %s and was not renewed", c.Name, held.NotAfter.UTC().Format(time.RFC3339)), c.LastError, "certswarm certs")
		p.Node = s.Lease.Holder
		if p.Node == "" {
			p.Node = h.self.Name
		}
		out = append(out, p)
	}
	return out
}
