package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"certswarm/acmeclient"
	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/internal/lease/rules"
)

// glassCase is what must be broken to order without the lease, and what came of that. Whether it may be is lease.Glass's business; this
// is when to ask, and what to do then.
type glassCase struct {
	glass *lease.Glass

	mu     sync.Mutex
	right  *lease.Grant         // guarded by mu: under which this node acts, nil while it does not
	orders int                  // guarded by mu
	broken map[string]time.Time // guarded by mu: by certificate; when it was ordered
	tried  map[string]time.Time // guarded by mu: by certificate; when the CA was last asked
	asked  map[string]inquiry   // guarded by mu
}

// inquiry is when others were asked whether they have a newer certificate.
type inquiry struct {
	at    time.Time
	newer bool
}

const (
	glassLook   = time.Minute     // how often a case is looked at that nothing changes
	glassShown  = time.Hour       // for how long a problem tells of an order
	glassRetry  = 2 * time.Second // after what went wrong with an order
	publicReach = 5 * time.Second // for a name's own server to answer
	inquiries   = 16              // for how many certificates at a time others are asked
)

// keepGlass orders what would expire because nobody holds the lease, until ctx ends.
func (h *house) keepGlass(ctx context.Context) {
	if h.acme == nil || h.cfg.Lease.BreakGlass.Mode == config.Off || !h.awaitSettled(ctx) {
		return
	}
	for {
		changed := h.elector.Changed()
		wait := h.judgeCases(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			continue
		case <-changed:
			timer.Stop()
		}
		if !pause(ctx, min(wait, time.Second)) { // of what changes every other moment one look is enough
			return
		}
	}
}

// broken is a certificate that must be ordered without the lease.
type broken struct {
	name string
	rules.Case
	why string
}

// judgeCases does what must be done now, and returns when to look again.
func (h *house) judgeCases(ctx context.Context) time.Duration {
	cases := make([]judged, len(h.store.declared))
	room := make(chan struct{}, inquiries)
	var all sync.WaitGroup
	for i, cert := range h.store.declared {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			if h.elector.View().Holder.IsZero() && ctx.Err() == nil {
				cases[i] = h.judgeCase(ctx, cert)
			}
		})
	}
	all.Wait()
	if !h.elector.View().Holder.IsZero() {
		return glassLook
	}
	wait := glassLook
	var now []broken
	for _, j := range cases {
		switch j.verdict.Answer {
		case rules.Later:
			wait = min(wait, max(time.Until(j.verdict.At), time.Second))
		case rules.Order:
			now = append(now, j.broken)
		}
	}
	if len(now) > 0 {
		h.breakGlass(ctx, now)
	}
	return wait
}

type judged struct {
	broken
	verdict rules.Verdict
}

// judgeCase says what to do about one certificate. What cannot be told is left.
func (h *house) judgeCase(ctx context.Context, cert config.Certificate) judged {
	c, leaf, err := h.caseOf(cert)
	if err != nil {
		h.log.Error("whether a certificate must be obtained without the lease cannot be told", "certificate", cert.Name, "error", err)
		return judged{}
	}
	verdict, err := h.glass.glass.Judge(c, time.Now())
	if err == nil && verdict.Answer == rules.Ask {
		h.inquire(ctx, cert, leaf, &c)
		verdict, err = h.glass.glass.Judge(c, time.Now())
	}
	if err != nil {
		h.log.Error("nothing can be ordered without the lease", "certificate", cert.Name, "error", err)
		return judged{}
	}
	return judged{broken{cert.Name, c, verdict.Why}, verdict}
}

// caseOf gathers what is known of a certificate that somebody without the lease might have to order.
func (h *house) caseOf(cert config.Certificate) (rules.Case, *x509.Certificate, error) {
	held, err := h.store.heldFor(cert.Name)
	if err != nil {
		return rules.Case{}, nil, err
	}
	view := h.elector.View()
	c := rules.Case{
		Names: cert.Names, Self: h.self.ID, Voters: view.Wished, Silent: view.Renewed, After: time.Duration(h.cfg.Lease.BreakGlass.After),
	}
	if c.Silent.Before(h.built) {
		c.Silent = h.built // what was before is not known
	}
	for _, m := range h.roster.Load().Issuers() {
		c.Issuers = append(c.Issuers, m.ID)
		if _, connected := h.mesh.Session(m.ID); connected {
			c.Reachable = append(c.Reachable, m.ID)
		}
	}
	h.glass.mu.Lock()
	c.Asked, c.Newer = h.glass.asked[cert.Name].at, h.glass.asked[cert.Name].newer
	h.glass.mu.Unlock()
	if held == nil || held.Placeholder {
		return c, nil, nil
	}
	policy := acmeclient.DefaultPolicy()
	life := held.Leaf.NotAfter.Sub(held.Leaf.NotBefore)
	c.NotAfter, c.Due = held.Leaf.NotAfter, life/time.Duration(policy.Left)
	if life < policy.Short {
		c.Due = life / time.Duration(policy.ShortLeft)
	}
	return c, held.Leaf, nil
}

