package control

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"certswarm/internal/fleet"
)

// Certifier is the part of a Daemon that acts on declared certificates, by way of whoever holds the lease. Every error is
// ErrUnknownCertificate (wrapped) where none is declared under the name. tell is called from one goroutine at a time, and not after the
// method has returned; it must not block for long.
type Certifier interface {
	// Obtain has a certificate ordered now, and returns when every live node serves it. When ctx ends, what was ordered goes on.
	Obtain(ctx context.Context, o Order, tell func(Progress)) (Obtained, error)

	// Revoke has the certificate in force revoked, and then another one obtained as Obtain does, whatever the budget.
	Revoke(ctx context.Context, r Revocation, tell func(Progress)) (Revoked, error)

	// Attempts tells from the journal what was tried for a certificate, newest first.
	Attempts(ctx context.Context, name string) (Attempts, error)
}

// Order asks for a certificate now. An attempt that is under way is joined, whoever asked for it.
type Order struct {
	Name   string
	Renew  bool // although the certificate in force is good and not due
	Force  bool // although the budget for orders is used up
	DryRun bool // at the CA's staging directory, and nothing that is in force is touched
	NoWait bool // return when the CA has accepted the order
}

// Obtained is what came of an Order.
type Obtained struct {
	Name       string `json:"name"`
	Attempt    string `json:"attempt"` // as in Attempts
	Node       string `json:"node"`    // that did it, or does
	Joined     bool   `json:"joined"`  // it had been under way
	DryRun     bool   `json:"dry_run"`
	Ordered    bool   `json:"ordered"` // the CA has accepted an order
	Issued     bool   `json:"issued"`
	Unneeded   bool   `json:"unneeded"`   // nothing was ordered: what is there is good, and not due
	Served     bool   `json:"served"`     // by every live node
	Serial     string `json:"serial"`     // lower-case hex, as in Status; "" while there is none
	NotAfter   Time   `json:"not_after"`  // null while there is none
	Generation int    `json:"generation"` // 0 while there is none
}

// Revocation asks that the certificate in force be revoked at the CA.
type Revocation struct {
	Name   string
	Reason string // one of Reasons
	NoWait bool   // as in Order
}

// Reasons are those that a CA takes from a subscriber, as in RFC 5280 5.3.1.
func Reasons() []string {
	return []string{"unspecified", "keyCompromise", "affiliationChanged", "superseded", "cessationOfOperation"}
}

// Revoked is what came of a Revocation. What was revoked is served until the next certificate is there.
type Revoked struct {
	Name   string   `json:"name"`
	Serial string   `json:"serial"` // of what was revoked
	Reason string   `json:"reason"`
	Node   string   `json:"node"` // that did it
	Next   Obtained `json:"next"` // with another key
}

// Attempts is what the journal of one certificate tells.
type Attempts struct {
	Name     string        `json:"name"`
	Attempts List[Attempt] `json:"attempts"` // newest first, the one under way included
}

// Attempt is one attempt to obtain a certificate.
type Attempt struct {
	Attempt  string       `json:"attempt"` // its id
	Started  Time         `json:"started"`
	Ended    Time         `json:"ended"` // null: it is under way
	Node     string       `json:"node"`  // that began it
	By       string       `json:"by"`    // that ended it, or worked on it last
	Epoch    fleet.Epoch  `json:"epoch"` // under which it did
	Reason   string       `json:"reason"`
	Outcome  Outcome      `json:"outcome"`
	Step     string       `json:"step"`   // the last one that was taken
	Serial   string       `json:"serial"` // lower-case hex; "" when nothing was issued
	NotAfter Time         `json:"not_after"`
	Revoked  Time         `json:"revoked"`     // null: not by certswarm
	Behind   List[string] `json:"left_behind"` // nodes that could not be reached when the CA was told to look
	Error    string       `json:"error"`
}

// Outcome is how an attempt ended.
type Outcome string

// The outcomes.
const (
	UnderWay      Outcome = "under-way"
	AttemptIssued Outcome = "issued"
	AttemptFailed Outcome = "failed"
	DryRunPassed  Outcome = "dry-run-passed"
	DryRunFailed  Outcome = "dry-run-failed"
)

// Progress is one thing that happened on the way of a command that takes a while.
type Progress struct {
	Node string `json:"node"` // where
	Step string `json:"step"` // of the issuance; "" for a remark
	Text string `json:"text"`
}

// followed is one line of the answer to a command that takes a while; an empty one says that it still does.
type followed[T any] struct {
	Progress *Progress `json:"progress,omitempty"`
	Result   *T        `json:"result,omitempty"`
	Error    string    `json:"error,omitempty"`
}

