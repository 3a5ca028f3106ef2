package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"certswarm/acmeclient"
	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/internal/peer"
	"certswarm/nginx"
	"certswarm/syncer"
	"certswarm/syncer/index"
)

// house is everything that one configuration makes of an agent: the engines, and what passes between them. A
// configuration that cannot be taken on the fly is taken by building another house.
type house struct {
	cfg     *config.Config
	self    fleet.Member
	version string
	edges   Edges
	log     *slog.Logger
	started time.Time // the daemon
	built   time.Time // this house

	roster   atomic.Pointer[fleet.Roster]
	state    *durable.Root
	syncer   *syncer.Syncer
	mesh     *peer.Mesh
	elector  *office
	store    *lineages          // nil: no certificates are declared
	private  *syncer.Directory  // of the issuers; nil on other nodes and without acme
	acme     *acmeclient.Client // nil where this node never acts
	nginx    *nginx.Nginx       // nil without a store
	keeper   *nginx.Keeper
	http01   net.Listener
	reports  *reports // of the others
	bulletin bulletin // for the others
	events   *control.Chronicle
	findings findings
	untaken  untaken
	pursued  map[string]syncer.Receipt // the wishes that were looked at last, by certificate; belongs to whoever pursues them
	precious precious
	changed  *broadcast
	answer   answer     // of status
	acting   sync.Mutex // held by who asks the CA: under the lease, or without it
	glass    *glassCase
	outage   *outage
	voting   voting
	deeds    *lease.Acting // of whoever acts under the lease from outside, over all houses
	blocked  blocked       // what the barrier waits for
	unsaved  unsaved       // what an issuance waits for
	mayAdopt atomic.Bool   // it is known what the fleet has
	left     atomic.Bool   // for a house with another configuration: what its engines say no longer counts
}

// privateDirectory is replicated among the issuers only: the ACME account and the journal, keys included. Its name cannot be
// configured, so it cannot collide.
const privateDirectory = ".issuers"

// build makes a house from a configuration: the state is open, the directories are scanned, the placeholders are in place.
// Nothing runs yet; whoever builds a house runs it, which also ends it.
func build(cfg *config.Config, identity *peer.Identity, version string, edges Edges, log *slog.Logger, changed *broadcast, past memory) (h *house, err error) {
	self, err := cfg.Self(identity.ID())
	if err != nil {
		return nil, err
	}
	h = &house{
		cfg: cfg, self: self, version: version, edges: edges, log: log, changed: changed,
		started: past.started, built: time.Now(), reports: past.reports, events: past.events, deeds: past.deeds, outage: past.outage,
	}
	roster := cfg.Roster()
	h.roster.Store(&roster)
	h.bulletin.init()
	h.findings.init()
	var opened closers
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.close())
		}
	}()
	if h.state, err = durable.OpenRoot(cfg.StateDir); err != nil {
		return nil, fmt.Errorf("state_dir: %w", err)
	}
	opened.add(h.state.Close)
	h.state.Interpose(edges.Disk)
	if err := h.openSyncer(identity); err != nil {
		return nil, err
	}
	opened.add(h.syncer.Abandon)
	if h.store != nil {
		h.openNginx()
		if err := h.furnish(); err != nil {
			return nil, err
		}
	}
	packets, err := edges.ListenPacket(cfg.ListenAddress(self))
	if err != nil {
		return nil, err
	}
	opened.add(packets.Close)
	h.mesh, err = peer.New(peer.Config{
		Identity: identity, Cluster: cfg.Cluster, Version: version, Conn: packets, Roster: roster, Log: log, Heard: past.heard,
	})
	if err != nil {
		return nil, err
	}
	if cfg.ACME != nil {
		if h.http01, err = edges.ListenHTTP01(cfg.ACME.HTTP01Socket); err != nil {
			return nil, err
		}
		opened.add(h.http01.Close)
	}
	h.openOffice(roster, past.lease)
	if h.glass = past.glass; h.glass == nil {
		h.glass = &glassCase{broken: map[string]time.Time{}, tried: map[string]time.Time{}, asked: map[string]inquiry{}}
	}
	h.glass.glass = lease.NewGlass(h.state)
	if err := h.openACME(); err != nil {
		return nil, err
	}
	h.answerPeers()
	return h, nil
}

// memory is what a house leaves to the one that takes its place.
type memory struct {
	started time.Time // the daemon
	glass   *glassCase
	outage  *outage
	heard   map[fleet.NodeID]time.Time
	reports *reports
	events  *control.Chronicle
	lease   lease.View
	deeds   *lease.Acting
}

// firstMemory is that of a daemon which has just started.
func firstMemory(events *control.Chronicle) memory {
	return memory{started: time.Now(), reports: newReports(), events: events, deeds: new(lease.Acting), outage: new(outage)}
}

