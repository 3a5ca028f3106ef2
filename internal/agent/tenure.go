package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/internal/lease"
)

var _ control.Steward = (*Agent)(nil)

// nameOf is like name, and "" for nobody.
func (h *house) nameOf(id fleet.NodeID) string {
	if id.IsZero() {
		return ""
	}
	return h.name(id)
}

func (h *house) leaseStatus() control.Lease {
	v := h.elector.View()
	l := control.Lease{
		Engine: v.Engine, Holder: h.nameOf(v.Holder), Epoch: v.Epoch, HeldHere: v.HeldHere, Renewed: control.At(v.Renewed),
		Leader: h.nameOf(v.Leader), Wished: v.Wished,
	}
	for _, voter := range v.Voters {
		l.Voters = append(l.Voters, control.Voter{
			Name: h.name(voter.Node), Learner: voter.Learner, Connected: voter.Connected, Listed: voter.Listed,
		})
	}
	return l
}

// votingProblems is what keeps this node's part in the vote from being as it should. That nobody holds the lease every node sees by
// itself.
func (h *house) votingProblems() []control.Problem {
	var out []control.Problem
	h.voting.mu.Lock()
	defer h.voting.mu.Unlock()
	since := map[lease.ProblemCode]time.Time{}
	for _, p := range h.elector.View().Problems {
		if p.Code == lease.NoHolder {
			continue
		}
		if since[p.Code] = h.voting.since[p.Code]; since[p.Code].IsZero() {
			since[p.Code] = time.Now()
		}
		out = append(out, h.problem(control.Code(p.Code), since[p.Code], "lease: "+p.Text, "", p.Next))
	}
	h.voting.since = since
	return out
}

// voting is since when there is something wrong with this node's part in the vote.
type voting struct {
	mu    sync.Mutex
	since map[lease.ProblemCode]time.Time // guarded by mu
}

// holderProblems says that nobody holds the lease, once that has lasted for longer than it takes to be heard.
func (h *house) holderProblems(s control.Status) []control.Problem {
	if s.Lease.Holder != "" || h.left.Load() {
		return nil
	}
	view := h.elector.View()
	since := s.Lease.Renewed.Time
	if since.IsZero() {
		since = h.built
	}
	for _, p := range view.Problems {
		if p.Code == lease.NoHolder {
			return []control.Problem{h.problem(control.NoLeaseHolder, since, p.Text, h.withoutHolder(), p.Next)}
		}
	}
	// With a vote, whoever votes knows why; who does not waits for their word at least as long.
	patience := time.Duration(h.cfg.Lease.TTL)
	static := view.Engine == "static"
	if !static {
		patience *= 3
	}
	if static && h.cfg.ACME == nil || time.Since(h.built) < patience || time.Since(since) < patience {
		return nil
	}
	why := "no voter is connected that knows of one"
	if static {
		issuers := h.roster.Load().Issuers()
		if why = "nobody is an issuer"; len(issuers) > 0 {
			why = fmt.Sprintf("%s is to hold it (the first issuer in the list) and is not heard from", issuers[0].Name)
		}
	}
	return []control.Problem{h.problem(control.NoLeaseHolder, since, "nobody holds the lease: "+why, h.withoutHolder(), "certswarm lease show")}
}

// withoutHolder is what it means that nobody holds the lease.
func (h *house) withoutHolder() string {
	if h.cfg.ACME == nil {
		return "lease run starts nothing anywhere; files replicate all the same"
	}
	return "no certificate is renewed until somebody does, but for one that would expire (break-glass)"
}

// Right implements control.Steward.
func (a *Agent) Right(ctx context.Context, wait bool) (right control.Right, ttl time.Duration, err error) {
	err = a.inHouse(ctx, func(h *house) error {
		ttl = time.Duration(h.cfg.Lease.TTL)
		for {
			grant, err := h.rightNow(ctx, wait)
			if err == nil {
				err = grant.Begin()
			}
			if err == nil {
				right = grant
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if !wait {
				return fmt.Errorf("%w: %w", control.ErrNotHeld, err)
			}
			if h.left.Load() || !pause(ctx, ttl/30) { // it ends this moment, or is about to be renewed
				return err
			}
		}
	})
	return right, ttl, err
}

// rightNow returns the grant that there is; with wait, the next one.
func (h *house) rightNow(ctx context.Context, wait bool) (lease.Grant, error) {
	if view := h.elector.View(); !wait && !view.HeldHere {
		if view.Holder == h.self.ID {
			return lease.Grant{}, errors.New("this node has just taken it over, and waits until what its predecessor held has run out")
		}
		if view.Holder.IsZero() {
			return lease.Grant{}, errors.New("nobody is known to hold it")
		}
		return lease.Grant{}, fmt.Errorf("%s holds it", h.name(view.Holder))
	}
	patience, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // a house that is left grants nothing any more
		for !h.left.Load() {
			changed := h.changed.wait()
			select {
			case <-patience.Done():
				return
			case <-changed:
			}
		}
		cancel()
	}()
	return h.elector.Await(patience)
}

// ResignLease implements control.Steward.
func (a *Agent) ResignLease(ctx context.Context) error {
	return a.house.Load().elector.Resign(ctx)
}

// Recovery implements control.Steward.
func (a *Agent) Recovery(ctx context.Context) (control.Recovery, error) {
	h := a.house.Load()
	standings, err := h.elector.Standings(ctx)
	if err != nil {
		return control.Recovery{}, err
	}
	var r control.Recovery
	for _, s := range standings {
		r.Standings = append(r.Standings, control.Standing{
			Node: h.name(s.Node), Heard: s.Heard, State: s.State, Generation: s.Epoch.Generation, Epoch: s.Epoch, Term: s.Term, Index: s.Index,
			Leader: h.nameOf(s.Leader),
		})
	}
	if p := h.awaitsWord(); p != nil {
		r.Confirm = p.Text
	}
	return r, nil
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
	return h.elector.Recover(ctx)
}
