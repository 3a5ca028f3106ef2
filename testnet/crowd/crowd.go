// Package crowd is a listener inside a testing/synctest bubble, and the many who connect to it: a socket of the kernel would stop the bubble's clock.
package crowd

import (
	"bufio"
	"io"
	"net"
	"sync/atomic"
	"testing"
)

// Listener is a net.Listener. What connects waits until it is accepted, as it would in the kernel.
type Listener struct {
	waiting chan net.Conn
	closed  chan struct{}
	taken   atomic.Int32
}

// Listen returns a Listener with room for that many who wait. It must be called inside the bubble.
func Listen(room int) *Listener {
	return &Listener{waiting: make(chan net.Conn, room), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.waiting:
		l.taken.Add(1)
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It may be called once.
func (l *Listener) Close() error { close(l.closed); return nil }

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{} }

// Taken returns how many connections have been accepted.
func (l *Listener) Taken() int { return int(l.taken.Load()) }

// Connect sends words, and takes what is answered if it reads; the channel is closed at the first line of an answer. The connection stays open
// until the other side ends it, or the test does.
func (l *Listener) Connect(t *testing.T, words string, reads bool) (answered <-chan struct{}) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = ours.Close() }) // a pipe's Close cannot fail
	heard := make(chan struct{})
	l.waiting <- theirs
	go func() {
		if _, err := io.WriteString(ours, words); err != nil || !reads {
			return
		}
		in := bufio.NewReader(ours)
		if _, err := in.ReadString('\n'); err == nil {
			close(heard)
		}
		_, _ = io.Copy(io.Discard, in) // whatever ends it, there is nobody left to tell
	}()
	return heard
}
