package main

import (
	"context"
	"fmt"
	"time"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func attemptsCommand() *cli.Command {
	return &cli.Command{
		Name:      "history",
		Usage:     "lists what was tried for a certificate, and what came of it, newest first",
		ArgsUsage: "NAME",
		Action: func(c *cli.Context) error {
			name, err := oneName(c)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context, commandTimeout)
			defer cancel()
			daemon, err := dialOf(c)
			if err != nil {
				return err
			}
			attempts, err := daemon.Attempts(ctx, name)
			if err != nil {
				return unanswered(err)
			}
			nothing := ""
			if len(attempts.Attempts) == 0 {
				nothing = fmt.Sprintf("Nothing was tried for %s yet.", printable(attempts.Name))
			}
			return tellUnless(c, attempts, nothing, func(l look) string { return renderAttempts(attempts, time.Now(), l) })
		},
	}
}

// renderAttempts is the page of `cert history`.
func renderAttempts(a control.Attempts, now time.Time, look look) string {
	p := page{look: look}
	rows := [][]cell{header("STARTED", "NODE", "EPOCH", "WHY", "SERIAL", "EXPIRES", "OUTCOME")} // the CA's reasons can be long
	for _, at := range a.Attempts {
		expires := cell{text: "-"}
		if !at.NotAfter.IsZero() {
			expires = text(at.NotAfter.Format(time.RFC3339))
		}
		rows = append(rows, []cell{
			text(at.Started.Format(time.RFC3339)), orDash(whoTried(at)), orDash(at.Epoch.String()), orDash(at.Reason),
			orDash(at.Serial), expires, outcomeOf(at, now),
		})
	}
	p.table("", rows...)
	return p.lines.String()
}

// whoTried names the node that began an attempt, and the one that went on with it.
func whoTried(at control.Attempt) string {
	if at.By == "" || at.By == at.Node {
		return at.Node
	}
	return at.Node + ", then " + at.By
}

func outcomeOf(at control.Attempt, now time.Time) cell {
	switch {
	case !at.Revoked.IsZero():
		return painted(string(at.Outcome)+", revoked "+ago(at.Revoked, now, ""), red)
	case at.Outcome == control.UnderWay:
		return painted("under way: "+at.Step, yellow)
	case at.Error != "":
		return painted(string(at.Outcome)+" after "+at.Step+": "+at.Error, red)
	}
	return painted(string(at.Outcome), green)
}
