package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"certswarm/acmeclient"
	"certswarm/internal/control"
	"certswarm/internal/fleet"
)

// The desks at which certificates are asked for.
var (
	obtainDesk   = desk[obtainQuestion, obtainAnswer]{"cert-obtain", (*house).serveObtain}
	attemptDesk  = desk[attemptQuestion, attemptAnswer]{"cert-attempt", (*house).serveAttempt}
	rehearseDesk = desk[string, control.Attempt]{"cert-rehearse", (*house).serveRehearsal}
	revokeDesk   = desk[revokeQuestion, string]{"cert-revoke", (*house).serveRevocation}
)

// callHistory asks an issuer, whether it holds the lease or not, what was tried for a certificate: name -> []control.Attempt.
const callHistory = "cert-history"

func (h *house) attendDesks() {
	attend(h, obtainDesk)
	attend(h, attemptDesk)
	attend(h, rehearseDesk)
	attend(h, revokeDesk)
	h.mesh.HandleCall(callHistory, func(_ context.Context, _ fleet.NodeID, body []byte) ([]byte, error) {
		var name string
		if err := json.Unmarshal(body, &name); err != nil {
			return nil, err
		}
		if h.acme == nil {
			return nil, fmt.Errorf("%s keeps no journal", h.self.Name)
		}
		attempts, err := h.historyHere(name)
		if err != nil {
			return nil, err
		}
		return json.Marshal(attempts)
	})
}

type obtainQuestion struct {
	Name  string `json:"name"`
	Renew bool   `json:"renew"`
	Force bool   `json:"force"`
}

type obtainAnswer struct {
	acmeclient.Ticket
	InForce bool `json:"in_force"` // nothing needs doing, and there is no ticket
}

type revokeQuestion struct {
	control.Revocation
	Serial string `json:"serial"` // of the certificate that is meant; "": whichever is in force
}

// attemptQuestion asks to be told when an attempt has taken a step, or StepOver.
type attemptQuestion struct {
	Name    string          `json:"name"`
	Attempt string          `json:"attempt"`
	Step    acmeclient.Step `json:"step"`
	Since   string          `json:"since"` // the tenure under which the attempt was promised
}

type attemptAnswer struct {
	Unknown bool            `json:"unknown"` // who promised it died before anybody else knew of it
	Attempt control.Attempt `json:"attempt"`
}

// stepOver is when the holder is done with an attempt: who asks again then is not told of the old one.
const stepOver acmeclient.Step = "over"

// onlyIssuers refuses what a node that merely receives has no say in.
func (h *house) onlyIssuers(from fleet.NodeID, what string) error {
	if h.isIssuer(from) {
		return nil
	}
	return fmt.Errorf("%s only receives, and may not %s; on an issuer: %s", h.name(from), what, h.issuers())
}

func (h *house) serveObtain(ctx context.Context, from fleet.NodeID, q obtainQuestion) (obtainAnswer, error) {
	if q.Force {
		if err := h.onlyIssuers(from, "go beyond the budget"); err != nil {
			return obtainAnswer{}, err
		}
	}
	ticket, err := h.acme.Obtain(ctx, q.Name, acmeclient.Request{Renew: q.Renew, Force: q.Force})
	var refusal *acmeclient.Refusal
	switch {
	case errors.Is(err, acmeclient.ErrInForce):
		return obtainAnswer{InForce: true}, nil
	case errors.As(err, &refusal) && refusal.Code == acmeclient.CodeBudget && !q.Force:
		return obtainAnswer{}, fmt.Errorf("%w (acme.budget; --force goes beyond it, but not beyond failed validations)", err)
	case err != nil:
		return obtainAnswer{}, err
	}
	h.log.Info("a certificate is asked for", "certificate", q.Name, "by", h.name(from), "attempt", ticket.Attempt, "joined", ticket.Joined, "renew", q.Renew, "force", q.Force)
	return obtainAnswer{Ticket: ticket}, nil
}

func (h *house) serveAttempt(ctx context.Context, _ fleet.NodeID, q attemptQuestion) (attemptAnswer, error) {
	// Crash: an attempt is promised before its journal is anywhere else. A later tenure that has no word of it never will.
	if _, known := h.attemptHere(q.Name, q.Attempt); !known && q.Since != h.tenure() {
		return attemptAnswer{Unknown: true}, nil
	}
	step := q.Step
	if step == stepOver {
		step = acmeclient.StepVerified
	}
	o, err := h.acme.Await(ctx, q.Name, q.Attempt, step)
	for err == nil && q.Step == stepOver {
		told, lease := h.acme.Changed(), h.elector.Changed()
		if o, _ = h.attemptHere(q.Name, q.Attempt); !o.Ended.IsZero() {
			break
		}
		if !h.elector.View().HeldHere {
			return attemptAnswer{}, acmeclient.ErrNotActing
		}
		select {
		case <-told:
		case <-lease:
		case <-ctx.Done():
			return attemptAnswer{}, context.Cause(ctx)
		}
	}
	if err != nil && !errors.Is(err, acmeclient.ErrNotActing) {
		err = h.triedAgain(q.Name, err)
	}
	return attemptAnswer{Attempt: attemptOf(o)}, err
}

// attemptHere returns what the journal, as it is known here, has of an attempt.
func (h *house) attemptHere(name, id string) (o acmeclient.Outcome, known bool) {
	history, _ := h.acme.History(name) // what can be read of it
	i := slices.IndexFunc(history, func(o acmeclient.Outcome) bool { return o.Attempt == id })
	if i < 0 {
		return acmeclient.Outcome{}, false
	}
	return history[i], true
}

