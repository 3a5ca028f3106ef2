package main

import (
	"context"
	"errors"
	"time"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

// verifyTimeout bounds the wait for the slowest node of the fleet.
const verifyTimeout = time.Minute

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "handshakes with every listener of every node now (exit 1: another certificate is shown, 3: not reachable)",
		ArgsUsage: "[NAME]",
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return fail(exitUsage, "verify takes one certificate or none, these are %d", c.NArg())
			}
			name := c.Args().First()
			ctx, cancel := context.WithTimeout(c.Context, verifyTimeout)
			defer cancel()
			daemon, err := dialOf(c)
			if err != nil {
				return err
			}
			verification, err := daemon.Verify(ctx, name)
			switch {
			case errors.Is(err, control.ErrUnknownCertificate) && name == "":
				return fail(exitUsage, "this node's configuration declares no certificates: certswarm config show")
			case errors.Is(err, control.ErrUnknownCertificate):
				return fail(exitUsage, "%s: no certificate is declared under that name: certswarm certs", name)
			case errors.Is(err, context.DeadlineExceeded):
				return fail(control.SomeUnreached, "the fleet did not answer within %v: certswarm peers", verifyTimeout)
			case err != nil:
				return unanswered(err)
			}
			if err := tell(c, verification, func(l look) string { return renderVerification(verification, l) }); err != nil {
				return err
			}
			return judge(verification)
		},
	}
}

// judge turns a verification into the exit status, with a count for whoever reads stderr only.
func judge(v control.Verification) error {
	mismatched, unreached := 0, 0
	for _, r := range v.Results {
		switch r.State {
		case control.Current:
		case control.Stale:
			mismatched++
		default:
			unreached++
		}
	}
	switch code := v.Verdict(); code {
	case control.AllCurrent:
		return nil
	case control.SomeMismatch:
		return fail(code, "%d of %d handshakes show another certificate", mismatched, len(v.Results))
	default:
		return fail(code, "%d of %d handshakes failed", unreached, len(v.Results))
	}
}
