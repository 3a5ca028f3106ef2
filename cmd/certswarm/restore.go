package main

import (
	"context"
	"fmt"
	"time"

	"certswarm/internal/agent"
	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name:  "restore",
		Usage: "puts an earlier version of a file back, on every node",
		Description: "The version is one of those that certswarm history lists on this node, the newest by default. Of a key and its\n" +
			"certificate both are put back, as far as they would not match otherwise. What is replaced is kept in turn.",
		ArgsUsage: "PATH",
		Flags: []cli.Flag{
			directoryFlag(),
			&cli.StringFlag{Name: "version", Usage: "the `ID` that certswarm history shows", DefaultText: "the newest"},
			&cli.StringFlag{Name: "to", Usage: "change nothing, and copy the version to `FILE`, which must not be there yet"},
			&cli.BoolFlag{Name: "force", Usage: "also if it is half of a pair whose other half does not match", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return fail(exitUsage, "restore takes one path, these are %d", c.NArg())
			}
			if c.IsSet("to") && c.Bool("force") {
				return fail(exitUsage, "--force has no meaning with --to: nothing is replaced")
			}
			ctx, cancel := context.WithTimeout(c.Context, commandTimeout)
			defer cancel()
			if c.IsSet("to") {
				return copyOut(ctx, c)
			}
			return putBack(ctx, c)
		},
	}
}

func putBack(ctx context.Context, c *cli.Context) error {
	g := globalsOf(c)
	daemon, err := g.dial()
	if err != nil {
		return err
	}
	done, err := daemon.Restore(ctx, control.Restoration{
		Directory: c.String("directory"), Path: c.Args().First(), Version: c.String("version"), Force: c.Bool("force"),
	})
	if err != nil {
		return unanswered(err)
	}
	if g.JSON {
		return printJSON(c.App.Writer, done)
	}
	for _, e := range done.Restored {
		fmt.Fprintf(c.App.Writer, "restored   %s/%s  %s\n", printable(done.Directory), printable(e.Path), e.Version)
	}
	for _, e := range done.Unchanged {
		fmt.Fprintf(c.App.Writer, "unchanged  %s/%s  %s\n", printable(done.Directory), printable(e.Path), e.Version)
	}
	if len(done.Restored) > 0 {
		_, err = fmt.Fprintln(c.App.ErrWriter, "it is on its way to the other nodes: certswarm wait --for synced")
	}
	return err
}

// copyOut copies a version with the rights of whoever runs this: the daemon tells where it lies, and reads nothing for anybody.
func copyOut(ctx context.Context, c *cli.Context) error {
	version := c.String("version")
	daemon, err := dialOf(c)
	if err != nil {
		return err
	}
	history, err := daemon.History(ctx, c.String("directory"), c.Args().First())
	if err != nil {
		return unanswered(err)
	}
	if history.Path == "" {
		return fail(exitUsage, "which file? %s is a directory: certswarm history lists the files that have versions", c.Args().First())
	}
	for _, v := range history.Versions {
		if version != "" && v.Version != version {
			continue
		}
		warn, err := agent.CopyVersion(v.File, c.String("to"))
		if err != nil {
			return fail(1, "%v", err)
		}
		if warn != nil {
			fmt.Fprintf(c.App.ErrWriter, "certswarm: %v\n", warn)
		}
		_, err = fmt.Fprintf(c.App.ErrWriter, "%s is %s/%s as it was until %s\n",
			printable(c.String("to")), printable(history.Directory), printable(history.Path), v.Replaced.Format(time.RFC3339))
		return err
	}
	if version != "" {
		return fail(1, "this node has no version %s of %s/%s: certswarm history", version, history.Directory, history.Path)
	}
	if len(history.Paths) > 0 {
		return fail(1, "%s/%s is no file of which there is an earlier version, and below it there are: certswarm history %s", history.Directory, history.Path, history.Path)
	}
	return fail(1, "this node has no earlier version of %s/%s; ask another one: certswarm history there", history.Directory, history.Path)
}
