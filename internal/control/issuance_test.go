package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"certswarm/internal/control"
)

func (d *daemon) Obtain(ctx context.Context, o control.Order, tell func(control.Progress)) (control.Obtained, error) {
	if d.obtain != nil {
		return d.obtain(ctx, o, tell)
	}
	tell(control.Progress{Node: "fe1", Step: "ordered", Text: fmt.Sprintf("%+v", o)})
	return control.Obtained{Name: o.Name, Served: true}, nil
}

func (d *daemon) Revoke(_ context.Context, r control.Revocation, tell func(control.Progress)) (control.Revoked, error) {
	tell(control.Progress{Text: fmt.Sprintf("%+v", r)})
	return control.Revoked{Name: r.Name, Serial: "ab", Next: control.Obtained{Name: r.Name}}, nil
}

func (d *daemon) Attempts(_ context.Context, name string) (control.Attempts, error) {
	return control.Attempts{Name: name, Attempts: control.List[control.Attempt]{{Attempt: "1", Outcome: control.AttemptIssued}}}, nil
}

// What is asked for arrives as it is, and so does what happens on the way.
func TestOrdersTravel(t *testing.T) {
	client, _, _ := up(t, &daemon{status: healthy()})
	var told []control.Progress
	tell := func(p control.Progress) { told = append(told, p) }
	orders := []control.Order{
		{Name: "a&b"}, {Name: "a", Renew: true}, {Name: "a", Force: true}, {Name: "a", DryRun: true}, {Name: "a", NoWait: true},
	}
	for _, o := range orders {
		told = nil
		done, err := client.Obtain(t.Context(), o, tell)
		if want := (control.Obtained{Name: o.Name, Served: true}); err != nil || done != want {
			t.Errorf("%+v came to %+v, %v", o, done, err)
		}
		if want := []control.Progress{{Node: "fe1", Step: "ordered", Text: fmt.Sprintf("%+v", o)}}; !reflect.DeepEqual(told, want) {
			t.Errorf("%+v became %+v", o, told)
		}
	}
	r := control.Revocation{Name: "a&b", Reason: "superseded", NoWait: true}
	told = nil
	done, err := client.Revoke(t.Context(), r, tell)
	if err != nil || done.Serial != "ab" || done.Next.Name != r.Name || len(told) != 1 || told[0].Text != fmt.Sprintf("%+v", r) {
		t.Errorf("%+v, %v after %+v", done, err, told)
	}
	a, err := client.Attempts(t.Context(), "a&b")
	if err != nil || a.Name != "a&b" || len(a.Attempts) != 1 || a.Attempts[0].Outcome != control.AttemptIssued {
		t.Errorf("%+v, %v", a, err)
	}
}

// A refusal is told in the daemon's words, whether it comes at once or in the middle; only at once it can be that of a name.
func TestOrdersThatAreRefused(t *testing.T) {
	unknown := fmt.Errorf("%w: www; declared: a", control.ErrUnknownCertificate)
	for name, c := range map[string]struct {
		told int
		err  error
		kind error
	}{
		"at once":            {0, errors.New("the budget is used up"), nil},
		"in the middle":      {2, errors.New("the budget is used up"), nil},
		"for an unknown one": {0, unknown, control.ErrUnknownCertificate},
	} {
		t.Run(name, func(t *testing.T) {
			d := &daemon{status: healthy(), obtain: func(_ context.Context, _ control.Order, tell func(control.Progress)) (control.Obtained, error) {
				for range c.told {
					tell(control.Progress{Text: "on the way"})
				}
				return control.Obtained{}, c.err
			}}
			client, _, _ := up(t, d)
			told := 0
			_, err := client.Obtain(t.Context(), control.Order{Name: "www"}, func(control.Progress) { told++ })
			if err == nil || err.Error() != c.err.Error() || told != c.told || c.kind != nil && !errors.Is(err, c.kind) || c.kind == nil && errors.Is(err, control.ErrUnknownCertificate) {
				t.Errorf("%v after %d words", err, told)
			}
		})
	}
}

// Whoever gives up ends the following, not the daemon: it is told so, and nothing of it is left.
func TestWhoeverGivesUpIsNotFollowed(t *testing.T) {
	left := make(chan struct{})
	d := &daemon{status: healthy(), obtain: func(ctx context.Context, _ control.Order, tell func(control.Progress)) (control.Obtained, error) {
		tell(control.Progress{Text: "it takes a while"})
		<-ctx.Done()
		tell(control.Progress{Text: "to nobody"})
		close(left)
		return control.Obtained{}, ctx.Err()
	}}
	client, _, _ := up(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := client.Obtain(ctx, control.Order{Name: "www"}, func(control.Progress) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-left
}

// A daemon that dies in the middle is no daemon, however far it had come.
func TestADaemonThatDiesInTheMiddle(t *testing.T) {
	dying := make(chan func() error, 1)
	d := &daemon{status: healthy(), obtain: func(ctx context.Context, _ control.Order, tell func(control.Progress)) (control.Obtained, error) {
		tell(control.Progress{Text: "it takes a while"})
		<-ctx.Done()
		return control.Obtained{}, context.Cause(ctx)
	}}
	client, _, stop := up(t, d)
	dying <- stop
	stopped := make(chan error, 1)
	_, err := client.Obtain(t.Context(), control.Order{Name: "www"}, func(control.Progress) {
		go func() { stopped <- (<-dying)() }()
	})
	if err == nil {
		t.Error("it came to something")
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestEmptyAttemptsAreAList(t *testing.T) {
	for _, answer := range []any{control.Attempts{}, control.Attempt{
		Started: control.At(time.Unix(1, 0)), Ended: control.At(time.Unix(1, 0)), NotAfter: control.At(time.Unix(1, 0)), Revoked: control.At(time.Unix(1, 0)),
	}} {
		if text, err := json.Marshal(answer); err != nil || strings.Contains(string(text), "null") {
			t.Errorf("%s, %v", text, err)
		}
	}
}
