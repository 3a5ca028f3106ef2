package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

// exitTimeout is what timeout(1) says.
const exitTimeout = 124

// daemonRetry is how often a daemon that does not answer is tried again.
const daemonRetry = 250 * time.Millisecond

// condition reports whether something is true of the fleet, or what is missing.
type condition func(control.Status) (ok bool, why string)

func waitCommand() *cli.Command {
	return &cli.Command{
		Name:  "wait",
		Usage: "waits until something is true of the whole fleet (exit 124: not in time)",
		Description: "A daemon that is not up yet is waited for too. Nodes that are not connected do not block;\n" +
			"neither, for served, do nodes whose nginx is disabled.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "for", Usage: "synced: every live node has every file; issued: no placeholder; served: by every live nginx"},
			&cli.StringFlag{Name: "name", Usage: "for issued and served: this certificate only"},
			&cli.DurationFlag{Name: "timeout", Usage: "give up after this time; 0: never"},
		},
		Action: wait,
	}
}

func wait(c *cli.Context) error {
	name := c.String("name")
	goal, known := conditionFor(c.String("for"), name)
	switch {
	case !known:
		return fail(exitUsage, "wait needs --for synced, issued or served; this is %q", c.String("for"))
	case c.String("for") == "synced" && name != "":
		return fail(exitUsage, "--name is for issued and served; files are synced as a whole")
	}
	ctx, cancel, err := limited(c)
	if err != nil {
		return err
	}
	defer cancel()
	daemon, err := dialOf(c)
	if err != nil {
		return err
	}
	watch := daemon.Watch
	if c.String("for") == "synced" {
		// What was written just before the call counts, noticed or not.
		watch = func(ctx context.Context, next func(control.Status) bool) error {
			if err := daemon.Rescan(ctx); err != nil {
				return err
			}
			return daemon.Watch(ctx, next)
		}
	}
	why, err := await(ctx, saying(watch, c.App.ErrWriter), name, goal)
	switch {
	case errors.Is(err, control.ErrUnknownCertificate):
		err = fail(exitUsage, "%s: no certificate is declared under that name: certswarm certs", name)
	case errors.Is(err, context.DeadlineExceeded):
		err = fail(exitTimeout, "not %s within %v: %s", c.String("for"), c.Duration("timeout"), why)
	default:
		err = unanswered(err)
	}
	return conclude(c, awaited{concluded(err, c.String("for")), c.String("for"), name}, err)
}

// awaited is the JSON of wait.
type awaited struct {
	outcome
	For  string `json:"for"`
	Name string `json:"name"` // "": every certificate, or the files
}

// watcher is control.Client.Watch.
type watcher = func(context.Context, func(control.Status) bool) error

// saying tells people once that it is the daemon that is waited for.
func saying(watch watcher, errOut io.Writer) watcher {
	said := false
	return func(ctx context.Context, next func(control.Status) bool) error {
		err := watch(ctx, next)
		if errors.Is(err, control.ErrNoDaemon) && !said {
			said = true
			fmt.Fprintf(errOut, "certswarm: %v; waiting for it\n", err)
		}
		return err
	}
}

// outliving is for whoever watches longer than a daemon lives: one that has answered, and ends, is waited for.
func outliving(watch watcher, errOut io.Writer) watcher {
	return func(ctx context.Context, next func(control.Status) bool) error {
		answered, again := false, saying(watch, errOut)
		for {
			err := again(ctx, func(s control.Status) bool {
				answered = true
				return next(s)
			})
			if !answered || !errors.Is(err, control.ErrNoDaemon) {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(daemonRetry):
			}
		}
	}
}

// limited returns the context of a command with --timeout, a time of 0 being none; cancel is to be called when the command ends.
func limited(c *cli.Context) (ctx context.Context, cancel context.CancelFunc, err error) {
	switch limit := c.Duration("timeout"); {
	case limit < 0:
		return nil, nil, fail(exitUsage, "--timeout %v lies in the past", limit)
	case limit > 0:
		ctx, cancel = context.WithTimeout(c.Context, limit)
	default:
		ctx, cancel = context.WithCancel(c.Context)
	}
	return ctx, cancel, nil
}

func conditionFor(what, name string) (goal condition, known bool) {
	switch what {
	case "synced":
		return control.IsSynced, true
	case "issued":
		return func(s control.Status) (bool, string) { return control.IsIssued(s, name) }, true
	case "served":
		return func(s control.Status) (bool, string) { return control.IsServed(s, name) }, true
	}
	return nil, false
}

// await returns when goal is true. Otherwise the error is that of ctx, and why says what was missing last; or
// ErrUnknownCertificate when name is given but not declared; or why the daemon can never be asked. A daemon that does
// not answer is tried again: boot scripts wait for it too.
func await(ctx context.Context, watch watcher, name string, goal condition) (why string, err error) {
	why = "the daemon has not answered yet"
	for {
		var met, undeclared bool
		err := watch(ctx, func(s control.Status) bool {
			undeclared = name != "" && !slices.ContainsFunc(s.Certificates, func(c control.Certificate) bool { return c.Name == name })
			met, why = goal(s)
			return !met && !undeclared
		})
		switch {
		case undeclared:
			return why, control.ErrUnknownCertificate
		case met:
			return "", nil
		case ctx.Err() != nil:
			return why, ctx.Err()
		case !errors.Is(err, control.ErrNoDaemon):
			return why, err
		}
		why = err.Error()
		select {
		case <-ctx.Done():
			return why, ctx.Err()
		case <-time.After(daemonRetry):
		}
	}
}
