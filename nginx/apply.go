package nginx

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Apply puts certificates into service and returns when it is known what every listener shows: within a second for
// a healthy nginx, after about ten when a listener does not follow. Without installs it takes notice of files that
// others changed: it reloads if anything that nginx refers to is not what it read last.
//
// It never gives up half-way: what it could not do is in the report, and the same call can be made again. A generation
// that nginx refused is refused from memory until another one, or Force, is asked for. When ctx ends between a switch and
// the verdict on it, the switch is undone.
func (n *Nginx) Apply(ctx context.Context, installs []Install) Report {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := application{Nginx: n, ctx: ctx}
	a.run(installs)
	for _, p := range a.pending {
		a.report.Outcomes = append(a.report.Outcomes, p.outcome)
	}
	return a.report
}

// application is one Apply under way. Nginx.mu is held.
type application struct {
	*Nginx
	ctx     context.Context
	pending []*pending
	report  Report
	site    *site       // as of the last test that passed
	state   fingerprint // of what nginx would read now
}

// pending is one install under way.
type pending struct {
	install  Install
	outcome  Outcome
	leaf     *x509.Certificate
	previous string // target of live/NAME; "" when there was none
	ready    bool   // the pair is good: it may be switched
	switched bool   // this Apply has switched it, and it still is
}

func (p *pending) link() string { return "live/" + p.install.Name }
func (p *pending) dir() string {
	return "archive/" + p.install.Name + "/" + strconv.Itoa(p.install.Generation)
}
func (p *pending) target() string { return "../" + p.dir() }

// run is the order of effects.
func (a *application) run(installs []Install) {
	a.step("validate", func() { a.validate(installs) })
	if a.config.Disabled {
		a.step("switch", func() { a.flip(a.pending) })
		return
	}
	running, err := a.config.Run.Running(a.ctx)
	if err != nil || !running {
		// Nothing is tested where nothing runs: as root, a test makes pid and log files.
		a.step("switch", func() { a.flip(a.pending) })
		text := "nginx is not running: the files are in place for its next start"
		if err != nil {
			text = fmt.Sprintf("it cannot be told whether nginx runs, so it was not reloaded: %v", err)
		}
		a.problem(Down, "", text)
		a.loaded = fingerprint{}
		return
	}
	if broken := a.test("baseline"); broken != nil {
		// Not our fault, and perhaps our cure: the new certificate may be what is missing.
		a.step("switch", func() { a.flip(a.pending) })
		if err := a.test("test"); err != nil {
			a.problem(TestFailed, "", fmt.Sprintf("the configuration was refused before anything was changed, so nginx was not reloaded: %v", err))
			return
		}
	} else {
		a.installTested(a.pending)
	}
	a.state = readState(a.site)
	a.reload(len(installs) == 0)
}

// validate decides what may be switched; it changes nothing.
func (a *application) validate(installs []Install) {
	for _, install := range installs {
		p := &pending{install: install, outcome: Outcome{Name: install.Name, Generation: install.Generation}}
		a.pending = append(a.pending, p)
		if strings.ContainsAny(install.Name, "/\x00") || install.Name == "" || install.Name == "." || install.Name == ".." {
			a.refuse(p, ChainRefused, fmt.Sprintf("%q cannot be the name of a certificate: it must be one file name", install.Name))
			continue
		}
		var err error
		p.previous, err = a.config.Store.Readlink(p.link())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.refuse(p, WriteFailed, fmt.Sprintf("%s is not ours to switch; move it away: %v", p.link(), err))
			continue
		}
		if p.previous != "" {
			p.outcome.Previous = path.Base(p.previous)
		}
		p.outcome.Installed = p.previous == p.target()
		bad, known := a.bad[install.Name]
		if known && bad.generation == install.Generation && !install.Force && !p.outcome.Installed {
			a.refuse(p, TestFailed, bad.reason)
			continue
		}
		leaf, err := a.readGeneration(p.dir(), install.Names, time.Now())
		if err != nil {
			a.refuse(p, ChainRefused, fmt.Sprintf("generation %d of %s was not installed: %v", install.Generation, install.Name, err))
			continue
		}
		p.leaf, p.ready = leaf, true
	}
}

// installTested switches everything in set and lets nginx judge; what it refuses is switched back. One bad
// certificate does not hold up the others: after a refusal each is tried alone.
func (a *application) installTested(set []*pending) {
	var changed []*pending
	a.step("switch", func() { changed = a.flip(set) })
	if len(changed) == 0 {
		return
	}
	// A crash here leaves links that nginx was not asked about, and nginx with what it read before. The next Apply finds
	// nothing to switch: it tests, and reloads because listeners do not show what they should. Should nginx refuse what
	// the links lead to, that Apply takes the configuration for broken before, and says so in nginx's own words.
	refusal := a.test("test")
	if refusal == nil {
		for _, p := range changed {
			delete(a.bad, p.install.Name)
		}
		return
	}
	a.step("rollback", func() { a.flipBack(changed) })
	var said *Refusal
	if !errors.As(refusal, &said) {
		for _, p := range changed {
			a.refuse(p, TestFailed, fmt.Sprintf("generation %d of %s was put back, because nginx could not be asked about it: %v", p.install.Generation, p.install.Name, refusal))
		}
		return
	}
	if err := a.test("test"); err != nil {
		for _, p := range changed {
			a.refuse(p, TestFailed, fmt.Sprintf("generation %d of %s was put back: somebody else is changing the configuration, which nginx refuses with and without it: %v", p.install.Generation, p.install.Name, err))
		}
		return
	}
	if len(changed) > 1 {
		for _, p := range changed {
			a.installTested([]*pending{p})
		}
		return
	}
	p := changed[0]
	reason := fmt.Sprintf("nginx refuses generation %d of %s, so it was put back: %v", p.install.Generation, p.install.Name, said)
	a.bad[p.install.Name] = badInstall{generation: p.install.Generation, reason: reason}
	a.refuse(p, TestFailed, reason)
}

