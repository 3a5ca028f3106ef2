package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func barrierCommand() *cli.Command {
	return &cli.Command{
		Name:  "barrier",
		Usage: "returns when every live node has a file, an auth hook for other ACME clients (exit 124: not in time)",
		Description: "With --http each node's own nginx must serve it too: it is asked at acme.http01_address for the path without a\n" +
			"leading acme/. What was written just before the call counts, noticed or not. Nodes that are not connected do not block.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "path", Usage: "the file `P`, relative to its directory or absolute"},
			&cli.StringFlag{Name: "directory", Usage: "the directory's `NAME`, where there are several"},
			&cli.StringFlag{Name: "http", Usage: "the `HOST` for which every nginx must serve it"},
			&cli.DurationFlag{Name: "timeout", Usage: "give up after this time; 0: never"},
		},
		Action: barrier,
	}
}

func barrier(c *cli.Context) error {
	wish := control.Wish{Directory: c.String("directory"), Path: c.String("path"), Host: c.String("http")}
	if wish.Path == "" {
		return fail(exitUsage, "barrier needs a file: certswarm barrier --path P")
	}
	ctx, cancel, err := limited(c)
	if err != nil {
		return err
	}
	defer cancel()
	daemon, err := dialOf(c)
	if err != nil {
		return err
	}
	lacking, err := awaitBarrier(ctx, daemon, wish)
	var missing control.List[string]
	if errors.Is(err, context.DeadlineExceeded) {
		if missing = lacking; len(missing) == 0 {
			missing = []string{"the daemon has not answered yet"}
		}
		err = fail(exitTimeout, "%s is not everywhere within %v: %s", printable(wish.Path), c.Duration("timeout"), strings.Join(missing, "; "))
	} else {
		err = unanswered(err)
	}
	return conclude(c, passed{concluded(err, printable(wish.Path)+" is everywhere"), wish.Path, wish.Directory, wish.Host, missing}, err)
}

// passed is the JSON of barrier.
type passed struct {
	outcome
	Path      string               `json:"path"`
	Directory string               `json:"directory"`
	HTTP      string               `json:"http"`
	Missing   control.List[string] `json:"missing"` // what was missing when the time was up
}

// awaitBarrier asks again where the daemon goes away while it is asked: it may be on its way back.
func awaitBarrier(ctx context.Context, daemon *control.Client, wish control.Wish) (missing []string, err error) {
	for {
		lacking, err := daemon.Barrier(ctx, wish)
		if lacking != nil {
			missing = lacking
		}
		if _, bounded := ctx.Deadline(); !bounded || !errors.Is(err, control.ErrNoDaemon) {
			return missing, err
		}
		missing = []string{err.Error()}
		select {
		case <-ctx.Done():
			return missing, ctx.Err()
		case <-time.After(daemonRetry):
		}
	}
}
