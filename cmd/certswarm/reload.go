package main

import (
	"context"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func reloadCommand() *cli.Command {
	return &cli.Command{
		Name:  "reload",
		Usage: "makes the daemon read its configuration again; the old one stays if the new one is refused",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "wait", Usage: "return when the new configuration was taken or refused (it always does)"},
		},
		Action: func(c *cli.Context) error {
			return command(c, "the new configuration is in force", func(ctx context.Context, daemon *control.Client) error {
				return daemon.Reload(ctx)
			})
		},
	}
}
