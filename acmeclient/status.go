package acmeclient

import (
	"maps"
	"slices"
	"time"
)

// State is what an operator is told about a certificate in one word.
type State string

// The states.
const (
	StateNone    State = "none"    // nothing is held, nothing was tried yet
	StateIssuing State = "issuing" // an attempt is under way
	StateIssued  State = "issued"  // a certificate is held
	StateFailed  State = "failed"  // the last attempt failed; NextAttempt says when the next is
)

// Code is the problem code under which a failure is listed in the operator's manual.
type Code string

// The codes.
const (
	CodeUnreachable Code = "ca-unreachable"
	CodeRefused     Code = "ca-refused"
	CodeRateLimited Code = "rate-limited"
	CodeNotServed   Code = "challenge-not-served"
	CodeChain       Code = "chain-refused"
	CodeBudget      Code = "budget-exhausted"
	CodeWrite       Code = "write-failed"
)

// Usage is how much of a Budget is used up.
type Usage struct {
	OrdersToday  int
	OrdersWeek   int
	FailuresHour int
}

// Status is where one declared certificate stands.
type Status struct {
	Name        string
	State       State
	Step        Step      // last step taken of the attempt under way; "" if there is none
	Attempt     string    // id of the attempt under way, else of the last one
	NextAttempt time.Time // zero: not planned here
	LastError   string
	Code        Code      // of LastError
	RetryAfter  time.Time // the CA asked not to be asked before; zero if it did not
	Used        Usage
	LeftBehind  []string          // front-ends that were unreachable when the challenge was accepted
	Verified    map[string]string // what each node served after the last issuance
}

// Refusal says why an attempt may not begin now.
type Refusal struct {
	Code  Code
	Until time.Time // when it may
	Text  string
}

// Error implements error.
func (r *Refusal) Error() string {
	return r.Text + "; possible again at " + r.Until.UTC().Format(time.RFC3339)
}

// snapshot returns the worker's status; when it does not act, what the journal says.
func (w *worker) snapshot() Status {
	w.mu.Lock()
	acting, status := w.acting, w.status
	w.mu.Unlock()
	if !acting {
		j, err := w.read()
		if err != nil {
			w.client.cfg.Log.Error("journal", "name", w.cert.Name, "err", err)
		}
		j.declare(w.cert.declaration(), w.directory, time.Now().UTC())
		p, _ := w.plan(j, time.Now())
		status = w.statusOf(j, p)
		status.NextAttempt = time.Time{} // it is not planned here
	}
	status.LeftBehind = slices.Clone(status.LeftBehind)
	status.Verified = maps.Clone(status.Verified)
	return status
}

// statusOf says where j stands while no attempt is being performed.
func (w *worker) statusOf(j *journal, p intention) Status {
	s := Status{
		Name:        w.cert.Name,
		State:       StateNone,
		NextAttempt: p.at,
		LastError:   j.LastError,
		Code:        j.LastCode,
		Used:        j.used(w.cert.set(), time.Now()),
	}
	if j.RetryAfter.After(time.Now()) {
		s.RetryAfter = j.RetryAfter
	}
	if p.held != nil && !p.held.Placeholder {
		s.State = StateIssued
	}
	if p.refusal != nil && s.LastError == "" {
		s.LastError, s.Code = p.refusal.Error(), p.refusal.Code
	}
	if n := len(j.History); n > 0 {
		last := j.History[n-1]
		s.Attempt, s.LeftBehind, s.Verified = last.Attempt, last.Behind, last.Served
	}
	if a := j.Attempt; a != nil {
		s.State, s.Attempt, s.Step, s.LeftBehind = StateIssuing, a.ID, a.Step, a.Behind
	}
	if s.LastError != "" {
		s.State = StateFailed
	}
	return s
}

// showPlan publishes what the worker is waiting for.
func (w *worker) showPlan(j *journal, p intention) {
	status := w.statusOf(j, p)
	w.mu.Lock()
	w.status = status
	w.mu.Unlock()
	w.client.announce()
}

// show publishes how far the attempt under way has come.
func (w *worker) show(j *journal) {
	used := j.used(w.cert.set(), time.Now())
	w.mu.Lock()
	w.status.State, w.status.Step = StateIssuing, j.Attempt.Step
	w.status.LeftBehind, w.status.Used = j.Attempt.Behind, used
	w.mu.Unlock()
	w.client.announce()
}
