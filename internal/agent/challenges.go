package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"certswarm/nginx"
	"certswarm/syncer/index"

	"golang.org/x/net/netutil"
)

// challengesAtOnce is how many connections to the challenge socket are open at a time; more wait in the kernel. Everybody
// on the machine may connect, and each costs one of the descriptors that the rest of the daemon lives on. It is far
// more than one nginx has under way at a time: a CA looks a few times for each name.
const challengesAtOnce = 256

// serveChallenges answers nginx's @certswarm. Nobody holds one of the connections for longer than its timeouts: to send
// a request, to wait for the answer of a peer (3 s) and take it, and to think of another request.
func (h *house) serveChallenges(ctx context.Context) error {
	responder := nginx.NewResponder(h.localToken, h.askForToken)
	server := &http.Server{
		Handler:           responder,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second, // with the body, for which nobody here asks
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       5 * time.Second,
		ErrorLog:          slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // the listener goes either way; whoever is cut off asks again
	defer stop()
	if err := server.Serve(netutil.LimitListener(h.http01, challengesAtOnce)); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// localToken reads a challenge's answer from the store.
func (h *house) localToken(token string) ([]byte, bool) {
	p, err := index.ParsePath(challengeDir + "/" + token)
	if err != nil || h.store == nil {
		return nil, false
	}
	answer, err := h.store.dir.ReadFile(p, 1024)
	return answer, err == nil
}

// askForToken asks the peers for a challenge's answer that has not arrived here; the first that has it wins.
func (h *house) askForToken(ctx context.Context, token string) ([]byte, bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sessions := h.mesh.Sessions()
	answers := make(chan []byte, len(sessions))
	for _, s := range sessions {
		go func() {
			answer, err := h.mesh.Call(ctx, s.Peer(), callToken, mustJSON(token))
			if err != nil {
				answer = nil
			}
			answers <- answer
		}()
	}
	for range sessions {
		if answer := <-answers; len(answer) > 0 {
			return answer, true
		}
	}
	return nil, false
}
