package nginx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	challengePath = "/.well-known/acme-challenge/" // RFC 8555 8.3
	tokenLimit    = 128                            // characters; CAs use 43
	askTime       = 3 * time.Second                // the snippet's proxy_read_timeout is longer
	asksAtOnce    = 16
)

// Responder answers http-01 challenges on the socket behind the snippet's @certswarm: GET and HEAD of a well-formed token,
// and nothing else. Anybody on the internet can make it ask; therefore it asks few questions at once, and not for long.
type Responder struct {
	local func(token string) ([]byte, bool)
	ask   func(ctx context.Context, token string) ([]byte, bool)
	slots chan struct{}
}

// NewResponder returns a Responder that looks with local first, which must be quick, and then asks the other nodes, for
// up to 3 seconds. ask may be nil.
func NewResponder(local func(token string) ([]byte, bool), ask func(ctx context.Context, token string) ([]byte, bool)) *Responder {
	return &Responder{local: local, ask: ask, slots: make(chan struct{}, asksAtOnce)}
}

// ServeHTTP implements http.Handler.
func (r *Responder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if request.Method != http.MethodGet && request.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are answered here", http.StatusMethodNotAllowed)
		return
	}
	token, ok := strings.CutPrefix(request.URL.Path, challengePath)
	if !ok || !ValidToken(token) {
		http.NotFound(w, request)
		return
	}
	answer, found := r.local(token)
	if !found && r.ask != nil {
		select {
		case r.slots <- struct{}{}:
			answer, found = r.askOthers(request.Context(), token)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many unknown tokens are being asked for", http.StatusServiceUnavailable)
			return
		}
	}
	if !found {
		http.NotFound(w, request)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer) // whoever asked is gone; there is nobody to tell
}

func (r *Responder) askOthers(ctx context.Context, token string) ([]byte, bool) {
	defer func() { <-r.slots }()
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return r.ask(ctx, token)
}

// ValidToken reports whether token may be one: base64url without padding (RFC 8555 8.3), at most 128 characters. It is
// also a file name that cannot leave its directory.
func ValidToken(token string) bool {
	return token != "" && len(token) <= tokenLimit && strings.IndexFunc(token, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) < 0
}

// Fetcher asks an nginx for a file over plain HTTP, as a CA would.
type Fetcher struct {
	Dial      Dial
	UserAgent string
}

const (
	fetchTime  = 10 * time.Second
	fetchLimit = 1 << 20 // bytes of a body
)

// Token fetches the answer to a challenge for host from the web server at address (host:port).
func (f Fetcher) Token(ctx context.Context, address, host, token string) ([]byte, error) {
	return f.Get(ctx, address, host, challengePath+token)
}

// Get fetches http://host/path from the web server at address, whatever host resolves to. Anything but a 200 is an error
// that names the status and the first line of what came with it. Redirects are not followed: a CA would follow one, to
// a server that this check knows nothing about.
func (f Fetcher) Get(ctx context.Context, address, host, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+urlHost(host)+path, nil)
	if err != nil {
		return nil, fmt.Errorf("http://%s%s is not an address: %w", host, path, err)
	}
	request.Header.Set("User-Agent", f.UserAgent)
	client := http.Client{
		Transport: &http.Transport{
			DisableKeepAlives:  true,
			DisableCompression: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return f.Dial(ctx, "tcp", address)
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		var wrapped *url.Error // says what was asked for, but not of whom
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, fmt.Errorf("%s does not answer %s: %w", address, request.URL, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, fetchLimit+1))
	switch {
	case response.StatusCode/100 == 3:
		return nil, fmt.Errorf("%s redirects %s to %q: a server-level \"return 301\" swallows the challenge, put it in \"location /\"",
			address, request.URL, response.Header.Get("Location"))
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers %s with %s: %q", address, request.URL, response.Status, firstLine(body))
	case err != nil:
		return nil, fmt.Errorf("%s began to answer %s and stopped: %w", address, request.URL, err)
	case len(body) > fetchLimit:
		return nil, fmt.Errorf("%s answers %s with more than %d bytes, beginning %q", address, request.URL, fetchLimit, firstLine(body))
	}
	return body, nil
}

// urlHost puts an IPv6 address into brackets.
func urlHost(host string) string {
	if ip := net.ParseIP(host); ip != nil && strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

func firstLine(body []byte) string {
	const enough = 120
	line, _, _ := bytes.Cut(bytes.TrimSpace(body), []byte("\n"))
	return string(bytes.TrimSpace(line[:min(len(line), enough)]))
}
