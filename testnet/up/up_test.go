package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/ca"
	"certswarm/testnet/frontend"
	"certswarm/testnet/real"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == frontend.Standin { // the demo under test runs its stand-in so
		os.Exit(frontend.StandinMain(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// The whole demo, on a machine that has nothing but Go.
func TestDemo(t *testing.T) {
	program := build(t)
	var out bytes.Buffer
	if err := run(t.Context(), options{nodes: 3, standin: true, binary: program}, &page{out: &out}); err != nil {
		t.Errorf("the demo failed: %v", err)
	}
	text := out.String()
	for _, want := range []string{
		"3 x stand-in", "apt-get install nginx", "127.0.0.2, 127.0.0.3", "held by fe", "served by 3 of 3 nodes",
		"fe1   barrier", "fe2   barrier", "fe1   proof", "fe2   proof", "CA    accept", "CA    issued",
		"kill -9    the CA has the CSR", "the lease, ", "continued after finalized, begun by fe", "restarts", "ends with exit status 0", "begins attempt ",
		"The demo took ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing is said of %q", want)
		}
	}
	if strings.Contains(text, "FALSE") || t.Failed() {
		t.Errorf("it said:\n%s", text)
	}
	leavesNothing(t)
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	program := build(t)
	ctx, interrupt := context.WithCancel(t.Context())
	out := &trigger{at: "Ctrl-C", pull: interrupt}
	if err := run(ctx, options{nodes: 1, standin: true, hold: true, binary: program}, &page{out: out}); err != nil {
		t.Errorf("a fleet that was held ends with: %v", err)
	}
	if ctx.Err() == nil {
		t.Error("it did not wait for Ctrl-C")
	}
	if err := run(ctx, options{nodes: 1, standin: true, binary: program}, &page{out: &bytes.Buffer{}}); err == nil || err.Error() != "interrupted" {
		t.Errorf("interrupted at its beginning, it says %v", err)
	}
	leavesNothing(t)
}

// build makes the certswarm program, and a directory of this test's own for everything temporary.
func build(t *testing.T) (program string) {
	t.Helper()
	program, err := real.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	temporary, err := os.MkdirTemp("", "up-") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(temporary) })
	t.Setenv("TMPDIR", temporary)
	return program
}

func leavesNothing(t *testing.T) {
	t.Helper()
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("it left %v (%v)", left, err)
	}
}

// trigger is an output that does something when it reads a word.
type trigger struct {
	at   string
	pull func()
}

func (g *trigger) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(g.at)) {
		g.pull()
	}
	return len(p), nil
}

// good is evidence of a fleet of two that did everything right.
func good() evidence {
	at := time.Unix(1_000_000, 0)
	seen := evidence{
		nodes:    []string{"fe1", "fe2"},
		statuses: map[string]control.Status{},
		authority: []ca.Event{
			{Kind: ca.Order, Status: http.StatusCreated}, {Kind: ca.Accept, Status: http.StatusOK}, {Kind: ca.Issued, Detail: "beef"},
		},
		accepts:     []real.Accept{{Served: map[string][]string{"fe1": {"/a", "/b"}, "fe2": {"/a", "/b"}}}},
		validations: map[string][]string{"/a": {"fe1", "fe1", "fe2"}, "/b": {"fe1", "fe2", "fe2"}},
		shown:       map[string]shown{"fe1": {serial: "beef"}, "fe2": {serial: "beef"}},
		events:      []real.Event{{Time: at, Node: "fe1", Text: "issuance", Attributes: map[string]any{"step": "ordered"}}},
	}
	for _, node := range seen.nodes {
		seen.statuses[node] = control.Status{
			Node: control.Node{Name: node}, Lease: control.Lease{Holder: "fe1"},
			Directories: control.List[control.Directory]{{Name: "certs", Files: 5, Fingerprint: "f00"}},
		}
		for _, name := range []string{"validate", "baseline", "switch", "test", "reload", "confirm"} {
			seen.events = append(seen.events, real.Event{Time: at.Add(time.Second), Node: node, Text: "nginx",
				Attributes: map[string]any{"step": name, "took": float64(10 * time.Millisecond)}})
		}
		seen.events = append(seen.events, real.Event{Time: at.Add(time.Second), Node: node, Text: "certificate installed", Attributes: map[string]any{"installed": true}})
	}
	return seen
}

