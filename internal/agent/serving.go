package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/nginx"
	"certswarm/syncer/index"
)

// findings is what this node's nginx was last seen to do.
type findings struct {
	touched chan struct{}   // files changed that nginx may care about
	run     context.Context // of whoever applies what is wished; nil before it does

	mu       sync.Mutex
	served   map[string][]nginx.Served // guarded by mu, by certificate
	problems map[string]finding        // guarded by mu, by code and certificate
}

type finding struct {
	nginx.Problem
	since time.Time
}

func (f *findings) init() {
	f.touched = make(chan struct{}, 1)
	f.served, f.problems = map[string][]nginx.Served{}, map[string]finding{}
}

func (f *findings) touch([]index.Path) {
	select {
	case f.touched <- struct{}{}:
	default:
	}
}

// noteReport takes what an Apply did: it replaces what was found before about the same certificates, and about nginx itself. One that this node
// broke off itself, because it ends, tells nothing about nginx.
func (h *house) noteReport(r nginx.Report) {
	f := &h.findings
	if f.run != nil && f.run.Err() != nil {
		return
	}
	f.mu.Lock()
	before := f.problems
	f.problems = map[string]finding{}
	concerned := map[string]bool{"": true}
	for _, o := range r.Outcomes {
		concerned[o.Name] = true
	}
	for key, p := range before {
		if !concerned[p.Name] {
			f.problems[key] = p
		}
	}
	var fresh []nginx.Problem
	for _, p := range r.Problems {
		key := string(p.Code) + " " + p.Name
		old, known := before[key]
		if !known {
			old.since = time.Now()
		}
		if old.Text != p.Text {
			fresh = append(fresh, p)
		}
		f.problems[key] = finding{p, old.since}
	}
	f.keepServedLocked(r.Served)
	f.mu.Unlock()
	h.logReport(r, fresh)
	h.changed.fire()
}

// logReport tells what an Apply did. One that found everything as it was is not worth a line.
func (h *house) logReport(r nginx.Report, fresh []nginx.Problem) {
	if !r.Reloaded && len(r.Outcomes) == 0 {
		r.Steps, r.Served = nil, nil
	}
	if r.Reloaded {
		h.events.Note(control.Event{Kind: control.NginxReloaded, Node: h.self.Name, Text: "nginx was reloaded"})
	}
	for _, s := range r.Steps {
		h.log.Info("nginx", "step", s.Name, "took", s.Took)
	}
	for _, o := range r.Outcomes {
		h.log.Info("certificate installed", "certificate", o.Name, "generation", o.Generation, "previous", o.Previous,
			"installed", o.Installed, "used", o.Used, "rolled_back", o.RolledBack, "reason", o.Reason)
	}
	for _, p := range fresh {
		h.log.Warn(p.Text, "problem", string(p.Code), "certificate", p.Name)
	}
	for _, s := range r.Served {
		h.log.Info("served", "certificate", s.Name, "listener", s.Listener, "key_type", s.KeyType, "state", string(s.State), "serial", s.Serial, "detail", s.Detail)
	}
}

func (f *findings) keepServedLocked(all []nginx.Served) {
	byName := map[string][]nginx.Served{}
	for _, s := range all {
		byName[s.Name] = append(byName[s.Name], s)
	}
	for name, list := range byName {
		f.served[name] = list
	}
}

const (
	verifyOften  = 10 * time.Second // whether nginx runs; and all of it while something is not as it should be
	verifySeldom = 10 * time.Minute
)

// keepServing brings this node's live links and nginx to what the fleet wishes, whenever either changed, and looks from
// time to time whether it still is so.
func (h *house) keepServing(ctx context.Context) {
	if h.keeper == nil {
		return
	}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { h.applyWishes(ctx) })
	running.Go(func() {
		if h.awaitSettled(ctx) {
			h.mayAdopt.Store(true)
			h.findings.touch(nil)
		}
	})
	h.keepLooking(ctx)
}

// applyWishes has nginx serve what the keeper is notified of, until ctx ends.
func (h *house) applyWishes(ctx context.Context) {
	h.findings.run = ctx
	h.keeper.Run(ctx)
}

