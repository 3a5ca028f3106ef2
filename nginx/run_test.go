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
	x := nginx.Exec{Binary: script(t, `echo "$@"`), Prefix: "/p", ConfigFile: "/c"}
	if out, err := x.Test(t.Context()); out != "-T -p /p -c /c\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

func TestExecTellsARefusalFromAFailure(t *testing.T) {
	var said *nginx.Refusal
	err := nginx.Exec{Binary: script(t, "echo 'nginx: [emerg] no' >&2; exit 1")}.Reload(t.Context())
	if !errors.As(err, &said) || err.Error() != "[emerg] no" {
		t.Errorf("a refusal: %v", err)
	}
	for name, binary := range map[string]string{"no such file": "/no/such/nginx", "killed": script(t, "kill -9 $$")} {
		if err := (nginx.Exec{Binary: binary}).Reload(t.Context()); err == nil || errors.As(err, &said) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (nginx.Exec{Binary: script(t, "echo broken; exit 1")}).Running(t.Context()); err == nil {
		t.Error("running, says a binary that does not work")
	}
}

func TestExecKillsTheWholeGroup(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	ready := script(t, "mkfifo "+pipe+"; echo ready >&2; (read x <"+pipe+") & read y <"+pipe)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- nginx.Exec{Binary: ready}.Reload(ctx) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("stopped with %v", err)
	}
}

func TestExecSurvivesEndlessTalk(t *testing.T) {
	x := nginx.Exec{Binary: script(t, "head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1")}
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
	x := f.exec
	x.ConfigFile = filepath.Join(f.prefix, "none.conf")
	if _, err := x.Running(t.Context()); err == nil {
		t.Error("no configuration, and no error")
	}
}