// callHeld is a certificate's name -> heldAnswer.
const callHeld = "held"

// heldAnswer is what a node has of a certificate.
type heldAnswer struct {
	NotAfter time.Time `json:"not_after"` // zero: nothing
	Issuing  bool      `json:"issuing"`   // it is obtaining one this moment
}

func (h *house) answerHeld(_ context.Context, _ fleet.NodeID, body []byte) ([]byte, error) {
	var name string
	if err := json.Unmarshal(body, &name); err != nil {
		return nil, err
	}
	var answer heldAnswer
	if h.store != nil {
		if held, err := h.store.heldFor(name); err == nil && held != nil && !held.Placeholder {
			answer.NotAfter = held.Leaf.NotAfter
		}
	}
	answer.Issuing = h.glass.grant() != nil
	return json.Marshal(answer)
}

// inquire finds out whether somebody was faster: a node that can be reached, or whoever serves the name.
func (h *house) inquire(ctx context.Context, cert config.Certificate, leaf *x509.Certificate, c *rules.Case) {
	found := inquiry{at: time.Now()}
	for _, id := range c.Reachable {
		var answer heldAnswer
		if err := h.ask(ctx, id, callHeld, cert.Name, &answer); err != nil {
			h.log.Warn("a peer does not say what it has", "peer", h.name(id), "certificate", cert.Name, "error", err)
			continue
		}
		found.newer = found.newer || answer.Issuing || answer.NotAfter.After(c.NotAfter)
	}
	if leaf != nil && !found.newer {
		shown := h.publicLeaf(ctx, cert.Names[0])
		found.newer = shown != nil && shown.NotAfter.After(leaf.NotAfter) && !shown.Equal(leaf)
	}
	c.Asked, c.Newer = found.at, found.newer
	h.glass.mu.Lock()
	defer h.glass.mu.Unlock()
	h.glass.asked[cert.Name] = found
}

// publicLeaf is what the world sees under a name; nil: nothing that is good for it.
func (h *house) publicLeaf(ctx context.Context, name string) *x509.Certificate {
	if h.edges.Public == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, publicReach)
	defer cancel()
	raw, err := h.edges.Public(ctx, "tcp", net.JoinHostPort(name, "443"))
	if err != nil {
		return nil
	}
	// The chain is nobody's proof here: an impostor could only delay an order, and would have to serve the name for that.
	conn := tls.Client(raw, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	defer conn.Close()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil
	}
	leaf := conn.ConnectionState().PeerCertificates[0]
	if leaf.VerifyHostname(name) != nil || leaf.Issuer.String() == leaf.Subject.String() {
		return nil // somebody else's, or a placeholder
	}
	return leaf
}

