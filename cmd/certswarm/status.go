package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

// exitNoDaemon is the exit status when nobody answered on the control socket.
const exitNoDaemon = 2

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "shows problems first, then the lease, this node, directories, peers and certificates",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "stay, and show every change"},
			&cli.BoolFlag{Name: "schema", Usage: "print the JSON Schema of --json and ask no daemon"},
		},
		Action: showStatus,
	}
}

func showStatus(c *cli.Context) error {
	g := globalsOf(c)
	if c.Bool("schema") {
		_, err := io.WriteString(c.App.Writer, control.StatusSchema())
		return err
	}
	if c.Bool("watch") {
		daemon, err := g.dial()
		if err != nil {
			return err
		}
		return watchStatus(c.Context, outliving(daemon.Watch, c.App.ErrWriter), c.App.Writer, g)
	}
	return showPart(c, renderStatus, func(s control.Status) any { return s })
}

// watchStatus shows the status now and after every change, as one line of JSON each or as a page each.
func watchStatus(ctx context.Context, watch watcher, out io.Writer, g globals) error {
	look := lookOf(out, g)
	before, after := "", "\n"
	if isTerminal(out) {
		before, after = "\x1b[H\x1b[2J", "" // home, clear
	}
	var failed error
	err := watch(ctx, func(s control.Status) bool {
		if g.JSON {
			failed = json.NewEncoder(out).Encode(s)
		} else {
			_, failed = io.WriteString(out, before+renderStatus(s, time.Now(), look)+after)
		}
		return failed == nil
	})
	switch {
	case failed != nil:
		return failed
	case errors.Is(err, context.Canceled): // whoever watched has seen enough
		return nil
	}
	return unanswered(err)
}

// showPart asks for the status once and prints part of it: for people as render makes it, for programs as pick chose it.
func showPart(c *cli.Context, render func(control.Status, time.Time, look) string, pick func(control.Status) any) error {
	status, err := statusOf(c)
	if err != nil {
		return unanswered(err)
	}
	return tell(c, pick(status), func(l look) string { return render(status, time.Now(), l) })
}

// unanswered gives an error of the control socket its exit status.
func unanswered(err error) error {
	switch {
	case err == nil, errors.As(err, new(*exitError)), errors.Is(err, control.ErrConfigWrong): // exitCode knows
		return err
	case errors.Is(err, control.ErrNoDaemon), errors.Is(err, control.ErrDenied):
		return fail(exitNoDaemon, "%v", err)
	}
	return fail(1, "%v", err)
}
