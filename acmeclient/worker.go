package acmeclient

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// worker looks after one declared certificate: it waits until it is due, and performs one attempt after the other. Workers
// share nothing but the account.
type worker struct {
	client *Client
	cert   Certificate
	poked  chan struct{} // buffered; says that queue is not empty

	mu     sync.Mutex
	acting bool   // run is active; guarded by mu, as all below
	busy   string // id of the attempt under way
	queue  []poke // asked for while not busy
	status Status
}

// poke is one request for an attempt now; it is answered exactly once.
type poke struct {
	force  bool
	answer chan pokeAnswer // buffered
}

type pokeAnswer struct {
	attempt string
	err     error
}

func newWorker(c *Client, cert Certificate) *worker {
	return &worker{client: c, cert: cert, poked: make(chan struct{}, 1), status: Status{Name: cert.Name, State: StateNone}}
}

// reconsider bounds how long a plan is trusted: the certificate may be replaced by others, and timers stand still while a
// machine sleeps.
const reconsider = 10 * time.Minute

// run is the worker's life during one session.
func (w *worker) run(ctx context.Context, s *session) {
	w.mu.Lock()
	w.acting = true
	w.mu.Unlock()
	defer w.stop()

	for ctx.Err() == nil {
		j := w.load()
		w.cleanUp(ctx, s, j)
		p, err := w.plan(j, time.Now())
		if err != nil {
			j.LastError, j.LastCode = err.Error(), CodeWrite
		}
		w.showPlan(j, p)
		if asked, begin := w.wait(ctx, j, p); begin {
			w.attempt(ctx, s, j, p, asked)
		}
	}
}

// stop answers whoever still waits.
func (w *worker) stop() {
	w.mu.Lock()
	w.acting, w.busy = false, ""
	for _, p := range w.queue {
		p.answer <- pokeAnswer{err: ErrNotActing}
	}
	w.queue = nil
	w.mu.Unlock()
	w.client.announce()
}

// load returns the journal as it is known here, for what is wanted now.
func (w *worker) load() *journal {
	content, err := w.client.cfg.Fleet.Load(journalPath(w.cert.Name))
	j, err := decodeJournal(w.cert.Name, content, err)
	if err != nil {
		w.client.cfg.Log.Error("journal", "name", w.cert.Name, "err", err)
	}
	j.declare(w.cert.declaration(), time.Now().UTC())
	return j
}

// save returns when a majority holds j.
func (w *worker) save(ctx context.Context, s *session, j *journal) error {
	j.prune(time.Now())
	j.Node, j.Epoch = w.client.cfg.Node, s.authority.Epoch()
	return s.saveJSON(ctx, journalPath(w.cert.Name), j)
}

// cleanUp withdraws the tokens of attempts that are over, on whatever node they ended.
func (w *worker) cleanUp(ctx context.Context, s *session, j *journal) {
	if len(j.Cleanup) == 0 {
		return
	}
	if err := w.client.cfg.Fleet.Withdraw(ctx, j.Cleanup); err != nil {
		w.client.cfg.Log.Warn("challenge tokens stay until they expire or can be withdrawn", "name", w.cert.Name, "err", err)
		return
	}
	j.Cleanup = nil
	if err := w.save(ctx, s, j); err != nil && ctx.Err() == nil {
		w.client.cfg.Log.Warn("journal", "name", w.cert.Name, "err", err)
	}
}

// intention is when the next attempt begins, and why.
type intention struct {
	at      time.Time
	reason  string
	held    *Held
	refusal *Refusal // what alone holds it back, if that is the budget
}

// plan decides when the next attempt begins.
func (w *worker) plan(j *journal, now time.Time) (intention, error) {
	held, err := w.client.cfg.Fleet.Held(w.cert.Name)
	if err != nil {
		return intention{at: now.Add(time.Minute), reason: "the certificate in force cannot be read"},
			fmt.Errorf("reading the certificate in force: %w", err)
	}
	p := intention{held: held, at: now}
	if j.Attempt != nil {
		p.reason = j.Attempt.Reason
	} else {
		policy := DefaultPolicy()
		policy.Adopted = held != nil && !held.Placeholder && !j.issued(held)
		due := NextDue(held, w.cert, policy, nil, now)
		p.at, p.reason = due.At, due.Reason
		if r := w.client.cfg.Budget.refuses(j, w.cert.set(), false, now); r != nil && r.Until.After(p.at) {
			p.at, p.refusal = r.Until, r
		}
	}
	for _, earliest := range []time.Time{j.NextAttempt, j.RetryAfter} {
		if earliest.After(p.at) {
			p.at, p.refusal = earliest, nil
		}
	}
	return p, nil
}

// issued reports whether what is held came out of this journal.
func (j *journal) issued(held *Held) bool {
	sum := sha256.Sum256(held.Leaf.Raw)
	return slices.Contains(j.IssuedHere, hex.EncodeToString(sum[:]))
}

// wait returns true when an attempt must begin, and the requests that asked for it if it was not the clock. When it
// returns false the plan must be made again: what it waited for may have come to pass otherwise.
func (w *worker) wait(ctx context.Context, j *journal, p intention) (asked []poke, begin bool) {
	delay := time.Until(p.at)
	timer := time.NewTimer(min(delay, reconsider))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case <-timer.C:
			return nil, delay <= 0
		case <-w.poked:
			if admitted := w.admit(j, time.Now()); len(admitted) > 0 {
				return admitted, true
			}
		}
	}
}

