package agent

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// queue is a listener within a bubble, and what waits to be accepted there.
type queue struct {
	waiting chan net.Conn
	closed  chan struct{}
	taken   atomic.Int32
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case conn := <-q.waiting:
		q.taken.Add(1)
		return conn, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error   { close(q.closed); return nil }
func (q *queue) Addr() net.Addr { return &net.UnixAddr{} }

// connect sends words, and takes what is answered if it reads; the channel is closed at the first line of an answer.
func (q *queue) connect(t *testing.T, words string, reads bool) (answered chan struct{}) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = ours.Close() })
	answered = make(chan struct{})
	q.waiting <- theirs
	go func() {
		if _, err := io.WriteString(ours, words); err != nil || !reads {
			return
		}
		in := bufio.NewReader(ours)
		if _, err := in.ReadString('\n'); err == nil {
			close(answered)
		}
		_, _ = io.Copy(io.Discard, in)
	}()
	return answered
}

// Everybody on the machine may connect to the challenge socket: however many do, and whatever they leave undone, they cost
// so many descriptors and no more, and nginx gets its turn.
func TestTheChallengeSocketServesSoManyAtOnce(t *testing.T) {
	const question = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, hold := range map[string]struct {
		words string
		reads bool
		after time.Duration // it is sent away
	}{
		"silence":                     {"", true, 5 * time.Second},
		"half a request":              {"GET / HT", true, 5 * time.Second},
		"a request without its body":  {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", true, 10 * time.Second},
		"silence after an answer":     {question, true, 5 * time.Second},
		"an answer that nobody takes": {question, false, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &queue{waiting: make(chan net.Conn, 2*challengesAtOnce), closed: make(chan struct{})}
				h := &house{http01: q, log: slog.New(slog.DiscardHandler)}
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- h.serveChallenges(ctx) }()
				for range challengesAtOnce {
					q.connect(t, hold.words, hold.reads)
				}
				last := q.connect(t, question, true)
				synctest.Wait()
				if n := q.taken.Load(); n != challengesAtOnce {
					t.Errorf("%d connections are served at once", n)
				}
				time.Sleep(hold.after)
				synctest.Wait()
				select {
				case <-last:
				default:
					t.Error("the others hold the socket")
				}
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