// triedAgain adds to why an attempt failed when it is tried again by itself: not what was asked for while what is in force is good.
func (h *house) triedAgain(name string, err error) error {
	for _, s := range h.acme.Snapshot() {
		if s.Name == name && s.LastError != "" && s.NextAttempt.After(time.Now()) {
			return fmt.Errorf("%w; it is tried again by itself at %s", err, s.NextAttempt.UTC().Format(time.RFC3339))
		}
	}
	return err
}

func (h *house) serveRehearsal(ctx context.Context, _ fleet.NodeID, name string) (control.Attempt, error) {
	o, err := h.acme.Rehearse(ctx, name)
	return attemptOf(o), err
}

func (h *house) serveRevocation(ctx context.Context, from fleet.NodeID, r revokeQuestion) (string, error) {
	if err := h.onlyIssuers(from, "have a certificate revoked"); err != nil {
		return "", err
	}
	serial, err := h.acme.Revoke(ctx, r.Name, r.Serial, r.Reason)
	if err == nil {
		h.log.Warn("a certificate is revoked", "certificate", r.Name, "serial", serial, "reason", r.Reason, "by", h.name(from))
	}
	return serial, err
}

// historyOf is what this node has in its journal, or what the first issuer that can be asked has in its own.
func (h *house) historyOf(ctx context.Context, name string) (control.List[control.Attempt], error) {
	if h.acme != nil {
		return h.historyHere(name)
	}
	var failed []string
	for _, m := range h.roster.Load().Issuers() {
		var attempts control.List[control.Attempt]
		err := h.ask(ctx, m.ID, callHistory, name, &attempts)
		if err == nil {
			return attempts, nil
		}
		failed = append(failed, fmt.Sprintf("%s: %v", m.Name, err))
	}
	return nil, fmt.Errorf("the journal is with the issuers, and none of them tells (%s): certswarm peers", strings.Join(failed, "; "))
}

func (h *house) historyHere(name string) (control.List[control.Attempt], error) {
	history, err := h.acme.History(name)
	out := control.List[control.Attempt]{}
	for _, o := range history {
		out = append(out, attemptOf(o))
	}
	return out, err
}

// attemptOf is an attempt as people are told of it.
func attemptOf(o acmeclient.Outcome) control.Attempt {
	at := control.Attempt{
		Attempt: o.Attempt, Started: control.At(o.Started), Ended: control.At(o.Ended), Node: o.Node, By: o.By, Epoch: o.Epoch, Reason: o.Reason,
		Step: string(o.Step), Serial: o.Serial, NotAfter: control.At(o.NotAfter), Revoked: control.At(o.Revoked), Behind: o.Behind, Error: o.Error,
	}
	if o.Unleased {
		at.Reason += ", without the lease"
	}
	switch failed := o.Error != ""; {
	case o.Ended.IsZero():
		at.Outcome = control.UnderWay
	case o.Rehearsal && failed:
		at.Outcome = control.DryRunFailed
	case o.Rehearsal:
		at.Outcome = control.DryRunPassed
	case failed:
		at.Outcome = control.AttemptFailed
	default:
		at.Outcome = control.AttemptIssued
	}
	return at
}

// Obtain implements control.Certifier.
func (a *Agent) Obtain(ctx context.Context, o control.Order, tell func(control.Progress)) (control.Obtained, error) {
	e := errand{order: o, tell: once(tell)}
	err := a.inHouse(ctx, func(h *house) error {
		if _, err := h.declared(o.Name); err != nil {
			return err
		}
		return e.run(ctx, h)
	})
	return e.done, err
}

// Revoke implements control.Certifier.
func (a *Agent) Revoke(ctx context.Context, r control.Revocation, tell func(control.Progress)) (control.Revoked, error) {
	done := control.Revoked{Name: r.Name, Reason: r.Reason}
	e := errand{order: control.Order{Name: r.Name, Renew: true, Force: true, NoWait: r.NoWait}, tell: once(tell)}
	question := revokeQuestion{Revocation: r} // the same however often it must be asked: its replacement is not meant
	err := a.inHouse(ctx, func(h *house) error {
		if _, err := h.declared(r.Name); err != nil {
			return err
		}
		if err := h.onlyIssuers(h.self.ID, "have a certificate revoked"); err != nil {
			return err
		}
		if done.Serial == "" {
			if held, err := h.store.heldFor(r.Name); question.Serial == "" && err == nil && held != nil && !held.Placeholder {
				question.Serial = held.Leaf.SerialNumber.Text(16)
			}
			revoked, err := askHolder(ctx, h, revokeDesk, question, false, e.tell)
			if err != nil {
				return err
			}
			done.Serial, done.Node = revoked.Answer, revoked.Node
			e.tell(control.Progress{Node: done.Node, Step: "revoked", Text: fmt.Sprintf("serial %s is revoked; it is served until the next certificate is there", done.Serial)})
		}
		return e.run(ctx, h)
	})
	done.Next = e.done
	if err != nil && done.Serial != "" {
		err = fmt.Errorf("serial %s is revoked, and served until another is there: %w; again: certswarm cert renew --force %s", done.Serial, err, r.Name)
	}
	return done, err
}

// Attempts implements control.Certifier.
func (a *Agent) Attempts(ctx context.Context, name string) (control.Attempts, error) {
	out := control.Attempts{Name: name}
	err := a.inHouse(ctx, func(h *house) (err error) {
		if _, err := h.declared(name); err != nil {
			return err
		}
		out.Attempts, err = h.historyOf(ctx, name)
		return err
	})
	return out, err
}
