package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name:        "events",
		Usage:       "shows what happened lately: problems, peers, certificates, files applied, reloads",
		Description: "As this node saw it, since its daemon started, the last 500. With --json one JSON object a line.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "stay, and show what happens from now on", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			g := globalsOf(c)
			daemon, err := g.dial()
			if err != nil {
				return err
			}
			return showEvents(c.Context, daemon, c.Bool("follow"), g.JSON, c.App.Writer)
		},
	}
}

func showEvents(ctx context.Context, client *control.Client, follow, asJSON bool, out io.Writer) error {
	var failed error
	err := client.Events(ctx, follow, func(e control.Event) bool {
		if asJSON {
			failed = json.NewEncoder(out).Encode(e)
		} else {
			_, failed = fmt.Fprintf(out, "%s  %-14s  %s  %s\n", e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Kind, printable(e.Node), printable(sentence(e)))
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

// sentence is the text of an event; that of a problem does not name its code.
func sentence(e control.Event) string {
	if e.Kind == control.ProblemBegan || e.Kind == control.ProblemEnded {
		return e.What + ": " + e.Text
	}
	return e.Text
}
