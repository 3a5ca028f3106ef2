package lease

import (
	"sync"
	"time"

	"certswarm/internal/fleet"
)

// Acting is who acts on this node under grants, whatever engine granted them, and cannot stop the moment that a right ends: programs, which are told
// to end and do so in their own time. Until they have, the lease is not released, and no other grant begins here. The zero value is nobody.
type Acting struct {
	mu   sync.Mutex
	n    int           // guarded by mu
	last fleet.Epoch   // guarded by mu: under which somebody entered
	all  chan struct{} // guarded by mu: closed when n is 0 again; nil while it is
	none func()        // guarded by mu, called without it: when the last one has left
}

// tell has none called from now on, and nothing that was called before: an engine takes over from the one before it.
func (a *Acting) tell(none func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.none = none
}

// lingering is for how long a lease that is given away waits for them. After that it goes without a release, so that the next holder waits for a ttl:
// a program that ignores SIGTERM is killed meanwhile.
const lingering = 2 * time.Second

// enter is Grant.Enter, of a grant under epoch.
func (a *Acting) enter(epoch fleet.Epoch) (leave func()) {
	a.mu.Lock()
	a.last = epoch
	if a.n == 0 {
		a.all = make(chan struct{})
	}
	a.n++
	a.mu.Unlock()
	return sync.OnceFunc(func() {
		a.mu.Lock()
		a.n--
		last, none := a.n == 0, a.none
		if last {
			close(a.all)
			a.all = nil
		}
		a.mu.Unlock()
		if last {
			none()
		}
	})
}

// anybody reports whether somebody has entered and not left.
func (a *Acting) anybody() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n > 0
}

// epoch returns the last under which somebody acts, zero if nobody does.
func (a *Acting) epoch() fleet.Epoch {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n == 0 {
		return fleet.Epoch{}
	}
	return a.last
}

// wait returns when nobody acts any more, or lingering has passed.
func (a *Acting) wait() {
	a.mu.Lock()
	all := a.all
	a.mu.Unlock()
	if all == nil {
		return
	}
	limit := time.NewTimer(lingering)
	defer limit.Stop()
	select {
	case <-all:
	case <-limit.C:
	}
}
