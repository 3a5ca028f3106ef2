package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certswarm/internal/control"
)

func TestPluginVerdict(t *testing.T) {
	problem := func(code control.Code, severity control.Severity, node, text string) control.Problem {
		return control.Problem{Code: code, Severity: severity, Node: node, Text: text}
	}
	for name, test := range map[string]struct {
		change func(*control.Status)
		code   int
		line   string
	}{
		"all is well": {func(*control.Status) {}, 0,
			"CERTSWARM OK - fe2 has 2 of 2 peers connected | errors=0;;0;0 warnings=0;0;;0 peers=2;;;0;2 unconfirmed=0;;;0 files=32;;;0 expires=5184000s"},
		"a warning": {func(s *control.Status) {
			s.Problems = []control.Problem{problem(control.HeldFile, control.Warn, "fe3", "a|b\nc")}
			s.Peers[1].Behind = 3
		}, 1, `CERTSWARM WARNING - 0 errors, 1 warning: held-file on fe3: a/b\nc | errors=0;;0;0 warnings=1;0;;0 peers=2;;;0;2 unconfirmed=3;;;0 files=32;;;0 expires=5184000s`},
		"an error behind a warning": {func(s *control.Status) {
			s.Problems = []control.Problem{
				problem(control.HeldFile, control.Warn, "fe3", "held"), problem(control.NginxDown, control.Error, "", "down"), problem(control.DiskFull, control.Error, "fe1", "full"),
			}
			s.Peers[0].Connected, s.Certificates = false, nil
		}, 2, "CERTSWARM CRITICAL - 2 errors, 1 warning: nginx-down on fleet: down | errors=2;;0;0 warnings=1;0;;0 peers=1;;;0;2 unconfirmed=0;;;0 files=32;;;0"},
		"an unheard-of severity is an error": {func(s *control.Status) {
			s.Problems = []control.Problem{problem("new", "fatal", "fe1", "worse")}
		}, 2, "CERTSWARM CRITICAL - 1 error, 0 warnings: new on fe1: worse | errors=1;;0;0 warnings=0;0;;0 peers=2;;;0;2 unconfirmed=0;;;0 files=32;;;0 expires=5184000s"},
		"expired": {func(s *control.Status) { s.Certificates[0].NotAfter = before(time.Hour) }, 0,
			"CERTSWARM OK - fe2 has 2 of 2 peers connected | errors=0;;0;0 warnings=0;0;;0 peers=2;;;0;2 unconfirmed=0;;;0 files=32;;;0 expires=-3600s"},
	} {
		t.Run(name, func(t *testing.T) {
			s := healthyFleet()
			s.Certificates[0].NotAfter = after(60 * 24 * time.Hour)
			test.change(&s)
			if code, line := pluginVerdict(s, noon); code != test.code || line != test.line {
				t.Errorf("exit %d\n%s\nnot %d\n%s", code, line, test.code, test.line)
			}
		})
	}
}

// A monitoring system reads stdout and the exit code, and nothing else.
func TestCheckSaysItAllOnStdout(t *testing.T) {
	sick := serveControl(t, &scripted{statuses: []control.Status{troubledFleet()}})
	well := serveControl(t, &scripted{statuses: []control.Status{healthyFleet()}})
	for _, test := range []struct {
		socket, args string
		code         int
		stdout       string
	}{
		{well, "check", 0, "CERTSWARM OK - "},
		{sick, "check", 2, "CERTSWARM CRITICAL - "},
		{filepath.Join(t.TempDir(), "none.sock"), "check", 3, "CERTSWARM UNKNOWN - no daemon answers"},
		{sick, "check --json", 2, "{\n  \"exit\": 2,\n  \"line\": \"CERTSWARM CRITICAL"},
	} {
		code, stdout, stderr := ask(test.socket, strings.Fields(test.args)...)
		if code != test.code || !strings.HasPrefix(stdout, test.stdout) || stderr != "" {
			t.Errorf("%s: exit %d\nstdout: %s\nstderr: %s", test.args, code, stdout, stderr)
		}
		if test.args == "check" && strings.Count(stdout, "\n") != 1 {
			t.Errorf("more than one line:\n%s", stdout)
		}
	}
}