// keepLooking is keepServing's own part, until ctx ends.
func (h *house) keepLooking(ctx context.Context) {
	look := time.NewTimer(0)
	defer look.Stop()
	var looked time.Time
	forced := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.findings.touched:
			h.pursueWishes(true, false)
		case <-look.C:
			look.Reset(verifyOften)
			down := h.isDown(ctx)
			if !down && time.Since(looked) < verifySeldom && !h.findings.unwell() && !h.untaken.any() {
				continue
			}
			looked = time.Now()
			again := time.Since(forced) >= verifySeldom
			if again {
				forced = looked
			}
			h.pursueWishes(false, again)
			h.lookAgain(ctx, down)
		}
	}
}

// isDown reports whether the nginx in this node's care, if any, does not run.
func (h *house) isDown(ctx context.Context) bool {
	if !h.serves() {
		return false
	}
	running, err := h.nginx.Running(ctx)
	return (err != nil || !running) && ctx.Err() == nil
}

// pursueWishes notifies the keeper of every certificate whose live link is not what the fleet wishes, and adopts what was
// brought to this node. filesToo says that other files changed as well; again, that what nginx refused is to be tried once more, for its
// configuration may have been mended.
func (h *house) pursueWishes(filesToo, again bool) {
	defer func() { h.precious.appraise(h.store, time.Now()) }()
	var installs []nginx.Install
	for _, c := range h.store.declared {
		wished := h.store.wished(c.Name)
		if wished == 0 {
			h.adopt(c)
			wished = h.store.wished(c.Name)
		}
		switch {
		case wished > 0:
			h.untaken.drop(c.Name) // whatever stands there makes way for it
		case h.standInAgain(c):
			filesToo = true
		}
		h.reconsider(c.Name)
		installed := h.store.installed(c.Name)
		if wished == 0 || wished == installed && !h.findings.refused(c.Name) {
			continue
		}
		if err := h.store.makeWay(c.Name, wished); err != nil {
			h.log.Error("a directory stands where a link must be", "certificate", c.Name, "error", err)
			continue
		}
		installs = append(installs, nginx.Install{
			Name: c.Name, Names: c.Names, Generation: wished, Urgent: installed == 0, Force: again,
		})
	}
	if len(installs) > 0 || filesToo {
		h.keeper.Notify(installs...)
	}
}

// adopt publishes a valid certificate that somebody brought to live/NAME as a generation, once it is known what the fleet has. The
// files that were brought stay where they are until the link takes their place.
func (h *house) adopt(c config.Certificate) {
	key, chain, ok := h.store.found(c, time.Now())
	if !ok || !h.mayAdopt.Load() || !h.store.dir.MayWrite(h.self.ID) {
		return
	}
	generation, _, err := h.store.install(fleet.Epoch{}, c.Name, key, chain)
	if err != nil {
		h.log.Error("a certificate that is there already cannot be adopted", "certificate", c.Name, "error", err)
		return
	}
	h.log.Info("a certificate that was there already is adopted", "certificate", c.Name, "generation", generation)
}

// lookAgain handshakes with this node's listeners and keeps what they show. An nginx that went down, or came up, is the
// keeper's business: it says what is wrong, and what no longer is.
func (h *house) lookAgain(ctx context.Context, down bool) {
	if !h.serves() {
		return
	}
	f := &h.findings
	served := h.nginx.Verify(ctx, h.wants(""))
	if ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	notify := down || f.downLocked() || f.reachOtherwiseLocked(served)
	clear(f.served) // of what no server uses any more, too
	f.keepServedLocked(served)
	f.dropMendedLocked(served)
	f.mu.Unlock()
	h.changed.fire()
	if notify {
		h.keeper.Notify()
	}
}

// unwell reports whether this node's nginx, when it was last seen, was not as it should be.
func (f *findings) unwell() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, list := range f.served {
		if slices.ContainsFunc(list, func(s nginx.Served) bool { return s.State != nginx.Current }) {
			return true
		}
	}
	return f.downLocked()
}

// dropMendedLocked ends the problem of certificates that every listener shows by now.
func (f *findings) dropMendedLocked(served []nginx.Served) {
	mended := map[string]bool{}
	for _, s := range served {
		before, seen := mended[s.Name]
		mended[s.Name] = s.State == nginx.Current && (before || !seen)
	}
	for key, p := range f.problems {
		if p.Code == nginx.NotServed && mended[p.Name] {
			delete(f.problems, key)
		}
	}
}

