package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

// commandTimeout is generous: the longest of them reads every file of every directory.
const commandTimeout = 5 * time.Minute

func resumeCommand() *cli.Command {
	return &cli.Command{
		Name:      "resume",
		Usage:     "ends a directory's halt: puts back what the fleet has, or lets the deletions go out",
		ArgsUsage: "DIRECTORY",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "restore", Usage: "put back on this node what the fleet has"},
			&cli.BoolFlag{Name: "accept", Usage: "this node is right: delete on every node what is gone here"},
		},
		Action: func(c *cli.Context) error {
			restore, accept := c.Bool("restore"), c.Bool("accept")
			if c.NArg() != 1 || restore == accept {
				return fail(exitUsage, "resume needs one directory and either --restore or --accept")
			}
			return command(c, fmt.Sprintf("directory %s goes on", c.Args().First()), func(ctx context.Context, daemon *control.Client) error {
				return daemon.Resume(ctx, c.Args().First(), accept)
			})
		},
	}
}

func rescanCommand() *cli.Command {
	return &cli.Command{
		Name:  "rescan",
		Usage: "reads every directory again and returns when all that is on the disk is known",
		Action: func(c *cli.Context) error {
			return command(c, "every directory was read again", func(ctx context.Context, daemon *control.Client) error {
				return daemon.Rescan(ctx)
			})
		},
	}
}

// command has the daemon do one thing and says so.
func command(c *cli.Context, done string, do func(context.Context, *control.Client) error) error {
	daemon, err := dialOf(c)
	if err != nil {
		return err
	}
	err = carryOut(c, daemon, done, do)
	return conclude(c, concluded(err, done), err)
}

// carryOut is command for people alone.
func carryOut(c *cli.Context, daemon *control.Client, done string, do func(context.Context, *control.Client) error) error {
	ctx, cancel := context.WithTimeout(c.Context, commandTimeout)
	defer cancel()
	err := do(ctx, daemon)
	if errors.Is(err, context.DeadlineExceeded) {
		return fail(1, "the daemon did not finish within %v: certswarm status", commandTimeout)
	}
	if err != nil {
		return unanswered(err)
	}
	_, err = fmt.Fprintln(c.App.ErrWriter, done)
	return err
}
