// Package ca is a real ACME certificate authority in one value, for tests and the demo: Pebble in strict mode behind
// HTTPS, with a name server of its own that sends each of its validations to another front-end, and a record of
// what it was asked and what it issued.
//
// It is not for production, knows nothing of certswarm, and is never linked into it. Pebble is told some settings through
// the environment; Start sets those variables for the moment of construction, so other Pebbles must not be built
// meanwhile. Pebble's queue of validations has no end: one idle goroutine stays behind after Close.
package ca

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	pebble "github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
)

// Config is what a CA is made of.
type Config struct {
	Addresses  []string                 // IPv4 addresses of the front-ends; every name resolves to them in turn
	HTTPPort   int                      // where http-01 is validated, on each of Addresses
	Listen     string                   // host:port of the directory; empty: 127.0.0.1 and a free port
	Profiles   map[string]time.Duration // validity of each profile, in whole seconds; empty: "default" with 90 days
	RetryAfter time.Duration            // Retry-After while something is pending, in whole seconds; 0: none

	NonceReject int  // percent of good nonces that are refused as bad
	AuthzReuse  int  // percent of authorizations for which an earlier valid one is used
	Sleep       bool // validations begin after a random wait of up to 5 s

	// Middleware, if set, stands between the network and the CA. What it does not pass on is not in the record, nor is
	// what Faults, which stand behind it, keep from the CA.
	Middleware func(http.Handler) http.Handler
	Faults     *Faults   // what goes wrong; nil: nothing
	Log        io.Writer // Pebble's own log; nil: nowhere
}

// CA is a running certificate authority.
type CA struct {
	cfg      Config
	url      string
	tlsRoot  []byte
	names    *nameServer
	server   *http.Server
	serving  sync.WaitGroup
	stopAuto func() bool
	record   record

	mu      sync.Mutex   // Pebble's handlers race with each other on one order: one request at a time
	handler http.Handler // guarded by mu
	root    []byte       // guarded by mu
}

// Start returns a CA that answers until ctx ends or Close is called.
func Start(ctx context.Context, cfg Config) (*CA, error) {
	if len(cfg.Addresses) == 0 {
		return nil, errors.New("ca: no front-end to validate against: Addresses is empty")
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if len(cfg.Profiles) == 0 {
		cfg.Profiles = map[string]time.Duration{"default": 90 * 24 * time.Hour}
	}
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	if cfg.Faults == nil {
		cfg.Faults = new(Faults)
	}
	names, err := startNameServer(cfg.Addresses, cfg.Faults.unknown)
	if err != nil {
		return nil, err
	}
	c := &CA{cfg: cfg, names: names}
	c.record.changed = make(chan struct{})
	c.Forget()

	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		names.close()
		return nil, fmt.Errorf("ca: directory: %w", err)
	}
	c.url = "https://" + listener.Addr().String() + wfe.DirectoryPath
	certificate, root, err := selfIssued(listener.Addr())
	if err != nil {
		return nil, errors.Join(err, listener.Close(), names.close())
	}
	c.tlsRoot = root

	front := cfg.Faults.Guard(http.HandlerFunc(c.serve))
	if cfg.Middleware != nil {
		front = cfg.Middleware(front)
	}
	c.server = &http.Server{
		Handler:           front,
		TLSConfig:         serverTLS(certificate),
		ErrorLog:          log.New(cfg.Log, "", 0),
		ReadHeaderTimeout: 10 * time.Second,
	}
	c.serving.Go(func() { _ = c.server.ServeTLS(listener, "", "") })
	c.stopAuto = context.AfterFunc(ctx, func() { _ = c.stop() })
	return c, nil
}

// Close ends the CA and waits until nothing of it listens.
func (c *CA) Close() error {
	c.stopAuto()
	return c.stop()
}

func (c *CA) stop() error {
	err := errors.Join(c.server.Close(), c.names.close())
	c.serving.Wait()
	return err
}

// DirectoryURL is what clients are configured with.
func (c *CA) DirectoryURL() string { return c.url }

// Root returns the PEM certificate that the directory's HTTPS chains to. Issued certificates do not.
func (c *CA) Root() []byte { return c.tlsRoot }

// IssuingRoot returns the PEM certificate that issued certificates chain to.
func (c *CA) IssuingRoot() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.root
}

// NameServer returns the host:port of the name server (UDP and TCP).
func (c *CA) NameServer() string { return c.names.address }

// Point makes every name resolve to these front-ends alone from now on: that is how one is taken out of service.
func (c *CA) Point(addresses ...string) error { return c.names.point(addresses) }

// Forget makes the CA lose its accounts, orders and issuing keys, as one that was built anew under its old address.
func (c *CA) Forget() {
	handler, root := build(c.cfg, c.names.address, &c.record)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handler, c.root = handler, root
}

// serve passes one request to Pebble and records it.
func (c *CA) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record.request(w, r, c.handler)
}

// environment is held while Pebble's settings are in it.
var environment sync.Mutex

// build makes a Pebble that remembers nothing.
func build(cfg Config, nameServer string, lines io.Writer) (handler http.Handler, root []byte) {
	environment.Lock()
	defer environment.Unlock()
	defer setEnvironment(map[string]string{
		"PEBBLE_VA_NOSLEEP":      map[bool]string{false: "1", true: "0"}[cfg.Sleep],
		"PEBBLE_WFE_NONCEREJECT": strconv.Itoa(cfg.NonceReject),
		"PEBBLE_AUTHZREUSE":      strconv.Itoa(cfg.AuthzReuse),
	})()
	profiles := make(map[string]pebble.Profile, len(cfg.Profiles))
	for name, validity := range cfg.Profiles {
		profiles[name] = pebble.Profile{Description: name, ValidityPeriod: uint64(validity / time.Second)}
	}
	const strict, chainLength, noAlternates, tlsPort = true, 1, 0, 0
	logger := log.New(io.MultiWriter(lines, cfg.Log), "", log.Lmicroseconds|log.Lmsgprefix)
	store := db.NewMemoryStore()
	issuer := pebble.New(logger, store, "", "ecdsa", noAlternates, chainLength, profiles)
	validator := va.New(logger, cfg.HTTPPort, tlsPort, strict, nameServer, store)
	wait := int(cfg.RetryAfter / time.Second)
	front := wfe.New(logger, store, validator, issuer, []string{"pebble.invalid"}, strict, false, wait, wait)
	return filed(store, front.Handler()), issuer.GetRootCert(0).PEM()
}

// filed has a certificate handed out only when Pebble would know it again. It files what it has issued a moment after its order is valid, and says
// 500 until then to an order that replaces the certificate.
func filed(store *db.MemoryStore, next http.Handler) http.Handler {
	const certificates = "/certZ/"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if serial, is := strings.CutPrefix(r.URL.Path, certificates); is && store.GetCertificateByID(serial) != nil {
			for _, err := store.GetOrderByIssuedSerial(serial); err != nil && r.Context().Err() == nil; {
				runtime.Gosched()
				_, err = store.GetOrderByIssuedSerial(serial)
			}
		}
		next.ServeHTTP(w, r)
	})
}

// setEnvironment sets the variables and returns what puts them back.
func setEnvironment(variables map[string]string) (restore func()) {
	var undo []func()
	for name, value := range variables {
		if old, ok := os.LookupEnv(name); ok {
			undo = append(undo, func() { _ = os.Setenv(name, old) })
		} else {
			undo = append(undo, func() { _ = os.Unsetenv(name) })
		}
		_ = os.Setenv(name, value)
	}
	return func() {
		for _, f := range undo {
			f()
		}
	}
}