func TestClaims(t *testing.T) {
	if failed := failures(good()); len(failed) != 0 {
		t.Fatalf("of what was right it says: %q", failed)
	}
	status := func(e *evidence, node string, change func(*control.Status)) {
		s := e.statuses[node]
		s.Directories = slices.Clone(s.Directories)
		change(&s)
		e.statuses[node] = s
	}
	for name, c := range map[string]struct {
		spoil func(*evidence)
		says  string
	}{
		"another node asked": {func(e *evidence) { e.events[0].Node = "fe2" }, "requested by"},
		"two nodes asked": {func(e *evidence) {
			e.events = append(e.events, real.Event{Node: "fe2", Attributes: map[string]any{"step": "ordered"}})
		}, "requested by"},
		"nobody asked":       {func(e *evidence) { e.events = e.events[1:] }, "requested by"},
		"another holder":     {func(e *evidence) { status(e, "fe2", func(s *control.Status) { s.Lease.Holder = "fe2" }) }, "requested by"},
		"a token missing":    {func(e *evidence) { e.accepts[0].Served["fe2"] = []string{"/a"} }, "before the CA was told"},
		"a front-end silent": {func(e *evidence) { delete(e.accepts[0].Served, "fe2") }, "before the CA was told"},
		"no accept":          {func(e *evidence) { e.accepts = nil }, "before the CA was told"},
		"one perspective":    {func(e *evidence) { e.validations["/a"] = []string{"fe1", "fe1", "fe1"} }, "three perspectives"},
		"two validations":    {func(e *evidence) { e.validations["/a"] = []string{"fe1", "fe2"} }, "three perspectives"},
		"no validation":      {func(e *evidence) { e.validations = nil }, "three perspectives"},
		"two orders":         {func(e *evidence) { e.authority = append(e.authority, ca.Event{Kind: ca.Order, Status: 201}) }, "one order"},
		"two certificates":   {func(e *evidence) { e.authority = append(e.authority, ca.Event{Kind: ca.Issued, Detail: "cafe"}) }, "one order"},
		"no reload": {func(e *evidence) {
			e.events = slices.DeleteFunc(e.events, func(l real.Event) bool { return l.Node == "fe2" && l.Attribute("step") == "reload" })
		}, "tested, reloaded"},
		"not installed": {func(e *evidence) {
			e.events[len(e.events)-1].Attributes = map[string]any{"installed": false}
		}, "tested, reloaded"},
		"an old serial":   {func(e *evidence) { e.shown["fe2"] = shown{serial: "0ld"} }, "front-end of fe2"},
		"no handshake":    {func(e *evidence) { e.shown["fe1"] = shown{err: errors.New("refused")} }, "front-end of fe1"},
		"a file missing":  {func(e *evidence) { status(e, "fe2", func(s *control.Status) { s.Directories[0].Files = 4 }) }, "same files"},
		"another content": {func(e *evidence) { status(e, "fe2", func(s *control.Status) { s.Directories[0].Fingerprint = "bad" }) }, "same files"},
		"a problem": {func(e *evidence) {
			status(e, "fe2", func(s *control.Status) { s.Problems = control.List[control.Problem]{{Code: control.NginxDown}} })
		}, "knows of a problem"},
	} {
		t.Run(name, func(t *testing.T) {
			seen := good()
			c.spoil(&seen)
			failed := failures(seen)
			if len(failed) != 1 || !strings.Contains(failed[0], c.says) {
				t.Errorf("it says: %q", failed)
			}
		})
	}
}

