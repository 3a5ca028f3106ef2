package acmeclient

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

// failure is why an attempt stopped, and what that means for the next.
type failure struct {
	code      Code
	err       error
	final     bool      // this attempt cannot come to anything: begin another
	transient bool      // worth repeating at once, a few times
	until     time.Time // the CA wants to be left alone until then; zero: it did not say
	uncounted bool      // nothing was tried
	moot      bool      // what the attempt was for has come to be otherwise
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// errNoAuthority stops an attempt without a trace: somebody else may be continuing it already.
var errNoAuthority = errors.New("the authority to act ended")

// diagnose says what an error means. Errors of the Fleet come as a *failure already; what is left came from the CA or
// the way to it.
func diagnose(err error, now time.Time) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if r, ok := errors.AsType[*Refusal](err); ok {
		return &failure{code: r.Code, err: err, until: r.Until, uncounted: true}
	}
	problem, ok := errors.AsType[*acme.Error](err)
	if !ok {
		return &failure{code: CodeUnreachable, err: fmt.Errorf("the CA cannot be reached: %w", err), transient: true}
	}
	f := &failure{code: CodeRefused, err: fmt.Errorf("the CA refused: %w", err)}
	if wait := retryAfter(problem.Header, now); wait > 0 {
		f.until = now.Add(wait)
	}
	switch {
	case problem.StatusCode == http.StatusTooManyRequests || isProblem(err, "rateLimited"):
		f.code = CodeRateLimited
	case problem.StatusCode >= 500:
		f.code = CodeUnreachable
		f.transient = f.until.IsZero()
	}
	return f
}

// isProblem tells the ACME problem type (RFC 8555 6.7) of err.
func isProblem(err error, kind string) bool {
	problem, ok := errors.AsType[*acme.Error](err)
	return ok && strings.EqualFold(problem.ProblemType, "urn:ietf:params:acme:error:"+kind)
}

// isGone tells that the CA does not know an order: it never did, it forgot it, or it belongs to another account.
func isGone(err error) bool {
	problem, ok := errors.AsType[*acme.Error](err)
	return ok && (problem.StatusCode == http.StatusNotFound || problem.StatusCode == http.StatusForbidden && isProblem(err, "unauthorized"))
}

// ofFleet marks an error that came from this fleet rather than from the CA.
func ofFleet(err error, doing string) error {
	if err == nil {
		return nil
	}
	return &failure{code: CodeWrite, err: fmt.Errorf("%s: %w", doing, err), transient: true}
}
