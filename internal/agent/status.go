package agent

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"certswarm/acmeclient"
	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/syncer"
)

// gather collects what this node knows about itself and, from their reports, about the others. It waits for nobody but its own disk.
func (h *house) gather() control.Status {
	s := control.Status{Node: h.nodeStatus(), Cluster: h.cfg.Cluster, Lease: h.leaseStatus()}
	dirs := map[string]syncer.DirectoryStatus{}
	for _, d := range h.syncer.Directories() {
		ds := d.Status()
		dirs[d.Name] = ds
		if d.Name == privateDirectory {
			continue
		}
		s.Directories = append(s.Directories, control.Directory{
			Name: ds.Name, Path: ds.Path, Files: ds.Files, Fingerprint: fmt.Sprintf("%x", ds.Fingerprint),
			State: control.DirectoryState(ds.State), Reason: reasonOf(ds),
		})
	}
	s.Peers = h.peerStatus(dirs)
	s.Certificates = h.certificateStatus(s.Peers)
	s.Problems = h.fleetProblems(s)
	return s
}

func (h *house) nodeStatus() control.Node {
	return control.Node{
		Name: h.self.Name, ID: h.self.ID, Role: h.self.Role, Version: h.version,
		UptimeSeconds: time.Since(h.started).Truncate(time.Millisecond).Seconds(), Serves: h.serves(),
	}
}

// reasonOf says why a directory is not in sync: what keeps this node from writing or reading, the latest of the gravest kind. What is only odd
// (an owner that cannot be given, a name that is refused) keeps nobody behind.
func reasonOf(ds syncer.DirectoryStatus) string {
	if ds.Reason != "" || ds.State == syncer.InSync {
		return ds.Reason
	}
	for _, grave := range [][]syncer.FaultCode{{syncer.DiskFull, syncer.WriteFailed}, {syncer.DirectoryUnreadable}, {syncer.StateDamaged}} {
		var latest *syncer.Fault
		for i, f := range ds.Faults {
			if slices.Contains(grave, f.Code) && (latest == nil || f.Since.After(latest.Since)) {
				latest = &ds.Faults[i]
			}
		}
		if latest != nil {
			return strings.TrimSpace(string(latest.Code) + ": " + latest.Text)
		}
	}
	return ""
}

// keeps reports whether certificates come to this node. A witness only votes.
func (h *house) keeps() bool { return h.store != nil && h.self.Role != fleet.Witness }

// serves reports whether an nginx is in this node's care: one that it tests, reloads and looks at.
func (h *house) serves() bool {
	return h.keeps() && h.cfg.Nginx.Enabled && h.cfg.Nginx.Control != config.ControlNone
}

