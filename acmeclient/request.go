package acmeclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Request is what somebody asks for beside the clock.
type Request struct {
	Renew bool // although the certificate in force is good: without it that is ErrInForce
	Force bool // although the budget for orders is used up; the CA's Retry-After and failed validations are never overridden
	Again bool // although it is not time yet: if the CA answers nothing, the wait for the next attempt stays what it was
}

// Ticket is the answer to a Request: the attempt that serves it.
type Ticket struct {
	Attempt string // its id: Await, Event.Attempt and History know it by this
	Joined  bool   // it had been under way already
}

// ErrInForce says that a certificate was asked for which is there, is what is declared, and is not due.
var ErrInForce = errors.New("the certificate in force is good and not due")

// ErrUnknown says that no certificate is declared under a name.
var ErrUnknown = errors.New("no certificate is declared under this name")

// Obtain asks for an attempt at the certificate called name, and returns when it has begun; Await tells how it goes on.
// An attempt under way is joined. A *Refusal says what forbids it (the budget, or the CA's Retry-After) and until when;
// ErrInForce that nothing needs doing, ErrNotActing that another node must be asked, ErrUnknown that nobody knows the name.
func (c *Client) Obtain(ctx context.Context, name string, r Request) (Ticket, error) {
	w, err := c.worker(name)
	if err != nil {
		return Ticket{}, err
	}
	return w.ask(ctx, r)
}

// Reconsider has the plan of the certificates called names, of all if there are none, made anew: what is held of them changed otherwise
// than by the Client. It returns at once; where nobody acts there is no plan, and Snapshot looks anew each time. An unknown name is passed over.
func (c *Client) Reconsider(names ...string) {
	for _, w := range c.workers {
		if len(names) == 0 || slices.Contains(names, w.cert.Name) {
			w.nudge()
		}
	}
}

// Await returns when the attempt has taken the step, when it is over, or when it failed for now: the error then says
// why, and it may be continued later (Status.NextAttempt). StepOrdered is reached as soon as the CA has accepted an order,
// StepVerified when the front-ends were asked what they serve. It is for attempts that Obtain returned; ErrNotActing says
// that the tenure ended first, and that the next holder goes on.
func (c *Client) Await(ctx context.Context, name, attempt string, step Step) (Outcome, error) {
	w, err := c.worker(name)
	if err != nil {
		return Outcome{}, err
	}
	for {
		changed := c.Changed()
		if o, settled, err := w.outcome(attempt, step); settled {
			return o, err
		}
		select {
		case <-ctx.Done():
			return Outcome{}, ctx.Err()
		case <-changed:
		}
	}
}

// History returns what was tried for a certificate, newest first, with the attempt under way and the rehearsals. Every
// issuer can tell it, whether it acts or not.
func (c *Client) History(name string) ([]Outcome, error) {
	w, err := c.worker(name)
	if err != nil {
		return nil, err
	}
	real, err := w.read()
	dry, dryErr := rehearsing(w).read()
	revoked, revokedErr := w.client.revocations(name)
	history := append(real.told(), dry.told()...)
	slices.SortStableFunc(history, func(a, b Outcome) int { return b.Started.Compare(a.Started) })
	for i := range history {
		history[i].Revoked = revoked.of(history[i].Serial)
	}
	return history, errors.Join(err, dryErr, revokedErr)
}

// told is the journal's history, the attempt under way included.
func (j *journal) told() []Outcome {
	told := slices.Clone(j.History)
	if j.Attempt != nil {
		o := j.Attempt.outcome()
		o.Epoch, o.By = j.Epoch, j.Node
		o.Error, o.Code = j.LastError, j.LastCode
		told = append(told, o)
	}
	return told
}

// worker returns the one that looks after name.
func (c *Client) worker(name string) (*worker, error) {
	for _, w := range c.workers {
		if w.cert.Name == name {
			return w, nil
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrUnknown, name)
}

// asked is one Request; it is answered exactly once.
type asked struct {
	Request
	answer chan answer // buffered
}

type answer struct {
	ticket Ticket
	err    error
}

// ask is Client.Obtain for this certificate.
func (w *worker) ask(ctx context.Context, r Request) (Ticket, error) {
	w.mu.Lock()
	if !w.acting || w.busy != "" {
		defer w.mu.Unlock()
		if !w.acting {
			return Ticket{}, ErrNotActing
		}
		return Ticket{Attempt: w.busy, Joined: true}, nil
	}
	a := asked{Request: r, answer: make(chan answer, 1)}
	w.queue = append(w.queue, a)
	w.mu.Unlock()
	w.nudge()
	select {
	case a := <-a.answer:
		return a.ticket, a.err
	case <-ctx.Done():
		return Ticket{}, ctx.Err()
	}
}

// nudge makes the worker look at its queue and its plan.
func (w *worker) nudge() {
	select {
	case w.nudged <- struct{}{}:
	default: // it was nudged already
	}
}

// admit answers the requests that must be refused, and returns the others.
func (w *worker) admit(j *journal, p intention, now time.Time) []asked {
	w.mu.Lock()
	defer w.mu.Unlock()
	var admitted []asked
	for _, a := range w.queue {
		if err := w.forbids(j, p, a.Request, now); err != nil {
			a.answer <- answer{err: err}
			continue
		}
		admitted = append(admitted, a)
	}
	w.queue = nil
	return admitted
}

// forbids says why a request must be refused, nil if it need not.
func (w *worker) forbids(j *journal, p intention, r Request, now time.Time) error {
	switch {
	case j.RetryAfter.After(now):
		return &Refusal{Code: CodeRateLimited, Until: j.RetryAfter, Text: "the CA asked to be left alone"}
	case j.Attempt != nil && j.Attempt.Order != nil:
		return nil // it goes on with the order it has
	case !r.Renew && p.err != nil:
		return p.err
	case !r.Renew && j.Attempt == nil && p.due.After(now):
		return ErrInForce
	}
	if refusal := w.client.cfg.Budget.refuses(j, w.cert.set(), r.Force, now); refusal != nil {
		return refusal
	}
	return nil
}

// outcome is what Await needs to know now.
func (w *worker) outcome(attempt string, step Step) (o Outcome, settled bool, err error) {
	w.mu.Lock()
	acting, busy, status := w.acting, w.busy, w.status
	w.mu.Unlock()
	j, err := w.read()
	if err != nil && acting {
		err = nil // it was logged; the worker goes on with an empty one
	}
	for _, o := range j.told() {
		switch {
		case o.Attempt != attempt:
		case !o.Ended.IsZero() && o.Error != "":
			return o, true, errors.New(o.Error)
		case !o.Ended.IsZero() || o.Step.reached(step):
			return o, true, nil
		case busy == "" && status.Attempt == attempt && status.State == StateFailed:
			return o, true, errors.New(status.LastError)
		case !acting:
			return o, true, ErrNotActing
		}
	}
	if !acting {
		return Outcome{Attempt: attempt}, true, ErrNotActing
	}
	return Outcome{}, false, err
}
