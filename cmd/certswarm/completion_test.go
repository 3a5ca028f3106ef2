package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"certswarm/internal/need"
)

// TestMain lets this test binary be the program itself, for a shell to run.
func TestMain(m *testing.M) {
	if os.Getenv("CERTSWARM_TEST_MAIN") != "" {
		os.Exit(run(os.Args, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestWhatMayStandNext(t *testing.T) {
	for line, want := range map[string]string{
		"":                          "identity config run reload status peers",
		"--json":                    "identity config run reload status peers",
		"--js":                      "--json",
		"--no-c":                    "--no-color",
		"--json config":             "check show",
		"--socket config config":    "check show",
		"--socket":                  "",
		"--socket x":                "identity config run reload status peers",
		"config check":              "",
		"config check --fra":        "--fragment",
		"config check a.yaml --fra": "",
		"wait --":                   "--for --name --timeout --config --socket --json --no-color",
		"lease":                     "show",
		"nonsense":                  "",
	} {
		code, stdout, stderr := certswarm(append(strings.Fields(line), completionFlag)...)
		got := strings.Join(strings.Fields(stdout), " ")
		if code != 0 || stderr != "" || !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%q: exit %d, %q, not %q; %s", line, code, got, want, stderr)
		}
	}
}

func TestEveryShellHasItsScript(t *testing.T) {
	for shell, part := range map[string]string{
		"bash": "complete -o bashdefault -o default -F _certswarm certswarm",
		"zsh":  "#compdef certswarm",
		"fish": "complete -c certswarm",
	} {
		code, stdout, stderr := certswarm("completion", shell)
		if code != 0 || !strings.Contains(stdout, part) || stderr != "" {
			t.Errorf("%s: exit %d\n%s%s", shell, code, stdout, stderr)
		}
	}
	for _, line := range []string{"completion", "completion tcsh", "completion bash zsh"} {
		if code, stdout, stderr := certswarm(strings.Fields(line)...); code != 2 || stdout != "" || !strings.Contains(stderr, "bash, zsh or fish") {
			t.Errorf("%s: exit %d, %q, %q", line, code, stdout, stderr)
		}
	}
}

// A bash that has read the script completes with what the program says.
func TestBashCompletes(t *testing.T) {
	bash := need.Tool(t, "bash")
	for typed, want := range map[string][]string{
		"re":            {"reload", "resume", "rescan"},
		"config ":       {"check", "show"},
		"config che":    {"check"},
		"wait --t":      {"--timeout"},
		"--json ver":    {"verify", "version"},
		"status --watc": {"--watch"},
	} {
		script := bashCompletion + `COMP_WORDS=("$0" "$@"); COMP_CWORD=$#; _certswarm; printf '%s\n' "${COMPREPLY[@]}"`
		words := strings.Split(typed, " ")
		command := exec.CommandContext(t.Context(), bash, append([]string{"--norc", "-c", script, os.Args[0]}, words...)...)
		command.Env = append(os.Environ(), "CERTSWARM_TEST_MAIN=1")
		out, err := command.CombinedOutput()
		if got := strings.Fields(string(out)); err != nil || !isSubset(want, got) || len(got) < len(want) || len(want) == 1 && len(got) != 1 {
			t.Errorf("%q: %q, not %q (%v)", typed, got, want, err)
		}
	}
}

func isSubset(some, all []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}