// downLocked reports whether nginx was found down when it was last needed.
func (f *findings) downLocked() bool {
	for _, p := range f.problems {
		if p.Code == nginx.Down {
			return true
		}
	}
	return false
}

// reachOtherwiseLocked reports whether a listener that could be reached no longer can, or the other way round.
func (f *findings) reachOtherwiseLocked(now []nginx.Served) bool {
	return slices.ContainsFunc(now, func(s nginx.Served) bool {
		before := slices.ContainsFunc(f.served[s.Name], func(old nginx.Served) bool {
			return old.Listener == s.Listener && old.KeyType == s.KeyType && old.State == nginx.Unreachable
		})
		return before != (s.State == nginx.Unreachable)
	})
}

// wants returns what this node's nginx should serve: for one declared name, or for all.
func (h *house) wants(name string) []nginx.Want {
	var out []nginx.Want
	for _, c := range h.store.declared {
		if name != "" && c.Name != name {
			continue
		}
		held, err := h.store.held(c.Name)
		if err != nil || held == nil {
			continue
		}
		out = append(out, nginx.Want{Name: c.Name, Names: c.Names, Leaf: held.Leaf})
	}
	return out
}

// verifyHere handshakes with this node's own listeners.
func (h *house) verifyHere(ctx context.Context, name string) []control.Result {
	results := []control.Result{}
	if !h.serves() {
		return results
	}
	for _, c := range h.store.declared {
		if h.store.wished(c.Name) == 0 && (name == "" || name == c.Name) {
			results = append(results, control.Result{
				Node: h.self.Name, Name: c.Name, State: control.Stale, Error: "nothing is issued yet: a placeholder stands in",
			})
		}
	}
	served := h.nginx.Verify(ctx, h.wants(name))
	for _, s := range served {
		results = append(results, control.Result{
			Node: h.self.Name, Name: s.Name, Listener: s.Listener, KeyType: s.KeyType,
			State: control.ServedState(s.State), Serial: s.Serial, Error: s.Detail,
		})
	}
	if ctx.Err() != nil {
		return results
	}
	h.findings.mu.Lock()
	notify := h.findings.reachOtherwiseLocked(served)
	h.findings.keepServedLocked(served)
	h.findings.mu.Unlock()
	h.changed.fire()
	if notify { // the next look would find nothing new
		h.keeper.Notify()
	}
	return results
}

// verify asks every node of the fleet to handshake with its own listeners, now.
func (h *house) verify(ctx context.Context, name string) (control.Verification, error) {
	if h.store == nil {
		return control.Verification{}, fmt.Errorf("%w: this node's configuration has no certificates", control.ErrUnknownCertificate)
	}
	if _, ok := h.store.find(name); name != "" && !ok {
		return control.Verification{}, fmt.Errorf("%w: %s", control.ErrUnknownCertificate, name)
	}
	var mu sync.Mutex
	var v control.Verification
	var all sync.WaitGroup
	for _, m := range h.roster.Load().Members() {
		all.Go(func() {
			results, err := h.verifyAt(ctx, m, name)
			if err != nil {
				results = []control.Result{{Node: m.Name, Name: name, State: control.Unreachable, Error: err.Error()}}
			}
			mu.Lock()
			defer mu.Unlock()
			v.Results = append(v.Results, results...)
		})
	}
	all.Wait()
	slices.SortFunc(v.Results, compareResults)
	return v, nil
}

func (h *house) verifyAt(ctx context.Context, m fleet.Member, name string) ([]control.Result, error) {
	if m.ID == h.self.ID {
		return h.verifyHere(ctx, name), nil
	}
	if m.Role == fleet.Witness {
		return nil, nil
	}
	var raw json.RawMessage
	if err := h.ask(ctx, m.ID, callVerify, name, &raw); err != nil {
		return nil, err
	}
	var results []control.Result
	if err := json.Unmarshal(raw, &results); err != nil {
		return nil, err
	}
	for i := range results {
		results[i].Node = m.Name // whatever it calls itself
	}
	return results, nil
}
