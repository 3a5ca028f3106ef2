package agent

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/testnet/crowd"
)

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
				q := crowd.Listen(2 * challengesAtOnce)
				h := &house{http01: q, log: slog.New(slog.DiscardHandler)}
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- h.serveChallenges(ctx) }()
				for range challengesAtOnce {
					q.Connect(t, hold.words, hold.reads)
				}
				last := q.Connect(t, question, true)
				synctest.Wait()
				if n := q.Taken(); n != challengesAtOnce {
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
