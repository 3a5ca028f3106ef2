// Package agent is the composition of a node: the one package that knows all the engines, and in which what one of them says
// becomes what another one does. Edges is where it touches the world, Daemon (by way of internal/control) where people touch it.
//
// It decides nothing that an engine could decide by itself: which file wins is the syncer's business, when a certificate is due
// acmeclient's, whether nginx is well nginx's, who may act the lease's, and who a peer is internal/peer's.
package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/internal/peer"
	"certswarm/syncer"
)

// Agent is one node's daemon.
type Agent struct {
	load    func() (*config.Config, error)
	version string
	edges   Edges
	log     *slog.Logger
	changed *broadcast
	events  *control.Chronicle

	identity *peer.Identity
	house    atomic.Pointer[house]
	requests chan reload
	acts     chan control.Act // for the audit log
	accepted *config.Config   // the one in force; belongs to the goroutine of Run

	mu      sync.Mutex
	refused *control.Problem // guarded by mu: the last reload was refused
}

// reload is somebody's wish that the configuration be read again.
type reload struct{ done chan error }

// New returns an Agent that touches nothing until Run. load reads the configuration, now and at each reload.
func New(load func() (*config.Config, error), version string, edges Edges, log *slog.Logger) *Agent {
	return &Agent{
		load: load, version: version, edges: edges, log: log, changed: newBroadcast(), events: control.NewChronicle(), requests: make(chan reload),
		acts: make(chan control.Act, auditQueue),
	}
}

// Run is the daemon. It returns nil when ctx ended and everything is down in good order, an error when it could not start or go on.
func (a *Agent) Run(ctx context.Context) error {
	cfg, err := unlessEnded(ctx, a.load)
	if errors.Is(err, errStopping) {
		return nil
	}
	if err != nil {
		return err
	}
	if a.identity, err = peer.LoadIdentity(cfg.StateDir); err != nil {
		return err
	}
	// The control socket comes first: it is also what keeps a second daemon away from the state.
	socket, err := a.edges.ListenControl(cfg.ControlSocket)
	if err != nil {
		return err
	}
	h, err := build(cfg, a.identity, a.version, a.edges, a.log, a.changed, firstMemory(a.events))
	if err != nil {
		return errors.Join(err, socket.Close())
	}
	a.house.Store(h)
	a.accepted = cfg
	a.log.Info("certswarm is up", "node", h.self.Name, "id", h.self.ID.String(), "version", a.version, "cluster", cfg.Cluster)

	stopping := make(chan time.Time, 1)
	defer context.AfterFunc(ctx, func() {
		a.log.Info("certswarm is stopping", "cause", context.Cause(ctx).Error())
		stopping <- time.Now()
	})()
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	unasked, audited := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(audited)
		a.keepAudit(unasked)
	}()
	served := make(chan error, 1)
	go func() { served <- control.NewServer(a, a.log).Serve(serving, socket) }()
	if a.edges.Ready != nil {
		a.edges.Ready()
	}
	watching, stopWatching := context.WithCancel(ctx)
	var chronicler sync.WaitGroup
	chronicler.Go(func() { a.keepChronicle(watching) })
	err = a.live(ctx)
	stopWatching()
	chronicler.Wait()
	// The socket goes last: until then people can see what holds the shutdown up.
	stopServing()
	err = errors.Join(err, <-served)
	a.endAudit(unasked, audited) // whoever was answered by now is in it
	if ctx.Err() != nil {
		a.log.Info("certswarm has stopped", "took", time.Since(<-stopping))
	}
	return err
}

// live runs one house after the other until ctx ends.
func (a *Agent) live(ctx context.Context) error {
	for {
		h := a.house.Load()
		inner, leave := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- h.run(inner) }()
		next, answer, err := a.await(ctx, h, ended)
		h.left.Store(next != nil)
		leave()
		if next == nil {
			if err == nil {
				err = <-ended
			}
			return err
		}
		if err := <-ended; err != nil && !errors.Is(err, syncer.ErrRejoin) {
			a.log.Error("something did not end well before the new configuration", "error", err)
		}
		if ctx.Err() != nil { // nobody needs another house any more
			answer <- stoppingFor(ctx)
			return nil
		}
		answer <- a.move(h, next)
		if a.house.Load() == h {
			return errors.New("neither the new configuration nor the old one can be run any more")
		}
	}
}

