// Package need decides what becomes of a test whose program is not installed, or which is not run as root and must be:
// on a person's machine it is left out, and said so at the end of `make test`; where CI=true it fails. Only tests import
// it. It installs nothing: that is `make deps`.
package need

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// unrun names the environment variable with the file that collects a line "WANT TEST" for each test left out. The
// Makefile sets it to a new name for each run, which also keeps Go from repeating a cached "left out" once the program
// is there.
const unrun = "CERTSWARM_UNRUN"

// Tool returns the path of the program called name. If it is not in PATH the test ends here: failed where CI=true,
// skipped elsewhere.
func Tool(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	leaveOut(tb, name, name+", which is not in PATH: make deps")
	return ""
}

// Root ends a test that mounts, gives files away or hides things from an agent unless it is run as root: as Tool does.
func Root(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		leaveOut(tb, "root", "to be run as root")
	}
}

// leaveOut ends the test for want of something.
func leaveOut(tb testing.TB, want, need string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatalf("needs %s", need)
	}
	if err := note(want, tb.Name()); err != nil {
		tb.Fatalf("needs %s, and that cannot be noted: %v", need, err)
	}
	tb.Skipf("could not run: needs %s", need)
}

// note appends its line in one write, so that packages that are tested at the same time do not mix theirs.
func note(want, test string) error {
	path := os.Getenv(unrun)
	if path == "" {
		return nil // not run by make: the skip itself has said it
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = fmt.Fprintln(file, want, test)
	return err
}
