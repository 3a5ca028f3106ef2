package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"certswarm/internal/agent"
	"certswarm/internal/agent/config"

	"github.com/urfave/cli/v2"
)

func runCommand() *cli.Command {
	return withGlobals(&cli.Command{
		Name:        "run",
		Usage:       "the daemon: replicate, obtain, install, prove (systemd runs this)",
		Description: "Logs JSON lines to stderr. SIGHUP reads the configuration again; SIGTERM and SIGINT end it within five seconds.",
		Action: func(c *cli.Context) error {
			file := globalsOf(c).Config
			return runDaemon(c.Context, file, c.App.ErrWriter)
		},
	})
}

func runDaemon(ctx context.Context, file string, stderr io.Writer) error {
	debug.SetGCPercent(50) // a guest on a machine that serves: memory is dearer than the little work that saves it
	ctx, stop := untilSignal(ctx)
	defer stop()
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	edges := agent.RealEdges(log)
	edges.Busy = newProcessors(useProcessors).busy
	a := agent.New(func() (*config.Config, error) { return config.LoadWithConfD(file) }, buildVersion(), edges, log)

	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	go reloadOn(ctx, hangup, a)
	return a.Run(ctx)
}

// untilSignal returns a context that ends with SIGTERM or SIGINT, whose name is then its cause.
func untilSignal(ctx context.Context) (_ context.Context, stop func()) {
	ctx, end := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		select {
		case <-ctx.Done():
		case s := <-signals:
			end(errors.New(map[os.Signal]string{syscall.SIGTERM: "SIGTERM", syscall.SIGINT: "SIGINT"}[s]))
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		end(nil)
	}
}

// reloadOn reloads at each signal. A refusal is in the log and in the status already: the agent puts it there.
func reloadOn(ctx context.Context, hangup <-chan os.Signal, a *agent.Agent) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			_ = a.Reload(ctx) // see above
		}
	}
}
