package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func certCommand() *cli.Command {
	return &cli.Command{
		Name:  "cert",
		Usage: "acts on one declared certificate",
		Subcommands: []*cli.Command{
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

func rollBack(c *cli.Context) error {
	generation := c.Int("generation")
	switch {
	case c.NArg() != 1:
		return fail(exitUsage, "cert rollback takes one certificate, these are %d: certswarm certs", c.NArg())
	case c.IsSet("generation") && generation < 1:
		return fail(exitUsage, "--generation %d: generations are numbered from 1", generation)
	}
	ctx, cancel := context.WithTimeout(c.Context, commandTimeout)
	defer cancel()
	g, name := globalsOf(c), c.Args().First()
	done, err := g.dial().RollBack(ctx, name, generation)
	switch {
	case errors.Is(err, control.ErrUnknownCertificate):
		return fail(exitUsage, "%s: no certificate is declared under that name: certswarm certs", name)
	case err != nil:
		return unanswered(err)
	}
	if g.JSON {
		if err := printJSON(c.App.Writer, done); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintln(c.App.Writer, rolledBack(done)); err != nil {
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
