package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func revokeCommand() *cli.Command {
	return &cli.Command{
		Name:  "revoke",
		Usage: "revokes the certificate in force at the CA, and replaces it at once by one with another key",
		Description: "What is revoked is served until the new one is there: no front-end is left without a certificate. The order for that\n" +
			"obeys no budget, only the CA's own Retry-After.",
		ArgsUsage: "NAME",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "reason", Usage: "`REASON` that the CA publishes: " + strings.Join(control.Reasons(), ", "), Value: "unspecified"},
			&cli.BoolFlag{Name: "yes", Usage: "do not ask", DisableDefaultText: true},
		}, waitFlags()...),
		Action: revoke,
	}
}

func revoke(c *cli.Context) error {
	name, err := oneName(c)
	if err != nil {
		return err
	}
	reason := c.String("reason")
	if !slices.Contains(control.Reasons(), reason) {
		return fail(exitUsage, "--reason %s is none of %s", printable(reason), strings.Join(control.Reasons(), ", "))
	}
	daemon, err := dialOf(c)
	if err != nil {
		return err
	}
	tried, err := daemon.Attempts(c.Context, name)
	if errors.Is(err, control.ErrUnknownCertificate) || errors.Is(err, control.ErrNoDaemon) {
		return unanswered(err) // before a person is asked about what cannot be done
	}
	question := fmt.Sprintf("Revoke %s (reason %s)? It cannot be taken back. [y/N] ", which(tried, time.Now()), reason)
	if !c.Bool("yes") && !confirmed(c.App.Reader, c.App.ErrWriter, question) {
		return fail(1, "nothing was revoked; without a question: certswarm cert revoke --yes %s", printable(name))
	}
	var done control.Revoked
	err = followed(c, name, func(ctx context.Context, tell func(control.Progress)) error {
		done, err = daemon.Revoke(ctx, control.Revocation{Name: name, Reason: reason, NoWait: c.Bool("no-wait")}, tell)
		return err
	})
	if err != nil {
		return err
	}
	if err := tellLine(c, done, fmt.Sprintf("%s: serial %s is revoked (%s)\n%s", printable(done.Name), done.Serial, done.Reason, obtained(done.Next))); err != nil {
		return err
	}
	return hint(c, done.Next)
}

// which says what would be revoked, and how old it is: whoever repeats the command is about to revoke the replacement.
func which(tried control.Attempts, now time.Time) string {
	for _, a := range tried.Attempts {
		if a.Outcome == control.AttemptIssued {
			return fmt.Sprintf("%s, serial %s, obtained %s", printable(tried.Name), printable(a.Serial), ago(a.Started, now, ""))
		}
	}
	return printable(tried.Name)
}

// confirmed asks a person. Whatever is not yes is no.
func confirmed(in io.Reader, out io.Writer, question string) bool {
	_, _ = io.WriteString(out, question)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil { // nobody typed the end of the line
		_, _ = io.WriteString(out, "\n")
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true
	}
	return false
}
