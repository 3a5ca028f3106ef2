package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"certswarm/internal/agent/config"
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
		Engine: v.Engine, Epoch: v.Epoch, HeldHere: v.HeldHere, Renewed: control.At(v.Renewed),
		Leader: h.nameOf(v.Leader), Wished: v.Wished,
	}
	if holder, listed := h.roster.Load().ByID(v.Holder); listed {
		l.Holder = holder.Name
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
	view := h.elector.View()
	switch {
	case h.left.Load():
		return nil
	case !view.Holder.IsZero():
		return h.idleHolder(view.Holder)
	}
	since := s.Lease.Renewed.Time
	if since.IsZero() {
		since = h.built
	}
	for _, p := range view.Problems {
		if p.Code == lease.NoHolder {
			return []control.Problem{h.problem(control.NoLeaseHolder, since, p.Text, h.withoutHolder(), h.towardsHolder(p.Next))}
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
	return []control.Problem{h.problem(control.NoLeaseHolder, since, "nobody holds the lease: "+why, h.withoutHolder(), h.towardsHolder("certswarm lease show"))}
}

// towardsHolder is what to do so that somebody holds the lease: next, unless voters are alive and this node is cut off by configuration.
func (h *house) towardsHolder(next string) string {
	if len(h.refusing()) > 0 {
		return "certswarm config show"
	}
	return next
}

// idleHolder says that whoever holds the lease has nothing to obtain certificates with, while another issuer has.
func (h *house) idleHolder(holder fleet.NodeID) []control.Problem {
	obtains := func(id fleet.NodeID) (yes, known bool) {
		if id == h.self.ID {
			return h.acme != nil, true
		}
		_, up := h.mesh.Session(id)
		rep, heard := h.reports.get(id)
		return rep.Obtains, up && heard
	}
	able := slices.ContainsFunc(h.roster.Load().Issuers(), func(m fleet.Member) bool { yes, known := obtains(m.ID); return yes && known })
	if yes, known := obtains(holder); yes || !known || !able {
		return nil
	}
	name := h.name(holder)
	because := "the lease moves by itself once all other issuers that are connected have acme:"
	if h.elector.View().Engine == "static" {
		because = "the lease follows the peer list here (lease.engine static)"
	}
	p := h.problem(control.NoLeaseHolder, time.Time{}, name+" holds the lease, and has no acme: in its configuration: nobody obtains certificates",
		because, fmt.Sprintf("on %s: add acme: to the configuration, and certswarm reload", name))
	p.Node = name
	return []control.Problem{p}
}

// passOn gives the lease away where certificates are not obtained, once whoever may take it over obtains them: acme: comes to one node after
// the other. Until then idleHolder tells of it.
func (h *house) passOn(ctx context.Context) {
	for {
		changed := h.changed.wait()
		if view := h.elector.View(); view.HeldHere && view.Engine == "raft" && h.othersObtain() {
			h.log.Info("this node has no acme: in its configuration: it gives the lease to one that has")
			if err := h.elector.Resign(ctx); err != nil {
				h.log.Warn("the lease is not given away", "error", err)
			}
			if !pause(ctx, time.Duration(h.cfg.Lease.TTL)) {
				return
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// othersObtain reports whether there are other issuers, and all that are connected obtain certificates.
func (h *house) othersObtain() bool {
	able := 0
	for _, m := range h.roster.Load().Issuers() {
		if _, up := h.mesh.Session(m.ID); !up {
			continue
		}
		if rep, _ := h.reports.get(m.ID); !rep.Obtains {
			return false
		}
		able++
	}
	return able > 0
}

// withoutHolder is what it means that nobody holds the lease.
func (h *house) withoutHolder() string {
	if h.cfg.ACME == nil {
		return "lease run starts nothing anywhere; files replicate all the same"
	}
	if h.cfg.Lease.BreakGlass.Mode == config.Off {
		return "no certificate is renewed until somebody does, not even one that would expire: lease: break_glass: is off"
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
	h := a.house.Load()
	if v := h.elector.View(); v.Engine == "raft" && !v.HeldHere && v.Holder.IsZero() && v.Leader != h.self.ID {
		return errors.New("nobody is known to hold the lease, so that there is nothing to give away: certswarm lease show")
	}
	return h.elector.Resign(ctx)
}
