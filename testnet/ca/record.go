package ca

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kind is what happened at the CA.
type Kind string

// The kinds. The first four are requests that reached the CA, with the status it answered.
const (
	Account    Kind = "account"    // newAccount; 201: created, 200: was known
	Order      Kind = "order"      // newOrder
	Accept     Kind = "accept"     // the CA was told to validate a challenge
	Finalize   Kind = "finalize"   // a CSR was submitted
	Validation Kind = "validation" // the CA fetched the URL in Detail
	Valid      Kind = "valid"      // an authorization became valid
	Invalid    Kind = "invalid"    // an authorization became invalid
	Issued     Kind = "issued"     // Detail is the serial: lower-case hex without leading zeros
)

// Event is one thing that happened.
type Event struct {
	Time   time.Time
	Kind   Kind
	Detail string
	Status int // HTTP status of the answer; 0: not a request, or not yet answered
}

// record is the history of one CA.
type record struct {
	mu      sync.Mutex
	events  []Event       // guarded by mu
	changed chan struct{} // guarded by mu; closed and replaced at each event
}

// Events returns all that happened so far, oldest first.
func (c *CA) Events() []Event {
	c.record.mu.Lock()
	defer c.record.mu.Unlock()
	return slices.Clone(c.record.events)
}

// Changed returns a channel that is closed when the next event happens. Take it before Events.
func (c *CA) Changed() <-chan struct{} {
	c.record.mu.Lock()
	defer c.record.mu.Unlock()
	return c.record.changed
}

// Issued returns the serials of the certificates issued, oldest first.
func (c *CA) Issued() []string {
	var serials []string
	for _, e := range c.Events() {
		if e.Kind == Issued {
			serials = append(serials, e.Detail)
		}
	}
	return serials
}

// Accepts returns how often the CA agreed to validate a challenge.
func (c *CA) Accepts() int { return c.Count(Accept) }

// Count returns how often kind happened; requests that the CA refused do not count, nor does a newAccount for an
// account that exists.
func (c *CA) Count(kind Kind) int {
	n := 0
	for _, e := range c.Events() {
		created := e.Kind != Account || e.Status == http.StatusCreated
		if e.Kind == kind && e.Status < 300 && created {
			n++
		}
	}
	return n
}

// add appends an event and returns its place.
func (r *record) add(e Event) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Time = time.Now()
	r.events = append(r.events, e)
	close(r.changed)
	r.changed = make(chan struct{})
	return len(r.events) - 1
}

// answered fills in how the request at place ended.
func (r *record) answered(place, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events[place].Status = status
	close(r.changed)
	r.changed = make(chan struct{})
}

// requests tells the requests that are recorded by their path at Pebble.
var requests = []struct {
	prefix string
	kind   Kind
}{
	{"/sign-me-up", Account},
	{"/order-plz", Order},
	{"/chalZ/", Accept},
	{"/finalize-order/", Finalize},
}

// request lets next answer and records the request, from before next sees it.
func (r *record) request(w http.ResponseWriter, req *http.Request, next http.Handler) {
	for _, known := range requests {
		if req.Method != http.MethodPost || !strings.HasPrefix(req.URL.Path, known.prefix) {
			continue
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		if readsOnly(body) {
			break
		}
		place := r.add(Event{Kind: known.kind, Detail: req.URL.Path})
		answer := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(answer, req)
		r.answered(place, answer.status)
		return
	}
	next.ServeHTTP(w, req)
}

// readsOnly tells a POST-as-GET (RFC 8555 6.3): its JWS has an empty payload.
func readsOnly(body []byte) bool {
	var jws struct {
		Payload string `json:"payload"`
	}
	return json.Unmarshal(body, &jws) == nil && jws.Payload == ""
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (s *statusWriter) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// lines tells what else happened from Pebble's log, which is the only place where it says so.
var lines = []struct {
	kind    Kind
	pattern *regexp.Regexp
}{
	{Validation, regexp.MustCompile(`Attempting to validate w/ HTTP: (\S+)`)},
	{Valid, regexp.MustCompile(`authz (\S+) set VALID`)},
	{Invalid, regexp.MustCompile(`authz (\S+) set INVALID`)},
	{Issued, regexp.MustCompile(`Issued certificate serial 0*(\S+)`)},
}

// Write takes one line of Pebble's log.
func (r *record) Write(line []byte) (int, error) {
	for _, known := range lines {
		if m := known.pattern.FindSubmatch(line); m != nil {
			r.add(Event{Kind: known.kind, Detail: string(m[1])})
		}
	}
	return len(line), nil
}