// await serves reloads until ctx ends, the house falls, or a configuration needs another house.
func (a *Agent) await(ctx context.Context, h *house, ended chan error) (next *config.Config, answer chan error, err error) {
	for {
		select {
		case <-ctx.Done():
			return nil, nil, nil
		case err := <-ended:
			if ctx.Err() != nil { // it ended because it was told to, while this was busy with a reload
				ended <- err
				return nil, nil, nil
			}
			if errors.Is(err, syncer.ErrRejoin) {
				ended <- err
				return a.accepted, make(chan error, 1), nil
			}
			return nil, nil, errors.Join(errors.New("the agent cannot go on"), err)
		case r := <-a.requests:
			old := a.accepted
			cfg, err := unlessEnded(ctx, func() (*config.Config, error) { return a.read(old) })
			if errors.Is(err, errStopping) {
				r.done <- err
				return nil, nil, nil
			}
			a.noteReload(err)
			switch {
			case err != nil:
				r.done <- err
			case h.takes(a.accepted, cfg):
				a.accepted = cfg
				r.done <- nil
			default:
				return cfg, r.done, nil
			}
		}
	}
}

var (
	errStopping     = errors.New("the daemon is stopping")
	errNeedsRestart = errors.New("which a running daemon cannot take; run systemctl restart certswarm")
)

func stoppingFor(ctx context.Context) error {
	return fmt.Errorf("%w: %w", errStopping, context.Cause(ctx))
}

// unlessEnded returns what read does, or errStopping (wrapped) as soon as ctx ends: a disk that hangs, such as a server's
// that is gone, holds up no stop. It cannot be told to give up, so that read goes on alone then until the process ends; it
// must change nothing.
func unlessEnded(ctx context.Context, read func() (*config.Config, error)) (*config.Config, error) {
	done := make(chan struct{})
	var got *config.Config
	var failed error
	go func() {
		defer close(done)
		got, failed = read()
	}()
	select {
	case <-done:
		return got, failed
	case <-ctx.Done():
		return nil, stoppingFor(ctx)
	}
}

// read loads the configuration and refuses what a running daemon cannot take.
func (a *Agent) read(old *config.Config) (*config.Config, error) {
	cfg, err := a.load()
	if err != nil {
		return nil, err
	}
	if fixed := config.NeedsRestart(old, cfg); len(fixed) > 0 {
		return nil, fmt.Errorf("%s changed, %w", strings.Join(fixed, ", "), errNeedsRestart)
	}
	if _, err := cfg.Self(a.identity.ID()); err != nil {
		return nil, err
	}
	for _, d := range cfg.Directories { // what would fail halfway is refused before anything is touched
		info, err := os.Stat(d.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("directory %s: there is no %s; make it, then certswarm reload", d.Name, d.Path)
		case err != nil:
			return nil, fmt.Errorf("directory %s: %w; mend that, then certswarm reload", d.Name, err)
		case !info.IsDir():
			return nil, fmt.Errorf("directory %s: %s is not a directory; make it one or write another path, then certswarm reload", d.Name, d.Path)
		}
	}
	return cfg, nil
}

// move builds the house for a new configuration; if that fails the old one is built again.
func (a *Agent) move(old *house, cfg *config.Config) error {
	past := old.memory()
	next, err := build(cfg, a.identity, a.version, a.edges, a.log, a.changed, past)
	if err != nil {
		a.noteReload(err)
		again, oldErr := build(a.accepted, a.identity, a.version, a.edges, a.log, a.changed, past)
		if oldErr != nil {
			return errors.Join(err, oldErr)
		}
		next = again
	} else {
		a.log.Info("the new configuration is in force", "changed", config.Changes(a.accepted, cfg))
		a.events.Note(control.Event{Kind: control.ConfigTaken, Node: next.self.Name, Text: "a new configuration is in force"})
		a.accepted = cfg
	}
	a.house.Store(next)
	a.changed.fire()
	return err
}

// noteReload keeps a refused configuration in the status until one is taken.
func (a *Agent) noteReload(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refused = nil
	if err != nil {
		a.log.Error("the new configuration is refused; the old one stays in force", "error", err)
		a.refused = &control.Problem{
			Code: control.ConfigRefused, Severity: control.ConfigRefused.Severity(), Since: control.At(time.Now()),
			Node: a.house.Load().self.Name, Text: oneLine(err), Because: "the old configuration stays in force",
			Next: afterRefusal(err),
		}
	}
	a.changed.fire()
}

