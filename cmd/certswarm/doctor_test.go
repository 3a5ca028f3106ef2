package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/internal/doctor"
	"certswarm/internal/peer"
)

func TestDoctor(t *testing.T) {
	state, certs := t.TempDir(), t.TempDir()
	if err := os.Chmod(state, 0o700); err != nil {
		t.Fatal(err)
	}
	id, _, err := peer.CreateIdentity(state)
	if err != nil {
		t.Fatal(err)
	}
	sick := healthyFleet()
	sick.Node.ID = id.ID()
	sick.Problems = []control.Problem{{Code: control.ClockSkew, Severity: control.Error, Node: "fe3", Text: "3 h ahead", Next: "timedatectl status"}}
	socket := serveControl(t, &scripted{statuses: []control.Status{sick}})
	files(t, map[string]string{"certswarm.yaml": fmt.Sprintf(`version: 1
cluster: edge
state_dir: %s
control_socket: %s
peers: [{name: fe2, id: %s, addresses: ["127.0.0.1:7443"]}]
directories: [{name: certs, path: %s}]
nginx: {enabled: false}
`, state, socket, id.ID(), certs)})
	code, stdout, stderr := certswarm("doctor", "--config", "certswarm.yaml")
	for _, want := range []string{
		"ok       configuration: is valid\n", "ok       daemon: fe2 answers", "ok       state directory: " + state + " is the daemon's alone\n",
		"error    problem: on fe3, clock-skew: 3 h ahead\n         next  timedatectl status\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("there is no %q in\n%s", want, stdout)
		}
	}
	if code != 1 || stderr != "" {
		t.Errorf("exit %d, %q", code, stderr)
	}
	if last := strings.LastIndex(stdout, "\nok"); last > strings.Index(stdout, "\nerror") {
		t.Error("what is wrong does not come last")
	}
	code, stdout, _ = certswarm("doctor", "--config", "none.yaml", "--socket", filepath.Join(state, "none.sock"), "--json")
	var findings []doctor.Finding
	if err := json.Unmarshal([]byte(stdout), &findings); err != nil || code != 1 || findings[0].What != "configuration" || findings[0].Level != doctor.Error {
		t.Errorf("exit %d, %v\n%s", code, err, stdout)
	}
}

func TestNginxIsAskedAsConfigured(t *testing.T) {
	script := filepath.Join(t.TempDir(), "nginx")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$@\"\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	refused, err := testNginx(t.Context(), config.Nginx{Binary: script, Prefix: "/p", Config: "/c"})
	if err != nil || refused != "-t -p /p -c /c" {
		t.Errorf("%q, %v", refused, err)
	}
	if _, err := testNginx(t.Context(), config.Nginx{Binary: script + ".none"}); err == nil {
		t.Error("an nginx that is not there was asked")
	}
}
