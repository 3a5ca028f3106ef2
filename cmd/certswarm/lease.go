package main

import (
	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func leaseCommand() *cli.Command {
	return &cli.Command{
		Name:   "lease",
		Usage:  "shows who may act",
		Action: showLease,
		Subcommands: []*cli.Command{
			{Name: "show", Usage: "shows the holder and the epoch", Action: showLease},
		},
	}
}

func showLease(c *cli.Context) error {
	if c.Args().Present() {
		return unknownCommand(c)
	}
	return showPart(c, renderLease, func(s control.Status) any { return s.Lease })
}
