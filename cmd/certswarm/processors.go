package main

import (
	"os"
	"runtime"
	"sync"
	"time"
)

// processors decides how many of the machine's processors the daemon computes on: one while there is little to do, which is nearly always, for what is
// handed from one goroutine to the next need not wake another thread then; all that it may use from the moment in which it is told that there is much,
// until a while after it was told last. Whoever sets GOMAXPROCS has decided. See docs/decisions/0023.
type processors struct {
	use func(all bool)

	mu   sync.Mutex
	last time.Time   // guarded by mu: when there was much to do
	all  bool        // guarded by mu
	lull *time.Timer // guarded by mu; runs while all is true
}

// lullAfter is how long nothing much must have been to do.
const lullAfter = 2 * time.Second

// newProcessors begins with all: at its start a daemon has much to do.
func newProcessors(use func(all bool)) *processors {
	p := &processors{use: use, last: time.Now(), all: true}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lull = time.AfterFunc(lullAfter, p.rest)
	return p
}

// useProcessors is what a processors does to this process.
func useProcessors(all bool) {
	switch {
	case os.Getenv("GOMAXPROCS") != "":
	case all:
		runtime.SetDefaultGOMAXPROCS() // the cgroup's limit counts, and is watched again
	default:
		runtime.GOMAXPROCS(1)
	}
}

// busy says that there is much to do. It costs next to nothing when it was said lately.
func (p *processors) busy() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = time.Now()
	if !p.all {
		p.all = true
		p.use(true)
		p.lull.Reset(lullAfter)
	}
}

func (p *processors) rest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if left := lullAfter - time.Since(p.last); left > 0 {
		p.lull.Reset(left)
		return
	}
	p.all = false
	p.use(false)
}
