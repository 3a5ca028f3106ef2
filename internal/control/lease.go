package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"certswarm/internal/fleet"
)

// Lease says who may act.
type Lease struct {
	Engine   string      `json:"engine"` // raft or static; "" on a node that has none
	Holder   string      `json:"holder"` // name; "" while nobody is known to hold it
	Epoch    fleet.Epoch `json:"epoch"`
	HeldHere bool        `json:"held_here"`
	Renewed  Time        `json:"renewed"` // when this node last had word of the holder

	Leader string      `json:"leader"` // name of the node that leads the vote; "" where none is known, or there is no vote
	Wished int         `json:"wished"` // how many should vote, by this node's peer list
	Voters List[Voter] `json:"voters"` // who votes now, and who is on the way to it; none also where nobody has told
}

// Voter is one seat of the vote.
type Voter struct {
	Name      string `json:"name"`
	Learner   bool   `json:"learner"`   // it receives the log and does not vote yet
	Connected bool   `json:"connected"` // as the answering node sees it
	Listed    bool   `json:"listed"`    // by this node's peer list it may vote
}

// Standing is how far one node is with the lease.
type Standing struct {
	Node       string      `json:"node"`
	Reached    bool        `json:"reached"` // it is connected
	Refuses    bool        `json:"refuses"` // it was last seen alive, and wants nothing to do with this node
	Heard      bool        `json:"heard"`   // it answered a moment ago
	State      bool        `json:"state"`   // it has some
	Generation uint64      `json:"generation"`
	Epoch      fleet.Epoch `json:"epoch"` // of the last tenure that it knows of
	Term       uint64      `json:"term"`  // of the end of its log
	Index      uint64      `json:"index"`
	Leader     string      `json:"leader"` // whom it sees lead; "": nobody
}

// Recovery is what `lease recover` would be about.
type Recovery struct {
	Standings List[Standing] `json:"standings"` // of every node that is reached or should vote, the answering one first
	Refused   string         `json:"refused"`   // why nothing would be done; "": it would
	Rebuilds  bool           `json:"rebuilds"`  // the lease, from the answering node alone
	Confirm   string         `json:"confirm"`   // what a person's word is asked for; "" where it is refused
}

// Right is the right to act, until its context ends.
type Right interface {
	Context() context.Context
	Check() error // whether it is still good, by the clock
	Epoch() fleet.Epoch
	Enter() (leave func()) // says that something acts under it, which may take a while to end
}

// ErrNotHeld says that the lease may not be acted upon here, now.
var ErrNotHeld = errors.New("the lease is not held here")

// Steward is implemented by a Daemon that has a lease to give account of.
type Steward interface {
	// Right returns the right to begin something now, with wait when there is one. Otherwise the error is ErrNotHeld (wrapped).
	Right(ctx context.Context, wait bool) (right Right, ttl time.Duration, err error)
	// ResignLease gives the lease away; the error says why it cannot.
	ResignLease(context.Context) error
	// Recovery tells what RecoverLease would do, and from what.
	Recovery(context.Context) (Recovery, error)
	// RecoverLease takes a person's word: that the peer list is meant as it stands if that is what waits, else that the majority is
	// gone for good. The error says why not.
	RecoverLease(context.Context) error
	// Barrier returns nil when every live node has what is wished. Until then it calls say with what is missing, whenever that changes.
	Barrier(ctx context.Context, wish Wish, say func(missing []string) error) error
}

// Wish is a file that every live node should have, and serve if Host is given.
type Wish struct {
	Directory string // may be "" where there is only one, or where Path is absolute
	Path      string
	Host      string // for which each node's own nginx is asked; "": none is
}

// tenure is one line of the answer to who asks for the right to act.
type tenure struct {
	Held   bool        `json:"held"`
	Epoch  fleet.Epoch `json:"epoch"`
	TTL    float64     `json:"ttl_seconds"`
	Reason string      `json:"reason"` // why it is no longer held
}

// While a right lasts its user hears so this often, in parts of the ttl, and believes it this long. A holder that renews in time has a right for
// 7/15 of the ttl at any moment: a daemon that stops is noticed before anybody else may act.
const (
	tenureBeat    = 12
	tenureSilence = 3
	tenureLeave   = 10 * time.Second // after which who was told that the right has ended acts no more, or never will leave
)

func (s *Server) steward(w http.ResponseWriter) Steward {
	steward, ok := s.daemon.(Steward)
	if !ok {
		s.answer(w, http.StatusUnprocessableEntity, refusal{Error: "this daemon has no lease"})
	}
	return steward
}

func (s *Server) leaseRoutes() {
	s.mux.HandleFunc("GET /v1/lease/tenure", s.tenure)
	s.mux.HandleFunc("GET /v1/lease/recovery", func(w http.ResponseWriter, r *http.Request) {
		if steward := s.steward(w); steward != nil {
			recovery, err := steward.Recovery(r.Context())
			s.result(w, recovery, err)
		}
	})
	s.changes("POST /v1/lease/recover", "lease recover", func(w http.ResponseWriter, r *http.Request) {
		if steward := s.steward(w); steward != nil {
			s.done(w, steward.RecoverLease(r.Context()))
		}
	})
	s.changes("POST /v1/lease/resign", "lease resign", func(w http.ResponseWriter, r *http.Request) {
		if steward := s.steward(w); steward != nil {
			s.done(w, steward.ResignLease(r.Context()))
		}
	})
	s.mux.HandleFunc("POST /v1/barrier", s.barrier)
}

