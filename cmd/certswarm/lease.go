package main

import (
	"context"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func leaseCommand() *cli.Command {
	return &cli.Command{
		Name:   "lease",
		Usage:  "shows who may act, gives the lease away, rebuilds it, runs other programs under it",
		Action: showLease,
		Subcommands: []*cli.Command{
			{Name: "show", Usage: "shows the holder, the epoch, and who votes", Action: showLease},
			{Name: "resign", Usage: "gives the lease to another node; to be asked where it is held", Action: resignLease},
			{
				Name:  "recover",
				Usage: "rebuilds the lease when most of its voters are gone for good, or agrees to a peer list that drops most of them",
				Description: "It shows where every node stands that can be reached, and asks, but with --json. It is refused while any of them\n" +
					"sees a leader, and on a node that has less of the state than another.",
				Flags:  []cli.Flag{&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"}},
				Action: recoverLease,
			},
			leaseRunCommand(),
		},
	}
}

func showLease(c *cli.Context) error {
	if c.Args().Present() {
		return unknownCommand(c)
	}
	return showPart(c, renderLease, func(s control.Status) any { return s.Lease })
}

func resignLease(c *cli.Context) error {
	return command(c, "the lease was given away: certswarm lease show", func(ctx context.Context, daemon *control.Client) error {
		return daemon.ResignLease(ctx)
	})
}

func recoverLease(c *cli.Context) error {
	ctx, cancel := context.WithTimeout(c.Context, commandTimeout)
	defer cancel()
	g := globalsOf(c)
	daemon, err := g.dial()
	if err != nil {
		return err
	}
	r, err := daemon.Recovery(ctx)
	if err != nil {
		return unanswered(err)
	}
	if err := tell(c, r, func(l look) string { return renderRecovery(r, l) }); err != nil {
		return err
	}
	if r.Refused != "" {
		return fail(1, "%s", printable(r.Refused))
	}
	done := "the peer list is meant as it stands: certswarm lease show"
	if r.Rebuilds {
		done = "the lease was rebuilt from this node: certswarm lease show"
	}
	// Who reads JSON is no person.
	if !c.Bool("yes") && (g.JSON || !confirmed(c.App.Reader, c.App.ErrWriter, "Agree that "+printable(r.Confirm)+"? [y/N] ")) {
		return fail(1, "nothing was changed; without a question: certswarm lease recover --yes")
	}
	return carryOut(c, daemon, done, func(ctx context.Context, daemon *control.Client) error { return daemon.RecoverLease(ctx) })
}
