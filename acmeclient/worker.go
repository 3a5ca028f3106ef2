package acmeclient

import (
	"cmp"
	"context"
	"crypto/rand"
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
	client    *Client
	cert      Certificate
	path      string        // of its journal
	directory string        // of the CA that it asks
	nudged    chan struct{} // buffered; says that queue, or what a plan is made of, changed
	stage     chan struct{} // holds one during a rehearsal

	mu     sync.Mutex
	acting bool    // run is active; guarded by mu, as all below
	busy   string  // id of the attempt under way
	queue  []asked // while not busy
	status Status
	unread time.Time // since when the journal could not be read; zero: it could
}

func newWorker(c *Client, cert Certificate) *worker {
	return &worker{client: c, cert: cert, path: journalPath(cert.Name), directory: c.cfg.Directory, nudged: make(chan struct{}, 1), stage: make(chan struct{}, 1), status: Status{Name: cert.Name, State: StateNone}}
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
	w.strikeOld(s)

	for ctx.Err() == nil {
		j, ended, err := w.load()
		if err != nil {
			w.rest(ctx, err)
			continue
		}
		if ended { // whoever waits for that attempt reads the journal
			if w.save(ctx, s, j) != nil {
				return // the tenure has ended: nothing else ends a save
			}
		}
		w.cleanUp(ctx, s, j)
		p, err := w.plan(j, time.Now())
		if !p.ask.IsZero() && !time.Now().Before(p.ask) && time.Now().Before(p.at) {
			w.askRenewal(ctx, s, j, p.held)
			p, err = w.plan(j, time.Now())
		}
		if err != nil {
			j.LastError, j.LastCode = err.Error(), CodeWrite
		}
		w.showPlan(j, p)
		if requests, begin := w.wait(ctx, j, p); begin {
			_ = w.attempt(ctx, s, j, p, requests) // what comes of it is seen in the next round
		}
	}
}

// once is the worker's life for one attempt.
func (w *worker) once(ctx context.Context, s *session) error {
	w.mu.Lock()
	w.acting = true
	w.mu.Unlock()
	defer w.stop()
	j, _, err := w.load()
	if err != nil {
		return err
	}
	if now := time.Now(); j.RetryAfter.After(now) {
		return &Refusal{Code: CodeRateLimited, Until: j.RetryAfter, Text: "the CA asked to be left alone"}
	}
	p, err := w.plan(j, time.Now())
	if err != nil {
		return err
	}
	err = w.attempt(ctx, s, j, p, nil)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// stop answers whoever still waits.
func (w *worker) stop() {
	w.mu.Lock()
	w.acting, w.busy = false, ""
	for _, a := range w.queue {
		a.answer <- answer{err: ErrNotActing}
	}
	w.queue = nil
	w.mu.Unlock()
	w.client.announce()
}

// read returns the journal as it is known here.
func (w *worker) read() (*journal, error) {
	content, err := w.client.cfg.Fleet.Load(w.path)
	return decodeJournal(w.cert.Name, content, err)
}

// load is read for what is wanted now; ended says that an attempt was under way which is for something else. To begin a journal anew
// forgets an order under way, and what counts against the budget: that is done with a damaged one, and with one that cannot be read when
// the certificate cannot wait for it.
func (w *worker) load() (j *journal, ended bool, err error) {
	j, err = w.read()
	now := time.Now()
	w.mu.Lock()
	switch {
	case err == nil:
		w.unread = time.Time{}
	case w.unread.IsZero():
		w.unread = now
	}
	unread := w.unread
	w.mu.Unlock()
	if err != nil {
		w.client.cfg.Log.Error("journal", "name", w.cert.Name, "err", err)
		held, heldErr := w.held()
		if !errors.Is(err, errDamaged) && (now.Sub(unread) < reconsider || heldErr != nil || !endsSoon(held, now)) {
			return nil, false, err
		}
	}
	ended = j.declare(w.cert.declaration(), w.directory, now.UTC())
	return j, ended, nil
}

// endsSoon reports whether nothing may delay the next certificate any more.
func endsSoon(held *Held, now time.Time) bool {
	if held == nil || held.Placeholder {
		return true
	}
	life := held.Leaf.NotAfter.Sub(held.Leaf.NotBefore)
	return held.Leaf.NotAfter.Sub(now) < life/time.Duration(DefaultPolicy().Emergency)
}

// rest waits for a journal that cannot be read. Whoever asks for something meanwhile is told why, and has it read again.
func (w *worker) rest(ctx context.Context, err error) {
	w.showPlan(&journal{LastError: err.Error(), LastCode: CodeWrite}, intention{at: time.Now().Add(time.Minute)})
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-w.nudged:
		w.mu.Lock()
		for _, a := range w.queue {
			a.answer <- answer{err: err}
		}
		w.queue = nil
		w.mu.Unlock()
	}
}