func (h *house) peerStatus(dirs map[string]syncer.DirectoryStatus) control.List[control.Peer] {
	var out control.List[control.Peer]
	for _, p := range h.mesh.Peers() {
		m, ok := h.roster.Load().ByID(p.ID)
		if !ok {
			continue
		}
		rep, _ := h.reports.get(p.ID)
		peer := control.Peer{
			Name: m.Name, ID: p.ID, Role: m.Role, Connected: p.Connected, Address: p.Address, RTTSeconds: p.RTT.Seconds(),
			LastHeard: control.At(p.LastHeard), Version: p.Version, Serves: rep.Serves,
		}
		if peer.Address == "" && len(m.Addresses) > 0 {
			peer.Address = m.Addresses[0]
		}
		for _, d := range h.syncer.Directories() {
			progress, connected := dirs[d.Name].Peers[p.ID]
			if !connected {
				progress = dirs[d.Name].Away[p.ID]
			}
			peer.Behind += progress.Behind
			if d.Name == privateDirectory {
				continue // its names are nobody's business
			}
			for _, path := range progress.Missing {
				if len(peer.Missing) < 20 {
					peer.Missing = append(peer.Missing, printable(path.String()))
				}
			}
		}
		out = append(out, peer)
	}
	slices.SortFunc(out, func(a, b control.Peer) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// printable returns a path as JSON can carry it: percent-encoded where it is not UTF-8.
func printable(path string) string {
	if utf8.ValidString(path) {
		return path
	}
	return (&url.URL{Path: path}).EscapedPath()
}

// certificateStatus tells of every declared certificate what is held, who is about to obtain it, and who serves it.
func (h *house) certificateStatus(peers []control.Peer) control.List[control.Certificate] {
	var out control.List[control.Certificate]
	obtaining := h.obtaining()
	inForce, told := h.inForce()
	for _, c := range h.cfg.Certificates {
		cert := control.Certificate{Name: c.Name, Names: c.Names, State: control.Placeholder}
		if held, known := inForce[c.Name]; known {
			cert.Serial, cert.NotAfter = held.Serial, control.At(held.NotAfter)
			cert.Generation, cert.State = held.Generation, control.Issued
		}
		if !told {
			cert.LastError = h.self.Name + " keeps no certificates, and no node that does is heard from"
		}
		if o, known := obtaining[c.Name]; known {
			cert.NextAttempt, cert.LastError, cert.Budget = control.At(o.NextAttempt), o.LastError, o.Budget
			switch o.State {
			case acmeclient.StateIssuing:
				cert.State = control.Issuing
			case acmeclient.StateFailed:
				cert.State = control.Failed
			}
		}
		cert.Served, cert.Unused = h.servedStatus(c.Name, cert.Serial, peers), h.unusedBy(c.Name, peers)
		out = append(out, cert)
	}
	return out
}

// inForce is what the fleet wants in force of one certificate, for whoever has not got it.
type inForce struct {
	Serial     string    `json:"serial"`
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
	Generation int       `json:"generation"`
}

// inForce returns what the fleet has in force, by certificate. A node that keeps none goes by what those tell that do, the holder of the lease
// before all others; told is false when nobody does.
func (h *house) inForce() (all map[string]inForce, told bool) {
	if h.keeps() {
		return h.inForceHere(), true
	}
	if len(h.cfg.Certificates) == 0 {
		return nil, true
	}
	ask := []fleet.NodeID{h.elector.View().Holder}
	for _, m := range h.roster.Load().Members() {
		ask = append(ask, m.ID)
	}
	for _, id := range ask {
		_, connected := h.mesh.Session(id)
		if rep, _ := h.reports.get(id); connected && rep.Held != nil {
			return rep.Held, true
		}
	}
	return nil, false
}

func (h *house) inForceHere() map[string]inForce {
	all := map[string]inForce{}
	for _, c := range h.store.declared {
		if held, err := h.store.held(c.Name); err == nil && held != nil {
			all[c.Name] = inForce{held.Leaf.SerialNumber.Text(16), held.Leaf.NotBefore, held.Leaf.NotAfter, held.Generation}
		}
	}
	return all
}

// obtaining is what the holder of the lease says of each certificate: this node itself, or the one that was heard.
func (h *house) obtaining() map[string]obtaining {
	view := h.elector.View()
	if view.HeldHere || h.glass.grant() != nil {
		return h.obtainingHere()
	}
	rep, _ := h.reports.get(view.Holder)
	return rep.Certificates
}

func (h *house) obtainingHere() map[string]obtaining {
	out := map[string]obtaining{}
	if h.acme == nil {
		return out
	}
	for _, s := range h.acme.Snapshot() {
		s.LastError = cmp.Or(h.unsaved.holdsUp(s.Name), s.LastError)
		out[s.Name] = obtaining{
			State: s.State, NextAttempt: s.NextAttempt, LastError: s.LastError,
			Budget: control.Budget{OrdersToday: s.Used.OrdersToday, OrdersWeek: s.Used.OrdersWeek, FailuresHour: s.Used.FailuresHour},
		}
	}
	return out
}

// servedStatus lists the listeners of all nodes for one certificate; those of a node that is not connected are unreachable.
func (h *house) servedStatus(name, serial string, peers []control.Peer) control.List[control.Served] {
	out := control.List[control.Served](h.servedHere(name, serial))
	for _, p := range peers {
		rep, known := h.reports.get(p.ID)
		if !known {
			continue
		}
		for _, s := range rep.Served[name] {
			s.Node = p.Name
			if !p.Connected {
				s.State = control.Unreachable
			}
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b control.Served) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Listener, b.Listener), cmp.Compare(a.KeyType, b.KeyType))
	})
	return out
}

// unusedBy lists the nodes whose nginx has no server that uses a certificate.
func (h *house) unusedBy(name string, peers []control.Peer) (nodes control.List[string]) {
	if h.serves() && len(h.nginx.Unused(name)) > 0 { // hundreds may be asked about, each by itself
		nodes = append(nodes, h.self.Name)
	}
	for _, p := range peers {
		if rep, _ := h.reports.get(p.ID); p.Connected && slices.Contains(rep.Unused, name) {
			nodes = append(nodes, p.Name)
		}
	}
	return nodes
}

func (h *house) unusedHere() []string {
	if !h.serves() {
		return nil
	}
	var names []string
	for _, c := range h.store.declared {
		names = append(names, c.Name)
	}
	return h.nginx.Unused(names...)
}

// servedHere is what this node's own listeners were last seen to show. What was current for another certificate than the one now in force
// is stale.
func (h *house) servedHere(name, serial string) []control.Served {
	h.findings.mu.Lock()
	defer h.findings.mu.Unlock()
	var out []control.Served
	for _, s := range h.findings.served[name] {
		state := control.ServedState(s.State)
		if state == control.Current && s.Serial != serial {
			state = control.Stale
		}
		out = append(out, control.Served{Node: h.self.Name, Listener: s.Listener, KeyType: s.KeyType, State: state})
	}
	return out
}

// report is what this node tells the others.
func (h *house) report() report {
	r := report{Serves: h.serves(), Obtains: h.acme != nil, Served: map[string][]control.Served{}, Unused: h.unusedHere(), Problems: h.problemsHere()}
	r.CutOff = h.outage.lasts()
	view := h.elector.View()
	r.Elected, r.ElectedUnder, r.Leader = view.Elected, view.ElectedUnder, view.Leader
	if r.Holds = view.Acting; view.HeldHere {
		r.Holds = view.Epoch
	}
	for _, v := range view.Voters {
		r.Voters = append(r.Voters, seat{v.Node, v.Learner})
	}
	if view.HeldHere {
		r.Certificates = h.obtainingHere()
	}
	if h.keeps() {
		r.Held = h.inForceHere()
		for _, c := range h.store.declared {
			if served := h.servedHere(c.Name, r.Held[c.Name].Serial); len(served) > 0 {
				r.Served[c.Name] = served
			}
		}
	}
	return r
}

func compareResults(a, b control.Result) int {
	return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Listener, b.Listener), cmp.Compare(a.KeyType, b.KeyType))
}