// admit answers the requests that must be refused, and returns the others.
func (w *worker) admit(j *journal, now time.Time) []poke {
	w.mu.Lock()
	defer w.mu.Unlock()
	var admitted []poke
	for _, p := range w.queue {
		refusal := w.client.cfg.Budget.refuses(j, w.cert.set(), p.force, now)
		if j.Attempt != nil && j.Attempt.Order != nil {
			refusal = nil // it goes on with the order it has
		}
		if j.RetryAfter.After(now) {
			refusal = &Refusal{Code: CodeRateLimited, Until: j.RetryAfter, Text: "the CA asked to be left alone"}
		}
		if refusal != nil {
			p.answer <- pokeAnswer{err: refusal}
			continue
		}
		admitted = append(admitted, p)
	}
	w.queue = nil
	return admitted
}

// poke is Client.Poke for this certificate.
func (w *worker) poke(ctx context.Context, force bool) (string, error) {
	w.mu.Lock()
	if !w.acting || w.busy != "" {
		defer w.mu.Unlock()
		if !w.acting {
			return "", ErrNotActing
		}
		return w.busy, nil
	}
	p := poke{force: force, answer: make(chan pokeAnswer, 1)}
	w.queue = append(w.queue, p)
	w.mu.Unlock()
	select {
	case w.poked <- struct{}{}:
	default: // it was said already
	}
	select {
	case a := <-p.answer:
		return a.attempt, a.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// attempt performs the attempt that is due, or continues the one in the journal, and journals how it ended.
func (w *worker) attempt(ctx context.Context, s *session, j *journal, p intention, asked []poke) {
	id := newID()
	if j.Attempt != nil {
		id = j.Attempt.ID
	}
	force := slices.ContainsFunc(asked, func(p poke) bool { return p.force })
	w.begin(id, asked)
	defer w.end()

	i := &issuance{session: s, w: w, j: j, told: make(map[string]bool)}
	err := w.prepare(ctx, i, id, force, p, len(asked) > 0)
	if err == nil {
		err = i.advance(ctx)
	}
	if errors.Is(err, errNoAuthority) || ctx.Err() != nil {
		_ = pause(ctx, time.Second) // the context is about to end; if it is not, authority may come back
		return
	}
	w.conclude(j, err, p.held, time.Now().UTC())
	if err := w.save(ctx, s, j); err != nil && ctx.Err() == nil {
		w.client.cfg.Log.Warn("journal", "name", w.cert.Name, "err", err)
	}
}

// prepare brings the journal to where advance begins: a new intent, or an attempt whose barrier must be passed again
// because the front-ends that passed it are not known here.
func (w *worker) prepare(ctx context.Context, i *issuance, id string, force bool, p intention, asked bool) error {
	if a := i.j.Attempt; a != nil {
		a.Force = a.Force || force
		i.say("", fmt.Sprintf("continued after %s, begun by %s", a.Step, a.Node))
		if a.Step == StepServed || a.Step == StepAccepted {
			a.Step = StepPresented
		}
		w.show(i.j)
		return nil
	}
	key, err := w.cert.key().generate()
	if err != nil {
		return ofFleet(err, "making a key")
	}
	text, err := encodeKey(key)
	if err != nil {
		return ofFleet(err, "encoding a key")
	}
	csr, err := newCSR(key, w.cert.Names)
	if err != nil {
		return ofFleet(err, "making a certificate request")
	}
	reason := p.reason
	if asked {
		reason = "asked for"
	}
	i.j.Attempt = &attempt{
		ID: id, Reason: reason, Started: time.Now().UTC(), Node: w.client.cfg.Node, Names: w.cert.Names,
		Profile: w.cert.Profile, KeyType: w.cert.key(), Key: text, CSR: csr, Force: force,
	}
	return i.reach(ctx, StepIntent, reason)
}

// conclude writes the end of an attempt, or of this try at it, into the journal.
func (w *worker) conclude(j *journal, err error, held *Held, now time.Time) {
	if err == nil {
		serial := ""
		if chain, err := decodeChain(j.Attempt.Chain); err == nil {
			serial = chain[0].SerialNumber.Text(16)
		}
		j.close(now, serial, nil)
		j.Failures, j.LastError, j.LastCode = 0, "", ""
		j.NextAttempt, j.RetryAfter = time.Time{}, time.Time{}
		return
	}
	f := diagnose(err, now)
	j.LastError, j.LastCode = f.Error(), f.code
	switch {
	case f.uncounted:
		j.NextAttempt = f.until.UTC()
	default:
		j.Failures++
		j.NextAttempt = now.Add(urgent(backoff(w.client.cfg.Retry, j.Failures, jitter()), held, now))
		if f.until.After(now) {
			j.RetryAfter = f.until.UTC()
		}
	}
	if f.final {
		j.close(now, "", f)
	}
	w.client.cfg.Log.Error("certificate not obtained", "name", w.cert.Name, "code", f.code, "err", f.Error(), "next", j.NextAttempt)
}

// begin makes requests join the attempt that starts now.
func (w *worker) begin(id string, asked []poke) {
	w.mu.Lock()
	w.busy = id
	for _, p := range append(asked, w.queue...) {
		p.answer <- pokeAnswer{attempt: id}
	}
	w.queue = nil
	w.status.Attempt, w.status.State, w.status.NextAttempt = id, StateIssuing, time.Time{}
	w.mu.Unlock()
	w.client.announce()
}

func (w *worker) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = ""
}

// newID names an attempt: 64 random bits.
func newID() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}