func failures(seen evidence) []string { return notTrue(claims(seen)) }

func notTrue(all []claim) (failed []string) {
	for _, c := range all {
		if c.failed != "" {
			failed = append(failed, c.text+": "+c.failed)
		}
	}
	return failed
}

func TestTakeoverClaims(t *testing.T) {
	exits := exec.Command("sh", "-c", "exit 1").Run()
	play := func() (evidence, takeover) {
		seen := good()
		at := seen.events[0].Time
		step := func(after time.Duration, node, step, text string) {
			seen.events = append(seen.events, real.Event{Time: at.Add(after), Node: node, Text: "issuance", Attributes: map[string]any{"step": step, "text": text}})
		}
		step(time.Second, "fe1", "finalized", "")
		step(3*time.Second, "fe2", "", "continued after finalized, begun by fe1")
		step(4*time.Second, "fe2", "valid", "")
		return seen, takeover{asker: "fe2", victim: "fe1", successor: "fe2", killed: at.Add(2 * time.Second), said: "www: generation 2 is served by every live node"}
	}
	if seen, of := play(); len(notTrue(takeoverClaims(seen, of))) != 0 {
		t.Fatalf("of what was right it says: %q", notTrue(takeoverClaims(seen, of)))
	}
	for name, c := range map[string]struct {
		spoil func(*evidence, *takeover)
		says  string
	}{
		"killed too early": {func(_ *evidence, of *takeover) { of.killed = of.killed.Add(-90 * time.Minute) }, "before it heard the answer"},
		"killed too late":  {func(_ *evidence, of *takeover) { of.victim = "fe2"; of.killed = of.killed.Add(time.Minute) }, "before it heard the answer"},
		"nobody continued": {func(e *evidence, _ *takeover) { e.events = e.events[:len(e.events)-2] }, "never said that it continued"},
		"another order": {func(e *evidence, _ *takeover) {
			e.authority = append(e.authority, ca.Event{Kind: ca.Order, Status: 201})
		}, "had 2 orders"},
		"another one issued": {func(e *evidence, _ *takeover) {
			e.authority = append(e.authority, ca.Event{Kind: ca.Issued, Detail: "cafe"})
		}, "issued 2 certificates"},
		"the command failed": {func(_ *evidence, of *takeover) { of.failed, of.said = exits, "no daemon" }, "exit status 1: no daemon"},
		"it said otherwise":  {func(_ *evidence, of *takeover) { of.said = "www: ordered by fe1" }, "it said: www: ordered by fe1"},
		"an old serial":      {func(e *evidence, _ *takeover) { e.shown["fe1"] = shown{serial: "0ld"} }, "front-end of fe1"},
		"a problem": {func(e *evidence, _ *takeover) {
			s := e.statuses["fe2"]
			s.Problems = control.List[control.Problem]{{Code: control.PeerLost}}
			e.statuses["fe2"] = s
		}, "knows of a problem"},
	} {
		t.Run(name, func(t *testing.T) {
			seen, of := play()
			c.spoil(&seen, &of)
			failed := notTrue(takeoverClaims(seen, of))
			if !slices.ContainsFunc(failed, func(text string) bool { return strings.Contains(text, c.says) }) || len(failed) > 2 {
				t.Errorf("it says: %q", failed)
			}
		})
	}
}

// Steps are logged together when the last has ended; the timeline gives each its own time.
func TestStepsGetTheirTimes(t *testing.T) {
	all := installs(good().events)
	if len(all) != 2 {
		t.Fatalf("%d installations were found", len(all))
	}
	moments := all[0].moments()
	var got []string
	for _, m := range moments {
		got = append(got, fmt.Sprintf("%s %d", m.step, m.at.Sub(all[0].at).Milliseconds()))
	}
	want := []string{"baseline -40", "switch -30", "test -20", "reload -10", "confirm 0"}
	if !slices.Equal(got, want) {
		t.Errorf("the steps ended at %q, not %q", got, want)
	}
}
