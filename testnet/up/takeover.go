package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/ca"
	"certswarm/testnet/real"
)

// takeover is the second act: somebody asks for a renewal, and the node that performs it is killed at the worst moment, when the CA has what
// it needs to issue, and the answer is lost with the node.
type takeover struct {
	asker     string // where `certswarm cert renew` was run
	victim    string
	successor string // that held the lease next; the victim itself where there was nobody else

	asked, killed, taken, restarted, answered time.Time

	said   string // by the command
	failed error  // how the command ended
}

// fewestVoters is how many issuers it takes for one to take the lease over from another.
const fewestVoters = 3

// takeOver plays the second act. The error says what did not come to pass; what did is in the takeover.
func takeOver(ctx context.Context, fleet *real.Fleet, faults *ca.Faults, holder string) (t takeover, err error) {
	asker := fleet.Nodes[0]
	if asker.Name == holder {
		asker = fleet.Nodes[1]
	}
	t = takeover{asker: asker.Name, asked: time.Now()}
	held := faults.On(ca.CallFinalize).About(site).HoldAnswer()
	defer held.End()
	var said bytes.Buffer
	ended := make(chan struct{})
	command := asker.Certswarm(ctx, "cert", "renew", "--timeout", jobPatience.String(), site)
	command.Stdout, command.Stderr = &said, &said
	if err := command.Start(); err != nil {
		return t, err
	}
	go func() {
		t.failed, t.answered = command.Wait(), time.Now()
		close(ended)
	}()
	defer func() {
		<-ended
		t.said = said.String()
	}()

	if err := held.Await(ctx, 1); err != nil {
		return t, fmt.Errorf("the renewal did not come as far as the CSR: %w", err)
	}
	victim := performer(fleet, t.asked, holder)
	t.victim = victim.Name
	victim.Kill()
	t.killed = time.Now()
	held.End()
	restart := func() error {
		err := victim.Start(ctx)
		t.restarted = time.Now()
		return err
	}
	if len(fleet.Nodes) < fewestVoters { // nobody may take over, and the node comes back by itself, as under systemd
		if err := restart(); err != nil {
			return t, err
		}
	}
	if err := fleet.Await(ctx, holderAgreed(&t)); err != nil {
		return t, fmt.Errorf("nobody took the lease over: %w", err)
	}
	t.taken = time.Now()
	select {
	case <-ended:
	case <-ctx.Done():
		return t, fmt.Errorf("certswarm cert renew has not ended: %w", context.Cause(ctx))
	}
	if !victim.Running() {
		if err := restart(); err != nil {
			return t, err
		}
	}
	for _, condition := range []real.Condition{real.Served, real.Synced, quiet} {
		if err := fleet.Await(ctx, condition); err != nil {
			return t, err
		}
	}
	return t, nil
}

// performer returns the node that has sent the CSR: the holder, unless the lease has moved meanwhile.
func performer(fleet *real.Fleet, since time.Time, holder string) *real.Node {
	for _, n := range fleet.Nodes {
		for _, e := range n.Log.Events() {
			if e.Attribute("step") == "finalized" && e.Time.After(since) {
				return n
			}
		}
	}
	return fleet.Node(holder)
}

// holderAgreed is true when all that run agree on who holds the lease, and that this one runs.
func holderAgreed(t *takeover) real.Condition {
	return func(all []control.Status) (bool, string) {
		holder := all[0].Lease.Holder
		for _, s := range all {
			if s.Lease.Holder == "" || s.Lease.Holder != holder {
				return false, fmt.Sprintf("%s says that the lease is held by %q", s.Node.Name, s.Lease.Holder)
			}
		}
		for _, s := range all {
			if s.Node.Name == holder && s.Lease.HeldHere {
				t.successor = holder
				return true, ""
			}
		}
		return false, fmt.Sprintf("%s is said to hold the lease", holder)
	}
}

// quiet is true when no agent knows of a problem.
func quiet(all []control.Status) (bool, string) {
	for _, s := range all {
		for _, p := range s.Problems {
			return false, fmt.Sprintf("%s says of %s: %s: %s", s.Node.Name, p.Node, p.Code, p.Text)
		}
	}
	return true, ""
}

// moments are what of it is in nobody's log.
func (t takeover) moments() []moment {
	all := []moment{
		{t.asked, t.asker, "asks", "certswarm cert renew " + site},
		{t.killed, t.victim, "kill -9", "the CA has the CSR; its answer never arrives"},
		{t.taken, t.successor, "holds", fmt.Sprintf("the lease, %s after kill -9", ms(t.taken.Sub(t.killed)))},
		{t.restarted, t.victim, "restarts", "as systemd would have it"},
	}
	words := "ends with exit status 0: every live node serves it"
	if t.failed != nil {
		words = "ends with " + t.failed.Error()
	}
	all = append(all, moment{t.answered, t.asker, "is told", "certswarm cert renew " + words})
	var happened []moment
	for _, m := range all {
		if !m.at.IsZero() {
			happened = append(happened, m)
		}
	}
	return happened
}

// takeoverClaims judges the evidence of the second act.
func takeoverClaims(seen evidence, t takeover) []claim {
	all := []claim{
		{"the node that held the lease was killed when the CA had its CSR, before it heard the answer", seen.notInTheMiddle(t)},
		{fmt.Sprintf("%s went on with what %s had begun: one more order, exactly one more certificate in the CA's log", t.successor, t.victim), seen.notContinued(t)},
		{fmt.Sprintf("certswarm cert renew, asked on %s, outlived that and says that it is served", t.asker), t.unanswered()},
	}
	all = append(all, seen.served()...)
	return append(all, seen.agreement()...)
}

func (e evidence) notInTheMiddle(t takeover) string {
	steps := map[string]bool{}
	for _, event := range e.events {
		if event.Node == t.victim && event.Text == "issuance" && event.Time.Before(t.killed) {
			steps[event.Attribute("step")] = true
		}
	}
	if !steps["finalized"] || steps["valid"] {
		return fmt.Sprintf("its log has the steps %v", steps)
	}
	return ""
}

func (e evidence) notContinued(t takeover) string {
	if failed := e.extraIssuance(); failed != "" {
		return failed
	}
	for _, event := range e.events {
		if event.Node == t.successor && event.Time.After(t.killed) && strings.HasPrefix(event.Attribute("text"), "continued after finalized") {
			return ""
		}
	}
	return t.successor + " never said that it continued"
}

func (t takeover) unanswered() string {
	exit, _ := t.failed.(*exec.ExitError)
	switch {
	case exit != nil:
		return fmt.Sprintf("it ended with exit status %d: %s", exit.ExitCode(), t.said)
	case t.failed != nil:
		return t.failed.Error()
	case !strings.Contains(t.said, "is served by every live node"):
		return "it said: " + t.said
	}
	return ""
}
