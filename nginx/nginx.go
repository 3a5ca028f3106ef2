// Package nginx puts certificates into service: it tests nginx, reloads it, and proves with handshakes what it serves
// afterwards. It also has what nginx needs around that: placeholders for certificates that do not exist yet, the
// configuration snippet and the responder for http-01 challenges, and the check that a challenge is really served.
//
// It is not a process supervisor: it never starts, stops or restarts nginx, and an nginx that is down is no error. It does
// not replicate files: archive/NAME/GENERATION/ is there when Apply is called, and live/NAME, the link that nginx
// follows, is this node's own. It does not decide which certificate is due, or which generation should be installed.
//
// Everything it knows of a configuration it knows from nginx -T (discover.go), never from guessing where files lie.
package nginx

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"certswarm/internal/durable"
)

// Config is what New needs. Store is always needed; Run and Dial unless Disabled.
type Config struct {
	Disabled bool          // certificates are checked and installed; nginx is not asked, told or looked at
	Store    *durable.Root // the directory that holds archive/ and live/, by the path that nginx's configuration uses
	Verify   []string      // listeners to handshake with, host:port or unix:/path; empty: those in nginx -T
	Run      Runner
	Dial     Dial
}

// Install is one certificate that should be in service.
type Install struct {
	Name       string   // under live/ and archive/
	Names      []string // host names and addresses that it must be for
	Generation int      // of archive/NAME/GENERATION/
	Force      bool     // try a generation even if nginx refused it before
	Urgent     bool     // a Keeper does not hold it back: the first certificate after a placeholder, or an expired one
}

// Nginx is one nginx and the certificates under one store. Its methods may be used from several goroutines.
type Nginx struct {
	config Config
	last   atomic.Pointer[site] // the newest configuration that passed a test; nil before the first

	mu     sync.Mutex            // one Apply at a time; guards what follows
	bad    map[string]badInstall // by certificate name: the generation that nginx refused last
	loaded fingerprint           // of what nginx read at the last reload that took effect; zero: not known
}

type badInstall struct {
	generation int
	reason     string
}

// New touches nothing.
func New(config Config) *Nginx {
	return &Nginx{config: config, bad: make(map[string]badInstall)}
}

// Code names a kind of problem in the words of the status contract.
type Code string

// The problems that installing can end in.
const (
	ChainRefused Code = "chain-refused"       // the pair itself is no good; nothing was touched
	WriteFailed  Code = "write-failed"        // live/NAME could not be switched
	TestFailed   Code = "nginx-test-failed"   // nginx refuses its configuration
	ReloadFailed Code = "nginx-reload-failed" // installed, but nginx could not be told
	Down         Code = "nginx-down"          // installed; nginx will read it when somebody starts it
	NotServed    Code = "not-served"          // installed and reloaded, and a listener does not show it
)

// Problem is something an operator must know.
type Problem struct {
	Code Code
	Name string // of the certificate; empty when it is about nginx as a whole
	Text string // what, where and why, with nginx's own line where nginx said no
}

// Outcome is what became of one Install.
type Outcome struct {
	Name       string
	Generation int
	Previous   string // what live/NAME led to before: a generation, "placeholder", or "" when it did not exist
	Installed  bool   // live/NAME leads to Generation now
	Used       bool   // some server of this node refers to it, as far as known; one that is installed and not used is no error
	RolledBack bool   // it was switched, refused by nginx, and switched back
	Reason     string // why it is not installed; empty when it is
}

// Step is one step of an Apply with the time that it took.
type Step struct {
	Name string // validate, baseline, switch, test, rollback, reload, confirm
	Took time.Duration
}

// Report is everything that one Apply did and saw.
type Report struct {
	Outcomes []Outcome // in the order of the installs
	Served   []Served
	Problems []Problem
	Steps    []Step // in the order in which they ran
	Reloaded bool   // nginx was told to reload, and accepted
}

