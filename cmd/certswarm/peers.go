package main

import (
	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func peersCommand() *cli.Command {
	return &cli.Command{
		Name:  "peers",
		Usage: "shows the other nodes: who is connected, who has not confirmed which changes",
		Action: func(c *cli.Context) error {
			return showPart(c, renderPeers, func(s control.Status) any { return s.Peers })
		},
	}
}
