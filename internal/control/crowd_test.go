package control

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

func newQueue() *queue {
	return &queue{waiting: make(chan net.Conn, 2*connections), closed: make(chan struct{})}
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

// connect sends words, and takes what is answered; the channel is closed at the first line of an answer.
func (q *queue) connect(t *testing.T, words string) (answered chan struct{}) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = ours.Close() })
	answered = make(chan struct{})
	q.waiting <- theirs
	go func() {
		if _, err := io.WriteString(ours, words); err != nil {
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

// However many connect, a number of them is served at a time, and who sends nothing more makes room for the others.
func TestTheControlSocketServesSoManyAtOnce(t *testing.T) {
	const question = "GET /v1/status HTTP/1.1\r\nHost: certswarm\r\n\r\n"
	for name, words := range map[string]string{"half a request": "GET /v1/status HT", "silence": "", "silence after an answer": question} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue()
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- NewServer(&still{}, slog.New(slog.DiscardHandler)).Serve(ctx, q) }()
				for range connections {
					q.connect(t, words)
				}
				last := q.connect(t, question)
				synctest.Wait()
				if n := q.taken.Load(); n != connections {
					t.Errorf("%d connections are served at once", n)
				}
				time.Sleep(headerTimeout)
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
