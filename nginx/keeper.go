package nginx

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	gatherTime  = 50 * time.Millisecond // from the first notice: files of one batch arrive together
	reloadEvery = 2 * time.Second       // between the starts of two Applies: every reload leaves a set of old workers behind
)

// Applier is what a Keeper calls; *Nginx is one.
type Applier interface {
	Apply(ctx context.Context, installs []Install) Report
}

// Keeper turns any number of notices into few calls of Apply, one at a time. Notices that come while one is under way
// wait for the next; of several installs of one certificate the last one noticed counts.
type Keeper struct {
	nginx Applier
	done  func(Report)
	wake  chan struct{} // capacity 1: something is waiting

	mu      sync.Mutex
	waiting map[string]Install // by name; guarded by mu
	foreign bool               // files were changed by others; guarded by mu
	urgent  bool               // guarded by mu
}

// NewKeeper returns a Keeper that hands every report to done, from the goroutine of Run.
func NewKeeper(nginx Applier, done func(Report)) *Keeper {
	return &Keeper{nginx: nginx, done: done, wake: make(chan struct{}, 1), waiting: make(map[string]Install)}
}

// Notify says what should be in service; without installs, that others changed files. It never blocks.
func (k *Keeper) Notify(installs ...Install) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.foreign = k.foreign || len(installs) == 0
	for _, install := range installs {
		k.waiting[install.Name] = install
		k.urgent = k.urgent || install.Urgent
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run calls Apply until ctx ends. What is waiting then is forgotten: whoever starts the next Keeper says again what it
// wants.
func (k *Keeper) Run(ctx context.Context) {
	next := time.Now()
	for {
		select {
		case <-k.wake:
		case <-ctx.Done():
			return
		}
		if !sleep(ctx, gatherTime) || !k.hold(ctx, next) {
			return
		}
		next = time.Now().Add(reloadEvery)
		installs, foreign := k.take()
		if len(installs) > 0 {
			k.done(k.nginx.Apply(ctx, installs))
		}
		if foreign {
			k.done(k.nginx.Apply(ctx, nil))
		}
	}
}

// hold waits until next, or until something urgent is noticed; false when ctx ended.
func (k *Keeper) hold(ctx context.Context, next time.Time) bool {
	due := time.NewTimer(time.Until(next))
	defer due.Stop()
	for !k.isUrgent() {
		select {
		case <-due.C:
			return true
		case <-k.wake:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (k *Keeper) isUrgent() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.urgent
}

// take empties what is waiting, in the order of the names.
func (k *Keeper) take() (installs []Install, foreign bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case <-k.wake: // about what is taken now
	default:
	}
	for _, name := range slices.Sorted(maps.Keys(k.waiting)) {
		installs = append(installs, k.waiting[name])
	}
	foreign = k.foreign
	clear(k.waiting)
	k.foreign, k.urgent = false, false
	return installs, foreign
}

// sleep returns false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
