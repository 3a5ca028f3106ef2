package acmeclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	requestTimeout = time.Minute // from when the request leaves until its answer was read
	maxAnswer      = 1 << 20     // bytes of a body that are read
	maxRetryAfter  = 366 * day
)

// newTransport returns HTTPS that trusts roots (nil: the system's).
func newTransport(roots *x509.CertPool) http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	t.MaxIdleConnsPerHost = 8
	return t
}

// edge is where requests leave for the CA. The ACME library hides the headers of successful answers and follows some
// requests by others of its own; what it hides and what it must not do travels in the request's context.
type edge struct {
	next     http.RoundTripper
	inFlight chan struct{} // holds one for each request that the CA has not answered
	reach    *reach
}

type (
	waitKey  struct{} // *time.Duration: receives the Retry-After of the answer
	onlyKey  struct{} // string: the one URL that may be posted to
	rightKey struct{} // func() error: asked as a POST leaves, which its error stops
)

// errFenced is the answer to a request that the library made of its own accord.
var errFenced = errors.New("not asked for")

// withWait lets wait receive what the CA says about when to ask again; zero if it says nothing.
func withWait(ctx context.Context, wait *time.Duration) context.Context {
	return context.WithValue(ctx, waitKey{}, wait)
}

// withOnly lets nothing be posted but to url.
func withOnly(ctx context.Context, url string) context.Context {
	return context.WithValue(ctx, onlyKey{}, url)
}

// withRight lets nothing be posted that ask has an error for.
func withRight(ctx context.Context, ask func() error) context.Context {
	return context.WithValue(ctx, rightKey{}, ask)
}

// RoundTrip implements http.RoundTripper.
func (e edge) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if only, ok := ctx.Value(onlyKey{}).(string); ok && req.Method == http.MethodPost && req.URL.String() != only {
		unsent(req)
		return nil, errFenced
	}
	select {
	case e.inFlight <- struct{}{}:
		defer func() { <-e.inFlight }()
	case <-ctx.Done():
		unsent(req)
		return nil, context.Cause(ctx)
	}
	if ask, ok := ctx.Value(rightKey{}).(func() error); ok && req.Method == http.MethodPost {
		if err := ask(); err != nil {
			unsent(req)
			return nil, err
		}
	}
	bounded, cancel := context.WithTimeout(ctx, requestTimeout)
	answer, err := e.next.RoundTrip(req.WithContext(bounded))
	if err == nil || ctx.Err() == nil { // who has stopped waiting has learnt nothing
		e.reach.heard(err == nil)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	if wait, ok := ctx.Value(waitKey{}).(*time.Duration); ok {
		*wait = retryAfter(answer.Header, time.Now())
	}
	answer.Body = limited{io.LimitReader(answer.Body, maxAnswer), answer.Body, cancel}
	return answer, nil
}

// unsent closes the body of a request of which nothing was sent: a RoundTripper must.
func unsent(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close() // it is this process's own memory
	}
}

// fetch sends a request and reads the answer as a whole.
func fetch(client *http.Client, request *http.Request, userAgent string) (status int, header http.Header, body []byte, err error) {
	request.Header.Set("User-Agent", userAgent)
	answer, err := client.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = answer.Body.Close() }() // it was only read from
	body, err = io.ReadAll(answer.Body)
	return answer.StatusCode, answer.Header, body, err
}

// limited is a body that ends.
type limited struct {
	io.Reader
	body   io.Closer
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (l limited) Close() error {
	defer l.cancel()
	return l.body.Close()
}

// retryAfter returns the wait that an answer asks for (RFC 9110 10.2.3): zero if none or if the instant is past, a year at most.
func retryAfter(header http.Header, now time.Time) time.Duration {
	text := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 63); err == nil {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// retryNonce is the only repetition that is left to the ACME library: a nonce that the CA does not like (RFC 8555 6.5) is
// replaced. All else comes back as an error, with the CA's Retry-After.
func retryNonce(n int, _ *http.Request, answer *http.Response) time.Duration {
	const most = 20
	if answer.StatusCode != http.StatusBadRequest || n > most {
		return 0
	}
	return time.Duration(n) * 10 * time.Millisecond
}