// Running reports whether the nginx in care runs; see Runner. One that is Disabled does.
func (n *Nginx) Running(ctx context.Context) (bool, error) {
	if n.config.Disabled {
		return true, nil
	}
	return n.config.Run.Running(ctx)
}

// Verify asks every listener now, once, and returns what it shows for each want. What no server of this node uses
// is left out. A want whose listeners cannot even be found has one observation without a listener.
func (n *Nginx) Verify(ctx context.Context, wants []Want) []Served {
	if n.config.Disabled {
		return nil
	}
	known, reason := n.lookAround(ctx)
	var targets []target
	var out []Served
	for _, w := range wants {
		found := w.targets(known, n.config.Verify)
		if found == nil && known == nil {
			out = append(out, Served{Name: w.Name, KeyType: w.keyType(), State: Unreachable, Detail: reason})
		}
		targets = append(targets, found...)
	}
	return append(merge(n.ask(ctx, targets, asker.once)), out...)
}

// Unused returns those of the named certificates that no server refers to, going by the configuration that was seen last. Where that is not known, or
// has variables in the paths of certificates, there are none.
func (n *Nginx) Unused(names ...string) (unused []string) {
	s := n.last.Load()
	if s == nil || s.dynamic {
		return nil
	}
	for _, name := range names {
		if !s.used[name] {
			unused = append(unused, name)
		}
	}
	return unused
}

// lookAround returns the configuration of the running nginx, the newest one that was known if it cannot be read now, or
// nil and the reason.
func (n *Nginx) lookAround(ctx context.Context) (*site, string) {
	running, err := n.config.Run.Running(ctx)
	reason := "nginx is not running"
	if err == nil && running {
		var dump string
		if dump, err = n.config.Run.Test(ctx); err == nil {
			return n.understand(dump), ""
		}
	}
	if err != nil {
		reason = err.Error()
	}
	return n.last.Load(), "no listener is known: " + reason
}

// understand remembers a configuration that passed the test.
func (n *Nginx) understand(dump string) *site {
	s := parseSite(dump, n.label)
	n.last.Store(s)
	return s
}

// label returns the certificate name that a file of nginx's configuration belongs to: it lies in live/NAME/, or is a link
// that ends in archive/NAME/ (flat layouts). For any other file it is the path itself.
func (n *Nginx) label(file string) string {
	dir, err := filepath.Abs(n.config.Store.Dir())
	if err != nil {
		return file
	}
	if name, ok := nameUnder(filepath.Join(dir, "live"), file); ok {
		return name
	}
	realDir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return file
	}
	if name, ok := nameUnder(filepath.Join(realDir, "live"), file); ok {
		return name
	}
	if end, err := filepath.EvalSymlinks(file); err == nil {
		if name, ok := nameUnder(filepath.Join(realDir, "archive"), end); ok {
			return name
		}
	}
	return file
}

// nameUnder returns the first component of file below dir.
func nameUnder(dir, file string) (string, bool) {
	rest, ok := strings.CutPrefix(file, dir+"/")
	if !ok {
		return "", false
	}
	name, _, deeper := strings.Cut(rest, "/")
	return name, deeper && name != ""
}

// certificateLimit bounds a file of a generation, in bytes.
const certificateLimit = 1 << 20

// readGeneration returns the leaf of a generation that nginx can be handed.
func (n *Nginx) readGeneration(dir string, names []string, now time.Time) (*x509.Certificate, error) {
	chain := dir + "/fullchain.pem"
	fullchain, chainErr := n.config.Store.ReadFile(chain, certificateLimit)
	privkey, keyErr := n.config.Store.ReadFile(dir+"/privkey.pem", certificateLimit)
	if err := cmp.Or(chainErr, keyErr); err != nil {
		return nil, err
	}
	leaf, err := CheckPair(fullchain, privkey, names, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(n.config.Store.Dir(), chain), err)
	}
	return leaf, nil
}
