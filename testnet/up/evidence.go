package main

import (
	"context"
	"net/http"
	"slices"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/ca"
	"certswarm/testnet/real"
)

// evidence is everything that the judgement and the timeline are made of.
type evidence struct {
	nodes       []string
	statuses    map[string]control.Status
	events      []real.Event // of all agents, oldest first
	authority   []ca.Event
	accepts     []real.Accept
	validations map[string][]string // by the path of the token: the nodes whose front-ends the CA asked, in order of the nodes
	shown       map[string]shown    // by node
}

// shown is what a front-end showed in a handshake with the demo.
type shown struct {
	serial string
	err    error
}

// gather collects the evidence of what the fleet has done since a moment, when it is done.
func gather(ctx context.Context, fleet *real.Fleet, since time.Time) (evidence, error) {
	seen := evidence{statuses: map[string]control.Status{}, validations: map[string][]string{}, shown: map[string]shown{}}
	seen.authority = slices.DeleteFunc(fleet.CA.Events(), func(e ca.Event) bool { return e.Time.Before(since) })
	seen.accepts = slices.DeleteFunc(fleet.Accepts(), func(a real.Accept) bool { return a.Time.Before(since) })
	for _, n := range fleet.Nodes {
		seen.nodes = append(seen.nodes, n.Name)
		seen.events = append(seen.events, slices.DeleteFunc(n.Log.Events(), func(e real.Event) bool { return e.Time.Before(since) })...)
		status, err := n.Control().Status(ctx)
		if err != nil {
			return evidence{}, err
		}
		seen.statuses[n.Name] = status
		fetches, err := n.Fetches()
		if err != nil {
			return evidence{}, err
		}
		for _, f := range fetches {
			if f.Status == http.StatusOK && !f.ByAgent() {
				seen.validations[f.Path] = append(seen.validations[f.Path], n.Name)
			}
		}
		leaf, err := n.Shown(ctx, site)
		if err != nil {
			seen.shown[n.Name] = shown{err: err}
		} else {
			seen.shown[n.Name] = shown{serial: leaf.SerialNumber.Text(16)}
		}
	}
	slices.SortStableFunc(seen.events, func(a, b real.Event) int { return a.Time.Compare(b.Time) })
	return seen, nil
}
