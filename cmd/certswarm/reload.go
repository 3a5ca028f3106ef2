package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

// reloadTimeout is generous: a daemon reads its configuration and asks nobody.
const reloadTimeout = 30 * time.Second

func reloadCommand() *cli.Command {
	return &cli.Command{
		Name:  "reload",
		Usage: "makes the daemon read its configuration again; the old one stays if the new one is refused",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "wait", Usage: "return when the new configuration was taken or refused (it always does)"},
		},
		Action: func(c *cli.Context) error {
			ctx, cancel := context.WithTimeout(c.Context, reloadTimeout)
			defer cancel()
			err := control.Dial(globalsOf(c).Socket).Reload(ctx)
			if errors.Is(err, context.DeadlineExceeded) {
				return fail(1, "the daemon did not say within %v whether it took the configuration: certswarm status", reloadTimeout)
			}
			if err != nil {
				return unanswered(err)
			}
			_, err = fmt.Fprintln(c.App.ErrWriter, "the new configuration is in force")
			return err
		},
	}
}