// memory returns what a house whose run has ended leaves behind.
func (h *house) memory() memory {
	m := memory{
		started: h.started, glass: h.glass, heard: map[fleet.NodeID]time.Time{}, reports: h.reports, events: h.events, lease: h.elector.View(),
		deeds: h.deeds, outage: h.outage,
	}
	for _, p := range h.mesh.Peers() {
		m.heard[p.ID] = p.LastHeard
	}
	return m
}

type closers []func() error

func (c *closers) add(f func() error) { *c = append(*c, f) }

func (c closers) close() error {
	var errs []error
	for i := len(c) - 1; i >= 0; i-- {
		errs = append(errs, c[i]())
	}
	return errors.Join(errs...)
}

// openSyncer opens the configured directories, and the issuers' private one.
func (h *house) openSyncer(identity *peer.Identity) error {
	var configs []syncer.DirectoryConfig
	for _, d := range h.cfg.Directories {
		dc := syncer.DirectoryConfig{
			Name: d.Name, Path: d.Path, Owner: d.Owner.String(), Ignore: d.Ignore,
			MaxFile: int64(d.MaxFileSize), MaxDelete: int(d.MaxDelete),
			Members:  func() []fleet.NodeID { return h.members(fleet.Issuer, fleet.Receive) },
			MayWrite: func(id fleet.NodeID) bool { m, ok := h.roster.Load().ByID(id); return ok && d.MayWrite(m) },
			MayLease: h.isIssuer,
			Applied:  h.filesChanged,
			Observed: h.filesChanged,
		}
		if h.isStore(d.Name) {
			dc.Ignore = append([]string{archiveDir + "/*/" + nginx.PlaceholderGeneration}, dc.Ignore...)
			dc.Reserved = reservedPaths(h.cfg.Certificates)
			dc.Precious = h.precious.holds
			dc.Applied, dc.Observed = h.storeChanged, h.storeChanged
		}
		configs = append(configs, dc)
	}
	private := filepath.Join(h.cfg.StateDir, "issuers")
	if h.cfg.ACME != nil && h.self.Role == fleet.Issuer {
		if _, err := h.state.MkDir("issuers", 0o700, durable.AsItIs); err != nil {
			return err
		}
		configs = append(configs, syncer.DirectoryConfig{
			Name: privateDirectory, Path: private, MaxFile: 1 << 20, MaxDelete: 100,
			Members:  func() []fleet.NodeID { return h.members(fleet.Issuer) },
			MayWrite: h.isIssuer, MayLease: h.isIssuer,
		})
	}
	var err error
	h.syncer, err = syncer.Open(syncer.Config{
		Self: h.self.ID, Key: identity.PublicKey(), Sign: identity.Sign, Cluster: h.cfg.Cluster, State: h.state,
		NameOf: func(id fleet.NodeID) string { return h.roster.Load().NameOf(id) },
		Watch:  h.edges.Watch, Log: h.log, Busy: h.edges.Busy,
	}, configs)
	if err != nil {
		return err
	}
	if h.edges.Opened != nil {
		h.edges.Opened(h.syncer.Directories())
	}
	for _, d := range h.syncer.Directories() {
		switch {
		case d.Name == privateDirectory:
			h.private = d
		case h.isStore(d.Name):
			h.store = &lineages{dir: d, declared: h.cfg.Certificates, keyPerm: 0o600}
			if owner := h.storeOwner(); owner.Group != "" {
				h.store.keyPerm = 0o640
			}
		}
	}
	return nil
}

func (h *house) isStore(directory string) bool {
	return h.cfg.ACME != nil && h.cfg.ACME.Store == directory
}

func (h *house) storeOwner() config.Owner {
	for _, d := range h.cfg.Directories {
		if h.isStore(d.Name) {
			return d.Owner
		}
	}
	return config.Owner{}
}

func (h *house) isIssuer(id fleet.NodeID) bool {
	m, ok := h.roster.Load().ByID(id)
	return ok && m.Role == fleet.Issuer
}

// members returns who has one of the roles, this node included if it does.
func (h *house) members(roles ...fleet.Role) []fleet.NodeID {
	var out []fleet.NodeID
	for _, m := range h.roster.Load().Members() {
		for _, role := range roles {
			if m.Role == role {
				out = append(out, m.ID)
			}
		}
	}
	return out
}

// openNginx makes what installs certificates, and tells nginx.
func (h *house) openNginx() {
	runner := nginx.Runner(nil)
	if h.cfg.Nginx.Enabled {
		runner = h.edges.Nginx(h.cfg.Nginx)
	}
	h.nginx = nginx.New(nginx.Config{
		Disabled: !h.cfg.Nginx.Enabled || h.cfg.Nginx.Control == config.ControlNone,
		Store:    h.store.dir.Root(), Verify: h.cfg.Nginx.Verify, Run: runner, Dial: h.edges.Dial,
	})
	h.keeper = nginx.NewKeeper(h.nginx, h.noteReport)
}

