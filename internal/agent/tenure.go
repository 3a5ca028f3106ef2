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
	"certswarm/internal/lease/rules"
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
	if len(v.Voters) == 0 && v.Engine == "raft" {
		var leader fleet.NodeID
		if leader, v.Voters = h.toldVoters(v.Holder); l.Leader == "" {
			l.Leader = h.nameOf(leader)
		}
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

// toldVoters is who votes by the word of those who take part in the vote, the holder of the lease before all others: a node that takes none learns it
// from nobody else.
func (h *house) toldVoters(holder fleet.NodeID) (leader fleet.NodeID, voters []lease.Voter) {
	list := h.roster.Load()
	ask := []fleet.NodeID{holder}
	electorate := rules.Electorate(*list)
	for _, m := range electorate {
		ask = append(ask, m.ID)
	}
	for _, id := range ask {
		_, connected := h.mesh.Session(id)
		rep, _ := h.reports.get(id)
		if !connected || len(rep.Voters) == 0 {
			continue
		}
		for _, s := range rep.Voters {
			_, up := h.mesh.Session(s.Node)
			voters = append(voters, lease.Voter{
				Node: s.Node, Learner: s.Learner, Connected: up || s.Node == h.self.ID,
				Listed: slices.ContainsFunc(electorate, func(m fleet.Member) bool { return m.ID == s.Node }),
			})
		}
		return rep.Leader, voters
	}
	return fleet.NodeID{}, nil
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
	_, up := h.mesh.Session(holder)
	_, heard := h.reports.get(holder)
	known := holder == h.self.ID || up && heard
	able := slices.ContainsFunc(h.roster.Load().Issuers(), func(m fleet.Member) bool { return h.obtains(m.ID) })
	if !known || h.obtains(holder) || !able {
		return nil
	}
	name := h.name(holder)
	because := "the lease moves by itself to a node that has acme:, once one that votes is connected to " + name
	if h.elector.View().Engine == "static" {
		because = "the lease follows the peer list here (lease.engine static)"
	}
	p := h.problem(control.NoLeaseHolder, time.Time{}, name+" holds the lease, and has no acme: in its configuration: nobody obtains certificates",
		because, fmt.Sprintf("on %s: add acme: to the configuration, and certswarm reload", name))
	p.Node = name
	return []control.Problem{p}
}

// obtains reports whether a node is known to obtain certificates while it holds the lease: this one, or one that is connected and has said so.
func (h *house) obtains(id fleet.NodeID) bool {
	if id == h.self.ID {
		return h.acme != nil
	}
	_, up := h.mesh.Session(id)
	rep, _ := h.reports.get(id)
	return up && rep.Obtains
}

// passOn gives the lease away where certificates are not obtained, once there is somebody to take it over who obtains them: acme: comes to one
// node after the other, or never to some of those who vote. Until then idleHolder tells of it.
func (h *house) passOn(ctx context.Context) {
	for {
		changed := h.changed.wait()
		if view := h.elector.View(); view.HeldHere && view.Engine == "raft" && h.anotherObtains(view) {
			h.log.Info("this node has no acme: in its configuration: it gives the lease to one that has")
			again := time.Duration(h.cfg.Lease.TTL)
			if err := h.elector.Resign(ctx); err != nil {
				h.log.Warn("the lease is not given away", "error", err)
				again *= passOnPause
			}
			if !pause(ctx, again) {
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

// passOnPause is for how many ttl a holder goes on that nobody has relieved: whatever runs under the lease ends with every attempt.
const passOnPause = 10

// anotherObtains reports whether some other voter that may hold the lease obtains certificates. The engine prefers it (see openOffice), so that the
// lease does not go round among those who do not.
func (h *house) anotherObtains(view lease.View) bool {
	return slices.ContainsFunc(view.Voters, func(v lease.Voter) bool {
		return v.Node != h.self.ID && v.Connected && !v.Learner && h.isIssuer(v.Node) && h.obtains(v.Node)
	})
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
