// Package need decides what becomes of a test whose program is not installed: on a person's machine it is left out,
// and said so at the end of `make test`; where CI=true it fails. Only tests import it. It installs nothing: that is
// `make deps`.
package need

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// unrun names the environment variable with the file that collects a line "PROGRAM TEST" for each test left out. The
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
	if os.Getenv("CI") == "true" {
		tb.Fatalf("needs %s, which is not in PATH: make deps", name)
	}
	if err := note(name, tb.Name()); err != nil {
		tb.Fatalf("needs %s, which is not in PATH (make deps), and that cannot be noted: %v", name, err)
	}
	tb.Skipf("could not run: needs %s, which is not in PATH: make deps", name)
	return ""
}

// note appends its line in one write, so that packages that are tested at the same time do not mix theirs.
func note(program, test string) error {
	path := os.Getenv(unrun)
	if path == "" {
		return nil // not run by make: the skip itself has said it
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = fmt.Fprintln(file, program, test)
	return err
}