func (s *Server) obtain(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	o := Order{
		Name: query.Get("name"), Renew: query.Get("renew") == "1", Force: query.Get("force") == "1",
		DryRun: query.Get("dry_run") == "1", NoWait: query.Get("no_wait") == "1",
	}
	follow(s, w, r, func(ctx context.Context, tell func(Progress)) (Obtained, error) { return s.daemon.Obtain(ctx, o, tell) })
}

func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	revocation := Revocation{Name: query.Get("name"), Reason: query.Get("reason"), NoWait: query.Get("no_wait") == "1"}
	follow(s, w, r, func(ctx context.Context, tell func(Progress)) (Revoked, error) {
		return s.daemon.Revoke(ctx, revocation, tell)
	})
}

func (s *Server) attempts(w http.ResponseWriter, r *http.Request) {
	attempts, err := s.daemon.Attempts(r.Context(), r.URL.Query().Get("name"))
	s.result(w, attempts, err)
}

// follow answers with a line for everything that is told on the way, and the result as the last one. What fails before anything was told is
// answered as any other command.
func follow[T any](s *Server, w http.ResponseWriter, r *http.Request, do func(context.Context, func(Progress)) (T, error)) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	told := make(chan Progress)
	type outcome struct {
		result T
		err    error
	}
	ended := make(chan outcome, 1)
	go func() {
		result, err := do(ctx, func(p Progress) {
			select {
			case told <- p:
			case <-ctx.Done():
			}
		})
		ended <- outcome{result, err}
	}()
	out, lines, began := http.NewResponseController(w), json.NewEncoder(w), false
	write := func(line followed[T]) error {
		if !began {
			w.Header().Set("Content-Type", "application/x-ndjson")
			began = true
		}
		return errors.Join(out.SetWriteDeadline(time.Now().Add(lineTimeout)), lines.Encode(line), out.Flush())
	}
	beat := time.NewTicker(streamHeartbeat)
	defer beat.Stop()
	for {
		line, last := followed[T]{}, false
		select {
		case p := <-told:
			line.Progress = &p
		case <-beat.C:
		case o := <-ended:
			switch {
			case o.err != nil && !began:
				s.result(w, nil, o.err)
				return
			case o.err != nil:
				line.Error = o.err.Error()
				judge(w, ActFailed, line.Error)
			default:
				line.Result = &o.result
			}
			last = true
		}
		if err := write(line); err != nil || last {
			if err != nil {
				s.log.Debug("whoever gave a command left", "reason", err)
			}
			if !last { // the daemon's side ends before this does: see Certifier
				cancel()
				<-ended
				judge(w, ActLeft, "")
			}
			return
		}
	}
}

// Obtain has a certificate ordered now; see Certifier. The error is that of ctx when that ends first: the issuance goes on.
func (c *Client) Obtain(ctx context.Context, o Order, tell func(Progress)) (Obtained, error) {
	query := url.Values{"name": {o.Name}, "renew": {yes(o.Renew)}, "force": {yes(o.Force)}, "dry_run": {yes(o.DryRun)}, "no_wait": {yes(o.NoWait)}}
	return followCommand[Obtained](ctx, c, "/v1/cert/obtain?"+query.Encode(), tell)
}

// Revoke has a certificate revoked; see Certifier.
func (c *Client) Revoke(ctx context.Context, r Revocation, tell func(Progress)) (Revoked, error) {
	query := url.Values{"name": {r.Name}, "reason": {r.Reason}, "no_wait": {yes(r.NoWait)}}
	return followCommand[Revoked](ctx, c, "/v1/cert/revoke?"+query.Encode(), tell)
}

// yes is how a query says yes or no.
func yes(set bool) string {
	if set {
		return "1"
	}
	return "0"
}

// Attempts asks for a certificate's history; see Certifier.
func (c *Client) Attempts(ctx context.Context, name string) (Attempts, error) {
	var a Attempts
	err := c.call(ctx, http.MethodGet, "/v1/cert/attempts?name="+url.QueryEscape(name), &a)
	return a, err
}

// followCommand gives a command and reads the lines of its answer.
func followCommand[T any](ctx context.Context, c *Client, target string, tell func(Progress)) (T, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(streamHeartbeat+askTimeout, func() { cancel(errSilent) })
	defer silence.Stop()
	var none T
	response, err := c.send(ctx, http.MethodPost, target)
	if err != nil {
		return none, err
	}
	defer func() { _ = response.Body.Close() }() // it was only read from
	for lines := json.NewDecoder(response.Body); ; {
		var line followed[T]
		if err := lines.Decode(&line); err != nil {
			return none, c.explain(ctx, err)
		}
		silence.Reset(streamHeartbeat + askTimeout)
		switch {
		case line.Result != nil:
			return *line.Result, nil
		case line.Error != "":
			return none, remote{line.Error, nil}
		case line.Progress != nil:
			tell(*line.Progress)
		}
	}
}
