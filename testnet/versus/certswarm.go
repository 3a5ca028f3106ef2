package main

import (
	"context"
	"time"

	"certswarm/testnet/real"
)

// certswarm is the program that this is about, as anybody would start it.
type certswarm struct{ binary string }

func (certswarm) name() string { return certswarmName }

func (c certswarm) start(ctx context.Context, dir string, nodes int, o startOptions) (swarm, error) {
	fleet, err := real.Start(ctx, real.Config{Binary: c.binary, Dir: dir, Addresses: real.Loopback(nodes), Relayed: o.metered})
	if err != nil {
		return nil, err
	}
	s := certswarmSwarm{fleet.Swarm(), fleet}
	if err := fleet.Await(ctx, real.Synced); err != nil {
		return nil, closing(err, s)
	}
	return s, nil
}

type certswarmSwarm struct {
	*real.Swarm
	fleet *real.Fleet
}

func (certswarmSwarm) pause() time.Duration { return 20 * time.Millisecond }

func (s certswarmSwarm) Close() error { return s.fleet.Stop() }
