package need_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"certswarm/internal/need"
)

const missing = "no-such-program"

// ending records how a test ended, and ends it as the real one would.
type ending struct {
	testing.TB
	failed, skipped string
}

func (e *ending) Helper()      {}
func (e *ending) Name() string { return "TestStory" }

func (e *ending) Fatalf(format string, args ...any) {
	e.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (e *ending) Skipf(format string, args ...any) {
	e.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func ask(program string) (path string, end *ending) {
	end = &ending{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		path = need.Tool(end, program)
	}()
	<-done
	return path, end
}

func notes(t *testing.T) (read func() string) {
	file := filepath.Join(t.TempDir(), "unrun")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CERTSWARM_UNRUN", file)
	return func() string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

func TestMissingProgramLeavesTheTestOutAndNotesIt(t *testing.T) {
	t.Setenv("CI", "")
	noted := notes(t)
	for range 2 {
		if _, end := ask(missing); !strings.Contains(end.skipped, missing) || end.failed != "" {
			t.Fatalf("skipped with %q, failed with %q", end.skipped, end.failed)
		}
	}
	if got, want := noted(), strings.Repeat(missing+" TestStory\n", 2); got != want {
		t.Errorf("noted %q, want %q", got, want)
	}
}

func TestMissingProgramIsSkippedWithoutMake(t *testing.T) {
	t.Setenv("CI", "")
	t.Setenv("CERTSWARM_UNRUN", "")
	if _, end := ask(missing); !strings.Contains(end.skipped, missing) || end.failed != "" {
		t.Fatalf("skipped with %q, failed with %q", end.skipped, end.failed)
	}
}

func TestMissingProgramFailsWhereCIIsTrue(t *testing.T) {
	t.Setenv("CI", "true")
	noted := notes(t)
	if _, end := ask(missing); !strings.Contains(end.failed, "make deps") || end.skipped != "" {
		t.Fatalf("failed with %q, skipped with %q", end.failed, end.skipped)
	}
	if got := noted(); got != "" {
		t.Errorf("noted %q beside failing", got)
	}
}

func TestPresentProgramIsFound(t *testing.T) {
	t.Setenv("CI", "true")
	path, end := ask("go")
	if end.failed != "" || filepath.Base(path) != "go" {
		t.Fatalf("found %q, failed with %q", path, end.failed)
	}
}

func TestRootIsNeededByWhoIsNot(t *testing.T) {
	t.Setenv("CI", "")
	noted := notes(t)
	end := &ending{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		need.Root(end)
	}()
	<-done
	left := os.Geteuid() != 0
	if end.failed != "" || (end.skipped != "") != left || (noted() == "root TestStory\n") != left {
		t.Errorf("skipped with %q, failed with %q, noted %q", end.skipped, end.failed, noted())
	}
}
