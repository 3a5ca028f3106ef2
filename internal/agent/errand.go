package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"certswarm/acmeclient"
	"certswarm/internal/agent/config"
	"certswarm/internal/control"
)

// once tells nothing twice in a row, and one thing at a time.
func once(tell func(control.Progress)) func(control.Progress) {
	var mu sync.Mutex
	var last control.Progress // guarded by mu
	return func(p control.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p != last {
			last = p
			tell(p)
		}
	}
}

// tellBlockages tells which front-ends an issuance waits for at the barrier, until it is stopped.
func (h *house) tellBlockages(ctx context.Context, name string, tell func(control.Progress)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		told := map[string]bool{}
		for {
			changed := h.changed.wait()
			for _, p := range h.status().Problems {
				if p.Code == control.ChallengeNotServed && !told[p.Text] && h.concerns(p, name) {
					told[p.Text] = true
					tell(control.Progress{Node: p.Node, Step: "blocks", Text: p.Text})
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	})
	return func() {
		cancel()
		watching.Wait()
	}
}

// concerns reports whether a problem with a challenge is one of a certificate's.
func (h *house) concerns(p control.Problem, name string) bool {
	return slices.ContainsFunc(h.cfg.Certificates, func(c config.Certificate) bool {
		return c.Name == name && slices.ContainsFunc(c.Names, func(host string) bool { return strings.Contains(p.Text, " "+host+":") })
	})
}

// errand is what somebody asked for on this node, and how far it has come: it outlives the house in which it began.
type errand struct {
	order    control.Order
	tell     func(control.Progress)
	promised string // the tenure under which done.Attempt was promised
	done     control.Obtained
}

// run takes the errand to its end.
func (e *errand) run(ctx context.Context, h *house) error {
	e.done.Name, e.done.DryRun = e.order.Name, e.order.DryRun
	stop := h.tellBlockages(ctx, e.order.Name, e.tell)
	defer stop()
	if e.order.DryRun {
		return e.rehearse(ctx, h)
	}
	for known := false; !known; {
		if e.done.Attempt == "" && !e.done.Unneeded {
			if err := e.ask(ctx, h); err != nil {
				return err
			}
		}
		var err error
		if known, err = e.follow(ctx, h); err != nil {
			return err
		}
		if !known {
			e.tell(control.Progress{Node: h.self.Name, Text: "nobody knows of the attempt any more: asking anew"})
			e.done = control.Obtained{Name: e.order.Name}
		}
	}
	if e.order.NoWait {
		return nil
	}
	return e.awaitServed(ctx, h)
}

func (e *errand) rehearse(ctx context.Context, h *house) error {
	e.tell(control.Progress{Node: h.self.Name, Text: "a dry run at the CA's staging directory"})
	answer, err := askHolder(ctx, h, rehearseDesk, e.order.Name, false, e.tell)
	if err != nil {
		return fmt.Errorf("the dry run failed; nothing in force was touched: %w", err)
	}
	at := answer.Answer
	e.done.Node, e.done.Attempt, e.done.Ordered, e.done.Issued = answer.Node, at.Attempt, true, true
	e.done.Serial, e.done.NotAfter = at.Serial, at.NotAfter
	return nil
}

// ask has the holder promise an attempt.
func (e *errand) ask(ctx context.Context, h *house) error {
	answer, err := askHolder(ctx, h, obtainDesk, obtainQuestion{Name: e.order.Name, Renew: e.order.Renew, Force: e.order.Force}, false, e.tell)
	if err != nil {
		return err
	}
	e.promised, e.done.Node = answer.Tenure, answer.Node
	e.done.Attempt, e.done.Joined, e.done.Unneeded = answer.Answer.Attempt, answer.Answer.Joined, answer.Answer.InForce
	switch {
	case e.done.Unneeded:
		c := certificateNamed(h.status(), e.order.Name)
		e.done.Issued, e.done.Serial, e.done.NotAfter, e.done.Generation = true, c.Serial, c.NotAfter, c.Generation
		e.tell(control.Progress{Node: answer.Node, Text: "the certificate in force is good and not due: nothing is ordered"})
	case e.done.Joined:
		e.tell(control.Progress{Node: answer.Node, Text: "an attempt is under way already: " + e.done.Attempt})
	default:
		e.tell(control.Progress{Node: answer.Node, Text: "begins attempt " + e.done.Attempt})
	}
	return nil
}

// milestones are the steps of which whoever asked is told.
var milestones = []struct {
	step       acmeclient.Step
	word, text string
}{
	{acmeclient.StepOrdered, "ordered", "the CA has accepted the order"},
	{acmeclient.StepServed, "served", "every reachable front-end serves the challenge"},
	{acmeclient.StepValid, "valid", "the certificate is here"},
	{acmeclient.StepInstalled, "installed", "the certificate is published to the fleet"},
	{stepOver, "verified", "the front-ends were asked what they serve"},
}

// follow waits for the attempt to end, whoever holds the lease meanwhile; with NoWait for its order to be accepted. known is false when it was
// lost with the holder that had promised it.
func (e *errand) follow(ctx context.Context, h *house) (known bool, err error) {
	if e.done.Unneeded {
		return true, nil
	}
	for _, m := range milestones {
		q := attemptQuestion{Name: e.order.Name, Attempt: e.done.Attempt, Step: m.step, Since: e.promised}
		answer, err := askHolder(ctx, h, attemptDesk, q, true, e.tell)
		if err != nil {
			return true, err
		}
		at := answer.Answer.Attempt
		if answer.Answer.Unknown {
			return false, nil
		}
		e.done.Node, e.done.Ordered = answer.Node, true
		e.done.Serial, e.done.NotAfter, e.done.Issued = at.Serial, at.NotAfter, at.Serial != ""
		text := m.text
		if m.step == acmeclient.StepServed && len(at.Behind) > 0 {
			text += "; left behind, for they could not be reached: " + strings.Join(at.Behind, ", ")
		}
		e.tell(control.Progress{Node: answer.Node, Step: m.word, Text: text})
		if e.order.NoWait {
			return true, nil
		}
	}
	return true, nil
}

// awaitServed waits until every live node serves what was issued, or something newer.
func (e *errand) awaitServed(ctx context.Context, h *house) error {
	for {
		changed := h.changed.wait()
		if h.left.Load() {
			return errLeft
		}
		status := h.status()
		c := certificateNamed(status, e.order.Name)
		served, why := control.IsServedWhereUsed(status, e.order.Name)
		switch current := e.done.Unneeded || c.Serial == e.done.Serial || c.NotAfter.After(e.done.NotAfter.Time); {
		case !current:
			why = h.self.Name + " has not yet got the certificate"
			if !h.keeps() {
				why = h.self.Name + " keeps no certificates, and has not yet heard of this one"
			}
		case served:
			if len(c.Unused) > 0 {
				e.tell(control.Progress{Node: h.self.Name, Step: "unused", Text: "no server uses it in the nginx of " + strings.Join(c.Unused, ", ")})
			}
			e.done.Issued, e.done.Served = true, len(c.Unused) == 0
			e.done.Serial, e.done.NotAfter, e.done.Generation = c.Serial, c.NotAfter, c.Generation
			return nil
		}
		e.tell(control.Progress{Node: h.self.Name, Step: "waits", Text: why})
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

func certificateNamed(status control.Status, name string) control.Certificate {
	for _, c := range status.Certificates {
		if c.Name == name {
			return c
		}
	}
	return control.Certificate{}
}
