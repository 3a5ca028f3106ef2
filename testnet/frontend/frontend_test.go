package frontend_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"certswarm/testnet/frontend"
)

// TestMain lets the test's own executable play the stand-in.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == frontend.Standin {
		os.Exit(frontend.StandinMain(os.Args[2:], os.Stdout, os.Stderr))
	}
	// A program built with -race sleeps a second before it exits unless told otherwise; the stand-in is run a lot.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func TestChallengeIsAnsweredFromTheFileThenFromTheSocket(t *testing.T) {
	eachKind(t, func(t *testing.T, h *host) {
		h.install(site, 1)
		h.install(second, 1)
		h.start()
		h.wantGet(token, 200, "from the file")
		h.wantGet("/.well-known/acme-challenge/token-2", 502, "") // neither a file nor an agent

		l, err := net.Listen("unix", h.config.Socket)
		if err != nil {
			t.Fatal(err)
		}
		agent := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, "from the socket for %s: %s", r.Host, r.URL.Path)
		})}
		served := make(chan error, 1)
		go func() { served <- agent.Serve(l) }()
		t.Cleanup(func() {
			_ = agent.Close()
			<-served
		})
		h.wantGet("/.well-known/acme-challenge/token-2", 200, "from the socket for "+site+": /.well-known/acme-challenge/token-2")
		h.wantGet(token, 200, "from the file")
		h.wantGet("/.well-known/acme-challenge/", 200, "from the socket for "+site+": /.well-known/acme-challenge/") // a directory is no file
	})
}

func TestEverythingElseIsRedirected(t *testing.T) {
	eachKind(t, func(t *testing.T, h *host) {
		h.install(site, 1)
		h.install(second, 1)
		h.start()
		for _, path := range []string{"/", "/live/" + site + "/privkey.pem", "/.well-known/security.txt?a=b"} {
			status, location, _ := h.get(path)
			if want := fmt.Sprintf("https://%s:%d%s", site, h.config.HTTPSPort, path); status != 301 || location != want {
				t.Errorf("GET %s: %d, Location %q; want 301, %q", path, status, location, want)
			}
		}
	})
}

func TestBrokenChallengeHealsByReload(t *testing.T) {
	eachKind(t, func(t *testing.T, h *host) {
		h.install(site, 1)
		h.install(second, 1)
		h.config.BreakChallenge = true
		f := h.start()
		h.wantGet(token, 404, "")
		h.config.BreakChallenge = false
		if err := f.Reload(h.ctx, h.config); err != nil {
			t.Fatal(err)
		}
		h.eventually("the token is served", func() bool {
			status, _, body := h.get(token)
			return status == 200 && body == "from the file"
		})
		moved := h.config
		moved.HTTPPort++
		if err := f.Reload(h.ctx, moved); err == nil {
			t.Error("a running front-end moved to another port")
		}
	})
}

