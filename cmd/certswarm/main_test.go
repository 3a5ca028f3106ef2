package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"certswarm/internal/agent/config"

	"github.com/urfave/cli/v2"
)

const validConfig = `version: 1
cluster: edge
control_socket: /run/other.sock
peers:
  - name: fe1
    id: uehqnct7aaoxqdno357h3azujvru5zpd33t55agrkmq5sw64rkha
    addresses: ["10.0.0.1:7443"]
directories:
  - name: certs
    path: /etc/nginx/certs
`

// certswarm runs the program in this process.
func certswarm(args ...string) (code int, stdout, stderr string) {
	var out, talk bytes.Buffer
	code = run(append([]string{"certswarm"}, args...), &out, &talk)
	return code, out.String(), talk.String()
}

// files writes files into a fresh directory, which becomes the current one.
func files(t *testing.T, texts map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range texts {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUsageErrorsExit2AndSayWhatOnOneLine(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"", `certswarm: a command is missing (see certswarm --help)`},
		{"stauts", `certswarm: there is no command certswarm stauts; did you mean "status"? (see certswarm --help)`},
		{"--json stauts", `certswarm: there is no command certswarm stauts; did you mean "status"? (see certswarm --help)`},
		{"stauts --help", `certswarm: there is no command certswarm stauts; did you mean "status"? (see certswarm --help)`},
		{"help stauts", `certswarm: there is no command certswarm stauts; did you mean "status"? (see certswarm --help)`},
		{"config", `certswarm: a command is missing (see certswarm config --help)`},
		{"config chekc x.yaml", `certswarm: there is no command certswarm config chekc; did you mean "check"? (see certswarm config --help)`},
		{"version --jsno", `certswarm: there is no flag --jsno; did you mean --json? (see certswarm version --help)`},
		{"--sokcet x version", `certswarm: there is no flag --sokcet; did you mean --socket? (see certswarm --help)`},
		{"version --socket", `certswarm: flag needs an argument: -socket (see certswarm version --help)`},
		{"version now", `certswarm: certswarm version takes no arguments, this is one: "now"`},
		{"version -- --json", `certswarm: certswarm version takes no arguments, this is one: "--json"`},
		{"identity show", `certswarm: --state-dir is missing; the configuration calls it state_dir, usually /var/lib/certswarm`},
		{"config check --fragment", `certswarm: name the fragments to check (see certswarm config check --help)`},
		{"config check --config none.yaml", `certswarm: there is no none.yaml; name the files to check`},
	} {
		t.Run(c.line, func(t *testing.T) {
			code, stdout, stderr := certswarm(strings.Fields(c.line)...)
			if code != 2 || stdout != "" || stderr != c.want+"\n" {
				t.Errorf("exit %d, stdout %q, stderr\n%s", code, stdout, stderr)
			}
		})
	}
}

func TestHelpIsData(t *testing.T) {
	for _, line := range []string{"--help", "help", "config --help", "config check --help", "help config check", "version -h"} {
		code, stdout, stderr := certswarm(strings.Fields(line)...)
		if code != 0 || !strings.Contains(stdout, "USAGE:") || !strings.Contains(stdout, "--socket FILE") || stderr != "" {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", line, code, stdout, stderr)
		}
	}
}

