// Package acmeclient decides when a certificate is due and performs the steps of its issuance (RFC 8555, http-01). Each
// step is journalled on a majority of the issuers before the next is taken, so that any of them continues where a dead
// one stopped, with the same key, and the CA issues once.
//
// It does not replicate or write files, hold the lease, answer challenges, or touch nginx: all of that is behind the
// Fleet and Authority interfaces.
package acmeclient

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Certificate is one declared certificate.
type Certificate struct {
	Name    string   // also its name under live/ and in the journal
	Names   []string // DNS names it must be valid for, the first one first
	Key     KeyType  // empty means ecdsa-p256
	Profile string   // of the CA; empty: the CA chooses
}

// set is the CA's identity of what is ordered: rate limits and the budget count by it.
func (c Certificate) set() string { return nameSet(c.Names) }

// declaration changes when the operator asks for something else.
func (c Certificate) declaration() string { return c.set() + " " + string(c.Key) + " " + c.Profile }

// nameSet returns the same text for the same names in any order.
func nameSet(names []string) string { return strings.Join(slices.Sorted(slices.Values(names)), ",") }

// Budget bounds what is asked of the CA for one set of names, whatever the reason.
type Budget struct {
	OrdersPerDay    int // orders the CA accepted within 24 hours
	OrdersPerWeek   int // orders the CA accepted within 7 days
	FailuresPerHour int // validations that failed within one hour; a forced attempt obeys it too
}

// Config is what a Client is made of. Zero values of Retry and Budget mean the documented defaults.
type Config struct {
	Directory    string // URL of the CA's directory (RFC 8555 7.1.1)
	Staging      string // URL of the directory at which Rehearse rehearses; empty: it cannot
	Roots        *x509.CertPool
	Email        string // contact of the account; may be empty
	AcceptTerms  bool   // the operator agreed to the CA's terms of service
	Certificates []Certificate
	Retry        []time.Duration // waits between failed attempts, +-50 %; the last repeats
	Budget       Budget
	NoARI        bool // do not ask the CA when to renew, nor tell it what an order replaces (RFC 9773)
	UserAgent    string
	Transport    http.RoundTripper // to the CA; nil: HTTPS that trusts Roots (nil: the system's)
	Node         string            // this node's name, for the journal
	Fleet        Fleet
	Log          *slog.Logger
	Observe      func(Event) // called by several goroutines, must not block; nil: nobody looks
}

// Event is one step of one issuance, for the timeline that operators read.
type Event struct {
	Time      time.Time
	Name      string // of the certificate
	Attempt   string // its id; "" for a remark that belongs to none
	Rehearsal bool   // the attempt is one
	Step      Step   // "": a remark between steps
	Node      string // that took it
	Text      string // what is worth saying about it, "" if nothing
}

// Client obtains the declared certificates while it has the authority to. All methods may be called from any goroutine.
type Client struct {
	cfg      Config
	workers  []*worker
	http     *http.Client // to the CA
	account  account
	renewals renewalURL
	orders   gate
	turns    turns
	reach    reach
	revoking sync.Mutex // held while a list of what was revoked is replaced

	mu      sync.Mutex
	running *tenancy      // guarded by mu; nil: no authority
	changed chan struct{} // guarded by mu; closed and replaced at each change
}

// New checks cfg and returns a Client that does nothing until Run.
func New(cfg Config) (*Client, error) {
	if !isHTTPS(cfg.Directory) {
		return nil, fmt.Errorf("acme: directory: %q is not an https URL", cfg.Directory)
	}
	if cfg.Staging != "" && !isHTTPS(cfg.Staging) {
		return nil, fmt.Errorf("acme: staging_directory: %q is not an https URL", cfg.Staging)
	}
	if len(cfg.Retry) == 0 {
		cfg.Retry = []time.Duration{time.Minute, 10 * time.Minute, 100 * time.Minute, 24 * time.Hour}
	}
	if cfg.Budget == (Budget{}) {
		cfg.Budget = Budget{OrdersPerDay: 2, OrdersPerWeek: 4, FailuresPerHour: 4}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Observe == nil {
		cfg.Observe = func(Event) {}
	}
	if cfg.Transport == nil {
		cfg.Transport = newTransport(cfg.Roots)
	}
	c := &Client{cfg: cfg, account: account{one: make(chan struct{}, 1)}, orders: gate{room: make(chan struct{}, maxOrdering)}, changed: make(chan struct{})}
	c.http = &http.Client{Transport: edge{cfg.Transport, make(chan struct{}, maxInFlight), &c.reach}}
	seen := make(map[string]bool)
	for _, declared := range cfg.Certificates {
		cert, err := validate(declared)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", declared.Name, err)
		}
		if seen[cert.Name] {
			return nil, fmt.Errorf("certificate %s is declared twice", cert.Name)
		}
		seen[cert.Name] = true
		c.workers = append(c.workers, newWorker(c, cert))
	}
	return c, nil
}

func isHTTPS(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "https" && u.Host != ""
}