// breakGlass makes one attempt at each of some certificates without the lease, side by side: none waits for another one that fails. It ends when
// anybody holds the lease, and after ten minutes.
func (h *house) breakGlass(ctx context.Context, cases []broken) {
	h.acting.Lock()
	defer h.acting.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for h.elector.View().Holder.IsZero() {
			changed := h.elector.Changed()
			if !h.elector.View().Holder.IsZero() {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
		cancel()
	}()
	var right lease.Grant // they all begin and end alike
	var allowed []broken
	for _, c := range cases {
		one, end, err := h.glass.glass.Break(ctx, c.Case, h.latestEpoch(), time.Now())
		if err != nil {
			h.log.Error("nothing can be ordered without the lease", "certificate", c.name, "error", err)
			continue
		}
		defer end()
		right, allowed = one, append(allowed, c)
	}
	if len(allowed) == 0 {
		return
	}
	visit, err := h.acme.Visit(ctx, right)
	if err != nil {
		h.log.Error("nothing can be ordered without the lease", "error", err)
		return
	}
	defer visit.End()
	h.glass.act(&right)
	var all sync.WaitGroup
	for _, c := range allowed {
		all.Go(func() { h.orderBroken(visit, right, c) })
	}
	all.Wait()
	h.glass.act(nil)
	h.changed.fire()
}

// act notes under which right this node acts without the lease from now on; nil: under none.
func (g *glassCase) act(right *lease.Grant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.right = right
}

// orderBroken makes the attempt at one of them.
func (h *house) orderBroken(visit *acmeclient.Visit, right lease.Grant, c broken) {
	h.glass.mu.Lock()
	h.glass.tried[c.name] = time.Now()
	h.glass.mu.Unlock()
	h.changed.fire()
	ordered := false
	count := func() error {
		if ordered { // what the first one spent is for all that becomes necessary under the same right
			return nil
		}
		if err := h.glass.glass.Ordered(c.Names, time.Now()); err != nil {
			return err
		}
		ordered = true
		h.log.Warn("BREAK-GLASS: a certificate is ordered without the lease", "certificate", c.name, "why", c.why, "silent_since", c.Silent, "not_after", c.NotAfter)
		h.glass.mu.Lock()
		h.glass.broken[c.name] = time.Now()
		h.glass.orders++
		h.glass.mu.Unlock()
		h.changed.fire()
		return nil
	}
	var err error
	for wait := glassRetry; ; wait = min(2*wait, glassLook) {
		err = visit.RunOne(c.name, count)
		// Before an order nothing is lost by looking at the case again; the order itself is worth the rest of the ten minutes.
		if err == nil || !ordered || !h.underWay(c.name) || !pause(right.Context(), wait) {
			break
		}
	}
	if err == nil {
		h.log.Warn("BREAK-GLASS: the certificate is there", "certificate", c.name)
		return
	}
	h.log.Error("BREAK-GLASS: the certificate was not obtained", "certificate", c.name, "error", err)
	for _, s := range h.acme.Snapshot() {
		if s.Name == c.name && s.Code == acmeclient.CodeNotServed {
			if err := h.glass.glass.Failed(c.Names, time.Now()); err != nil {
				h.log.Error("a failed validation could not be written down", "certificate", c.name, "error", err)
			}
		}
	}
}

// underWay reports whether an attempt has begun that another can continue.
func (h *house) underWay(name string) bool {
	return slices.ContainsFunc(h.acme.Snapshot(), func(s acmeclient.Status) bool { return s.Name == name && s.Step != "" })
}

// latestEpoch is the last tenure that anything here knows of.
func (h *house) latestEpoch() fleet.Epoch {
	last := h.elector.View().Epoch
	for _, d := range h.syncer.Directories() {
		if e := d.LatestEpoch(); e.Compare(last) > 0 {
			last = e
		}
	}
	return last
}

// grant is the right under which this node acts without the lease, nil if it does not.
func (g *glassCase) grant() *lease.Grant {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.right
}

// ordered is how often something was ordered behind the glass since the daemon started.
func (g *glassCase) ordered() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.orders
}

// glassProblems tells of what was ordered without the lease.
func (h *house) glassProblems() []control.Problem {
	h.glass.mu.Lock()
	defer h.glass.mu.Unlock()
	var out []control.Problem
	if h.store == nil {
		return nil
	}
	view := h.elector.View()
	nobody, because := view.Holder.IsZero(), "the lease needs a majority of its voters; "
	if view.Engine == "static" {
		because = "without a vote the first issuer in the list holds the lease; "
	}
	for _, cert := range h.store.declared {
		if at := h.glass.tried[cert.Name]; nobody && !at.IsZero() && h.glass.broken[cert.Name].Before(at) && time.Since(at) < glassShown {
			out = append(out, h.problem(control.BreakGlass, at, fmt.Sprintf("%s is asked for without the lease: nobody holds it, and the certificate would expire; nothing is ordered yet", cert.Name),
				because+"what keeps the CA from taking an order is in the log, and it is tried again each minute", "certswarm lease show"))
		}
		if at := h.glass.broken[cert.Name]; !at.IsZero() && time.Since(at) < glassShown {
			out = append(out, h.problem(control.BreakGlass, at, fmt.Sprintf("%s was ordered without the lease: nobody held it, and the certificate would have expired", cert.Name),
				because+"an order like this is made once a day and twice a week at most", "certswarm lease show"))
		}
	}
	return out
}