func TestGlobalFlagsStandAnywhere(t *testing.T) {
	files(t, map[string]string{"a.yaml": validConfig, "b.yaml": strings.Replace(validConfig, "other", "b", 1), "broken.yaml": "control_socket: /run/mended.sock\nclutser: x\n", "lost.yaml": "peers: ]\n"})
	for line, want := range map[string]globals{
		"probe":                                    {config.DefaultFile, config.DefaultControlSocket, false, false, "", ""},
		"probe --socket s":                         {config.DefaultFile, "s", false, false, "", ""},
		"--socket s probe":                         {config.DefaultFile, "s", false, false, "", ""},
		"--socket=s --json probe --no-color":       {config.DefaultFile, "s", true, true, "", ""},
		"--socket s probe --socket t":              {config.DefaultFile, "t", false, false, "", ""},
		"--config a.yaml probe":                    {"a.yaml", "/run/other.sock", false, false, "", ""},
		"probe --config a.yaml":                    {"a.yaml", "/run/other.sock", false, false, "", ""},
		"--config a.yaml probe --config b.yaml":    {"b.yaml", "/run/b.sock", false, false, "", ""},
		"probe --config broken.yaml":               {"broken.yaml", "/run/mended.sock", false, false, "", ""},
		"probe --config lost.yaml":                 {"lost.yaml", config.DefaultControlSocket, false, false, "lost.yaml:1:8: not YAML: did not find expected node content while parsing a block node; mend the quotes, brackets or indentation here", ""},
		"--json probe below --config a.yaml":       {"a.yaml", "/run/other.sock", true, false, "", ""},
		"probe --json below x y":                   {config.DefaultFile, config.DefaultControlSocket, true, false, "", ""},
		"probe below x --no-color y --config none": {"none", "", false, true, "", "none: no such file; name the daemon's socket with --socket"},
		"--config a.yaml/b probe":                  {"a.yaml/b", "", false, false, "", "a.yaml/b: no such file; name the daemon's socket with --socket"},
		"--config none probe --socket s":           {"none", "s", false, false, "", ""},
		"--config none probe --config a.yaml":      {"a.yaml", "/run/other.sock", false, false, "", ""},
		"--config= probe":                          {"", "", false, false, "", "--config is empty; name a file, or leave it out"},
		"--socket= probe --config a.yaml":          {"a.yaml", "", false, false, "", "--socket is empty; name the daemon's socket, or leave it out"},
		"--socket s probe --socket=":               {config.DefaultFile, "", false, false, "", "--socket is empty; name the daemon's socket, or leave it out"},
		"--json probe --json=false":                {config.DefaultFile, config.DefaultControlSocket, false, false, "", ""},
	} {
		t.Run(line, func(t *testing.T) {
			var got *globals
			look := func(c *cli.Context) error { g := globalsOf(c); got = &g; return nil }
			probe := withGlobals(&cli.Command{Name: "probe", Action: look, Subcommands: []*cli.Command{{Name: "below", ArgsUsage: "X Y", Action: look}}})
			app := &cli.App{Name: "certswarm", Flags: globalFlags(), Commands: []*cli.Command{probe}}
			if err := app.Run(flagsFirst(app, append([]string{"certswarm"}, strings.Fields(line)...))); err != nil || got == nil {
				t.Fatalf("%v, %v", got, err)
			}
			if *got != want {
				t.Errorf("%+v, want %+v", *got, want)
			}
		})
	}
}

func TestFlagsFirst(t *testing.T) {
	app := &cli.App{Name: "certswarm", Flags: globalFlags(), Commands: []*cli.Command{
		{Name: "resume", ArgsUsage: "DIRECTORY", Flags: []cli.Flag{&cli.BoolFlag{Name: "restore"}, &cli.StringFlag{Name: "path", Aliases: []string{"p"}}}},
		{Name: "lease", Subcommands: []*cli.Command{
			{Name: "run", ArgsUsage: "-- CMD...", Flags: []cli.Flag{&cli.BoolFlag{Name: "wait"}}},
		}},
	}}
	for line, want := range map[string]string{
		"":                                "",
		"resume certs --restore":          "resume --restore certs",
		"resume certs --path x y":         "resume --path x certs y",
		"resume certs -p x --path=z":      "resume -p x --path=z certs",
		"resume certs --unknown x":        "resume --unknown certs x",
		"resume a -- --restore b":         "resume a -- --restore b",
		"resume a --restore -- -b":        "resume --restore a -- -b",
		"resume - --restore":              "resume --restore -",
		"resume a --path":                 "resume --path a",
		"nothing --json":                  "nothing --json",
		"lease --json run -- ls --wait":   "lease --json run -- ls --wait",
		"lease run --wait -- ls --json":   "lease run --wait -- ls --json",
		"lease run ls --wait":             "lease run ls --wait",
		"help lease run":                  "lease run --help",
		"help":                            "--help",
		"--socket help resume a":          "--socket help resume a",
		"lease bogus --json":              "lease bogus --json",
		"--config help lease run --wait ": "--config help lease run --wait",
	} {
		args := append([]string{"certswarm"}, strings.Fields(line)...)
		before := slices.Clone(args)
		got := flagsFirst(app, args)
		if got[0] != "certswarm" || strings.Join(got[1:], " ") != want {
			t.Errorf("%s: %q", line, got)
		}
		if !slices.Equal(args, before) {
			t.Errorf("%s: the caller's arguments became %q", line, args)
		}
	}
	if got := flagsFirst(app, nil); !slices.Equal(got, []string{"certswarm"}) {
		t.Errorf("no arguments at all: %q", got)
	}
}

func TestIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if code, stdout, stderr := certswarm("identity", "show", "--state-dir", dir); code != 1 || stdout != "" || !strings.Contains(stderr, "identity generate --state-dir "+dir) {
		t.Errorf("show without a key: exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	code, id, stderr := certswarm("identity", "generate", "--state-dir", dir)
	if code != 0 || !regexp.MustCompile(`^[a-z2-7]{52}\n$`).MatchString(id) || stderr != "" {
		t.Fatalf("generate: exit %d, stdout %q, stderr %q", code, id, stderr)
	}
	if code, again, stderr := certswarm("identity", "generate", "--state-dir", dir); code != 0 || again != id || !strings.Contains(stderr, "unchanged") {
		t.Errorf("generate again: exit %d, stdout %q, stderr %q", code, again, stderr)
	}
	if code, shown, stderr := certswarm("identity", "show", "--state-dir", dir); code != 0 || shown != id || stderr != "" {
		t.Errorf("show: exit %d, stdout %q, stderr %q", code, shown, stderr)
	}
	var object struct{ ID string }
	code, shown, stderr := certswarm("--json", "identity", "show", "--state-dir", dir)
	if err := json.Unmarshal([]byte(shown), &object); err != nil || code != 0 || object.ID+"\n" != id {
		t.Errorf("show --json: exit %d, %s, stderr %q", code, shown, stderr)
	}
	if code, stdout, stderr := certswarm("identity", "generate", "--state-dir", filepath.Join(dir, "identity.pem", "x")); code != 1 || stdout != "" || stderr == "" {
		t.Errorf("generate in a file: exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestConfigCheck(t *testing.T) {
	files(t, map[string]string{
		"good.yaml":            validConfig,
		"bad.yaml":             validConfig + "leese: {}\nlease: {ttl: 1ms}\n",
		"fragment.yaml":        "lease: {ttl: 5s}\n",
		"wrong.yaml":           "lease: {ttl: x}\n",
		"daemon/main.yaml":     validConfig,
		"daemon/conf.d/1.yaml": "cluster: other\n",
	})
	const (
		unknown = `bad.yaml:11:1: unknown key "leese"; write lease` + "\n"
		short   = `bad.yaml:12:14: ttl: 1ms is too short to be renewed in time; write 1s or more` + "\n"
		wrong   = `wrong.yaml:1:14: ttl: "x" is not a duration; write a number with its unit: 30s, 10m or 24h` + "\n"
	)
	for _, c := range []struct {
		line   string
		code   int
		stderr string
	}{
		{"good.yaml", 0, "valid: good.yaml\n"},
		{"good.yaml fragment.yaml", 0, "valid: good.yaml, fragment.yaml\n"},
		{"bad.yaml", 1, unknown + short},
		{"bad.yaml wrong.yaml", 1, unknown + short + "wrong.yaml:1:14: ttl stands already at bad.yaml:12:9; keep one of the two\n"},
		{"--fragment fragment.yaml", 0, "valid: fragment.yaml\n"},
		{"fragment.yaml wrong.yaml --fragment", 1, wrong},
		{"--fragment wrong.yaml bad.yaml", 1, wrong + unknown + short},
		{"--config good.yaml", 0, "valid: good.yaml\n"},
		{"--config daemon/main.yaml", 1, "daemon/conf.d/1.yaml:1:10: cluster stands already at daemon/main.yaml:2:1; keep one of the two\n"},
		{"daemon/main.yaml", 0, "valid: daemon/main.yaml\n"},
		{"none.yaml", 1, "none.yaml:1:1: cannot be read: no such file or directory; name a file that can be read\n"},
	} {
		t.Run(c.line, func(t *testing.T) {
			code, stdout, stderr := certswarm(append([]string{"config", "check"}, strings.Fields(c.line)...)...)
			if code != c.code || stdout != "" || stderr != c.stderr {
				t.Errorf("exit %d, stdout %q, stderr\n%swant exit %d,\n%s", code, stdout, stderr, c.code, c.stderr)
			}
		})
	}
}

func TestConfigCheckAsJSON(t *testing.T) {
	files(t, map[string]string{"good.yaml": validConfig, "bad.yaml": validConfig + "leese: {}\n"})
	for file, want := range map[string]string{
		"good.yaml": `{"valid":true,"errors":[]}`,
		"bad.yaml":  `{"valid":false,"errors":[{"file":"bad.yaml","line":11,"column":1,"what":"unknown key \"leese\"","instead":"write lease"}]}`,
	} {
		_, stdout, _ := certswarm("config", "check", "--json", file)
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(stdout)); err != nil || compact.String() != want {
			t.Errorf("%s: %s, %v", file, stdout, err)
		}
	}
}

func TestConfigShow(t *testing.T) {
	files(t, map[string]string{"certswarm.yaml": validConfig, "conf.d/lease.yaml": "lease: {ttl: 5s}\n", "bad.yaml": "version: 1\n", "wrong/bad.yaml": "version: 3\n"})
	code, stdout, stderr := certswarm("config", "show", "--config", "certswarm.yaml")
	if code != 0 || !strings.Contains(stdout, "ttl: 5s") || !strings.Contains(stdout, "max_delete: 50%") || stderr != "" {
		t.Errorf("exit %d, stdout\n%s\nstderr %q", code, stdout, stderr)
	}
	files(t, map[string]string{"shown.yaml": stdout})
	if code, again, stderr := certswarm("config", "show", "--config", "shown.yaml"); code != 0 || again != stdout {
		t.Errorf("what is shown is no configuration: exit %d, %s%s", code, again, stderr)
	}
	var object struct{ Lease struct{ TTL string } }
	_, stdout, _ = certswarm("config", "show", "--config", "shown.yaml", "--json")
	if err := json.Unmarshal([]byte(stdout), &object); err != nil || object.Lease.TTL != "5s" {
		t.Errorf("%s: %v", stdout, err)
	}
	if code, stdout, stderr := certswarm("config", "show", "--config", "none.yaml"); code != 1 || stdout != "" || !strings.HasPrefix(stderr, "none.yaml:1:1: cannot be read") {
		t.Errorf("a missing file: exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestVersion(t *testing.T) {
	if code, stdout, stderr := certswarm("version"); code != 0 || !strings.HasPrefix(stdout, "certswarm "+buildVersion()+" go1.") || stderr != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	var object struct{ Version, Go string }
	if code, stdout, _ := certswarm("version", "--json"); code != 0 || json.Unmarshal([]byte(stdout), &object) != nil || object.Version != buildVersion() || !strings.HasPrefix(object.Go, "go1.") {
		t.Errorf("exit %d, %s", code, stdout)
	}
	defer func(was string) { version = was }(version)
	version = "1.2.3"
	if _, stdout, _ := certswarm("--version"); stdout != "certswarm version 1.2.3\n" {
		t.Errorf("--version of a release: %q", stdout)
	}
}

func TestEveryCommandHasItsOwnNameAndSaysWhatItDoes(t *testing.T) {
	var look func(commands []*cli.Command)
	look = func(commands []*cli.Command) {
		seen := make(map[string]bool)
		for _, command := range commands {
			if seen[command.Name] || command.Usage == "" {
				t.Errorf("%s stands twice, or says nothing", command.FullName())
			}
			seen[command.Name] = true
			look(command.Subcommands)
		}
	}
	look(commands())
}
