package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/nginx"
)

// A certificate that every listener shows by now is no problem any more; one that a single listener does not show still is.
func TestNotServedEndsWhenEveryListenerShowsTheCertificate(t *testing.T) {
	problem := func(name string) (string, finding) {
		return "not-served " + name, finding{Problem: nginx.Problem{Code: nginx.NotServed, Name: name}}
	}
	var f findings
	f.init()
	for _, name := range []string{"mended", "half", "unseen"} {
		key, p := problem(name)
		f.problems[key] = p
	}
	f.dropMendedLocked([]nginx.Served{
		{Name: "mended", Listener: "a", State: nginx.Current}, {Name: "mended", Listener: "b", State: nginx.Current},
		{Name: "half", Listener: "a", State: nginx.Stale}, {Name: "half", Listener: "b", State: nginx.Current},
	})
	for name, want := range map[string]bool{"mended": false, "half": true, "unseen": true} {
		key, _ := problem(name)
		if _, still := f.problems[key]; still != want {
			t.Errorf("%s: still a problem: %v", name, still)
		}
	}
}

// frontEnd is an nginx that serves site with one certificate, as long as it is up.
type frontEnd struct {
	master, listens atomic.Bool
	dump            string
	pair            tls.Certificate
}

func (f *frontEnd) Running(context.Context) (bool, error) { return f.master.Load(), nil }
func (f *frontEnd) Test(context.Context) (string, error)  { return f.dump, nil }
func (f *frontEnd) Reload(context.Context) error          { return nil }
func (f *frontEnd) up(is bool)                            { f.master.Store(is); f.listens.Store(is) }
func (f *frontEnd) dial(_ context.Context, _, _ string) (net.Conn, error) {
	if !f.listens.Load() {
		return nil, syscall.ECONNREFUSED
	}
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		_ = tls.Server(server, &tls.Config{Certificates: []tls.Certificate{f.pair}}).Handshake() // the client says what it saw
		_, _ = server.Read(make([]byte, 1))
	}()
	return client, nil
}

// watchedFrontEnd returns a house with an nginx in its care that serves what it should.
func watchedFrontEnd(t *testing.T) (*house, *frontEnd) {
	t.Helper()
	l := openStore(t)
	issue(t, l, 20*days)
	root := l.dir.Root()
	if err := root.ReplaceSymlink(liveDir+"/"+site, generationLink(site, 1)); err != nil {
		t.Fatal(err)
	}
	live := filepath.Join(root.Dir(), liveDir, site)
	f := &frontEnd{dump: fmt.Sprintf("# configuration file /etc/nginx/nginx.conf:\nhttp { server { listen 127.0.0.1:443 ssl; server_name %s; ssl_certificate %s/fullchain.pem; ssl_certificate_key %s/privkey.pem; } }\n", site, live, live)}
	var err error
	if f.pair, err = tls.LoadX509KeyPair(live+"/fullchain.pem", live+"/privkey.pem"); err != nil {
		t.Fatal(err)
	}
	f.up(true)
	h := &house{store: l, cfg: &config.Config{}, log: slog.New(slog.DiscardHandler), events: control.NewChronicle()}
	h.self.Name, h.cfg.Nginx.Enabled, h.cfg.Nginx.Control = "fe1", true, config.ControlDirect
	h.findings.init()
	h.nginx = nginx.New(nginx.Config{Store: root, Run: f, Dial: f.dial})
	return h, f
}

// look runs what looks after nginx while during does.
func (h *house) look(t *testing.T, during func()) {
	h.changed = newBroadcast()
	h.keeper = nginx.NewKeeper(h.nginx, h.noteReport)
	h.findings.init()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { h.applyWishes(ctx) })
	running.Go(func() { h.keepLooking(ctx) })
	during()
	cancel()
	running.Wait()
}

// found tells the codes of what is wrong with nginx, and how its only listener was last seen.
func found(h *house) string {
	codes := ""
	for _, p := range h.nginxProblems() {
		codes += string(p.Code) + " "
	}
	for _, s := range h.servedHere(site, "") {
		if s.State != control.Stale { // "" is no certificate that could be current
			codes += string(s.State)
		}
	}
	return codes
}

