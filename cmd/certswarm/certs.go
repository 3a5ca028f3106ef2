package main

import (
	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func certsCommand() *cli.Command {
	return &cli.Command{
		Name:  "certs",
		Usage: "shows the certificates: expiry, budget, and which listener serves what",
		Action: func(c *cli.Context) error {
			return showPart(c, renderCertificates, func(s control.Status) any { return s.Certificates })
		},
	}
}
