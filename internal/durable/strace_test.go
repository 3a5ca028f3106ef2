package durable

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"certswarm/internal/need"
)

// TestTheSystemCallsAreThoseIntended holds the code to the order that the package comment promises. No other test can: a sync that is left out
// shows only when the power goes.
func TestTheSystemCallsAreThoseIntended(t *testing.T) {
	if dir := os.Getenv("CERTSWARM_TRACED"); dir != "" {
		beTraced(t, dir)
		return
	}
	strace := need.Tool(t, "strace")
	dir := t.TempDir()
	log := filepath.Join(t.TempDir(), "trace")
	traced := exec.Command(strace, "-f", "-y", "-s", "0", "-o", log, "-e", "trace=openat,write,pwrite64,ftruncate,fsync,fdatasync,syncfs,renameat,renameat2,linkat,mkdirat",
		os.Args[0], "-test.run", "^"+t.Name()+"$")
	traced.Env = append(os.Environ(), "CERTSWARM_TRACED="+dir)
	if out, err := traced.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(log)
	must(t, err)
	got := effects(string(text), dir)
	prepared := []string{"pwrite64 #", "fsync #", "write #", "fdatasync #", "ftruncate #", "linkat .certswarm-two", "renameat two", "fsync ."}
	if here, err := openRoot(t, dir).open("", never); err != nil || !here.orderly() {
		prepared = []string{"openat .certswarm-two", "write .certswarm-two", "fsync .certswarm-two", "renameat two", "fsync ."}
	}
	for _, want := range []struct {
		what  string
		calls []string
	}{
		{"a new version of a file", []string{"openat .certswarm-one", "write .certswarm-one", "fsync .certswarm-one", "renameat one", "fsync ."}},
		{"one that was prepared", prepared},
		{"what expires", []string{"openat .certswarm-three", "write .certswarm-three", "renameat three", "end"}},
		{"in bulk", []string{"mkdirat bulk", "openat .certswarm-four", "write .certswarm-four", "openat .certswarm-five", "write .certswarm-five",
			"syncfs .", "renameat four", "renameat five", "syncfs ."}},
		{"a directory", []string{"mkdirat alone", "fsync alone", "fsync ."}},
		{"a directory for others", []string{"mkdirat .certswarm-?", "fsync .certswarm-?", "renameat2 shared", "fsync ."}},
		{"the first line of a log", []string{"openat log", "write log", "fdatasync log", "fsync ."}},
		{"the next one", []string{"openat log", "write log", "fdatasync log"}},
		{"one that is too much for it", []string{"renameat log.1", "openat log", "write log", "fdatasync log", "fsync ."}},
	} {
		if !slices.Equal(got[want.what], want.calls) {
			t.Errorf("%s:\n got %q\nwant %q", want.what, got[want.what], want.calls)
		}
	}
}

// beTraced does each thing once. The directories that it makes are the headings of the trace.
func beTraced(t *testing.T, dir string) {
	r := openRoot(t, dir)
	say := func(what string) { must(t, os.Mkdir(filepath.Join(dir, "== "+what), 0o700)) }
	stage := func(on *Root, name string, volatile bool) {
		_, err := on.Stage(name, filepath.Base(name), Version{Kind: File, Perm: 0o600, Owner: AsItIs, Volatile: volatile}, strings.NewReader("x"))
		must(t, err)
	}
	say("a new version of a file")
	stage(r, "one", false)
	must(t, r.Place("one", "one"))
	must(t, r.SyncDir(""))
	say("one that was prepared")
	must(t, r.Prepare("", 1))
	stage(r, "two", false)
	must(t, r.Place("two", "two"))
	must(t, r.SyncDir(""))
	say("what expires")
	stage(r, "three", true)
	must(t, r.Place("three", "three"))
	must(t, os.Mkdir(filepath.Join(dir, "end"), 0o700))
	say("in bulk")
	_, err := r.Loose().MkDir("bulk", 0o700, AsItIs)
	must(t, err)
	stage(r.Loose(), "bulk/four", false)
	stage(r.Loose(), "bulk/five", false)
	must(t, r.SyncAll("bulk"))
	must(t, r.Place("bulk/four", "four"))
	must(t, r.Place("bulk/five", "five"))
	must(t, r.SyncAll("bulk"))
	say("a directory")
	_, err = r.MkDir("alone", 0o700, AsItIs)
	must(t, err)
	say("a directory for others")
	_, err = r.MkDir("shared", 0o755, AsItIs)
	must(t, err)
	for _, what := range []string{"the first line of a log", "the next one", "one that is too much for it"} {
		say(what)
		must(t, r.Append("log", []byte("line\n"), 10))
	}
	say("nothing")
}

var call = regexp.MustCompile(`^\d+ +(\w+)\((.*)\) += `)

// A call during which another thread made one stands on two lines.
var unfinished, resumed = regexp.MustCompile(`^(\d+) +(\w+\(.*) <unfinished \.\.\.>`), regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>(.*)`)

// effects reduces a trace to "call base-name" below each heading. A file without a name is "#".
func effects(trace, dir string) map[string][]string {
	out := map[string][]string{}
	heading := ""
	begun := map[string]string{} // by thread
	for line := range strings.Lines(trace) {
		if m := unfinished.FindStringSubmatch(line); m != nil {
			begun[m[1]] = m[2]
			continue
		}
		if m := resumed.FindStringSubmatch(line); m != nil {
			line = m[1] + " " + begun[m[1]] + m[2]
		}
		m := call.FindStringSubmatch(line)
		if m == nil || !strings.Contains(line, dir) {
			continue
		}
		name := lastName(m[2], dir)
		if what, is := strings.CutPrefix(name, "== "); is {
			heading = what
			continue
		}
		if heading == "" || m[1] == "openat" && !strings.Contains(m[2], "O_CREAT") {
			continue
		}
		if name == "end" {
			out[heading] = append(out[heading], name)
			continue
		}
		out[heading] = append(out[heading], m[1]+" "+name)
	}
	return out
}

// random is the name of a temporary that has no token of its own.
var random = regexp.MustCompile(`^\.certswarm-[A-Z2-7]{26,}$`)

var quoted = regexp.MustCompile(`"([^"]*)"|<([^>]+)>`)

// lastName is the base name of the last file that a call's arguments name.
func lastName(arguments, dir string) string {
	name := ""
	for _, m := range quoted.FindAllStringSubmatch(arguments, -1) {
		if path := m[1] + m[2]; path != "" {
			name = path
		}
	}
	switch {
	case name == dir || name == ".":
		return "."
	case strings.Contains(name, "/#"):
		return "#"
	}
	return random.ReplaceAllString(filepath.Base(name), ".certswarm-?")
}
