package control

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	var counters []Counts
	if c, ok := s.daemon.(Counter); ok {
		counters = c.Counters()
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if _, err := w.Write(exposition(s.daemon.Status(), counters)); err != nil {
		s.log.Debug("the metrics were not taken", "reason", err)
	}
}

// exposition writes s and counters in the Prometheus text format, version 0.0.4.
func exposition(s Status, counters []Counts) []byte {
	var e exporter
	e.family("certswarm_up", "gauge", "The daemon answers.")
	e.sample(1)
	e.family("certswarm_build_info", "gauge", "The version that runs, as a label.")
	e.sample(1, "version", s.Node.Version)
	e.family("certswarm_uptime_seconds", "gauge", "Time since the daemon started.")
	e.sample(s.Node.UptimeSeconds)
	e.family("certswarm_lease_held", "gauge", "This node holds the lease.")
	e.sample(truth(s.Lease.HeldHere))
	e.family("certswarm_lease_holder_known", "gauge", "Some node is known to hold the lease.")
	e.sample(truth(s.Lease.Holder != ""))
	e.voters(s.Lease)
	e.directories(s.Directories)
	e.peers(s.Peers)
	e.certificates(s.Certificates)
	e.problems(s.Problems)
	for _, c := range counters {
		e.counts(c)
	}
	return e.text.Bytes()
}

// exporter writes one metric family after the other: the format wants a family's samples together.
type exporter struct {
	text bytes.Buffer
	name string // of the family being written
}

func (e *exporter) family(name, kind, help string) {
	e.name = name
	fmt.Fprintf(&e.text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// sample writes one value of the current family. labels alternates names and values.
func (e *exporter) sample(value float64, labels ...string) {
	e.text.WriteString(e.name)
	for i := 0; i < len(labels); i += 2 {
		e.text.WriteByte("{,"[min(i, 1)])
		fmt.Fprintf(&e.text, `%s="%s"`, labels[i], labelEscapes.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		e.text.WriteByte('}')
	}
	fmt.Fprintf(&e.text, " %s\n", strconv.FormatFloat(value, 'f', -1, 64))
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (e *exporter) voters(l Lease) {
	votes := 0
	for _, v := range l.Voters {
		if !v.Learner {
			votes++
		}
	}
	e.family("certswarm_lease_voters", "gauge", "Nodes that vote for the lease; 0 where there is no vote.")
	e.sample(float64(votes))
	e.family("certswarm_lease_voters_wished", "gauge", "How many should, by this node's peer list.")
	e.sample(float64(l.Wished))
}

func (e *exporter) directories(all []Directory) {
	e.family("certswarm_directory_files", "gauge", "Files and links in a replicated directory.")
	for _, d := range all {
		e.sample(float64(d.Files), "directory", d.Name)
	}
	e.family("certswarm_directory_state", "gauge", "1 for the state that a directory is in.")
	for _, d := range all {
		for _, state := range []DirectoryState{InSync, Behind, Halted, Joining} {
			e.sample(truth(d.State == state), "directory", d.Name, "state", string(state))
		}
	}
}

func (e *exporter) peers(all []Peer) {
	e.family("certswarm_peer_connected", "gauge", "A session with the peer is up.")
	for _, p := range all {
		e.sample(truth(p.Connected), "peer", p.Name)
	}
	e.family("certswarm_peer_behind_files", "gauge", "Changes, deletions included, that the peer has not acknowledged as durably applied.")
	for _, p := range all {
		e.sample(float64(p.Behind), "peer", p.Name)
	}
	e.family("certswarm_peer_rtt_seconds", "gauge", "Round-trip time to the peer.")
	for _, p := range all {
		if p.Connected {
			e.sample(p.RTTSeconds, "peer", p.Name)
		}
	}
	e.family("certswarm_peer_last_heard_timestamp_seconds", "gauge", "When the peer was last heard.")
	for _, p := range all {
		if !p.LastHeard.IsZero() {
			e.sample(float64(p.LastHeard.Unix()), "peer", p.Name)
		}
	}
}

func (e *exporter) certificates(all []Certificate) {
	e.family("certswarm_certificate_not_after_timestamp_seconds", "gauge", "When the installed certificate expires.")
	for _, c := range all {
		if !c.NotAfter.IsZero() {
			e.sample(float64(c.NotAfter.Unix()), "certificate", c.Name)
		}
	}
	e.family("certswarm_certificate_state", "gauge", "1 for the state that a certificate is in.")
	for _, c := range all {
		for _, state := range []CertificateState{Placeholder, Issuing, Issued, Failed, External} {
			e.sample(truth(c.State == state), "certificate", c.Name, "state", string(state))
		}
	}
	e.family("certswarm_certificate_served", "gauge", "A listener serves the installed certificate.")
	for _, c := range all {
		for _, at := range c.Served {
			e.sample(truth(at.State == Current), "certificate", c.Name, "node", at.Node, "listener", at.Listener, "key_type", at.KeyType)
		}
	}
}

func (e *exporter) problems(all []Problem) {
	type kind struct {
		code     Code
		severity Severity
		node     string
	}
	counts := make(map[kind]int)
	for _, p := range all {
		counts[kind{p.Code, p.Severity, p.Node}]++
	}
	kinds := slices.SortedFunc(maps.Keys(counts), func(a, b kind) int {
		return strings.Compare(string(a.code)+"\x00"+a.node+"\x00"+string(a.severity), string(b.code)+"\x00"+b.node+"\x00"+string(b.severity))
	})
	e.family("certswarm_problems", "gauge", "Problems by code, severity and the node that must be looked at.")
	for _, k := range kinds {
		e.sample(float64(counts[k]), "code", string(k.code), "severity", string(k.severity), "node", k.node)
	}
}

func (e *exporter) counts(c Counts) {
	e.family(c.Name, "counter", c.Help)
	for _, value := range slices.Sorted(maps.Keys(c.Values)) {
		if c.Label == "" {
			e.sample(c.Values[value])
		} else {
			e.sample(c.Values[value], c.Label, value)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