// flip makes every link of set that is ready lead to its new generation, and returns those that did not before.
func (a *application) flip(set []*pending) []*pending {
	var changed []*pending
	for _, p := range set {
		if !p.ready || p.previous == p.target() {
			continue
		}
		if err := a.config.Store.ReplaceSymlink(p.link(), p.target()); err != nil {
			a.refuse(p, WriteFailed, fmt.Sprintf("generation %d of %s could not be installed: %v", p.install.Generation, p.install.Name, err))
			continue
		}
		p.switched, p.outcome.Installed, p.outcome.RolledBack = true, true, false
		changed = append(changed, p)
	}
	return changed
}

// flipBack makes the links lead where they led before flip, and needs nothing but the file system for it.
func (a *application) flipBack(changed []*pending) {
	for _, p := range changed {
		var err error
		if p.previous != "" {
			err = a.config.Store.ReplaceSymlink(p.link(), p.previous)
		} else if err = a.config.Store.Remove(p.link()); err == nil {
			err = a.config.Store.SyncDir("live")
		}
		if err != nil {
			a.problem(WriteFailed, p.install.Name, fmt.Sprintf("%s could not be put back to %q, and nginx refuses it as it is: %v", p.link(), p.previous, err))
			continue
		}
		p.switched, p.outcome.Installed, p.outcome.RolledBack = false, false, true
	}
}

// refuse records why p is not installed.
func (a *application) refuse(p *pending, code Code, reason string) {
	p.ready, p.outcome.Reason = false, reason
	a.problem(code, p.install.Name, reason)
}

func (a *application) problem(code Code, name, text string) {
	a.report.Problems = append(a.report.Problems, Problem{Code: code, Name: name, Text: text})
}

// test asks nginx about its configuration as it is now, and understands it when it passes.
func (a *application) test(step string) (err error) {
	a.step(step, func() {
		var dump string
		if dump, err = a.config.Run.Test(a.ctx); err == nil {
			a.site = a.understand(dump)
		}
	})
	return err
}

// reload tells nginx, if there is anything to tell, and finds out what became of it.
func (a *application) reload(foreign bool) {
	var wants []Want
	switched := false
	for _, p := range a.pending {
		p.outcome.Used = a.site.dynamic || a.site.used[p.install.Name]
		if !p.outcome.Installed || !p.ready {
			continue
		}
		switched = switched || p.switched && p.outcome.Used
		wants = append(wants, Want{Name: p.install.Name, Names: p.install.Names, Leaf: p.leaf})
	}
	if foreign {
		wants = wantsOf(a.site)
	}
	var targets []target
	for _, w := range wants {
		targets = append(targets, w.targets(a.site, a.config.Verify)...)
	}
	if !switched && !a.needed(foreign, targets) {
		return
	}
	var err error
	a.step("reload", func() { err = a.config.Run.Reload(a.ctx) })
	if err != nil {
		a.loaded = fingerprint{}
		a.problem(ReloadFailed, "", fmt.Sprintf("the files are in place, but nginx could not be reloaded: %v", err))
		return
	}
	a.report.Reloaded = true
	a.step("confirm", func() { a.confirm(targets) })
}

// needed decides whether nginx must read again when nothing was switched that it uses. When it is not known what nginx
// read last, listeners that show what they should speak for it: after a restart of this program nothing is reloaded.
func (a *application) needed(foreign bool, targets []target) bool {
	known := a.loaded != fingerprint{}
	if known && a.loaded != a.state || !known && foreign {
		return true
	}
	a.step("confirm", func() { a.report.Served = merge(a.ask(a.ctx, targets, asker.once)) })
	if !known && a.shows(Stale) {
		a.report.Served = nil
		return true
	}
	a.complain()
	return false
}

// confirm waits until every target shows what it should, or the time is up.
func (a *application) confirm(targets []target) {
	a.loaded = fingerprint{}
	select {
	case <-time.After(settleTime):
	case <-a.ctx.Done():
	}
	ctx, cancel := context.WithTimeout(a.ctx, confirmTime+time.Duration(len(targets))*confirmTimePerTarget)
	defer cancel()
	a.report.Served = merge(a.ask(ctx, targets, asker.untilSettled))
	// A reload that fails in the master changes nothing and says so only in the log; then no listener shows anything
	// new, and the next Apply must try again.
	if a.shows(Current) || !a.shows(Stale) {
		a.loaded = a.state
	}
	a.complain()
}

func (a *application) shows(state State) bool {
	return slices.ContainsFunc(a.report.Served, func(s Served) bool { return s.State == state })
}

func (a *application) complain() {
	for _, s := range a.report.Served {
		if s.State == Stale || s.State == Unreachable {
			a.problem(NotServed, s.Name, fmt.Sprintf("%s (%s): %s", s.Listener, s.State, s.Detail))
		}
	}
}

func (a *application) step(name string, do func()) {
	start := time.Now()
	do()
	a.report.Steps = append(a.report.Steps, Step{Name: name, Took: time.Since(start)})
}

// readState takes one fingerprint of everything that nginx reads when it loads its configuration.
func readState(s *site) fingerprint {
	all := sha256.New()
	fmt.Fprintf(all, "%x\n", s.text)
	for _, file := range s.files {
		data, err := os.ReadFile(file)
		fmt.Fprintf(all, "%q %x %v\n", file, sha256.Sum256(data), err)
	}
	return fingerprint(all.Sum(nil))
}
