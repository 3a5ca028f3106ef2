package acmeclient

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Rehearse goes through an issuance of name at the CA's staging directory: the same names, key type, challenges and
// barrier, up to the checks on the chain. Nothing is published but the challenge tokens, nothing that is in force or
// counted changes, and the key is forgotten. It returns when the rehearsal is over; ctx ends it early. The error says at
// which point an issuance would fail; ErrNotActing that another node must be asked.
func (c *Client) Rehearse(ctx context.Context, name string) (Outcome, error) {
	w, err := c.worker(name)
	if err != nil {
		return Outcome{}, err
	}
	if c.cfg.Staging == "" {
		return Outcome{}, errors.New("the CA's staging directory is not known; set acme.staging_directory")
	}
	s, leave, err := c.enter(c.cfg.Staging)
	if err != nil {
		return Outcome{}, err
	}
	defer leave()
	ctx, release := s.within(ctx)
	defer release()

	r := rehearsing(w)
	select {
	case w.stage <- struct{}{}: // of two rehearsals of one certificate the second waits
		defer func() { <-w.stage }()
	case <-ctx.Done():
		return Outcome{}, context.Cause(ctx)
	}
	j, _, err := r.load()
	if err != nil {
		return Outcome{}, err
	}
	if now := time.Now(); j.RetryAfter.After(now) {
		return Outcome{}, &Refusal{Code: CodeRateLimited, Until: j.RetryAfter, Text: "the CA's staging directory asked to be left alone"}
	}
	err = r.rehearse(ctx, s, j)
	r.strike(s, j)
	if s.ctx.Err() != nil {
		err = ErrNotActing
	}
	var o Outcome
	if n := len(j.History); n > 0 {
		o = j.History[n-1]
	}
	return o, err
}

// rehearsing returns a worker like w whose journal is that of the rehearsals. Nobody runs it.
func rehearsing(w *worker) *worker {
	r := newWorker(w.client, w.cert)
	r.path, r.directory = rehearsalPath(w.cert.Name), w.client.cfg.Staging
	return r
}

// rehearse performs one rehearsal. However it ends, its attempt is closed: nobody continues it.
func (w *worker) rehearse(ctx context.Context, s *session, j *journal) error {
	i := &issuance{session: s, w: w, j: j, told: make(map[string]bool)}
	a, err := w.newAttempt(newID(), "a rehearsal")
	if err != nil {
		return err
	}
	a.Rehearsal = true
	j.Attempt = a
	if err = i.reach(ctx, StepIntent, a.Reason); err == nil {
		err = i.advance(ctx)
	}
	now := time.Now().UTC()
	j.LastError, j.LastCode = "", ""
	if err == nil {
		j.close(now, nil)
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = &failure{err: fmt.Errorf("the rehearsal was broken off after %s: %w", a.Step, cause)}
	}
	f := diagnose(err, now)
	j.RetryAfter = f.until.UTC()
	j.close(now, f)
	return f
}

// strike takes down what a rehearsal put up and journals how it ended.
func (w *worker) strike(s *session, j *journal) {
	w.cleanUp(s.ctx, s, j)
	if err := w.save(s.ctx, s, j); err != nil && s.ctx.Err() == nil {
		w.client.cfg.Log.Warn("journal of rehearsals", "name", w.cert.Name, "err", err)
	}
}

// strikeOld takes down what a rehearsal left that did not come to its end: its node died, or its tenure ended.
func (w *worker) strikeOld(s *session) {
	r := rehearsing(w)
	w.stage <- struct{}{}
	defer func() { <-w.stage }()
	j, _, err := r.load()
	if err != nil {
		return // it was logged; the next tenure, or rehearsal, does it
	}
	if j.Attempt != nil {
		j.close(time.Now().UTC(), &failure{err: fmt.Errorf("%s stopped in the middle of the rehearsal", j.Node)})
	}
	if len(j.Cleanup) > 0 {
		r.strike(s, j)
	}
}
