package acmeclient

import (
	"context"
	"fmt"
	"sync"
)

// turns lets one attempt at a time have an order open for a set of names: the two halves of an RSA and ECDSA pair have the same. Let's Encrypt
// returns the pending order of an account to whoever orders the same names again, and the two attempts would finalize one order
// with two requests.
type turns struct {
	mu    sync.Mutex
	taken map[string]chan struct{} // by set; closed when it is free again; guarded by mu
}

// take waits for the turn of set and returns how it is given back, which may be said more than once. waits is told, once, that another has it.
func (t *turns) take(ctx context.Context, set string, waits func()) (leave func(), err error) {
	for waited := false; ; waited = true {
		t.mu.Lock()
		other, taken := t.taken[set]
		if !taken {
			mine := make(chan struct{})
			if t.taken == nil {
				t.taken = map[string]chan struct{}{}
			}
			t.taken[set] = mine
			t.mu.Unlock()
			return sync.OnceFunc(func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				delete(t.taken, set)
				close(mine)
			}), nil
		}
		t.mu.Unlock()
		if !waited {
			waits()
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", errNoAuthority, context.Cause(ctx))
		}
	}
}
