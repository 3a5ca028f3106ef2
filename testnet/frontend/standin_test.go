package frontend_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"certswarm/testnet/frontend"
)

// spoilt is a working configuration with old replaced by new; a real nginx refuses it too, and names the same line.
type spoilt struct{ old, new, says string }

func TestBrokenConfigurationIsRefusedWithItsLine(t *testing.T) {
	for name, change := range map[string]spoilt{
		"unknown directive":       {"daemon off;", "daemon off;\nfrobnicate on;", `unknown directive "frobnicate" in FILE:3`},
		"missing semicolon":       {"daemon off;", "daemon off", `in FILE:`},
		"missing brace":           {"events {", "events ;", `directive "events" has no opening "{" in FILE:`},
		"unclosed block":          {"return 200 \"hello", "}}}\n#", `in FILE:`},
		"unclosed quote":          {"\\n\";", "\\n;", `in FILE:`},
		"too few arguments":       {"daemon off;", "daemon;", `invalid number of arguments in "daemon" directive in FILE:2`},
		"unknown variable":        {"$request_uri", "$no_such", `unknown "no_such" variable`},
		"invalid status":          {"return 301", "return 3o1", `invalid return code "3o1"`},
		"TLS without certificate": {"ssl_certificate ", "#", `no "ssl_certificate"`},
	} {
		t.Run(name, func(t *testing.T) {
			eachKind(t, func(t *testing.T, h *host) {
				h.install(site, 1)
				h.install(second, 1)
				paths, err := frontend.WriteConfig(h.config)
				if err != nil {
					t.Fatal(err)
				}
				text, err := os.ReadFile(paths.ConfigFile)
				if err != nil {
					t.Fatal(err)
				}
				broken := strings.ReplaceAll(string(text), change.old, change.new)
				if broken == string(text) {
					t.Fatalf("nothing to spoil: no %q in the configuration", change.old)
				}
				if err := os.WriteFile(paths.ConfigFile, []byte(broken), 0o644); err != nil {
					t.Fatal(err)
				}
				talk, err := exec.CommandContext(h.ctx, paths.Binary, "-p", paths.Prefix, "-c", paths.ConfigFile, "-t").CombinedOutput()
				want := strings.ReplaceAll(change.says, "FILE", paths.ConfigFile)
				if err == nil || !strings.Contains(string(talk), want) {
					t.Errorf("-t: %v, %s\nwant %s", err, talk, want)
				}
			})
		})
	}
}

// standin runs the stand-in's command line without a process.
func standin(args ...string) (status int, stdout, stderr string) {
	var out, talk bytes.Buffer
	status = frontend.StandinMain(args, &out, &talk)
	return status, out.String(), talk.String()
}

func TestStandinUnderstandsNginxArguments(t *testing.T) {
	h := newHost(t, frontend.Standin)
	h.install(site, 1)
	h.install(second, 1)
	paths, err := frontend.WriteConfig(h.config)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args   []string
		status int
		says   string // on stderr
	}{
		"letters that share a dash": {[]string{"-tq", "-p" + paths.Prefix, "-cnginx.conf"}, 0, ""},
		"a later value wins":        {[]string{"-t", "-p", paths.Prefix, "-c", "/nonexistent", "-c", paths.ConfigFile}, 0, "test is successful"},
		"version":                   {[]string{"-v"}, 0, "nginx version: certswarm-standin/"},
		"globals are directives":    {[]string{"-t", "-g", "frobnicate on;", "-p", paths.Prefix, "-c", paths.ConfigFile}, 1, `unknown directive "frobnicate" in command line:1`},
		"a missing file":            {[]string{"-t", "-p", paths.Prefix, "-c", "absent.conf"}, 1, "absent.conf test failed"},
		"an unknown signal":         {[]string{"-p", paths.Prefix, "-c", paths.ConfigFile, "-s", "reopen"}, 1, "invalid option"},
		"nobody to signal":          {[]string{"-p", paths.Prefix, "-c", paths.ConfigFile, "-s", "stop"}, 1, "nginx.pid"},
		"an unknown letter":         {[]string{"-x"}, 1, "invalid option"},
		"a missing value":           {[]string{"-t", "-c"}, 1, "requires a parameter"},
		"a stray word":              {[]string{"start"}, 1, "invalid option"},
		"no paths":                  {[]string{"-t"}, 1, "needs -p PREFIX and -c FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			status, _, talk := standin(test.args...)
			if status != test.status || !strings.Contains(talk, test.says) || test.says == "" && talk != "" {
				t.Errorf("%d, %q; want %d, %q", status, talk, test.status, test.says)
			}
		})
	}
}

func TestWrapperKnowsItsPathsLikeACompiledNginx(t *testing.T) {
	h := newHost(t, frontend.Standin)
	h.install(site, 1)
	h.install(second, 1)
	paths, err := frontend.WriteConfig(h.config)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(h.config.Dir, "nginx"); paths.Binary != want {
		t.Errorf("the wrapper is %s, want %s", paths.Binary, want)
	}
	talk, err := exec.CommandContext(h.ctx, paths.Binary, "-V").CombinedOutput()
	if err != nil || !strings.Contains(string(talk), "--pid-path="+paths.PidFile) {
		t.Errorf("-V: %v, %s", err, talk)
	}
	if talk, err := exec.CommandContext(h.ctx, paths.Binary, "-t").CombinedOutput(); err != nil {
		t.Errorf("-t: %v, %s", err, talk)
	}
}

func TestStandinRefusesToMoveByReload(t *testing.T) {
	h := newHost(t, frontend.Standin)
	h.install(site, 1)
	h.install(second, 1)
	h.start()
	moved := h.config
	moved.HTTPPort, moved.HTTPSPort = freePorts(t, h.config.Address)
	paths, err := frontend.WriteConfig(moved)
	if err != nil {
		t.Fatal(err)
	}
	if talk, err := exec.CommandContext(h.ctx, paths.Binary, "-s", "reload").CombinedOutput(); err != nil {
		t.Fatal(err, string(talk))
	}
	h.eventually("the refusal is in the error log", func() bool {
		text, err := os.ReadFile(paths.ErrorLog)
		return err == nil && strings.Contains(string(text), "cannot listen elsewhere")
	})
	h.wantGet(token, 200, "from the file")
}
