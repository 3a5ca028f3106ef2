package main

import (
	"context"
	"net/http"
	"slices"

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

// gather collects the evidence when the fleet has done its work.
func gather(ctx context.Context, fleet *real.Fleet) (evidence, error) {
	seen := evidence{
		statuses: map[string]control.Status{}, authority: fleet.CA.Events(), accepts: fleet.Accepts(), validations: map[string][]string{}, shown: map[string]shown{},
	}
	for _, n := range fleet.Nodes {
		seen.nodes = append(seen.nodes, n.Name)
		seen.events = append(seen.events, n.Log.Events()...)
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