func TestCertificateIsChosenByNameAndGreetsWithTheAddress(t *testing.T) {
	eachKind(t, func(t *testing.T, h *host) {
		first, other := h.install(site, 1), h.install(second, 1)
		h.start()
		for name, want := range map[string]leaf{site: first, alias: first, "stranger.test": first, second: other} {
			if h.served(name) != want {
				t.Errorf("%s: another certificate than expected", name)
			}
		}
		client := http.Client{Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		response, err := client.Get(fmt.Sprintf("https://%s:%d/", h.config.Address, h.config.HTTPSPort))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if want := "hello from " + h.config.Address + "\n"; err != nil || string(body) != want {
			t.Errorf("%q, %v; want %q", body, err, want)
		}
	})
}

func TestReloadTakesTheNewCertificate(t *testing.T) {
	eachKind(t, func(t *testing.T, h *host) {
		before := h.install(site, 1)
		h.install(second, 1)
		h.start()
		after := h.install(site, 2)
		if h.served(site) != before {
			t.Fatal("a new certificate is served though nobody asked for a reload")
		}
		if _, talk, err := h.nginx("-s", "reload"); err != nil {
			t.Fatal(err, talk)
		}
		h.eventually("the new certificate is served", func() bool { return h.served(site) == after })
	})
}

func TestMismatchedPairFailsTheTestAndTheOldOneIsServed(t *testing.T) {
	eachKind(t, func(t *testing.T, h *host) {
		before := h.install(site, 1)
		h.install(second, 1)
		h.start()
		if _, talk, err := h.nginx("-t"); err != nil || !strings.Contains(talk, "test is successful") {
			t.Fatal(err, talk)
		}
		chain, _, _ := newPair(t, site)
		_, key, _ := newPair(t, site)
		h.writeGeneration(site, 2, chain, key)

		paths, err := frontend.WriteConfig(h.config)
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"-t"}, {"-s", "reload"}} {
			_, talk, err := h.nginx(args...)
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("nginx %v: %v, want exit status 1", args, err)
			}
			if want := filepath.Join(h.config.Store, "live", site, "privkey.pem"); !strings.Contains(talk, "[emerg]") || !strings.Contains(talk, want) {
				t.Errorf("nginx %v says %q, which does not name %s", args, talk, want)
			}
		}

		// The way around the test: a bare HUP. The running master finds out by itself.
		text, err := os.ReadFile(paths.PidFile)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		logged := func() int {
			text, err := os.ReadFile(paths.ErrorLog)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Count(string(text), "[emerg]")
		}
		earlier := logged()
		if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		h.eventually("the reload was refused", func() bool { return logged() > earlier })
		if h.served(site) != before {
			t.Error("the old certificate is no longer served")
		}
	})
}

func TestDumpShowsTheConfiguration(t *testing.T) {
	eachKind(t, func(t *testing.T, h *host) {
		h.install(site, 1)
		h.install(second, 1)
		dump, talk, err := h.nginx("-T") // works whether or not it runs
		if err != nil {
			t.Fatal(err, talk)
		}
		paths, err := frontend.WriteConfig(h.config)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"# configuration file " + paths.ConfigFile + ":\n",
			filepath.Join(h.config.Store, "live", site, "fullchain.pem"),
			filepath.Join(h.config.Store, "live", second, "privkey.pem"),
		} {
			if !strings.Contains(dump, want) {
				t.Errorf("the dump lacks %q:\n%s", want, dump)
			}
		}
	})
}

func TestAccessLogTellsWhoAsked(t *testing.T) {
	eachKind(t, func(t *testing.T, h *host) {
		h.install(site, 1)
		h.install(second, 1)
		h.start()
		h.get(token)
		paths, err := frontend.WriteConfig(h.config)
		if err != nil {
			t.Fatal(err)
		}
		want := site + ` "GET ` + token + ` HTTP/1.1" 200 "certswarm/\x22test\x22"` + "\n"
		h.eventually("the request is in the access log", func() bool {
			text, err := os.ReadFile(paths.AccessLog)
			if err != nil {
				t.Fatal(err)
			}
			return strings.HasSuffix(string(text), want) && strings.HasPrefix(string(text), "127.0.0.1 [20")
		})
	})
}

func TestStopLeavesNothingAndTheSameFrontEndStartsAgain(t *testing.T) {
	eachKind(t, func(t *testing.T, h *host) {
		h.install(site, 1)
		h.install(second, 1)
		f := h.start()
		f.Stop()
		f.Stop()
		if conn, err := net.Dial("tcp", net.JoinHostPort(h.config.Address, strconv.Itoa(h.config.HTTPPort))); err == nil {
			_ = conn.Close()
			t.Error("somebody still accepts connections")
		}
		paths, err := frontend.WriteConfig(h.config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(paths.PidFile); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the pid file outlived its process: %v", err)
		}
		if _, talk, err := h.nginx("-s", "reload"); err == nil {
			t.Errorf("a front-end that is down was reloaded: %s", talk)
		}
		h.start()
		h.wantGet(token, 200, "from the file")
	})
}

