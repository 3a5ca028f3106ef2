package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/internal/lease/rules"
	"certswarm/internal/peer"
)

// Who was not heard a moment ago gets this long to say where it stands: a node that has just come back is being asked.
const (
	standingWait  = 2 * time.Second
	standingPause = 100 * time.Millisecond
)

// Recovery implements control.Steward.
func (a *Agent) Recovery(ctx context.Context) (control.Recovery, error) {
	h := a.house.Load()
	standings, err := h.standings(ctx)
	if err != nil {
		return control.Recovery{}, err
	}
	var r control.Recovery
	var reached []fleet.NodeID
	for _, s := range standings {
		reached = append(reached, s.Node)
		r.Standings = append(r.Standings, control.Standing{
			Node: h.name(s.Node), Reached: true, Heard: s.Heard, State: s.State, Generation: s.Epoch.Generation, Epoch: s.Epoch,
			Term: s.Term, Index: s.Index, Leader: h.nameOf(s.Leader),
		})
	}
	cutOff := h.cutOff(ctx)
	refusing := map[fleet.NodeID]bool{}
	for _, p := range h.refusing() {
		refusing[p.ID] = true
	}
	for _, id := range h.voters() {
		if !slices.Contains(reached, id) {
			r.Standings = append(r.Standings, control.Standing{Node: h.name(id), Refuses: refusing[id]})
		}
	}
	if p := h.awaitsWord(); p != nil {
		r.Confirm = p.Text
		return r, nil
	}
	if err := h.elector.MayRecover(ctx); err != nil {
		r.Refused = err.Error()
		return r, nil
	}
	if r.Refused = cutOff; r.Refused != "" {
		return r, nil
	}
	r.Rebuilds = true
	r.Confirm = "the voters that are missing never come back: the lease is rebuilt from " + h.self.Name + " alone"
	return r, nil
}

// standings is where everybody stands who can be reached, this node first.
func (h *house) standings(ctx context.Context) ([]lease.Standing, error) {
	for begun := time.Now(); ; {
		standings, err := h.elector.Standings(ctx)
		if err != nil {
			return nil, err
		}
		led := slices.ContainsFunc(standings, func(s lease.Standing) bool { return !s.Leader.IsZero() }) // then nobody is asked
		silent := slices.ContainsFunc(standings, func(s lease.Standing) bool { return !s.Heard })
		if led || !silent || time.Since(begun) >= standingWait {
			return standings, nil
		}
		if !pause(ctx, standingPause) {
			return nil, ctx.Err()
		}
	}
}

// voters is who votes, and who should by the peer list.
func (h *house) voters() []fleet.NodeID {
	var out []fleet.NodeID
	view := h.elector.View()
	if view.Engine == "static" {
		return nil
	}
	for _, m := range rules.Electorate(*h.roster.Load()) {
		out = append(out, m.ID)
	}
	for _, v := range view.Voters {
		if !slices.Contains(out, v.Node) {
			out = append(out, v.Node)
		}
	}
	return out
}

// missing is the voters without a session.
func (h *house) missing() []peer.PeerStatus {
	voters := h.voters()
	return slices.DeleteFunc(h.mesh.Peers(), func(p peer.PeerStatus) bool { return p.Connected || !slices.Contains(voters, p.ID) })
}

// refusing is the missing voters that are not gone: they want nothing to do with this node, whose configuration, or theirs, is wrong.
func (h *house) refusing() []peer.PeerStatus {
	return slices.DeleteFunc(h.missing(), func(p peer.PeerStatus) bool { return p.Refuses == "" })
}

// cutOff says why the lease must not be rebuilt here although nothing in the vote speaks against it: a majority that refuses this node may well do
// without it, and would lose the lease to it later. It waits until every voter was dialled.
func (h *house) cutOff(ctx context.Context) string {
	for begun := time.Now(); slices.ContainsFunc(h.missing(), func(p peer.PeerStatus) bool { return p.LastError == "" }); {
		if time.Since(begun) >= standingWait || !pause(ctx, standingPause) {
			break
		}
	}
	refusing := h.refusing()
	if len(refusing) == 0 {
		return ""
	}
	p := refusing[max(0, slices.IndexFunc(refusing, func(p peer.PeerStatus) bool { return p.Failure.Refuses() }))]
	why, mend := fmt.Sprintf("its peer list lacks %s", h.self.ID), "mend the lists; this node may have been removed"
	if p.Refuses == peer.FailureOtherCluster {
		why, mend = fmt.Sprintf("it belongs to another cluster than %q", h.cfg.Cluster), "make cluster: the same"
	}
	if !p.Failure.Refuses() {
		return fmt.Sprintf("%s refused this node when it was last seen alive (%s): %s; if it is gone for good, remove it from peers: here first",
			h.name(p.ID), why, mend)
	}
	return fmt.Sprintf("%s is alive and refuses this node (%s): %s", h.name(p.ID), why, mend)
}

// awaitsWord returns the problem that ends when a person confirms the peer list, nil if there is none.
func (h *house) awaitsWord() *lease.Problem {
	for _, p := range h.elector.View().Problems {
		if p.Code == lease.ListRefused {
			return &p
		}
	}
	return nil
}

// RecoverLease implements control.Steward.
func (a *Agent) RecoverLease(ctx context.Context) error {
	h := a.house.Load()
	if h.awaitsWord() != nil {
		return h.elector.Confirm(ctx)
	}
	if refused := h.cutOff(ctx); refused != "" {
		return errors.New(refused)
	}
	return h.elector.Recover(ctx)
}
