package control_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/fleet"
)

// tenant is a daemon with a lease in the test's hand.
type tenant struct {
	daemon
	ttl     time.Duration
	held    context.Context // nil: the lease is not held
	stale   atomic.Bool     // the clock says no, though nobody has ended the context
	waits   chan struct{}   // closed when a wait is over
	missing [][]string      // what a barrier says, one after the other
	fails   error
	acting  atomic.Int32 // how many have entered and not left
}

type right struct{ t *tenant }

func (r right) Context() context.Context { return r.t.held }
func (r right) Epoch() fleet.Epoch       { return fleet.Epoch{Generation: 1, Term: 2, Index: 3} }
func (r right) Enter() func() {
	r.t.acting.Add(1)
	return func() { r.t.acting.Add(-1) }
}
func (r right) Check() error {
	if r.t.stale.Load() {
		return errors.New("it was not renewed")
	}
	return context.Cause(r.t.held)
}

func (t *tenant) Right(ctx context.Context, wait bool) (control.Right, time.Duration, error) {
	if t.held == nil {
		return nil, t.ttl, errors.Join(control.ErrNotHeld)
	}
	if wait {
		select {
		case <-t.waits:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
	return right{t}, t.ttl, nil
}

func (t *tenant) ResignLease(context.Context) error  { return t.fails }
func (t *tenant) RecoverLease(context.Context) error { return t.fails }
func (t *tenant) Recovery(context.Context) (control.Recovery, error) {
	return control.Recovery{Standings: control.List[control.Standing]{{Node: "fe1", Generation: 4}}}, t.fails
}

func (t *tenant) Barrier(_ context.Context, wish control.Wish, say func([]string) error) error {
	for _, m := range t.missing {
		if err := say(m); err != nil {
			return err
		}
	}
	return t.fails
}

func serveTenant(t *testing.T, d *tenant) (*control.Client, func() error) {
	t.Helper()
	d.changed = make(chan struct{})
	client, _, stop := serve(t, d)
	return client, stop
}

func TestARightReachesWhoActsAndEnds(t *testing.T) {
	for name, lose := range map[string]func(d *tenant, end context.CancelCauseFunc, stop func() error){
		"it was given away":  func(_ *tenant, end context.CancelCauseFunc, _ func() error) { end(errors.New("it was given away")) },
		"it was not renewed": func(d *tenant, _ context.CancelCauseFunc, _ func() error) { d.stale.Store(true) },
		"went away":          func(_ *tenant, _ context.CancelCauseFunc, stop func() error) { _ = stop() },
	} {
		t.Run(name, func(t *testing.T) {
			held, end := context.WithCancelCause(t.Context())
			d := &tenant{ttl: time.Second, held: held}
			client, stop := serveTenant(t, d)
			err := client.Tenure(t.Context(), false, func(ctx context.Context, epoch fleet.Epoch) error {
				if epoch.Index != 3 || ctx.Err() != nil {
					t.Errorf("the right begins with epoch %v, %v", epoch, ctx.Err())
				}
				lose(d, end, stop)
				<-ctx.Done()
				if why := context.Cause(ctx); !strings.Contains(why.Error(), name) {
					t.Errorf("the right ends because: %v", why)
				}
				return errors.New("what was done under it")
			})
			if err == nil || err.Error() != "what was done under it" {
				t.Errorf("%v", err)
			}
		})
	}
}

// patient is a writer of answers that are never too late.
type patient struct{ *httptest.ResponseRecorder }

func (patient) SetWriteDeadline(time.Time) error { return nil }

// Who was told that the right is over acts until it leaves; but not for ever, if it never does.
func TestWhoActsUnderARightIsCountedUntilItLeaves(t *testing.T) {
	for name, leaves := range map[string]bool{"it leaves": true, "it stays": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				held, end := context.WithCancelCause(t.Context())
				d := &tenant{ttl: 30 * time.Second, held: held}
				asking, leave := context.WithCancel(t.Context())
				request := httptest.NewRequestWithContext(asking, http.MethodGet, "/v1/lease/tenure", nil)
				answer := patient{httptest.NewRecorder()}
				go control.NewServer(d, slog.New(slog.DiscardHandler)).ServeHTTP(answer, request)
				time.Sleep(time.Hour)
				end(errors.New("it was given away"))
				time.Sleep(5 * time.Second) // until a program is killed that does not end
				synctest.Wait()
				if last := answer.Body.String(); !strings.HasSuffix(last, "\"it was given away\"}\n") || d.acting.Load() != 1 {
					t.Errorf("%d act; it heard last: %s", d.acting.Load(), last)
				}
				if leaves {
					leave()
				} else {
					time.Sleep(time.Minute)
				}
				synctest.Wait()
				if n := d.acting.Load(); n != 0 {
					t.Errorf("%d act in the end", n)
				}
				leave()
			})
		})
	}
}

func TestARightThatIsNotThere(t *testing.T) {
	client, _ := serveTenant(t, &tenant{ttl: time.Second})
	err := client.Tenure(t.Context(), false, func(context.Context, fleet.Epoch) error { t.Error("acted"); return nil })
	if !errors.Is(err, control.ErrNotHeld) {
		t.Errorf("%v", err)
	}
}

func TestABarrierSaysWhatIsMissing(t *testing.T) {
	client, _ := serveTenant(t, &tenant{missing: [][]string{{"fe2", "fe3"}, {"fe3"}}})
	if missing, err := client.Barrier(t.Context(), control.Wish{Path: "a"}); err != nil || missing != nil {
		t.Errorf("%v, %v", missing, err)
	}
	client, _ = serveTenant(t, &tenant{missing: [][]string{{"fe2", "fe3"}, {"fe3"}}, fails: errors.New("broken")})
	if missing, err := client.Barrier(t.Context(), control.Wish{Path: "a"}); err == nil || !slices.Equal(missing, []string{"fe3"}) {
		t.Errorf("%v, %v", missing, err)
	}
	client, _ = serveTenant(t, &tenant{fails: errors.New("no such directory")})
	if _, err := client.Barrier(t.Context(), control.Wish{Path: "a"}); err == nil || err.Error() != "no such directory" {
		t.Errorf("%v", err)
	}
}

func TestWhatAPersonAsksOfTheLease(t *testing.T) {
	client, _ := serveTenant(t, &tenant{})
	r, err := client.Recovery(t.Context())
	if err != nil || len(r.Standings) != 1 || r.Standings[0].Generation != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := errors.Join(client.ResignLease(t.Context()), client.RecoverLease(t.Context())); err != nil {
		t.Error(err)
	}
	client, _ = serveTenant(t, &tenant{fails: errors.New("fe2 holds it")})
	for _, ask := range []func(context.Context) error{client.ResignLease, client.RecoverLease} {
		if err := ask(t.Context()); err == nil || err.Error() != "fe2 holds it" {
			t.Errorf("%v", err)
		}
	}
}
