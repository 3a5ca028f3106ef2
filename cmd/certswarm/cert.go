package main

import (
	"context"
	"fmt"
	"time"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func certCommand() *cli.Command {
	return &cli.Command{
		Name:  "cert",
		Usage: "acts on one declared certificate, from any node",
		Subcommands: []*cli.Command{
			obtainCommand("issue", "obtains a certificate now if there is no good one, and returns when every live node serves it"),
			obtainCommand("renew", "replaces a certificate now, due or not, and returns when every live node serves the new one"),
			revokeCommand(),
			attemptsCommand(),
			{
				Name:  "rollback",
				Usage: "puts an earlier generation of a certificate back in force, on every node",
				Description: "It stays in force until a twentieth of its life is left, or something else is declared: what was rolled back is\n" +
					"not replaced by a new certificate before.",
				ArgsUsage: "NAME",
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "generation", Usage: "number `N` under archive/NAME/", DefaultText: "the one before that in force"},
				},
				Action: rollBack,
			},
		},
	}
}

// oneName returns the certificate that a command is to act on.
func oneName(c *cli.Context) (string, error) {
	if c.NArg() != 1 {
		return "", fail(exitUsage, "cert %s takes one certificate, these are %d: certswarm certs", c.Command.Name, c.NArg())
	}
	return c.Args().First(), nil
}

func rollBack(c *cli.Context) error {
	name, err := oneName(c)
	if err != nil {
		return err
	}
	generation := c.Int("generation")
	if c.IsSet("generation") && generation < 1 {
		return fail(exitUsage, "--generation %d: generations are numbered from 1", generation)
	}
	ctx, cancel := context.WithTimeout(c.Context, commandTimeout)
	defer cancel()
	daemon, err := dialOf(c)
	if err != nil {
		return err
	}
	done, err := daemon.RollBack(ctx, name, generation)
	if err != nil {
		return unanswered(err)
	}
	if err := tellLine(c, done, rolledBack(done)); err != nil {
		return err
	}
	if done.Issuing {
		fmt.Fprintf(c.App.ErrWriter, "an issuance is under way, and its certificate will be put in force when it is there: certswarm certs\n")
	}
	_, err = fmt.Fprintf(c.App.ErrWriter, "each node follows when its nginx accepts it; whether all do: certswarm verify %s\n", printable(name))
	return err
}

func rolledBack(done control.RolledBack) string {
	what := fmt.Sprintf("generation %d of %s (serial %s, expires %s)", done.Generation, printable(done.Name), done.Serial, done.NotAfter.Format(time.RFC3339))
	if done.Generation == done.Previous {
		return what + " is in force already; nothing was changed"
	}
	return fmt.Sprintf("%s is in force again, in place of generation %d", what, done.Previous)
}