// An nginx that ends is said to be down within seconds, although all was well and nobody asks for a certificate; and one that came back is not.
func TestAnNginxThatEndsIsNoticed(t *testing.T) {
	for name, verify := range map[string]bool{"by itself": false, "after somebody verified": true} {
		t.Run(name, func(t *testing.T) {
			h, f := watchedFrontEnd(t)
			synctest.Test(t, func(t *testing.T) {
				h.look(t, func() {
					for range 2 {
						time.Sleep(time.Minute)
						if got := found(h); got != "" {
							t.Errorf("while it serves: %s", got)
						}
						f.up(false)
						if verify {
							h.verifyHere(t.Context(), "")
						}
						time.Sleep(15 * time.Second)
						if got := found(h); got != "nginx-down unreachable" {
							t.Errorf("15 s after it ended: %q", got)
						}
						f.up(true)
					}
				})
			})
		})
	}
}

// A master that stays while nothing listens any more, as one does that ends gracefully, is a listener that does not serve.
func TestAListenerThatAVerificationMissesIsSaid(t *testing.T) {
	h, f := watchedFrontEnd(t)
	synctest.Test(t, func(t *testing.T) {
		h.look(t, func() {
			time.Sleep(time.Minute)
			f.listens.Store(false)
			h.verifyHere(t.Context(), "")
			time.Sleep(25 * time.Second) // what does not follow a reload gets its time
			if got := found(h); got != "not-served unreachable" {
				t.Errorf("%q", got)
			}
			f.listens.Store(true)
			time.Sleep(15 * time.Second)
			if got := found(h); got != "" {
				t.Errorf("once it listens again: %q", got)
			}
		})
	})
}

// slow is an nginx that reloads until it is told to stop, or fails at once.
type slow struct {
	*frontEnd
	fails bool
}

func (s slow) Reload(ctx context.Context) error {
	if s.fails {
		return errors.New("no such process")
	}
	<-ctx.Done()
	return ctx.Err()
}

// A reload that this node itself broke off, because it ends, is no failure of nginx.
func TestAReloadThatTheEndInterruptsIsNoFailure(t *testing.T) {
	for fails, want := range map[bool]string{false: "", true: "nginx-reload-failed "} {
		h, f := watchedFrontEnd(t)
		h.nginx = nginx.New(nginx.Config{Store: h.store.dir.Root(), Run: slow{f, fails}, Dial: f.dial})
		var log strings.Builder
		h.log = slog.New(slog.NewTextHandler(&log, nil))
		synctest.Test(t, func(t *testing.T) {
			h.look(t, func() {
				h.keeper.Notify()
				time.Sleep(5 * time.Second)
				synctest.Wait()
			})
			codes := ""
			for _, p := range h.nginxProblems() {
				codes += string(p.Code) + " "
			}
			if codes != want || strings.Contains(log.String(), "could not be reloaded") != fails {
				t.Errorf("%q\n%s", codes, log.String())
			}
		})
	}
}

// The nginx to be tested is the configured one.
func TestHowToTestNginx(t *testing.T) {
	for want, c := range map[string]config.Nginx{
		"nginx -t": {Binary: "nginx"},
		"on fe1: /opt/nginx/sbin/nginx -t -p /opt/nginx -c conf/edge.conf": {Binary: "/opt/nginx/sbin/nginx", Prefix: "/opt/nginx", Config: "conf/edge.conf"},
		"on fe1: nginx -t -c '/etc/my nginx/it'\\''s.conf'":                {Binary: "nginx", Config: "/etc/my nginx/it's.conf"},
	} {
		h := &house{cfg: &config.Config{Nginx: c}}
		h.self.Name = "fe1"
		h.findings.init()
		h.findings.problems["nginx-down "] = finding{Problem: nginx.Problem{Code: nginx.Down}}
		if got := h.nginxProblems()[0].Next; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
