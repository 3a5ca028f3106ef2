package lease

import (
	"sync"
	"time"
)

// acting is who acts under the grants of one engine and cannot stop the moment that a right ends: programs, which are told to end and do so in
// their own time. Until they have, the lease is not released, and no other grant begins here.
type acting struct {
	none func() // called without mu, when the last one has left

	mu  sync.Mutex
	n   int           // guarded by mu
	all chan struct{} // guarded by mu: closed when n is 0 again; nil while it is
}

// lingering is for how long a lease that is given away waits for them. After that it goes without a release, so that the next holder waits for a ttl:
// a program that ignores SIGTERM is killed meanwhile.
const lingering = 2 * time.Second

// enter is Grant.Enter.
func (a *acting) enter() (leave func()) {
	a.mu.Lock()
	if a.n == 0 {
		a.all = make(chan struct{})
	}
	a.n++
	a.mu.Unlock()
	return sync.OnceFunc(func() {
		a.mu.Lock()
		a.n--
		last := a.n == 0
		if last {
			close(a.all)
			a.all = nil
		}
		a.mu.Unlock()
		if last {
			a.none()
		}
	})
}

// anybody reports whether somebody has entered and not left.
func (a *acting) anybody() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n > 0
}

// wait returns when nobody acts any more, or lingering has passed.
func (a *acting) wait() {
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