// openACME prepares what a holder of the lease does. Members and witnesses never act.
func (h *house) openACME() error {
	if h.private == nil || h.store == nil {
		return nil
	}
	c := h.cfg.ACME
	roots, err := rootsOf(c.CAFile)
	if err != nil {
		return err
	}
	cfg := acmeclient.Config{
		Directory: c.Directory, Staging: c.StagingDirectory, Roots: roots, Email: c.Email, AcceptTerms: c.AcceptTerms,
		Budget: acmeclient.Budget{
			OrdersPerDay: c.Budget.OrdersPerDay, OrdersPerWeek: c.Budget.OrdersPerWeek, FailuresPerHour: c.Budget.FailuresPerHour,
		},
		NoARI:     c.ARI == config.Off,
		UserAgent: "certswarm/" + h.version, Transport: h.edges.CA, Node: h.self.Name,
		Fleet: (*issuerFleet)(h), Log: h.log, Observe: h.logEvent,
	}
	for _, wait := range c.Retry {
		cfg.Retry = append(cfg.Retry, time.Duration(wait))
	}
	for _, cert := range h.cfg.Certificates {
		cfg.Certificates = append(cfg.Certificates, acmeclient.Certificate{
			Name: cert.Name, Names: cert.Names, Key: acmeclient.KeyType(cert.Key[0]), Profile: cert.Profile,
		})
	}
	h.acme, err = acmeclient.New(cfg)
	return err
}

// logEvent is the timeline of an issuance, as one log line a step.
func (h *house) logEvent(e acmeclient.Event) {
	h.log.Info("issuance", "certificate", e.Name, "step", string(e.Step), "node", e.Node, "text", e.Text)
}

// run keeps the house until ctx ends. What is started first is stopped last: whoever acts stops before what it acts
// through.
func (h *house) run(ctx context.Context) error {
	var errs [4]error
	var engines, authority, actors sync.WaitGroup
	ctx, fall := context.WithCancel(ctx)
	defer fall()
	below, stopEngines := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEngines()
	start := func(group *sync.WaitGroup, i int, ctx context.Context, run func(context.Context) error) {
		group.Go(func() {
			if errs[i] = run(ctx); errs[i] != nil {
				fall() // a house without one of its engines does not stand
			}
		})
	}
	start(&engines, 0, below, h.syncer.Run)
	start(&engines, 1, below, h.mesh.Run)
	start(&authority, 2, ctx, h.elector.Run) // the lease goes first of all: nobody acts during the shutdown
	if h.http01 != nil {
		start(&actors, 3, ctx, h.serveChallenges)
	}
	for _, act := range []func(context.Context){h.act, h.keepGlass, h.keepServing, h.gossip, h.followChanges, h.giveBack} {
		actors.Go(func() { act(ctx) })
	}
	<-ctx.Done()
	authority.Wait() // the lease is handed over by way of the mesh
	actors.Wait()
	stopEngines()
	engines.Wait()
	return errors.Join(append(errs[:], h.state.Close())...)
}

// filesChanged wakes whoever cares about files: nginx may refer to them, a wish may be among them, or something to adopt.
func (h *house) filesChanged(paths []index.Path) {
	if h.keeper == nil {
		return
	}
	h.findings.touch(paths)
}

// storeChanged is filesChanged without the challenges: nginx reads those when it is asked for them, and a test of its
// configuration for their sake would stand in the way of the certificate that they are there for.
func (h *house) storeChanged(paths []index.Path) {
	challenges := index.MustPath(acmeDir)
	if slices.ContainsFunc(paths, func(p index.Path) bool { return !p.Under(challenges) }) {
		h.filesChanged(paths)
	}
}

// followChanges turns every engine's changes into the one by which status is watched.
func (h *house) followChanges(ctx context.Context) {
	var all sync.WaitGroup
	follow := func(source func() <-chan struct{}) {
		all.Go(func() {
			for {
				changed := source()
				h.changed.fire()
				select {
				case <-ctx.Done():
					return
				case <-changed:
				}
			}
		})
	}
	follow(h.mesh.Changed)
	follow(h.elector.Changed)
	if h.acme != nil {
		follow(h.acme.Changed)
	}
	for _, d := range h.syncer.Directories() {
		follow(func() <-chan struct{} {
			changed := d.Changed()
			h.elector.Saw(d.LatestEpoch())
			return changed
		})
	}
	all.Wait()
}
