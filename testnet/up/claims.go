package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"certswarm/testnet/ca"
)

// claim is something that certswarm says of itself; failed is "" if it came true.
type claim struct{ text, failed string }

// claims judges the evidence.
func claims(seen evidence) []claim {
	all := []claim{
		{"the certificate was requested by the node that holds the lease", seen.wrongRequester()},
		{"every front-end had served every token before the CA was told to look", seen.earlyAccept()},
		{"the CA validated each name from three perspectives, at as many front-ends as there are", seen.narrowValidation()},
		{"one order, one certificate", seen.extraIssuance()},
		{"every front-end was tested, reloaded, and confirmed by its own agent", seen.missingSteps()},
	}
	all = append(all, seen.served()...)
	return append(all, seen.agreement()...)
}

// served has a claim for each front-end.
func (e evidence) served() (all []claim) {
	for _, node := range e.nodes {
		all = append(all, claim{fmt.Sprintf("a handshake with the front-end of %s shows serial %s", node, e.serial()), e.wrongSerial(node)})
	}
	return all
}

// agreement is what must be true whenever nothing is under way.
func (e evidence) agreement() []claim {
	return []claim{{"all nodes hold the same files", e.differences()}, {"no agent knows of a problem", e.problems()}}
}

// serial is that of the first certificate that the CA issued.
func (e evidence) serial() string {
	for _, event := range e.authority {
		if event.Kind == ca.Issued {
			return event.Detail
		}
	}
	return "(none)"
}

func (e evidence) count(kind ca.Kind) (n int) {
	for _, event := range e.authority {
		if event.Kind == kind && event.Status < 300 {
			n++
		}
	}
	return n
}

func (e evidence) wrongRequester() string {
	requesters := map[string]bool{}
	for _, event := range e.events {
		if event.Attribute("step") == "ordered" {
			requesters[event.Node] = true
		}
	}
	names := slices.Sorted(maps.Keys(requesters))
	for _, node := range e.nodes {
		holder := e.statuses[node].Lease.Holder
		if len(names) != 1 || names[0] != holder {
			return fmt.Sprintf("it was requested by %q, and %s takes %q for the holder", names, node, holder)
		}
	}
	return ""
}

func (e evidence) earlyAccept() string {
	if len(e.accepts) == 0 {
		return "the CA was never told"
	}
	for i, a := range e.accepts {
		var every []string
		for _, paths := range a.Served {
			every = append(every, paths...)
		}
		slices.Sort(every)
		every = slices.Compact(every)
		for _, node := range e.nodes {
			if has := len(a.Served[node]); has == 0 || has < len(every) {
				return fmt.Sprintf("at accept %d the front-end of %s had served %d of %d tokens", i+1, node, has, len(every))
			}
		}
	}
	return ""
}

// perspectives is how many validations Pebble makes of one challenge.
const perspectives = 3

func (e evidence) narrowValidation() string {
	if len(e.validations) == 0 {
		return "nothing was validated"
	}
	for token, nodes := range e.validations {
		distinct := len(slices.Compact(slices.Clone(nodes)))
		if len(nodes) < perspectives || distinct < min(perspectives, len(e.nodes)) {
			return fmt.Sprintf("%s was fetched from %s", token, strings.Join(nodes, ", "))
		}
	}
	return ""
}

func (e evidence) extraIssuance() string {
	orders, issued := e.count(ca.Order), e.count(ca.Issued)
	if orders == 1 && issued == 1 {
		return ""
	}
	return fmt.Sprintf("the CA has had %d orders and issued %d certificates", orders, issued)
}

func (e evidence) missingSteps() string {
	var missing []string
	for _, node := range e.nodes {
		var did []string
		for _, i := range installs(e.events) {
			if i.node == node {
				for _, s := range i.steps {
					did = append(did, s.name)
				}
			}
		}
		for _, step := range []string{"test", "reload", "confirm"} {
			if !slices.Contains(did, step) {
				missing = append(missing, node+" lacks "+step)
			}
		}
	}
	return strings.Join(missing, ", ")
}

func (e evidence) wrongSerial(node string) string {
	switch at := e.shown[node]; {
	case at.err != nil:
		return at.err.Error()
	case at.serial != e.serial():
		return "it shows " + at.serial
	}
	return ""
}

func (e evidence) differences() string {
	first := e.statuses[e.nodes[0]]
	for _, node := range e.nodes {
		for i, d := range e.statuses[node].Directories {
			if want := first.Directories[i]; d.Fingerprint != want.Fingerprint || d.Files != want.Files {
				return fmt.Sprintf("%s on %s has %d files and fingerprint %.12s, on %s %d and %.12s",
					d.Name, node, d.Files, d.Fingerprint, first.Node.Name, want.Files, want.Fingerprint)
			}
		}
	}
	return ""
}

func (e evidence) problems() string {
	var texts []string
	for _, node := range e.nodes {
		for _, p := range e.statuses[node].Problems {
			texts = append(texts, fmt.Sprintf("%s says of %s: %s: %s", node, p.Node, p.Code, p.Text))
		}
	}
	return strings.Join(texts, "; ")
}
