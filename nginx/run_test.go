package nginx_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"certswarm/nginx"
)

func script(t *testing.T, body string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nginx")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestExecPassesPrefixAndConfiguration(t *testing.T) {
	x := &nginx.Exec{Binary: script(t, `echo "$@"`), Prefix: "/p", ConfigFile: "/c"}
	if out, err := x.Test(t.Context()); out != "-T -p /p -c /c\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

func TestExecTellsARefusalFromAFailure(t *testing.T) {
	var said *nginx.Refusal
	err := (&nginx.Exec{Binary: script(t, "echo 'nginx: [emerg] no' >&2; exit 1")}).Reload(t.Context())
	if !errors.As(err, &said) || err.Error() != "[emerg] no" {
		t.Errorf("a refusal: %v", err)
	}
	for name, binary := range map[string]string{"no such file": "/no/such/nginx", "killed": script(t, "kill -9 $$")} {
		if err := (&nginx.Exec{Binary: binary}).Reload(t.Context()); err == nil || errors.As(err, &said) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (&nginx.Exec{Binary: script(t, "echo broken; exit 1")}).Running(t.Context()); err == nil {
		t.Error("running, says a binary that does not work")
	}
}

func TestExecKillsTheWholeGroup(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	ready := script(t, "mkfifo "+pipe+"; echo ready >&2; (read x <"+pipe+") & read y <"+pipe)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- (&nginx.Exec{Binary: ready}).Reload(ctx) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("stopped with %v", err)
	}
}

func TestExecSurvivesEndlessTalk(t *testing.T) {
	x := &nginx.Exec{Binary: script(t, "head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1")}
	err := x.Reload(t.Context())
	if err == nil || len(err.Error()) > 70_000 || !strings.HasPrefix(err.Error(), "xxx") {
		t.Errorf("%d bytes", len(err.Error()))
	}
}

func TestRunningFollowsThePidDirective(t *testing.T) {
	f, _ := startWWW(t)
	if running, err := f.exec.Running(t.Context()); !running || err != nil {
		t.Errorf("it runs: %v, %v", running, err)
	}
	f.must(os.Rename(filepath.Join(f.prefix, "nginx.pid"), filepath.Join(f.prefix, "other.pid")))
	if running, err := f.exec.Running(t.Context()); running || err != nil {
		t.Errorf("no pid file: %v, %v", running, err)
	}
	f.must(os.Rename(filepath.Join(f.prefix, "other.pid"), filepath.Join(f.prefix, "nginx.pid")))
	x := &nginx.Exec{Prefix: f.prefix, ConfigFile: filepath.Join(f.prefix, "none.conf")}
	if _, err := x.Running(t.Context()); err == nil {
		t.Error("no configuration, and no error")
	}
}

// Whether nginx runs is asked every few seconds; what is built into it changes with its file alone.
func TestABinaryIsAskedOnceWhatIsBuiltIntoIt(t *testing.T) {
	dir := t.TempDir()
	asked := filepath.Join(dir, "asked")
	builtWith := func(pidFile string) string {
		return "echo >>" + asked + "; echo 'configure arguments: --prefix=" + dir + " --conf-path=nginx.conf --pid-path=" + pidFile + "' >&2"
	}
	write := func(file, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("nginx.conf", "events {}")
	x := &nginx.Exec{Binary: script(t, builtWith("first.pid"))}
	expect := func(works bool, times int) {
		t.Helper()
		for range 3 {
			if running, err := x.Running(t.Context()); running || (err == nil) != works {
				t.Errorf("running: %v, %v", running, err)
			}
		}
		if lines, err := os.ReadFile(asked); err != nil || len(lines) != times {
			t.Errorf("asked %d times, not %d (%v)", len(lines), times, err)
		}
	}
	expect(true, 1)
	if err := os.Rename(script(t, builtWith(".")), x.Binary); err != nil { // as a package upgrade does
		t.Fatal(err)
	}
	expect(false, 2) // a directory is no pid file
	write("nginx.conf", "events {} pid first.pid;")
	expect(true, 2)
}
