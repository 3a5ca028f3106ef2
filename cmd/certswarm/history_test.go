package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certswarm/internal/control"
)

// keptVersion is the one that the scripted daemon has, of the file a.pem in the archive below.
const keptVersion = "20260102T030405.678901234Z"

// kept is where the scripted daemon's archive lies; each test makes its own.
var kept = ""

func (d *scripted) History(_ context.Context, directory, path string) (control.History, error) {
	h := control.History{Directory: "certs", Path: path}
	switch {
	case directory == "fresh":
		h.Directory = directory
	case directory != "" && directory != "certs":
		return control.History{}, fmt.Errorf("there is no directory %q", directory)
	case path == "":
		h.Paths = control.List[control.KeptPath]{{Path: "a.pem", Versions: 2}, {Path: "b\x1b", Versions: 1}}
	case path == "gone":
		h.Paths = control.List[control.KeptPath]{{Path: "gone/c.pem", Versions: 3}}
	case path == "a.pem":
		h.Versions = control.List[control.Version]{{
			Version: keptVersion, Replaced: control.At(time.Now().Add(-2 * time.Hour)), Size: 8, Digest: "0123456789ab", Mode: "0640", Owner: "root:ssl",
			File: filepath.Join(kept, keptVersion), Cert: &control.KeptCertificate{Serial: "abc", NotAfter: control.At(time.Now().Add(50 * time.Hour)), Names: control.List[string]{"a.example.com"}},
		}, {Version: "older", Link: "b.pem"}, {Version: "oldest", Size: 1, Cert: &control.KeptCertificate{Serial: "9", NotAfter: control.At(time.Unix(1e9, 0))}}}
	}
	return h, nil
}

func (d *scripted) Restore(_ context.Context, r control.Restoration) (control.Restored, error) {
	if r.Path != "a.key" {
		return control.Restored{}, fmt.Errorf("refused: %+v", r)
	}
	return control.Restored{Directory: "certs", Restored: control.List[control.RestoredEntry]{{Path: "a.key", Version: keptVersion}},
		Unchanged: control.List[control.RestoredEntry]{{Path: "a.crt", Version: "other"}}}, nil
}

func (d *scripted) RollBack(_ context.Context, name string, generation int) (control.RolledBack, error) {
	switch name {
	case "nobody":
		return control.RolledBack{}, control.ErrUnknownCertificate
	case "expired":
		return control.RolledBack{}, errors.New("generation 1 of expired is not put in force")
	}
	back := control.RolledBack{Name: name, Generation: max(generation, 4), Previous: 5, Serial: "abc", NotAfter: control.At(time.Unix(2e9, 0)), Issuing: name == "issuing"}
	return back, nil
}

func TestHistoryAndItsCommands(t *testing.T) {
	for args, want := range map[string]struct {
		code           int
		stdout, stderr string // parts
	}{
		"history":                                     {0, "PATH   VERSIONS  LATEST REPLACED\na.pem  2", ""},
		"history --directory certs a.pem":             {0, keptVersion + "  2 h ago   8 bytes  0640  root:ssl  0123456789ab  abc, expires in 2 days, a.example.com", ""},
		"history a.pem":                               {0, "link     -     -         -             -> b.pem", ""},
		"history a.pem --json":                        {0, `"serial": "abc"`, ""},
		"history gone":                                {0, "PATH        VERSIONS  LATEST REPLACED\ngone/c.pem  3", ""},
		"history b.pem":                               {0, "", "This node has no earlier version of certs/b.pem. "},
		"history --directory fresh":                   {0, "", "Nothing in fresh was replaced or deleted on this node by another one.\n"},
		"history --directory fresh --json":            {0, `"paths": []`, ""},
		"history b.pem --json":                        {0, `"versions": []`, ""},
		"history --directory other":                   {1, "", `there is no directory "other"`},
		"history a b":                                 {2, "", "one path or none"},
		"restore a.key":                               {0, "restored   certs/a.key  " + keptVersion + "\nunchanged  certs/a.crt  other\n", "certswarm wait --for synced"},
		"restore a.key --json":                        {0, `"path": "a.key"`, ""},
		"restore x --version v --force --directory d": {1, "", "refused: {Directory:d Path:x Version:v Force:true}"},
		"restore":                                     {2, "", "restore takes one path"},
		"restore a b":                                 {2, "", "restore takes one path"},
		"restore a.pem --to f --force":                {2, "", "--force has no meaning with --to"},
		"restore a.pem --to f --version none":         {1, "", "this node has no version none of certs/a.pem"},
		"restore b.pem --to f":                        {1, "", "this node has no earlier version of certs/b.pem"},
		"cert rollback www":                           {0, "generation 4 of www (serial abc, expires 2033-05-18T03:33:20Z) is in force again, in place of generation 5\n", "certswarm verify www"},
		"cert rollback www --generation 5":            {0, "is in force already; nothing was changed", "certswarm verify www"},
		"cert rollback www --json":                    {0, `"previous": 5`, "certswarm verify www"},
		"cert rollback issuing":                       {0, "generation 4", "an issuance is under way"},
		"cert rollback nobody":                        {1, "", "no certificate is declared under that name"},
		"cert rollback expired":                       {1, "", "generation 1 of expired is not put in force"},
		"cert rollback www --generation 0":            {2, "", "numbered from 1"},
		"cert rollback www --generation last":         {2, "", "last"},
		"cert rollback":                               {2, "", "takes one certificate"},
		"cert":                                        {2, "", "a command is missing"},
		"cert rolback www":                            {2, "", "did you mean"},
	} {
		code, stdout, stderr := ask(serveControl(t, &scripted{statuses: []control.Status{healthyFleet()}}), strings.Fields(args)...)
		if code != want.code || !strings.Contains(stdout, want.stdout) || !strings.Contains(stderr, want.stderr) || want.stdout == "" && stdout != "" {
			t.Errorf("%s: exit %d\nstdout: %s\nstderr: %s", args, code, stdout, stderr)
		}
		if strings.Contains(stdout, "\x1b") {
			t.Errorf("%s: what a file is called reaches the terminal: %q", args, stdout)
		}
	}
}

// The version is copied by the command itself, from where the daemon says that it lies.
func TestRestoreTo(t *testing.T) {
	kept = t.TempDir()
	if err := os.WriteFile(filepath.Join(kept, keptVersion), []byte("the text"), 0o600); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy.pem")
	socket := serveControl(t, &scripted{statuses: []control.Status{healthyFleet()}})
	code, stdout, stderr := ask(socket, "restore", "a.pem", "--to", to)
	if text, err := os.ReadFile(to); code != 0 || stdout != "" || err != nil || string(text) != "the text" || !strings.Contains(stderr, "is certs/a.pem as it was until ") {
		t.Errorf("exit %d, %q, %v\n%s", code, text, err, stderr)
	}
	if code, _, stderr := ask(socket, "restore", "a.pem", "--to", to); code != 1 || !strings.Contains(stderr, "is there already") {
		t.Errorf("over what is there: exit %d\n%s", code, stderr)
	}
}

func TestHistoryCommandsWithoutADaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	for _, command := range []string{"history", "restore a", "restore a --to b", "cert rollback www"} {
		if code, stdout, stderr := ask(socket, strings.Fields(command)...); code != 2 || stdout != "" || !strings.Contains(stderr, "no daemon answers at "+socket) {
			t.Errorf("%s: exit %d\nstdout: %s\nstderr: %s", command, code, stdout, stderr)
		}
	}
}
