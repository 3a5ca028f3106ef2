package main

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"certswarm/testnet/ca"
	"certswarm/testnet/real"
)

// theCA is where the CA's moments happened.
const theCA = "CA"

// moment is one line of the timeline.
type moment struct {
	at   time.Time
	node string
	step string
	text string
}

// timeline tells the story from the moment in which an agent began to request the certificate, with what no log tells.
func timeline(seen evidence, also ...moment) []moment {
	all := slices.Clone(also)
	var begun, asked time.Time
	if len(also) > 0 {
		begun = also[0].at
	}
	for _, e := range seen.events {
		step := e.Attribute("step")
		switch e.Text {
		case "issuance":
			if begun.IsZero() {
				begun = e.Time
			}
			if step == "presented" {
				asked = e.Time
			}
			all = append(all, moment{e.Time, e.Node, step, inWords(e)})
		case "a front-end serves the challenge":
			all = append(all, moment{e.Time, e.Attribute("node"), "barrier",
				fmt.Sprintf("serves every token, %s after they went out; the fetch took %s", ms(e.Time.Sub(asked)), ms(e.Duration("took")))})
		case "a front-end does not serve the challenge; the CA is not told before it does":
			all = append(all, moment{e.Time, e.Attribute("node"), "barrier", "does not serve the token: " + e.Attribute("reason")})
		}
	}
	for _, i := range installs(seen.events) {
		all = append(all, i.moments()...)
	}
	all = append(all, seen.ofTheCA()...)
	slices.SortStableFunc(all, func(a, b moment) int { return a.at.Compare(b.at) })
	return slices.DeleteFunc(all, func(m moment) bool { return begun.IsZero() || m.at.Before(begun) })
}

// inWords explains a step of the issuance.
func inWords(e real.Event) string {
	text := e.Attribute("text")
	switch e.Attribute("step") {
	case "intent":
		return "key and CSR are made and journalled: " + text
	case "ordered":
		return "the order is placed"
	case "presented":
		return "the tokens are known and go out to every certs directory"
	case "served":
		if text != "" {
			return "the barrier is passed, " + text
		}
		return "the barrier is passed: every front-end serves every token"
	case "accepted":
		return "the CA has been told to look"
	case "ready":
		return "the CA is content"
	case "finalized":
		return "the CSR is on its way"
	case "valid":
		return "the certificate is here"
	case "checked":
		return "key, names, dates and chain are right"
	case "installed":
		return "published to the fleet as " + text
	case "verified":
		if text != "" {
			return text
		}
		return "every front-end is known to serve it"
	}
	return text
}

// ofTheCA tells what the CA saw. The validations of one name are one moment.
func (e evidence) ofTheCA() []moment {
	var all []moment
	told := map[string]bool{}
	for _, event := range e.authority {
		m := moment{at: event.Time, node: theCA, step: string(event.Kind)}
		switch event.Kind {
		case ca.Validation:
			target, err := url.Parse(event.Detail)
			if err != nil || told[event.Detail] {
				continue
			}
			told[event.Detail] = true
			m.step = "validate"
			m.text = fmt.Sprintf("%s, answered by %s", target.Hostname(), strings.Join(e.validations[target.Path], ", "))
		case ca.Issued:
			m.text = "serial " + event.Detail
		case ca.Valid:
			m.text = "an authorization"
		case ca.Invalid:
			m.text = "an authorization: the CA could not fetch the token everywhere"
		default:
			m.text = fmt.Sprintf("answered %d", event.Status)
		}
		all = append(all, m)
	}
	return all
}

// installation is how one agent put the certificate into service.
type installation struct {
	node  string
	at    time.Time // when the agent reported it, which is when the last step ended
	steps []step
	shown []string // what its own handshakes showed
}

type step struct {
	name string
	took time.Duration
}

// installs finds the installations in the logs. An agent reports one all at once: its steps, the certificate, and what the
// listeners show.
func installs(events []real.Event) []installation {
	var done []installation
	open := map[string]*installation{} // by node
	last := map[string]int{}           // by node: place in done of what is being reported
	for _, e := range events {
		switch e.Text {
		case "nginx":
			if e.Attribute("step") == "validate" {
				open[e.Node] = &installation{node: e.Node}
				delete(last, e.Node)
			}
			if i := open[e.Node]; i != nil {
				i.at = e.Time
				i.steps = append(i.steps, step{e.Attribute("step"), e.Duration("took")})
			}
		case "certificate installed":
			if i := open[e.Node]; i != nil && e.Attribute("installed") == "true" {
				last[e.Node] = len(done)
				done = append(done, *i)
			}
			delete(open, e.Node)
		case "served":
			if at, ok := last[e.Node]; ok {
				done[at].shown = append(done[at].shown, fmt.Sprintf("%s (%s) shows serial %s: %s",
					e.Attribute("listener"), e.Attribute("key_type"), e.Attribute("serial"), e.Attribute("state")))
			}
		}
	}
	return done
}

// moments gives each step the time at which it ended.
func (i installation) moments() []moment {
	words := map[string]string{
		"baseline": "the configuration was good before",
		"switch":   "live/ leads to the new generation: key and chain in one rename",
		"test":     "the configuration is good with it",
		"reload":   "the front-end was told to read it",
		"confirm":  "handshakes until several in a row show it",
		"rollback": "the configuration is not good with it: the previous one is back",
	}
	var all []moment
	at := i.at
	for _, s := range slices.Backward(i.steps) {
		if text, ok := words[s.name]; ok {
			all = append(all, moment{at, i.node, s.name, fmt.Sprintf("%s; took %s", text, ms(s.took))})
		}
		at = at.Add(-s.took)
	}
	slices.Reverse(all)
	for _, text := range i.shown {
		all = append(all, moment{i.at, i.node, "proof", text})
	}
	return all
}
