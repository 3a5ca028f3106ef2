package nginx_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	_ "certswarm/internal/bubble"
	"certswarm/nginx"
)

// workers is an nginx that exists only in a bubble: its listener shows the certificate that show chooses, and it
// obeys a reload by doing whatever reload does.
type workers struct {
	*node
	reload func() error
	show   func(connection int) pair
	made   int       // connections
	first  time.Time // when the first connection after the reload came
	ended  []chan struct{}
}

func (w *workers) Running(context.Context) (bool, error) { return true, nil }

func (w *workers) Test(context.Context) (string, error) {
	return "# configuration file /n.conf:\n" + w.expand("http { "+tlsServer("443 ssl", www, www)+"}"), nil
}

func (w *workers) Reload(context.Context) error { return w.reload() }

func (w *workers) dial(context.Context, string, string) (net.Conn, error) {
	if w.first.IsZero() {
		w.first = time.Now()
	}
	p := w.show(w.made)
	w.made++
	certificate, err := tls.X509KeyPair(p.fullchain, p.privkey)
	if err != nil {
		return nil, err
	}
	client, server := net.Pipe()
	ended := make(chan struct{})
	w.ended = append(w.ended, ended)
	go func() {
		defer close(ended)
		defer server.Close()
		session := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{certificate}})
		if session.Handshake() == nil {
			_, _ = session.Read(make([]byte, 1)) // until the client hangs up
		}
	}()
	return client, nil
}

// inBubble installs generation 2 over 1 and returns the report and how long after the reload Apply returned.
func inBubble(t *testing.T, prepare func(w *workers, old, next pair)) (w *workers, r nginx.Report, took time.Duration, reloaded time.Time) {
	t.Helper()
	f, _ := newNode(t, 0)
	synctest.Test(t, func(t *testing.T) {
		old, next := fresh(www), fresh(www)
		f.install(www, "1", old)
		f.put(www, "2", next)
		w = &workers{node: f}
		prepare(w, old, next)
		reload := w.reload
		w.reload = func() error {
			reloaded = time.Now()
			w.made, w.first = 0, time.Time{}
			if reload == nil {
				return nil
			}
			return reload()
		}
		n := nginx.New(nginx.Config{Store: f.store, Run: w, Dial: w.dial})
		r = n.Apply(t.Context(), one(2))
		took = time.Since(reloaded)
		for _, ended := range w.ended {
			<-ended
		}
	})
	return w, r, took, reloaded
}

func TestNothingIsAskedBeforeOldWorkersAreGone(t *testing.T) {
	w, r, took, reloaded := inBubble(t, func(w *workers, _, next pair) { w.show = func(int) pair { return next } })
	if early := w.first.Sub(reloaded); early < 250*time.Millisecond {
		t.Errorf("asked %s after the reload", early)
	}
	if w.made != 3 || took > time.Second {
		t.Errorf("%d handshakes in %s", w.made, took)
	}
	wantState(t, r.Served, nginx.Current, nil)
}

func TestMixedWorkersAreNotBelieved(t *testing.T) {
	w, r, _, _ := inBubble(t, func(w *workers, old, next pair) {
		w.show = func(n int) pair {
			if n%2 == 1 && n < 8 {
				return old
			}
			return next
		}
	})
	if w.made != 11 {
		t.Errorf("%d handshakes: it takes 8 mixed ones and 3 in a row", w.made)
	}
	wantState(t, r.Served, nginx.Current, nil)
}

func TestAReloadThatChangesNothingIsReported(t *testing.T) {
	_, r, took, _ := inBubble(t, func(w *workers, old, _ pair) { w.show = func(int) pair { return old } })
	wantState(t, r.Served, nginx.Stale, nil)
	if codes(r) != "not-served" || !strings.Contains(r.Problems[0].Text, "127.0.0.1:443") || !strings.Contains(r.Problems[0].Text, "/n.conf:1") {
		t.Errorf("problems %+v", r.Problems)
	}
	if took < 10*time.Second || took > 12*time.Second {
		t.Errorf("gave up after %s", took)
	}
	if !r.Outcomes[0].Installed || r.Outcomes[0].RolledBack {
		t.Errorf("outcome %+v", r.Outcomes[0])
	}
}

func TestWorkersThatStayMixedAreStale(t *testing.T) {
	_, r, _, _ := inBubble(t, func(w *workers, old, next pair) {
		w.show = func(n int) pair {
			if n%3 == 2 {
				return old
			}
			return next
		}
	})
	wantState(t, r.Served, nginx.Stale, nil)
}

func TestAReloadThatFailsLeavesTheFilesInPlace(t *testing.T) {
	_, r, _, _ := inBubble(t, func(w *workers, old, _ pair) {
		w.show = func(int) pair { return old }
		w.reload = func() error { return errors.New("no permission") }
	})
	if codes(r) != "nginx-reload-failed" || !r.Outcomes[0].Installed || r.Reloaded || !strings.Contains(r.Problems[0].Text, "no permission") {
		t.Errorf("%+v", r)
	}
}

func TestAFailedReloadIsTriedAgain(t *testing.T) {
	f, _ := newNode(t, 0)
	synctest.Test(t, func(t *testing.T) {
		old, next := fresh(www), fresh(www)
		f.install(www, "1", old)
		f.put(www, "2", next)
		shown, reloads := old, 0
		w := &workers{node: f, show: func(int) pair { return shown }}
		w.reload = func() error {
			if reloads++; reloads == 2 { // the first is lost in the master
				shown = next
			}
			return nil
		}
		n := nginx.New(nginx.Config{Store: f.store, Run: w, Dial: w.dial})
		wantState(t, n.Apply(t.Context(), one(2)).Served, nginx.Stale, old.leaf)
		wantState(t, n.Apply(t.Context(), one(2)).Served, nginx.Current, next.leaf)
		wantState(t, n.Apply(t.Context(), one(2)).Served, nginx.Current, next.leaf)
		if reloads != 2 {
			t.Errorf("%d reloads", reloads)
		}
		for _, ended := range w.ended {
			<-ended
		}
	})
}