// save returns when a majority holds j.
func (w *worker) save(ctx context.Context, s *session, j *journal) error {
	j.prune(time.Now())
	j.Node, j.Epoch = w.client.cfg.Node, s.authority.Epoch()
	if n := len(j.History); n > 0 && j.History[n-1].By == "" {
		j.History[n-1].By, j.History[n-1].Epoch = j.Node, j.Epoch
	}
	return s.saveJSON(ctx, w.path, j)
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
	due     time.Time // when it would, if nothing held it back
	ask     time.Time // when the CA must be asked about the renewal; zero: it need not
	reason  string
	held    *Held
	refusal *Refusal // what alone holds it back, if that is the budget
	err     error    // why it is not known what is held
}

// plan decides when the next attempt begins. Where there is none to continue and none is due, nothing that failed before is of consequence.
func (w *worker) plan(j *journal, now time.Time) (intention, error) {
	held, err := w.held()
	if err != nil {
		err = fmt.Errorf("reading the certificate in force: %w", err)
		return intention{at: now.Add(time.Minute), reason: "the certificate in force cannot be read", err: err}, err
	}
	p := intention{held: held, at: now, due: now, ask: w.asksRenewal(j, held, now)}
	if j.Attempt != nil {
		p.reason = j.Attempt.Reason
	} else {
		due := w.due(j, held, now)
		p.at, p.due, p.reason = due.At, due.At, due.Reason
		if due.At.After(now) {
			j.forgive()
		}
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

// due decides when the next certificate must be obtained, whatever is under way.
func (w *worker) due(j *journal, held *Held, now time.Time) Due {
	policy := DefaultPolicy()
	policy.Adopted = held != nil && !held.Placeholder && j.issued(held) == nil
	policy.Shared = slices.ContainsFunc(w.client.workers, func(other *worker) bool {
		return other.cert.Name != w.cert.Name && other.cert.set() == w.cert.set()
	})
	return NextDue(held, w.cert, policy, j.Renewal.windows(), now)
}

// atRest reports whether nothing but somebody's wish calls for another certificate: the one in force is good and not due.
func (w *worker) atRest(j *journal, now time.Time) bool {
	held, err := w.held()
	return err == nil && w.due(j, held, now).At.After(now)
}

// held returns the certificate in force, and whether it was revoked.
func (w *worker) held() (*Held, error) {
	held, err := w.client.cfg.Fleet.Held(w.cert.Name)
	if err != nil || held == nil || held.Placeholder {
		return held, err
	}
	revoked, err := w.client.revocations(w.cert.Name)
	if err != nil {
		w.client.cfg.Log.Error("it is not known what was revoked", "name", w.cert.Name, "err", err)
	}
	copied := *held
	copied.Revoked = revoked.has(held.Leaf)
	return &copied, nil
}

// issued returns where what is held came from, nil if it did not come out of this journal.
func (j *journal) issued(held *Held) *origin {
	for n := range j.Issued {
		if j.Issued[n].Leaf == fingerprint(held.Leaf) {
			return &j.Issued[n]
		}
	}
	return nil
}

// wait returns true when an attempt must begin, and the requests that asked for it if it was not the clock. When it
// returns false the plan must be made again: what it waited for may have come to pass otherwise.
func (w *worker) wait(ctx context.Context, j *journal, p intention) (requests []asked, begin bool) {
	delay := time.Until(p.at)
	sleep := min(delay, reconsider)
	if !p.ask.IsZero() {
		sleep = min(sleep, max(time.Until(p.ask), time.Second))
	}
	timer := time.NewTimer(sleep)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, false
	case <-timer.C:
		return nil, delay <= 0
	case <-w.nudged:
		admitted := w.admit(j, p, time.Now())
		return admitted, len(admitted) > 0
	}
}

// attempt performs the attempt that is due, or continues the one in the journal, and journals how it ended. Its error is why no certificate
// came of it, or that it did not come to an end which could be journalled.
func (w *worker) attempt(ctx context.Context, s *session, j *journal, p intention, requests []asked) error {
	id := newID()
	if j.Attempt != nil {
		id = j.Attempt.ID
	} else if err := s.authority.Begin(); err != nil { // nothing is promised that may not begin
		w.putBack(requests)
		_ = pause(ctx, time.Second)
		w.nudge()
		return fmt.Errorf("%w: %w", errNoAuthority, err)
	}
	force := slices.ContainsFunc(requests, func(a asked) bool { return a.Force })
	again := len(requests) > 0 && !slices.ContainsFunc(requests, func(a asked) bool { return !a.Again })
	begun := time.Now()
	w.begin(id, requests)
	defer w.end()

	i := &issuance{session: s, w: w, j: j, told: make(map[string]bool)}
	err := w.prepare(ctx, i, id, force, p, len(requests) > 0)
	if err == nil {
		err = i.advance(ctx)
	}
	if errors.Is(err, errNoAuthority) || ctx.Err() != nil {
		_ = pause(ctx, time.Second) // the context is about to end; if it is not, authority may come back
		return cmp.Or(err, context.Cause(ctx))
	}
	now := time.Now().UTC()
	missed := err != nil && diagnose(err, now).code == CodeUnreachable && w.client.reach.missed(w.cert.Name, begun, err)
	err = w.conclude(j, err, p.held, now, missed && again)
	if err := w.save(ctx, s, j); err != nil && ctx.Err() == nil {
		w.client.cfg.Log.Warn("journal", "name", w.cert.Name, "err", err)
	}
	return err
}

// prepare brings the journal to where advance begins: a new intent, or an attempt whose barrier must be passed again
// because the front-ends that passed it are not known here.
func (w *worker) prepare(ctx context.Context, i *issuance, id string, force bool, p intention, asked bool) error {
	if a := i.j.Attempt; a != nil {
		i.resumed = true
		a.Force, a.Unleased = a.Force || force, a.Unleased || i.unleased
		i.say("", fmt.Sprintf("continued after %s, begun by %s", a.Step, a.Node))
		if a.Step == StepServed || a.Step == StepAccepted {
			a.Step = StepPresented
		}
		w.show(i.j)
		return nil
	}
	reason := p.reason
	if asked {
		reason = "asked for"
	}
	a, err := w.newAttempt(id, reason)
	if err != nil {
		return err
	}
	a.Force, a.Unleased = force, i.unleased
	i.j.Attempt = a
	return i.reach(ctx, StepIntent, reason)
}

// newAttempt returns one with a new key and a request for it.
func (w *worker) newAttempt(id, reason string) (*attempt, error) {
	key, err := w.cert.Key.generate()
	if err != nil {
		return nil, ofFleet(err, "making a key")
	}
	text, err := encodeKey(key)
	if err != nil {
		return nil, ofFleet(err, "encoding a key")
	}
	csr, err := newCSR(key, w.cert.Names)
	if err != nil {
		return nil, ofFleet(err, "making a certificate request")
	}
	return &attempt{
		ID: id, Reason: reason, Started: time.Now().UTC(), Node: w.client.cfg.Node, Names: w.cert.Names,
		Profile: w.cert.Profile, KeyType: w.cert.Key, Key: text, CSR: csr,
	}, nil
}

// conclude writes the end of an attempt, or of this try at it, into the journal, and returns what failed. Where nothing calls for a
// certificate but that somebody asked for it, a refusal of the CA ends the attempt, and with the attempt the failure is over: whoever asked is
// told, and the certificate in force is as good as before. A spare attempt leaves the wait as it was.
func (w *worker) conclude(j *journal, err error, held *Held, now time.Time, spare bool) error {
	if err == nil {
		j.close(now, nil)
		j.forgive()
		j.RetryAfter = time.Time{}
		return nil
	}
	f := diagnose(err, now)
	if f.moot {
		j.close(now, f)
		j.forgive()
		return nil
	}
	j.LastError, j.LastCode = f.Error(), f.code
	switch {
	case spare && j.NextAttempt.After(now):
	case f.uncounted:
		j.NextAttempt = f.until.UTC()
	default:
		j.Failures++
		j.NextAttempt = now.Add(urgent(backoff(w.client.cfg.Retry, j.Failures, jitter()), held, now))
		if f.until.After(now) {
			j.RetryAfter = f.until.UTC()
		}
	}
	atRest := w.atRest(j, now)
	refused := f.uncounted || (f.code == CodeRefused || f.code == CodeRateLimited) && !j.Attempt.promising(now)
	if f.final || atRest && refused {
		j.close(now, f)
	}
	if atRest && j.Attempt == nil {
		j.forgive()
		w.client.cfg.Log.Warn("certificate not obtained; the one in force is good and not due", "name", w.cert.Name, "code", f.code, "err", f.Error())
		return f
	}
	w.client.cfg.Log.Error("certificate not obtained", "name", w.cert.Name, "code", f.code, "err", f.Error(), "next", j.NextAttempt)
	return f
}

// begin makes requests join the attempt that starts now.
func (w *worker) begin(id string, requests []asked) {
	w.mu.Lock()
	w.busy = id
	for _, a := range append(requests, w.queue...) {
		a.answer <- answer{ticket: Ticket{Attempt: id}}
	}
	w.queue = nil
	w.status.Attempt, w.status.State, w.status.NextAttempt = id, StateIssuing, time.Time{}
	w.mu.Unlock()
	w.client.announce()
}

// putBack queues requests that were admitted again.
func (w *worker) putBack(requests []asked) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(requests, w.queue...)
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
