package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"certswarm/testnet/load"
)

// rsync is a daemon that serves a directory, and another directory that is made the same by hand.
type rsync struct {
	from, to string
	fsync    bool // sync every file; otherwise the whole disk afterwards
	port     int
	bytes    int64 // that the latest run sent and received
}

// withRsync starts a daemon with an empty directory below dir, for as long as do takes.
func withRsync(ctx context.Context, dir string, fsync bool, do func(*rsync) error) (err error) {
	r := &rsync{from: filepath.Join(dir, "from"), to: filepath.Join(dir, "to"), fsync: fsync}
	for _, made := range []string{r.from, r.to} {
		if err := os.Mkdir(made, 0o755); err != nil {
			return err
		}
	}
	if r.port, err = freePort("127.0.0.1"); err != nil {
		return err
	}
	text := fmt.Sprintf("use chroot = no\n[certs]\npath = %s\n", r.from)
	if os.Getuid() == 0 { // it would become nobody, who may not read keys
		text = "uid = 0\ngid = 0\n" + text
	}
	config := filepath.Join(dir, "rsyncd.conf")
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "rsyncd.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	daemon := exec.Command("rsync", "--daemon", "--no-detach", "--config", config, "--address", "127.0.0.1", "--port", strconv.Itoa(r.port), "--log-file", log.Name())
	daemon.Stdout, daemon.Stderr = log, log
	end, err := begin(daemon)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := awaitPort(ctx, "127.0.0.1", r.port); err != nil {
		return err
	}
	return do(r)
}

var transferred = regexp.MustCompile(`(?m)^Total bytes (?:sent|received): (\d+)$`)

// timed writes files into the served directory and runs rsync once, from the first write to what is durable.
func (r *rsync) timed(ctx context.Context, files load.Tree) (time.Duration, error) {
	if err := load.SyncDisk(r.from); err != nil {
		return 0, err
	}
	args := []string{"--archive", "--whole-file", "--stats", "--no-human-readable", fmt.Sprintf("rsync://127.0.0.1:%d/certs/", r.port), r.to + "/"}
	if r.fsync {
		args = append([]string{"--fsync"}, args...)
	}
	begun := time.Now()
	if err := files.Write(r.from); err != nil {
		return 0, err
	}
	command := exec.CommandContext(ctx, "rsync", args...)
	output, err := command.CombinedOutput()
	if err == nil && !r.fsync {
		err = load.SyncDisk(r.to)
	}
	took := time.Since(begun)
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, output)
	}
	r.bytes = 0
	for _, m := range transferred.FindAllSubmatch(bytes.ReplaceAll(output, []byte(","), nil), -1) {
		n, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err != nil {
			return 0, err
		}
		r.bytes += n
	}
	return took, nil
}

// begin starts a program that ends with this one, or when end is called, which waits for it.
func begin(c *exec.Cmd) (end func() error, err error) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := c.Start(); err != nil {
		return nil, err
	}
	return func() error {
		_ = c.Process.Signal(syscall.SIGTERM) // one that has ended already is what is wanted
		if err := c.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			return err // how others end when they are told to is their own affair
		}
		return nil
	}, nil
}

// freePort finds a TCP port. Nobody keeps it free.
func freePort(address string) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// awaitPort returns when somebody listens there.
func awaitPort(ctx context.Context, address string, port int) error {
	for {
		conn, err := net.Dial("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nobody listens: %w", errors.Join(err, context.Cause(ctx)))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// closing closes what could not be made to work.
func closing(err error, c interface{ Close() error }) error { return errors.Join(err, c.Close()) }