// tenure answers with a line now, as long as the right lasts, and with a last one when it ends. Whoever asked acts until it leaves.
func (s *Server) tenure(w http.ResponseWriter, r *http.Request) {
	steward := s.steward(w)
	if steward == nil {
		return
	}
	right, ttl, err := steward.Right(r.Context(), r.URL.Query().Get("wait") == "1")
	switch {
	case errors.Is(err, ErrNotHeld):
		s.answer(w, http.StatusConflict, refusal{Error: err.Error()})
		return
	case err != nil:
		s.answer(w, http.StatusUnprocessableEntity, refusal{Error: err.Error()})
		return
	}
	defer right.Enter()()
	tell := s.lines(w)
	for {
		line := tenure{Held: true, Epoch: right.Epoch(), TTL: ttl.Seconds()}
		if err := right.Check(); err != nil {
			line.Held, line.Reason = false, err.Error()
		}
		err := tell(line)
		if err == nil && !line.Held {
			err = sleep(r.Context(), nil, tenureLeave)
		}
		if err != nil || !line.Held {
			s.log.Debug("somebody who acted under the lease left", "reason", err)
			return
		}
		if sleep(r.Context(), right.Context().Done(), ttl/tenureBeat) != nil {
			return
		}
	}
}

// barrier answers with a line whenever something else is missing, and with null when nothing is.
func (s *Server) barrier(w http.ResponseWriter, r *http.Request) {
	steward := s.steward(w)
	if steward == nil {
		return
	}
	query := r.URL.Query()
	wish := Wish{Directory: query.Get("directory"), Path: query.Get("path"), Host: query.Get("http")}
	var tell func(any) error
	err := steward.Barrier(r.Context(), wish, func(missing []string) error {
		if tell == nil {
			tell = s.lines(w)
		}
		return tell(List[string](missing))
	})
	switch {
	case err != nil && tell == nil:
		s.answer(w, http.StatusUnprocessableEntity, refusal{Error: err.Error()})
	case err != nil:
		s.log.Debug("a barrier was left", "reason", err)
	case tell == nil:
		s.answer(w, http.StatusOK, nil)
	default:
		if err := tell(nil); err != nil {
			s.log.Debug("whoever waited at a barrier left", "reason", err)
		}
	}
}

// lines returns how to answer with one line of JSON after the other.
func (s *Server) lines(w http.ResponseWriter) func(any) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out, encoder := http.NewResponseController(w), json.NewEncoder(w)
	return func(line any) error {
		if err := out.SetWriteDeadline(time.Now().Add(lineTimeout)); err != nil {
			return err
		}
		if err := encoder.Encode(line); err != nil {
			return err
		}
		return out.Flush()
	}
}

// Tenure calls held once the lease may be acted upon here, with the context of that right: it ends when the right does, or when the daemon can no
// longer vouch for it, and its cause says why. It returns what held returns; or ErrNotHeld (wrapped) when it was not called, with wait only if ctx
// ended.
func (c *Client) Tenure(ctx context.Context, wait bool, held func(context.Context, fleet.Epoch) error) error {
	asking, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	target := "/v1/lease/tenure"
	silence := time.AfterFunc(askTimeout, func() { cancel(errSilent) }) // until the first word; what comes after it has a patience of its own
	defer silence.Stop()
	if wait {
		target += "?wait=1"
		silence.Stop()
	}
	response, err := c.send(asking, http.MethodGet, target)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // it was only read from
	lines := json.NewDecoder(response.Body)
	var first tenure
	if err := lines.Decode(&first); err != nil {
		return c.explain(asking, err)
	}
	silence.Stop()
	if !first.Held {
		return fmt.Errorf("%w: %s", ErrNotHeld, first.Reason)
	}
	right, end := context.WithCancelCause(ctx)
	defer end(nil)
	patience := time.Duration(first.TTL*float64(time.Second)) / tenureSilence
	unheard := time.AfterFunc(patience, func() { end(errors.New("the daemon does not answer any more")) })
	defer unheard.Stop()
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			var line tenure
			switch err := lines.Decode(&line); {
			case err != nil:
				end(c.explain(right, err))
				return
			case !line.Held:
				end(errors.New(line.Reason))
				return
			}
			unheard.Reset(patience)
		}
	}()
	err = held(right, first.Epoch)
	cancel(nil)
	<-read
	return err
}

// ResignLease gives the lease away; see Steward.
func (c *Client) ResignLease(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/lease/resign", nil)
}

// Recovery asks what RecoverLease would do; see Steward.
func (c *Client) Recovery(ctx context.Context) (Recovery, error) {
	var r Recovery
	err := c.call(ctx, http.MethodGet, "/v1/lease/recovery", &r)
	return r, err
}

// RecoverLease says that it shall be done; see Steward.
func (c *Client) RecoverLease(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/lease/recover", nil)
}

// Barrier returns nil when every live node has what is wished. When ctx ends first, that is the error, and missing says who lacked it last.
func (c *Client) Barrier(ctx context.Context, wish Wish) (missing []string, err error) {
	query := url.Values{"directory": {wish.Directory}, "path": {wish.Path}, "http": {wish.Host}}
	response, err := c.send(ctx, http.MethodPost, "/v1/barrier?"+query.Encode())
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }() // it was only read from
	for lines := json.NewDecoder(response.Body); ; {
		var lacking []string
		if err := lines.Decode(&lacking); err != nil {
			return missing, c.explain(ctx, err)
		}
		if lacking == nil {
			return nil, nil
		}
		missing = lacking
	}
}
