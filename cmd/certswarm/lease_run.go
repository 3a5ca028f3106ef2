package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/fleet"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

const (
	exitNotHeld = 75 // EX_TEMPFAIL of sysexits(3): another time, or elsewhere

	exitNotStarted = 126 // as shells do
	exitNotFound   = 127
	exitSignalled  = 128 // and the signal's number
)

// lastWords is what a program gets to end between SIGTERM and SIGKILL, once the lease is lost.
const lastWords = 5 * time.Second

func leaseRunCommand() *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "runs a program where the lease is held, so that certbot, acme.sh and dehydrated keep working (exit 75: not held)",
		Description: "The exit status is the program's. It is sent SIGTERM when the lease is lost while it runs, or the daemon stops\n" +
			"answering, and SIGKILL five seconds later; so are all that it started.",
		ArgsUsage: "-- CMD [ARGUMENT...]",
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "wait", Usage: "wait until the lease is held here"}},
		Action:    runUnderLease,
	}
}

func runUnderLease(c *cli.Context) error {
	argv := c.Args().Slice()
	if len(argv) == 0 {
		return fail(exitUsage, "lease run needs a program: certswarm lease run -- CMD")
	}
	path, err := exec.LookPath(argv[0])
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return fail(exitNotFound, "%v", err)
	case err != nil:
		return fail(exitNotStarted, "%v: %s is no program", err, argv[0])
	}
	daemon, err := dialOf(c)
	if err != nil {
		return err
	}
	ctx, giveUp := context.WithCancel(c.Context)
	defer giveUp()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	begun := make(chan struct{})
	go func() {
		select {
		case <-signals:
			giveUp()
		case <-begun: // from here on signals are the program's
		case <-ctx.Done():
		}
	}()
	wait := c.Bool("wait")
	for {
		err := daemon.Tenure(ctx, wait, func(right context.Context, _ fleet.Epoch) error {
			close(begun)
			return underRight(c, right, signals, path, argv)
		})
		var ran *exitError
		switch {
		case err == nil, errors.As(err, &ran):
			return err
		case ctx.Err() != nil:
			return fail(exitNotHeld, "interrupted before the lease was held here; %s was not run", argv[0])
		case wait && (errors.Is(err, control.ErrNoDaemon) || errors.Is(err, control.ErrNotHeld)):
		default: // the lease is not held, or nobody said that it is
			return fail(exitNotHeld, "%v; %s was not run", err, argv[0])
		}
		select { // the daemon is being restarted, or the lease was lost in the same moment
		case <-ctx.Done():
		case <-time.After(daemonRetry):
		}
	}
}

// underRight runs a program until it ends, or the right does.
func underRight(c *cli.Context, right context.Context, signals <-chan os.Signal, path string, argv []string) error {
	program := exec.Command(path, argv[1:]...)
	program.Args[0] = argv[0]
	program.Stdin, program.Stdout, program.Stderr = os.Stdin, c.App.Writer, c.App.ErrWriter
	// A process group of its own, so that all of it can be told to end; and on a terminal the one that is typed to. Nobody could tell it
	// any more if this process were killed: the kernel does, when the thread ends that began it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	program.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true, Foreground: ownsTerminal(os.Stdin), Ctty: int(os.Stdin.Fd()), Pdeathsig: syscall.SIGTERM,
	}
	if err := program.Start(); err != nil {
		return fail(exitNotStarted, "%s cannot be run: %v", argv[0], err)
	}
	all := -program.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- program.Wait() }()
	lost, kill := right.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case err := <-ended:
			return exitOf(program, err)
		case got := <-signals:
			_ = syscall.Kill(all, got.(syscall.Signal)) // it may have ended this moment
		case <-lost:
			lost = nil
			fmt.Fprintf(c.App.ErrWriter, "certswarm: the lease is lost (%v): %s is told to end\n", context.Cause(right), argv[0])
			_ = syscall.Kill(all, syscall.SIGTERM)
			kill = time.After(lastWords)
		case <-kill:
			fmt.Fprintf(c.App.ErrWriter, "certswarm: %s did not end within %v and is killed\n", argv[0], lastWords)
			_ = syscall.Kill(all, syscall.SIGKILL)
		}
	}
}

// ownsTerminal reports whether what is typed at a terminal goes to this program.
func ownsTerminal(in *os.File) bool {
	group, err := unix.IoctlGetInt(int(in.Fd()), unix.TIOCGPGRP)
	return err == nil && group == syscall.Getpgrp()
}

// exitOf is the program's status as a shell would tell it.
func exitOf(program *exec.Cmd, err error) error {
	var failed *exec.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &failed):
		return fail(1, "%v", err)
	}
	if status, ok := program.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return fail(exitSignalled+int(status.Signal()), "")
	}
	return fail(failed.ExitCode(), "")
}
