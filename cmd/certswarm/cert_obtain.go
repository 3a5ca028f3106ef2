package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

// obtainTimeout is for how long `cert issue` and its kin wait by default.
const obtainTimeout = 5 * time.Minute

// waitFlags are those of a command that ends when a certificate is served.
func waitFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "no-wait", Usage: "return when the CA has accepted the order", DisableDefaultText: true},
		&cli.DurationFlag{Name: "timeout", Usage: "give up waiting after this time, which ends nothing that was begun; 0: never", Value: obtainTimeout},
	}
}

func obtainCommand(name, usage string) *cli.Command {
	return &cli.Command{
		Name:  name,
		Usage: usage,
		Description: "Whoever holds the lease does it; an attempt that is under way is joined. The certificate in force stays until the new\n" +
			"one takes its place. What the CA asked for (Retry-After) is waited for in any case.",
		ArgsUsage: "NAME",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "force", Usage: "also if there is a good one, and if acme.budget for orders is used up", DisableDefaultText: true},
			&cli.BoolFlag{Name: "dry-run", Usage: "do it at acme.staging_directory, the challenge included, and throw away what comes of it", DisableDefaultText: true},
		}, waitFlags()...),
		Action: obtain,
	}
}

func obtain(c *cli.Context) error {
	name, err := oneName(c)
	if err != nil {
		return err
	}
	daemon, err := dialOf(c)
	if err != nil {
		return err
	}
	force := c.Bool("force")
	o := control.Order{Name: name, Renew: force || c.Command.Name == "renew", Force: force, DryRun: c.Bool("dry-run"), NoWait: c.Bool("no-wait")}
	var done control.Obtained
	err = followed(c, name, func(ctx context.Context, tell func(control.Progress)) error {
		done, err = daemon.Obtain(ctx, o, tell)
		return err
	})
	if err != nil {
		return err
	}
	if err := tellLine(c, done, obtained(done)); err != nil {
		return err
	}
	return hint(c, done)
}

// followed runs a command that ends when a certificate is served, and shows on stderr what happens meanwhile.
func followed(c *cli.Context, name string, do func(context.Context, func(control.Progress)) error) error {
	ctx, cancel, err := limited(c)
	if err != nil {
		return err
	}
	defer cancel()
	last := "the daemon has said nothing yet"
	err = do(ctx, func(p control.Progress) {
		last = p.Text
		showProgress(c.App.ErrWriter, p)
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fail(1, "%s is not finished within %v: %s; what was begun goes on: certswarm cert history %s", printable(name), c.Duration("timeout"), printable(last), printable(name))
	}
	return unanswered(err)
}

// showProgress prints a line of talk. Nobody is left to tell when standard error cannot be written.
func showProgress(out io.Writer, p control.Progress) {
	_, _ = fmt.Fprintf(out, "%-8s %-10s %s\n", printable(p.Node), printable(p.Step), printable(p.Text))
}

// obtained says in one line what came of an order.
func obtained(o control.Obtained) string {
	name, node := printable(o.Name), printable(o.Node)
	which := fmt.Sprintf("serial %s, expires %s", o.Serial, o.NotAfter.Format(time.RFC3339))
	switch {
	case o.DryRun && o.Issued:
		return fmt.Sprintf("%s: the dry run on %s came to a certificate (%s), which is thrown away; nothing in force was touched", name, node, which)
	case o.Unneeded && o.Served:
		return fmt.Sprintf("%s: nothing to do, generation %d (%s) is good, not due, and served by every live node", name, o.Generation, which)
	case o.Unneeded:
		return fmt.Sprintf("%s: nothing to do, generation %d (%s) is good and not due", name, o.Generation, which)
	case o.Served:
		return fmt.Sprintf("%s: generation %d (%s) is served by every live node", name, o.Generation, which)
	case o.Issued:
		return fmt.Sprintf("%s: generation %d (%s) is issued", name, o.Generation, which)
	}
	return fmt.Sprintf("%s: ordered by %s", name, node)
}

// hint says how to go on after a command that did not wait.
func hint(c *cli.Context, o control.Obtained) error {
	if o.Served || o.Unneeded || o.DryRun && o.Issued {
		return nil
	}
	_, err := fmt.Fprintf(c.App.ErrWriter, "what comes of it: certswarm cert history %s\n", printable(o.Name))
	return err
}
