package real

import (
	"context"
	"errors"
	"fmt"
	"time"

	"certswarm/internal/control"
)

// Swarm is a fleet as what is measured.
type Swarm struct {
	fleet  *Fleet
	before int64 // what the relay had passed on when a node was last started
}

// Swarm returns the fleet as what is measured. Its Traffic is known only if the fleet is relayed.
func (f *Fleet) Swarm() *Swarm { return &Swarm{fleet: f} }

// Dirs implements load.Swarm.
func (s *Swarm) Dirs() []string {
	var dirs []string
	for _, n := range s.fleet.Nodes {
		dirs = append(dirs, n.Certs)
	}
	return dirs
}

// PIDs implements load.Swarm.
func (s *Swarm) PIDs() []int {
	var pids []int
	for _, n := range s.fleet.Nodes {
		pids = append(pids, n.PID())
	}
	return pids
}

// Stop implements load.Swarm.
func (s *Swarm) Stop(node int) error { return s.fleet.Nodes[node].Stop() }

// Start implements load.Swarm.
func (s *Swarm) Start(ctx context.Context, node int) (met time.Time, err error) {
	n, first := s.fleet.Nodes[node], s.fleet.Nodes[0].Name
	if s.fleet.Relay != nil {
		s.before = s.fleet.Relay.Bytes()
	}
	skip := len(n.Log.Events())
	if err := n.Start(ctx); err != nil {
		return time.Time{}, err
	}
	connected, err := n.Log.Await(ctx, skip, func(e Event) bool { return e.Text == "peer connected" && e.Attribute("peer") == first })
	return connected.Time, err
}

// Traffic implements load.Swarm.
func (s *Swarm) Traffic(context.Context) (int64, error) {
	if s.fleet.Relay == nil {
		return 0, errors.New("what passes between the nodes is counted only in a fleet that is relayed")
	}
	return s.fleet.Relay.Bytes() - s.before, nil
}

// Look implements load.Swarm.
func (s *Swarm) Look(ctx context.Context) error { return s.fleet.Nodes[0].Control().Rescan(ctx) }

// Settle implements load.Swarm.
func (s *Swarm) Settle(ctx context.Context) error {
	const pause = 2 * time.Millisecond
	for {
		status, err := s.fleet.Nodes[0].Control().Status(ctx)
		if err != nil {
			return err
		}
		why := s.unsettled(status)
		if why == "" {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%w; missing was: %s", context.Cause(ctx), why)
		}
	}
}

// unsettled says what the running nodes lack, as node 0 knows it.
func (s *Swarm) unsettled(status control.Status) string {
	for _, d := range status.Directories {
		if d.State != control.InSync {
			return fmt.Sprintf("%s says of %s: %s", status.Node.Name, d.Name, d.State)
		}
	}
	for _, p := range status.Peers {
		switch {
		case s.fleet.Node(p.Name).Running() && !p.Connected:
			return p.Name + " is not connected"
		case p.Behind > 0:
			return fmt.Sprintf("%s lacks %d files", p.Name, p.Behind)
		}
	}
	return ""
}
