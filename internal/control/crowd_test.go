package control

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	_ "certswarm/internal/bubble"
	"certswarm/testnet/crowd"
)

// However many connect, a number of them is served at a time, and who sends nothing more makes room for the others.
func TestTheControlSocketServesSoManyAtOnce(t *testing.T) {
	const question = "GET /v1/status HTTP/1.1\r\nHost: certswarm\r\n\r\n"
	for name, words := range map[string]string{"half a request": "GET /v1/status HT", "silence": "", "silence after an answer": question} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := crowd.Listen(2 * connections)
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- NewServer(&still{}, slog.New(slog.DiscardHandler)).Serve(ctx, q) }()
				for range connections {
					q.Connect(t, words, true)
				}
				last := q.Connect(t, question, true)
				synctest.Wait()
				if n := q.Taken(); n != connections {
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
