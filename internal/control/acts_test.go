package control_test

import (
	"context"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"certswarm/internal/control"
)

// auditing is a daemon that remembers what people changed.
type auditing struct {
	tenant
	acts chan control.Act
}

func (d *auditing) Audit(act control.Act) { d.acts <- act }

func serveAuditing(t *testing.T) (*auditing, *control.Client) {
	t.Helper()
	d := &auditing{acts: make(chan control.Act, 100)}
	d.changed = make(chan struct{})
	d.reload = func(context.Context) error { return errors.New("no " + strings.Repeat("x", 1000) + "\xff") }
	d.verify = func(context.Context, string) (control.Verification, error) { return control.Verification{}, nil }
	client, _, _ := serve(t, d)
	return d, client
}

// Every act that changes something is told with who asked for it and what became of it, and nothing else is.
func TestActsAreAudited(t *testing.T) {
	d, client := serveAuditing(t)
	ctx, tell := t.Context(), func(control.Progress) {}
	for name, c := range map[string]struct {
		do   func() error
		want control.Act
	}{
		"resume": {func() error { return client.Resume(ctx, "certs", true) },
			control.Act{Act: "resume", Arguments: map[string]string{"directory": "certs", "accept": "1"}}},
		"a resume that is refused": {func() error { return client.Resume(ctx, "nosuch", false) },
			control.Act{Act: "resume", Arguments: map[string]string{"directory": "nosuch"}, Outcome: control.ActFailed, Error: `there is no directory "nosuch"`}},
		"a reload that is refused at length": {func() error { return client.Reload(ctx) },
			control.Act{Act: "reload", Outcome: control.ActFailed, Error: "no " + strings.Repeat("x", 497) + "..."}},
		"cert issue": {func() error { _, err := client.Obtain(ctx, control.Order{Name: "a&b", NoWait: true}, tell); return err },
			control.Act{Act: "cert issue", Arguments: map[string]string{"name": "a&b", "no_wait": "1"}}},
		"cert renew": {func() error {
			_, err := client.Obtain(ctx, control.Order{Name: "www", Renew: true, Force: true, DryRun: true}, tell)
			return err
		}, control.Act{Act: "cert renew", Arguments: map[string]string{"name": "www", "force": "1", "dry_run": "1"}}},
		"cert revoke": {func() error {
			_, err := client.Revoke(ctx, control.Revocation{Name: "www", Reason: "superseded"}, tell)
			return err
		}, control.Act{Act: "cert revoke", Arguments: map[string]string{"name": "www", "reason": "superseded"}}},
		"lease resign":  {func() error { return client.ResignLease(ctx) }, control.Act{Act: "lease resign"}},
		"lease recover": {func() error { return client.RecoverLease(ctx) }, control.Act{Act: "lease recover"}},
		"restore": {func() error {
			_, err := client.Restore(ctx, control.Restoration{Directory: "certs", Path: "a", Version: "1", Force: true})
			return err
		}, control.Act{Act: "restore", Arguments: map[string]string{"directory": "certs", "path": "a", "version": "1", "force": "1"}}},
		"cert rollback": {func() error { _, err := client.RollBack(ctx, "www", 3); return err },
			control.Act{Act: "cert rollback", Arguments: map[string]string{"name": "www", "generation": "3"}}},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.do()
			got := <-d.acts
			if got.UID != int64(os.Getuid()) || got.PID != int64(os.Getpid()) || got.Time.IsZero() || time.Since(got.Time.Time) > time.Minute {
				t.Errorf("at %v by uid %d, pid %d", got.Time, got.UID, got.PID)
			}
			got.Time, got.UID, got.PID = control.Time{}, 0, 0
			want := c.want
			if want.Arguments == nil {
				want.Arguments = map[string]string{}
			}
			if want.Outcome == "" {
				want.Outcome = control.ActDone
			}
			if (err != nil) != (got.Outcome == control.ActFailed) || !reflect.DeepEqual(got, want) {
				t.Errorf("%v was told as %+v, want %+v", err, got, want)
			}
		})
	}
	_, err := client.Status(ctx)
	_, verifyErr := client.Verify(ctx, "")
	if err := errors.Join(err, verifyErr, client.Rescan(ctx)); err != nil {
		t.Error(err)
	}
	select {
	case act := <-d.acts:
		t.Errorf("told without need: %+v", act)
	default:
	}
}

// What fails after something was told, and whoever leaves before the end, is told as that.
func TestALongActIsAuditedAtItsEnd(t *testing.T) {
	d, client := serveAuditing(t)
	ctx, leave := context.WithCancel(t.Context())
	d.obtain = func(ctx context.Context, _ control.Order, tell func(control.Progress)) (control.Obtained, error) {
		tell(control.Progress{Text: "on its way"})
		return control.Obtained{}, errors.New("the CA said no")
	}
	if _, err := client.Obtain(ctx, control.Order{Name: "www"}, func(control.Progress) {}); err == nil {
		t.Error("it did not fail")
	}
	if act := <-d.acts; act.Outcome != control.ActFailed || act.Error != "the CA said no" {
		t.Errorf("told as %+v", act)
	}
	d.obtain = func(ctx context.Context, _ control.Order, tell func(control.Progress)) (control.Obtained, error) {
		tell(control.Progress{Text: "on its way"})
		<-ctx.Done()
		return control.Obtained{}, ctx.Err()
	}
	if _, err := client.Obtain(ctx, control.Order{Name: "www"}, func(control.Progress) { leave() }); err == nil {
		t.Error("it ended well")
	}
	if act := <-d.acts; act.Outcome != control.ActLeft {
		t.Errorf("told as %+v", act)
	}
}