// validate returns declared with its defaults filled in and its names as the CA will spell them.
func validate(declared Certificate) (Certificate, error) {
	cert := declared
	switch {
	case cert.Name == "" || cert.Name == "." || cert.Name == ".." || strings.ContainsAny(cert.Name, "/\\\x00"):
		return cert, fmt.Errorf("%q cannot be a file name", cert.Name)
	case len(cert.Names) == 0:
		return cert, errors.New("names: at least one is needed")
	case cert.Key == "":
		cert.Key = ECDSAP256
	case !cert.Key.known():
		return cert, fmt.Errorf("key: %q is none of %s", cert.Key, strings.Join(keyTypes(), ", "))
	}
	cert.Names = nil
	for _, name := range declared.Names {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		switch {
		case strings.Contains(name, "*"):
			return cert, fmt.Errorf("names: %s: a wildcard cannot be validated with http-01", name)
		case name == "" || strings.ContainsAny(name, " /:"):
			return cert, fmt.Errorf("names: %q is not a DNS name", name)
		case slices.Contains(cert.Names, name):
			return cert, fmt.Errorf("names: %s stands twice", name)
		}
		cert.Names = append(cert.Names, name)
	}
	return cert, nil
}

// ErrNotActing says that this Client has no authority now: the node that holds the lease must be asked.
var ErrNotActing = errors.New("this node does not hold the lease")

// tenancy is one Run, for those who act beside the workers.
type tenancy struct {
	ctx       context.Context // ends with the tenure
	authority Authority
	guests    sync.WaitGroup // Add only with Client.mu held
}

// Run obtains and renews every declared certificate, each independently of the others, until ctx or the authority
// ends; then it returns nil. Nothing that was begun is lost: the next Run, here or elsewhere, continues from the journal.
// Only one Run at a time.
func (c *Client) Run(ctx context.Context, authority Authority) error {
	now, leave, err := c.moveIn(ctx, authority)
	if err != nil {
		return err
	}
	defer leave()
	s := now.session(c, c.cfg.Directory)
	var all sync.WaitGroup
	for _, w := range c.workers {
		all.Go(func() { w.run(now.ctx, s) })
	}
	all.Wait()
	return nil
}

// Visit is what Run is for who acts without the lease: it lasts from Visit to End, and does what RunOne says and nothing else.
type Visit struct {
	client *Client
	now    *tenancy
	leave  func()
}

// Visit begins one, of which, with Run, there is one at a time. It can do nothing more when ctx or the authority has ended.
func (c *Client) Visit(ctx context.Context, authority Authority) (*Visit, error) {
	now, leave, err := c.moveIn(ctx, authority)
	if err != nil {
		return nil, err
	}
	return &Visit{client: c, now: now, leave: leave}, nil
}

// End ends the visit. Nothing of it may be under way any more.
func (v *Visit) End() { v.leave() }

// RunOne makes one attempt at the certificate called name, due or not, or continues the one that is under way; the others are left
// alone. Several names may be tried at the same time. It returns nil when the attempt is over, and why it failed. The CA's Retry-After is obeyed. count is asked immediately
// before each new order, which its error stops: whoever counts orders counts none that was never sent. History marks the attempt as Unleased.
func (v *Visit) RunOne(name string, count func() error) error {
	w, err := v.client.worker(name)
	if err != nil {
		return err
	}
	s := v.now.session(v.client, v.client.cfg.Directory)
	s.count, s.unleased = count, true
	return w.once(v.now.ctx, s)
}

// moveIn begins a tenancy, of which there is one at a time; leave ends it.
func (c *Client) moveIn(ctx context.Context, authority Authority) (now *tenancy, leave func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(authority.Context(), cancel)
	now = &tenancy{ctx: ctx, authority: authority}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running != nil {
		stop()
		cancel()
		return nil, nil, errors.New("acme: already running")
	}
	c.running = now
	return now, func() {
		c.mu.Lock()
		c.running = nil
		c.mu.Unlock()
		stop()
		cancel()
		now.guests.Wait()
		c.announce()
	}, nil
}

func (t *tenancy) session(c *Client, directory string) *session {
	return &session{ctx: t.ctx, client: c, authority: t.authority, directory: directory, nonces: make(chan string, maxInFlight)}
}

// enter lets somebody act beside the workers, at the CA of directory: Run waits for leave. ErrNotActing says that there
// is no Run.
func (c *Client) enter(directory string) (s *session, leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.running
	if t == nil || t.ctx.Err() != nil {
		return nil, nil, ErrNotActing
	}
	t.guests.Add(1)
	return t.session(c, directory), t.guests.Done, nil
}

// Snapshot returns where each declared certificate stands, in the order of the configuration. On a node that does not
// act it says what the journal says.
func (c *Client) Snapshot() []Status {
	out := make([]Status, 0, len(c.workers))
	for _, w := range c.workers {
		out = append(out, w.snapshot())
	}
	return out
}

// Changed returns a channel that is closed at the next change of what Snapshot returns. Take it before the snapshot.
func (c *Client) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// announce wakes whoever waits on Changed.
func (c *Client) announce() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}
