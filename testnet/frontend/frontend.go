// Package frontend runs one unprivileged web front-end of a testnet: real nginx with a configuration that follows the
// documented snippets, or, where nginx is not installed, a small stand-in that serves the same files, obeys the same
// command line and refuses the same configurations and certificates. One suite of tests runs over both.
//
// It is not the agent's nginx engine: it starts and stops web servers, which an agent never does. And the stand-in is
// not a web server to use anywhere else: it knows the configuration that this package writes.
package frontend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How long Stop waits for a front-end that was asked to finish what it is answering, and then for one that was told to
// drop it, before it is killed.
const (
	quitPatience = 2 * time.Second
	termPatience = 3 * time.Second
)

// Frontend is a running front-end. Its owner calls Stop.
type Frontend struct {
	config Config
	paths  Paths
	kind   string
	cmd    *exec.Cmd
	output bytes.Buffer  // what it said on stdout and stderr; read only after exited is closed
	exited chan struct{} // closed when the process has been reaped
	stop   sync.Once
}

// Start writes the configuration and starts the front-end; it returns when both ports accept connections. The context
// bounds the start only. The certificates must be in place: nginx does not start without them. When the front-end
// cannot start, the error carries its own words.
//
// The front-end dies with the process that started it, however that ends; a Ctrl-C on the terminal reaches only the
// latter, so that it can stop its front-ends in the order it likes.
func Start(ctx context.Context, c Config) (*Frontend, error) {
	paths, about, err := prepare(c)
	if err != nil {
		return nil, fmt.Errorf("front-end %s: %w", c.Address, err)
	}
	f := &Frontend{
		config: c,
		paths:  paths,
		kind:   about.kind,
		cmd:    exec.Command(paths.Binary, "-p", paths.Prefix, "-c", paths.ConfigFile),
		exited: make(chan struct{}),
	}
	f.cmd.Stdout, f.cmd.Stderr = &f.output, &f.output
	f.cmd.WaitDelay = time.Second // a worker that outlives a master that crashed keeps the pipe of output open
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := f.cmd.Start(); err != nil {
		return nil, fmt.Errorf("front-end %s: %w", c.Address, err)
	}
	go func() {
		// How it ended shows in what it said; the status of a process that was stopped by a signal means nothing.
		_ = f.cmd.Wait()
		close(f.exited)
	}()
	if err := f.awaitUp(ctx); err != nil {
		f.Stop()
		return nil, fmt.Errorf("front-end %s (%s) did not start: %w%s", c.Address, f.kind, err, f.said())
	}
	return f, nil
}

// Kind says what answers: "nginx 1.22.1", or "stand-in".
func (f *Frontend) Kind() string { return f.kind }

// Reload writes the configuration of c, for the same directory and ports, and asks the running front-end to take it: a
// misconfigured front-end heals this way. Like nginx, it returns before the new configuration is in force.
func (f *Frontend) Reload(ctx context.Context, c Config) error {
	if c.Dir != f.config.Dir || c.http() != f.config.http() || c.https() != f.config.https() {
		return fmt.Errorf("front-end %s cannot move to another directory or port while it runs; start another", f.config.Address)
	}
	paths, err := WriteConfig(c)
	if err != nil {
		return err
	}
	output, err := exec.CommandContext(ctx, paths.Binary, "-p", paths.Prefix, "-c", paths.ConfigFile, "-s", "reload").CombinedOutput()
	if err != nil {
		return fmt.Errorf("front-end %s: reload: %w: %s", c.Address, err, strings.TrimSpace(string(output)))
	}
	return nil
}

// Stop ends the front-end and waits until it is gone: it may finish what it is answering, within limits. Stopping what
// has stopped does nothing.
func (f *Frontend) Stop() {
	f.stop.Do(func() {
		// A signal that cannot be sent is one to a process that is gone; exited then says so.
		_ = f.cmd.Process.Signal(syscall.SIGQUIT)
		if f.gone(quitPatience) {
			return
		}
		_ = f.cmd.Process.Signal(syscall.SIGTERM)
		if f.gone(termPatience) {
			return
		}
		// The whole group, which Start made: a master that is killed alone leaves its workers listening.
		_ = syscall.Kill(-f.cmd.Process.Pid, syscall.SIGKILL)
	})
	<-f.exited
}

func (f *Frontend) gone(patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-f.exited:
		return true
	case <-timer.C:
		return false
	}
}

// awaitUp returns when the front-end has written its pid, which it does after it has all its sockets, and both ports
// accept. Without the pid a stranger on our ports would be taken for it.
func (f *Frontend) awaitUp(ctx context.Context) error {
	const longestPause = 100 * time.Millisecond
	for pause := time.Millisecond; ; pause = min(2*pause, longestPause) {
		err := f.probe(ctx)
		if err == nil {
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-f.exited:
			timer.Stop()
			return errors.New("it ended at once")
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		case <-timer.C:
		}
	}
}

func (f *Frontend) probe(ctx context.Context) error {
	pid, err := readPid(f.paths.PidFile)
	if err != nil {
		return err
	}
	if pid != f.cmd.Process.Pid {
		return fmt.Errorf("%s names process %d, not %d", f.paths.PidFile, pid, f.cmd.Process.Pid)
	}
	for _, address := range []string{f.config.http(), f.config.https()} {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		_ = conn.Close() // nothing was said on it
	}
	return nil
}

// said returns what a front-end that is gone had to say, for the end of an error.
func (f *Frontend) said() string {
	text := strings.TrimSpace(f.output.String())
	if text == "" {
		return ""
	}
	return "\n" + text
}

func readPid(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("%s holds no process id: %q", path, text)
	}
	return pid, nil
}