// afterRefusal returns the next command for whoever mends a configuration that was refused.
func afterRefusal(err error) string {
	switch {
	case errors.As(err, new(config.Errors)):
		return "certswarm config check"
	case errors.Is(err, errNeedsRestart):
		return "systemctl restart certswarm"
	}
	return "certswarm reload" // the files are well, so that a check of them would say: valid
}

// oneLine is an error as a status has room for: of several, the first and how many more there are.
func oneLine(err error) string {
	first, rest, several := strings.Cut(err.Error(), "\n")
	if several {
		first = fmt.Sprintf("%s (and %d more)", first, 1+strings.Count(rest, "\n"))
	}
	return first
}

// takes adopts a configuration that differs in nothing but the peer list, and reports whether it did.
func (h *house) takes(old, cfg *config.Config) bool {
	changes := config.Changes(old, cfg)
	for _, field := range changes {
		if field != "peers" && !strings.HasPrefix(field, "peers[") && !strings.HasPrefix(field, "peers.") {
			return false
		}
	}
	self, err := cfg.Self(h.self.ID)
	if err != nil || self.Role != h.self.Role || self.Name != h.self.Name || cfg.ListenAddress(self) != h.cfg.ListenAddress(h.self) {
		return false
	}
	roster := cfg.Roster()
	for _, m := range roster.Members() {
		if was, known := old.Roster().ByID(m.ID); known && was.Role != m.Role {
			return false // which directories two nodes share is agreed when they meet
		}
	}
	h.roster.Store(&roster)
	h.mesh.SetRoster(roster)
	h.elector.SetRoster(roster)
	h.log.Info("the new peer list is in force", "changed", changes)
	h.changed.fire()
	return true
}

// Status implements control.Daemon.
func (a *Agent) Status() control.Status {
	s := a.house.Load().status()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refused != nil {
		s.Problems = append(control.List[control.Problem]{*a.refused}, s.Problems...)
	}
	return s
}

// Changed implements control.Daemon.
func (a *Agent) Changed() <-chan struct{} { return a.changed.wait() }

// Reload implements control.Daemon.
func (a *Agent) Reload(ctx context.Context) error {
	r := reload{done: make(chan error, 1)}
	select {
	case a.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Verify implements control.Daemon.
func (a *Agent) Verify(ctx context.Context, name string) (v control.Verification, err error) {
	err = a.inHouse(ctx, func(h *house) (err error) {
		v, err = h.verify(ctx, name)
		return err
	})
	return v, err
}

// Rescan implements control.Daemon.
func (a *Agent) Rescan(ctx context.Context) error {
	return a.inHouse(ctx, func(h *house) error {
		for _, d := range h.syncer.Directories() {
			if err := d.Rescan(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// Resume implements control.Daemon.
func (a *Agent) Resume(ctx context.Context, directory string, accept bool) error {
	return a.inHouse(ctx, func(h *house) error {
		for _, d := range h.syncer.Directories() {
			if d.Name == directory {
				return d.Resume(ctx, accept)
			}
		}
		return fmt.Errorf("there is no directory %q; see certswarm status", directory)
	})
}

// inHouse does what somebody asked for, and does it again in the next house if it failed while this one was left for another
// configuration: who asks need not know of reloads.
func (a *Agent) inHouse(ctx context.Context, do func(*house) error) error {
	for {
		h := a.house.Load()
		err := do(h)
		if err == nil || !h.left.Load() && !errors.Is(err, syncer.ErrRejoin) { // then it is about to be left
			return err
		}
		for a.house.Load() == h {
			changed := a.changed.wait()
			if a.house.Load() != h {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
			}
		}
	}
}

// Counters implements control.Counter.
func (a *Agent) Counters() []control.Counts {
	h := a.house.Load()
	refused := map[string]float64{}
	for _, reason := range peer.Reasons {
		refused[string(reason)] = 0 // a rate needs a beginning
	}
	for reason, n := range h.mesh.Refusals().Counts {
		refused[string(reason)] = float64(n)
	}
	return []control.Counts{
		{Name: "certswarm_break_glass_orders_total", Help: "Orders placed without the lease.", Values: map[string]float64{"": float64(h.glass.ordered())}},
		{Name: "certswarm_refused_total", Help: "Connections, and packets of none, that were refused.", Label: "reason", Values: refused},
	}
}

// ID returns the node's id; it is known once Run has begun.
func (a *Agent) ID() fleet.NodeID { return a.identity.ID() }

// rootsOf reads the CA certificates that a CA's own TLS is checked against; nil for the system's.
func rootsOf(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("acme.ca_file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("acme.ca_file: %s holds no certificate in PEM", file)
	}
	return roots, nil
}
