package nginx_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"certswarm/nginx"
)

const token = "DGyRejmCefe7v4NfDGDKfA_-0123456789abcdefghi"

func TestResponder(t *testing.T) {
	local := func(token string) ([]byte, bool) { return []byte("here." + token), strings.HasPrefix(token, "L") }
	ask := func(ctx context.Context, token string) ([]byte, bool) {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("asked without a deadline")
		}
		return []byte("there." + token), strings.HasPrefix(token, "R")
	}
	r := nginx.NewResponder(local, ask)
	const at = "/.well-known/acme-challenge/"
	for _, c := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", at + "L1", 200, "here.L1"},
		{"HEAD", at + "L1", 200, ""},
		{"GET", at + "R-_9", 200, "there.R-_9"},
		{"GET", at + "X", 404, ""},
		{"GET", at, 404, ""},
		{"GET", at + "L/1", 404, ""},
		{"GET", at + "L.1", 404, ""},
		{"GET", at + "L%2e%2e", 404, ""},
		{"GET", at + "L=", 404, ""},
		{"GET", at + strings.Repeat("L", 129), 404, ""},
		{"GET", at + strings.Repeat("L", 128), 200, "here." + strings.Repeat("L", 128)},
		{"GET", "/L1", 404, ""},
		{"POST", at + "L1", 405, ""},
	} {
		w := httptest.NewRecorder()
		server := httptest.NewServer(r)
		request, err := http.NewRequest(c.method, server.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := server.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(w, response.Body)
		response.Body.Close()
		server.Close()
		if response.StatusCode != c.status || c.status == 200 && w.Body.String() != c.body {
			t.Errorf("%s %s: %d %q", c.method, c.path, response.StatusCode, w.Body)
		}
		if h := response.Header; c.status == 200 && (h.Get("Content-Type") != "text/plain" || h.Get("X-Content-Type-Options") != "nosniff") {
			t.Errorf("%s %s: headers %v", c.method, c.path, h)
		}
	}
	w := httptest.NewRecorder()
	nginx.NewResponder(local, nil).ServeHTTP(w, httptest.NewRequest("GET", at+"R", nil))
	if w.Code != 404 {
		t.Errorf("nobody to ask: %d", w.Code)
	}
}

func TestResponderAsksOnlySoManyAtOnce(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	r := nginx.NewResponder(func(string) ([]byte, bool) { return nil, false }, func(context.Context, string) ([]byte, bool) {
		asked <- struct{}{}
		<-release
		return []byte("found"), true
	})
	request := func() int {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", "/.well-known/acme-challenge/"+token, nil))
		return w.Code
	}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if code := request(); code != 200 {
				t.Errorf("answered with %d", code)
			}
		})
		<-asked
	}
	if code := request(); code != 503 {
		t.Errorf("one too many is answered with %d", code)
	}
	close(release)
	all.Wait()
	go func() { <-asked }()
	if code := request(); code != 200 {
		t.Errorf("afterwards: %d", code)
	}
}

func TestSnippetServesFilesFirstThenTheSocket(t *testing.T) {
	f := start(t, 2, "server { listen PORT0; server_name "+www+"; location ~ /\\. { deny all; } include snippet.conf; location / { return 301 https://$host$request_uri; } }\n"+
		"server { listen PORT1; include snippet.conf; return 301 https://$host$request_uri; }",
		func(f *node) {
			snippet := nginx.Snippet(f.dir+"/acme", filepath.Join(f.prefix, "http01.sock")) // nobody listens there yet
			f.must(os.WriteFile(filepath.Join(f.prefix, "snippet.conf"), []byte(snippet), 0o644))
		})
	fetch := nginx.Fetcher{Dial: new(net.Dialer).DialContext, UserAgent: "certswarm/test"}
	ask := func() (string, error) {
		body, err := fetch.Token(t.Context(), f.ports[0], www, token)
		return string(body), err
	}
	if _, err := ask(); err == nil || !strings.Contains(err.Error(), "502 Bad Gateway") {
		t.Errorf("no file, no responder: %v", err)
	}

	socket, err := net.Listen("unix", filepath.Join(f.prefix, "http01.sock"))
	f.must(err)
	server := http.Server{Handler: nginx.NewResponder(func(string) ([]byte, bool) { return []byte("from the responder"), true }, nil)}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(socket) }()
	defer func() { f.must(server.Close()); <-ended }()
	if body, err := ask(); body != "from the responder" || err != nil {
		t.Errorf("no file: %q, %v", body, err)
	}

	f.must(f.store.WriteFile("acme/.well-known/acme-challenge/"+token, []byte("from the file"), 0o644))
	if body, err := ask(); body != "from the file" || err != nil {
		t.Errorf("with a file: %q, %v", body, err)
	}
	if _, err := fetch.Get(t.Context(), f.ports[0], www, "/.well-known/other"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("the snippet opened more than challenges: %v", err)
	}
	if _, err := fetch.Token(t.Context(), f.ports[1], www, token); err == nil || !strings.Contains(err.Error(), "swallows the challenge") {
		t.Errorf("the trap was not noticed: %v", err)
	}
}

func TestSnippetQuotesPaths(t *testing.T) {
	text := nginx.Snippet("/srv/my certs/acme", `/run/a"b.sock`)
	for _, want := range []string{`root "/srv/my certs/acme";`, `proxy_pass "http://unix:/run/a\"b.sock";`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	plain := nginx.Snippet("/srv/acme", "/run/other.sock")
	if !strings.Contains(plain, "root /srv/acme;") || !strings.Contains(plain, "http://unix:/run/other.sock;") {
		t.Errorf("the defaults are still there:\n%s", plain)
	}
}

func TestFetcher(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/acme-challenge/"+token, func(w http.ResponseWriter, r *http.Request) {
		if r.UserAgent() != "certswarm/test" {
			t.Errorf("User-Agent %q", r.UserAgent())
		}
		_, _ = io.WriteString(w, r.Host)
	})
	mux.HandleFunc("/gone", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "<h1>nothing</h1>\nmore", http.StatusForbidden)
	})
	mux.Handle("/moved", http.RedirectHandler("https://www.example.com/moved", http.StatusMovedPermanently))
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), 2<<20))
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	address := server.Listener.Addr().String()
	fetch := nginx.Fetcher{Dial: new(net.Dialer).DialContext, UserAgent: "certswarm/test"}
	for _, host := range []string{www, "2001:db8::1"} {
		body, err := fetch.Token(t.Context(), address, host, token)
		if err != nil || strings.Trim(string(body), "[]") != host {
			t.Errorf("%s: %q, %v", host, body, err)
		}
	}
	for path, say := range map[string]string{
		"/gone":    address + ` answers http://www.example.com/gone with 403 Forbidden: "<h1>nothing</h1>"`,
		"/moved":   `redirects http://www.example.com/moved to "https://www.example.com/moved": a server-level "return 301" swallows the challenge`,
		"/endless": "more than 1048576 bytes",
	} {
		if _, err := fetch.Get(t.Context(), address, www, path); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v", path, err)
		}
	}
	server.Close()
	if _, err := fetch.Get(t.Context(), address, www, "/"); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody listens: %v", err)
	}
}
