package acmeclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
)

// maxInFlight is how many requests are with the CA at once, for all certificates together. Attempts themselves are not
// counted: one that stands at the barrier for hours must not keep others from the CA.
const maxInFlight = 8

// maxOrdering is how many of them may be new orders: so many are refused before a refusal is known.
const maxOrdering = 4

// gate lets new orders pass, or none. The CA's Retry-After is about one certificate or about all that an account orders, and
// does not say which. It holds everybody up when the CA itself is busy (503), or when two names were refused
// and no order was accepted in between.
type gate struct {
	room chan struct{} // holds one for each order that the CA has not answered

	mu      sync.Mutex
	refused string    // the last name that was, since an order was accepted; guarded by mu
	until   time.Time // nobody passes before; guarded by mu
}

// pass returns when an order for name may be placed; leave is told what became of it. A *Refusal says that none may, now.
func (g *gate) pass(ctx context.Context, name string) (leave func(error), err error) {
	select {
	case g.room <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errNoAuthority, context.Cause(ctx))
	}
	if refusal := g.shut(time.Now()); refusal != nil {
		<-g.room
		return nil, refusal
	}
	return func(err error) {
		g.answered(name, err, time.Now())
		<-g.room
	}, nil
}

// shut says why no order may be placed now, nil if one may.
func (g *gate) shut(now time.Time) *Refusal {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.until.After(now) {
		return nil
	}
	return &Refusal{Code: CodeRateLimited, Until: g.until, Text: "the CA asked for no new orders, whatever their names"}
}

// answered takes note of what became of an order for name.
func (g *gate) answered(name string, err error, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		g.refused = ""
		return
	}
	f := diagnose(err, now)
	if f.until.IsZero() {
		return
	}
	problem, ok := errors.AsType[*acme.Error](err)
	busy := ok && problem.StatusCode == http.StatusServiceUnavailable
	several := g.refused != "" && g.refused != name
	if (busy || f.code == CodeRateLimited && several) && f.until.After(g.until) {
		g.until = f.until
	}
	if f.code == CodeRateLimited {
		g.refused = name
	}
}
