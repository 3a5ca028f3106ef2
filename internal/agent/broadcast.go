package agent

import "sync"

// broadcast tells any number of waiters that something changed. Take the channel first, look second, wait third: then no
// change is missed.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{} // guarded by mu: closed at the next fire
}

func newBroadcast() *broadcast { return &broadcast{ch: make(chan struct{})} }

func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

func (b *broadcast) fire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ch)
	b.ch = make(chan struct{})
}
