package acmeclient

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fickle is a CA that cannot be reached, or is in trouble.
type fickle struct {
	deadCA
	answers atomic.Bool
}

func (f *fickle) RoundTrip(r *http.Request) (*http.Response, error) {
	if !f.answers.Load() {
		return f.deadCA.RoundTrip(r)
	}
	return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: r}, nil
}

// What is tried again before its time puts the next attempt off no further; what the CA says, whatever it is, ends the row of attempts in which it said
// nothing.
func TestAnAttemptBeforeItsTimeChangesNoSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, ca := newMemFleet(), new(fickle)
		cfg := deadConfig(m, &ca.deadCA)
		cfg.Transport, cfg.Retry = ca, []time.Duration{time.Hour, 10 * time.Hour}
		begun := time.Now()
		c := start(t, cfg, tenure{ctx: t.Context()})
		time.Sleep(time.Minute)
		planned, first := c.Snapshot()[0].NextAttempt, c.Reach()
		if first.Tries != 1 || first.Since.Sub(begun) > time.Second || first.Last.Sub(first.Since) > time.Minute || first.Error == "" {
			t.Errorf("after one attempt: %+v", first)
		}
		again := func() {
			t.Helper()
			if _, err := c.Obtain(t.Context(), www, Request{Again: true}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		again()
		if r := c.Reach(); r.Tries != 2 || r.Since != first.Since || !r.Last.After(first.Last) || !r.Answered.IsZero() {
			t.Errorf("after two attempts: %+v, and after one: %+v", r, first)
		}
		if s := c.Snapshot()[0]; s.NextAttempt != planned || s.Code != CodeUnreachable || m.journalOf(t, www).Failures != 1 {
			t.Errorf("planned was %v, and now: %+v", planned, s)
		}
		ca.answers.Store(true)
		again()
		if r := c.Reach(); r.Tries != 0 || !r.Since.IsZero() || r.Answered.IsZero() {
			t.Errorf("after an answer: %+v", r)
		}
		if s := c.Snapshot()[0]; s.NextAttempt == planned || m.journalOf(t, www).Failures != 2 {
			t.Errorf("what the CA answered does not count: %+v", s)
		}
		ca.answers.Store(false)
		again()
		if r := c.Reach(); r.Tries != 1 || !r.Since.After(r.Answered) {
			t.Errorf("after an answer, and one attempt: %+v", r)
		}
		c.stop()
	})
}
