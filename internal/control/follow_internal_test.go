package control

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// patient is a Daemon whose errands take a while.
type patient struct {
	Daemon
	takes time.Duration
}

func (p patient) Obtain(ctx context.Context, _ Order, _ func(Progress)) (Obtained, error) {
	return Obtained{Served: true}, sleep(ctx, nil, p.takes)
}

// lines is where an answer goes to, with the time of each line.
type lines struct {
	http.ResponseWriter
	begin time.Time
	at    []time.Duration
	last  string
}

func (l *lines) Header() http.Header              { return http.Header{} }
func (l *lines) SetWriteDeadline(time.Time) error { return nil }
func (l *lines) Flush()                           {}
func (l *lines) Write(line []byte) (int, error) {
	l.at, l.last = append(l.at, time.Since(l.begin)), string(line)
	return len(line), nil
}

func TestALongErrandIsNeverSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &lines{begin: time.Now()}
		s := NewServer(patient{takes: 25 * time.Second}, slog.New(slog.DiscardHandler))
		s.ServeHTTP(out, httptest.NewRequest(http.MethodPost, "/v1/cert/obtain?name=a", nil).WithContext(t.Context()))
		if want := []time.Duration{10 * time.Second, 20 * time.Second, 25 * time.Second}; !slices.Equal(out.at, want) || !strings.Contains(out.last, `"served":true`) {
			t.Errorf("it was heard at %v, and at last %q", out.at, out.last)
		}
	})
}
