package acmeclient

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"certswarm/internal/fleet"
)

// memFleet is a fleet in memory: one store that all issuers share, and front-ends that serve what was presented.
type memFleet struct {
	addresses []string // of the front-ends; empty: AwaitServed believes what it is told
	port      int

	// Faults. They are set before the fleet is used.
	onSave    func(path string, content []byte, store func()) error // in place of storing
	onLoad    func(path string) error                               // before it is loaded
	onBarrier func(ctx context.Context, tokens []Token) error       // before the front-ends are asked
	behind    []string                                              // front-ends that are unreachable

	mu        sync.Mutex
	files     map[string][]byte
	tokens    map[string]Token
	held      map[string]*Held
	installed []Bundle
}

func newMemFleet() *memFleet {
	return &memFleet{files: make(map[string][]byte), tokens: make(map[string]Token), held: make(map[string]*Held)}
}

// serving adds front-ends on three loopback addresses that share a port.
func (m *memFleet) serving(t *testing.T) *memFleet {
	t.Helper()
	m.addresses = []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"}
	for _, address := range m.addresses {
		listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(m.port)))
		if err != nil {
			t.Fatal(err)
		}
		m.port = listener.Addr().(*net.TCPAddr).Port
		server := &http.Server{Handler: m}
		var done sync.WaitGroup
		done.Go(func() { _ = server.Serve(listener) })
		t.Cleanup(func() { _ = server.Close(); done.Wait() })
	}
	return m
}

// ServeHTTP answers challenges as a front-end does.
func (m *memFleet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	token, ok := m.tokens[path.Base(r.URL.Path)]
	m.mu.Unlock()
	host, _, _ := strings.Cut(r.Host, ":")
	if !ok || host != token.Host {
		http.NotFound(w, r)
		return
	}
	_, _ = io.WriteString(w, token.KeyAuthorization)
}

func (m *memFleet) Load(path string) ([]byte, error) {
	if m.onLoad != nil {
		if err := m.onLoad(path); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	content, ok := m.files[path]
	if !ok {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return bytes.Clone(content), nil
}

func (m *memFleet) Save(ctx context.Context, path string, content []byte) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	store := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.files[path] = bytes.Clone(content)
	}
	if m.onSave != nil {
		return m.onSave(path, content, store)
	}
	store()
	return nil
}

func (m *memFleet) Present(_ context.Context, tokens []Token) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range tokens {
		m.tokens[t.Token] = t
	}
	return nil
}

func (m *memFleet) Withdraw(ctx context.Context, tokens []Token) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range tokens {
		delete(m.tokens, t.Token)
	}
	return nil
}

func (m *memFleet) AwaitServed(ctx context.Context, tokens []Token) ([]string, error) {
	if m.onBarrier != nil {
		if err := m.onBarrier(ctx, tokens); err != nil {
			return nil, err
		}
	}
	for _, address := range m.addresses {
		for _, t := range tokens {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet,
				fmt.Sprintf("http://%s/.well-known/acme-challenge/%s", net.JoinHostPort(address, strconv.Itoa(m.port)), t.Token), nil)
			if err != nil {
				return nil, err
			}
			req.Host = t.Host
			answer, err := http.DefaultClient.Do(req)
			if err != nil {
				return nil, err
			}
			body, err := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			if err != nil || string(body) != t.KeyAuthorization {
				return nil, fmt.Errorf("%s answers %q for %s (%v)", address, body, t.Host, err)
			}
		}
	}
	return m.behind, nil
}

func (m *memFleet) Held(name string) (*Held, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held[name], nil
}

func (m *memFleet) Install(_ context.Context, b Bundle) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.held[b.Name]
	if was != nil && was.Leaf.Equal(b.Leaf) {
		return was.Generation, nil
	}
	generation := 1
	if was != nil {
		generation = was.Generation + 1
	}
	m.held[b.Name] = &Held{Leaf: b.Leaf, Generation: generation}
	m.installed = append(m.installed, b)
	return generation, nil
}

func (m *memFleet) AwaitVerified(context.Context, string, int, *x509.Certificate) (map[string]string, error) {
	return map[string]string{"fe1": "current"}, nil
}

// installs returns what was installed so far.
func (m *memFleet) installs() []Bundle {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.installed)
}

// presented returns how many tokens the front-ends have.
func (m *memFleet) presented() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.tokens)
}

// journalOf returns the stored journal of name.
func (m *memFleet) journalOf(t *testing.T, name string) *journal {
	t.Helper()
	content, err := m.Load(journalPath(name))
	j, err := decodeJournal(name, content, err)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// stepOf returns the step that a journal file's content says, "" if no attempt is under way.
func stepOf(content []byte) Step {
	var j journal
	if json.Unmarshal(content, &j) != nil || j.Attempt == nil {
		return ""
	}
	return j.Attempt.Step
}

// tenure is an Authority that a test can end.
type tenure struct {
	ctx   context.Context
	epoch fleet.Epoch
	check func() error // nil: always allowed
	begin func() error // nil: always allowed
}

func (a tenure) Context() context.Context { return a.ctx }
func (a tenure) Epoch() fleet.Epoch       { return a.epoch }

func (a tenure) Begin() error {
	if a.begin != nil {
		return a.begin()
	}
	return a.ctx.Err()
}

func (a tenure) Check() error {
	if a.ctx.Err() != nil {
		return errors.New("the lease ended")
	}
	if a.check != nil {
		return a.check()
	}
	return nil
}

// fuse bounds a test that waits for something that does not come.
func fuse(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// running is a Client in its Run.
type running struct {
	*Client
	end  context.CancelFunc
	done chan struct{}
}

// start runs a new Client under authority; stop ends the tenure and waits for Run.
func start(t *testing.T, cfg Config, authority tenure) *running {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(authority.ctx)
	authority.ctx = ctx
	r := &running{Client: c, end: end, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		if err := c.Run(ctx, authority); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(r.stop)
	return r
}

func (r *running) stop() {
	r.end()
	<-r.done
}

// await returns the status of name once it satisfies is.
func (r *running) await(ctx context.Context, t *testing.T, name, what string, is func(Status) bool) Status {
	t.Helper()
	for {
		changed := r.Changed()
		var last Status
		for _, s := range r.Snapshot() {
			if s.Name == name {
				last = s
			}
		}
		if is(last) {
			return last
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%s: never %s; last %+v", name, what, last)
		}
	}
}

// poke asks for a renewal now and returns the id of the attempt.
func poke(ctx context.Context, c interface {
	Obtain(context.Context, string, Request) (Ticket, error)
}, name string, force bool) (string, error) {
	ticket, err := c.Obtain(ctx, name, Request{Renew: true, Force: force})
	return ticket.Attempt, err
}

func issued(s Status) bool { return s.State == StateIssued }
func failed(s Status) bool { return s.State == StateFailed }

// recorder is an answer in the making, for a RoundTripper without a network.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

func (r *recorder) response(to *http.Request) *http.Response {
	return &http.Response{
		StatusCode: r.status, Status: http.StatusText(r.status), Header: r.header, Body: io.NopCloser(&r.body),
		ProtoMajor: 1, ProtoMinor: 1, Request: to,
	}
}