func TestStopByCommand(t *testing.T) {
	eachKind(t, func(t *testing.T, h *host) {
		h.install(site, 1)
		h.install(second, 1)
		f := h.start()
		if _, talk, err := h.nginx("-s", "quit"); err != nil {
			t.Fatal(err, talk)
		}
		f.Stop()
	})
}

func TestStartSaysWhyItCannot(t *testing.T) {
	eachKind(t, func(t *testing.T, h *host) {
		h.install(site, 1) // and no certificate for the second name
		f, err := frontend.Start(h.ctx, h.config)
		if err == nil {
			f.Stop()
			t.Fatal("started without a certificate")
		}
		if want := filepath.Join(h.config.Store, "live", second, "fullchain.pem"); !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not name %s", err, want)
		}
	})
}

func TestStrangerOnThePortIsNotTakenForTheFrontEnd(t *testing.T) {
	eachKind(t, func(t *testing.T, h *host) {
		h.install(site, 1)
		h.install(second, 1)
		paths, err := frontend.WriteConfig(h.config)
		if err != nil {
			t.Fatal(err)
		}
		// What an earlier one left that crashed.
		if err := os.WriteFile(paths.PidFile, fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
			t.Fatal(err)
		}
		var strangers []net.Listener
		for _, port := range []int{h.config.HTTPPort, h.config.HTTPSPort} {
			l, err := net.Listen("tcp", net.JoinHostPort(h.config.Address, strconv.Itoa(port)))
			if err != nil {
				t.Fatal(err)
			}
			strangers = append(strangers, l)
		}
		t.Cleanup(func() {
			for _, l := range strangers {
				_ = l.Close()
			}
		})
		if f, err := frontend.Start(h.ctx, h.config); err == nil {
			f.Stop()
			t.Fatal("started on ports that were taken")
		}
	})
}

func TestKind(t *testing.T) {
	eachKind(t, func(t *testing.T, h *host) {
		h.install(site, 1)
		h.install(second, 1)
		kind := h.start().Kind()
		if h.config.Binary == frontend.Standin && kind != "stand-in" || h.config.Binary != frontend.Standin && !strings.HasPrefix(kind, "nginx 1.") {
			t.Errorf("%s is of kind %q", h.config.Binary, kind)
		}
	})
}

func TestWriteConfigRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*frontend.Config){
		"a relative directory":     func(c *frontend.Config) { c.Dir = "here" },
		"no store":                 func(c *frontend.Config) { c.Store = "" },
		"a variable in a path":     func(c *frontend.Config) { c.Store = "/srv/$host" },
		"a colon in the socket":    func(c *frontend.Config) { c.Socket = "/run/a:b" },
		"a quote in a path":        func(c *frontend.Config) { c.Store = `/srv/"` },
		"a name for an address":    func(c *frontend.Config) { c.Address = "localhost" },
		"no port":                  func(c *frontend.Config) { c.HTTPPort = 0 },
		"one port for both":        func(c *frontend.Config) { c.HTTPPort = c.HTTPSPort },
		"no names":                 func(c *frontend.Config) { c.Names = nil },
		"an empty further one":     func(c *frontend.Config) { c.Also = [][]string{{}} },
		"a name that is a path":    func(c *frontend.Config) { c.Names = []string{"../x"} },
		"a name that is a list":    func(c *frontend.Config) { c.Names = []string{"a; b"} },
		"a binary that is not one": func(c *frontend.Config) { c.Binary = "/nonexistent/nginx" },
		"a binary of another kind": func(c *frontend.Config) { c.Binary = "true" },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, frontend.Standin)
			spoil(&h.config)
			if _, err := frontend.WriteConfig(h.config); err == nil {
				t.Error("accepted")
			}
		})
	}
}
