package acmeclient

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// session is one tenure: a Client under one Authority, at one CA.
type session struct {
	ctx       context.Context // ends with the tenure
	client    *Client
	authority Authority
	directory string       // URL of the CA's
	count     func() error // asked before each newOrder; nil: it need not be
	unleased  bool         // the authority is not the lease
	nonces    chan string  // of that CA, good for one signed request each: CAs allow far fewer requests for nonces than others
}

// permit is asked before each call to the CA that cannot be taken back, which is then made with the context it returns: whatever
// is waited for in between (the directory, a nonce, a place among the requests), the question is put again as the request leaves.
func (s *session) permit(ctx context.Context) (context.Context, error) {
	ask := func() error { return s.mayAct(ctx) }
	return withRight(ctx, ask), ask()
}

func (s *session) mayAct(ctx context.Context) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", errNoAuthority, context.Cause(ctx))
	}
	if err := s.authority.Check(); err != nil {
		return fmt.Errorf("%w: %w", errNoAuthority, err)
	}
	return nil
}

// saveJSON returns when a majority holds value. It repeats until ctx ends: what was learnt from the CA must not be lost
// because a disk or a peer was not there for a moment.
func (s *session) saveJSON(ctx context.Context, path string, value any) error {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("%s cannot be written as JSON: %w", path, err)
	}
	const first, most = 100 * time.Millisecond, 10 * time.Second
	for wait := first; ; wait = min(2*wait, most) {
		err := s.client.cfg.Fleet.Save(ctx, path, content)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			s.client.cfg.Log.Warn("a majority of the issuers does not hold the file yet; trying again", "path", path, "err", err)
		}
		if pause(ctx, wait) != nil {
			return fmt.Errorf("%w before %s was on a majority of the issuers: %w", errNoAuthority, path, err)
		}
	}
}

// within returns ctx that ends with the tenure too, whose cause is ErrNotActing then.
func (s *session) within(ctx context.Context) (bound context.Context, release func()) {
	bound, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(ErrNotActing) })
	return bound, func() {
		stop()
		cancel(nil)
	}
}

// pause waits, or returns why it need not.
func pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
