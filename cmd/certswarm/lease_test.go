package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/fleet"
)

// steward is a daemon with a lease of which the test writes what can be done.
type steward struct {
	scripted
	recovery  control.Recovery
	recovered atomic.Bool
	right     context.Context // nil: the lease is not held
	hangs     bool
	refuses   error
	barrier   error
	passes    bool // at the barrier
	missing   []string
}

func (d *steward) Right(ctx context.Context, _ bool) (control.Right, time.Duration, error) {
	switch {
	case d.right != nil:
		return d, time.Hour, nil
	case d.hangs:
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM) // lease run is waiting for it
		<-ctx.Done()
	case d.refuses != nil:
		return nil, 0, d.refuses
	}
	return nil, 0, control.ErrNotHeld
}

func (d *steward) Context() context.Context { return d.right }
func (d *steward) Check() error             { return nil }
func (d *steward) Epoch() fleet.Epoch       { return fleet.Epoch{Term: 1} }
func (d *steward) Enter() func()            { return func() {} }

func (d *steward) ResignLease(context.Context) error                  { return nil }
func (d *steward) Recovery(context.Context) (control.Recovery, error) { return d.recovery, nil }
func (d *steward) RecoverLease(context.Context) error {
	if d.recovery.Refused != "" {
		return errors.New("it should not have been asked")
	}
	d.recovered.Store(true)
	return nil
}

func (d *steward) Barrier(ctx context.Context, _ control.Wish, say func([]string) error) error {
	if d.barrier != nil || d.passes {
		return d.barrier
	}
	if err := say(d.missing); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// What would be refused is refused before anybody is asked; who reads JSON is not asked at all; and a voter that is not there has its row.
func TestRecoveringTheLease(t *testing.T) {
	alone := control.Recovery{
		Rebuilds: true, Confirm: "fe2 and fe3 never come back",
		Standings: control.List[control.Standing]{{Node: "fe1", Reached: true, Heard: true, State: true}, {Node: "fe2", Reached: true}, {Node: "fe3"}},
	}
	led := alone
	led.Rebuilds, led.Confirm, led.Refused = false, "", "this node sees fe1 lead: there is a majority, and nothing to recover"
	cut := led
	cut.Standings = control.List[control.Standing]{led.Standings[0], {Node: "fe3", Refuses: true}}
	for name, test := range map[string]struct {
		recovery       control.Recovery
		args           string
		code           int
		stdout, stderr string
	}{
		"asks":             {alone, "", 1, "fe3   not reached", "Agree that fe2 and fe3 never come back? [y/N] \ncertswarm: nothing was changed; without a question: certswarm lease recover --yes\n"},
		"does not ask":     {alone, "--yes", 0, "fe2   has not answered yet", "the lease was rebuilt from this node: certswarm lease show\n"},
		"JSON":             {alone, "--json", 1, `"reached": false`, "certswarm: nothing was changed; without a question: certswarm lease recover --yes\n"},
		"JSON, and does":   {alone, "--json --yes", 0, `"confirm": "fe2 and fe3 never come back"`, "the lease was rebuilt from this node: certswarm lease show\n"},
		"refused":          {led, "", 1, "fe3   not reached", "certswarm: " + led.Refused + "\n"},
		"cut off":          {cut, "", 1, "fe3   refuses this node", "certswarm: " + led.Refused + "\n"},
		"refused all same": {led, "--yes", 1, "fe3", "certswarm: " + led.Refused + "\n"},
		"refused in JSON":  {led, "--json", 1, `"refused": "this node sees fe1 lead`, "certswarm: " + led.Refused + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &steward{recovery: test.recovery}
			code, stdout, stderr := ask(serveControl(t, d), append([]string{"lease", "recover"}, strings.Fields(test.args)...)...)
			if code != test.code || !strings.Contains(stdout, test.stdout) || stderr != test.stderr || d.recovered.Load() != (test.code == 0) {
				t.Errorf("exit %d, recovered %v\nstdout: %s\nstderr: %s", code, d.recovered.Load(), stdout, stderr)
			}
			if strings.Contains(test.args, "--json") && !json.Valid([]byte(stdout)) {
				t.Errorf("not one document: %s", stdout)
			}
		})
	}
}

// Everybody who lacks the file is named when the time is up; what is no file is refused.
func TestBarrierEndsWithWhoLacksIt(t *testing.T) {
	lacking := &steward{missing: []string{"fe2 does not have it yet", "fe3 does not have it yet"}}
	code, _, stderr := ask(serveControl(t, lacking), "barrier", "--path", "file", "--timeout", "100ms")
	if want := "certswarm: file is not everywhere within 100ms: fe2 does not have it yet; fe3 does not have it yet\n"; code != 124 || stderr != want {
		t.Errorf("exit %d: %s", code, stderr)
	}
	refusing := &steward{barrier: errors.New("sub/ names a directory in certs")}
	if code, _, stderr := ask(serveControl(t, refusing), "barrier", "--path", "sub/", "--timeout", "1m"); code != 1 || stderr != "certswarm: sub/ names a directory in certs\n" {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestLeaseRunSaysWhyNothingWasRun(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	socket := serveControl(t, &steward{})
	for program, want := range map[string]int{plain: 126, t.TempDir(): 126, plain + "/x": 126, plain + "-not": 127, "no-such-program-anywhere": 127, "/bin/sh": 75} {
		if code, _, stderr := ask(socket, "lease", "run", "--", program); code != want || !strings.Contains(stderr, program) {
			t.Errorf("%s: exit %d, %s", program, code, stderr)
		}
	}
}

// What keeps the daemon from saying that the lease is held makes no difference to cron.
func TestLeaseRunWithoutAnAnswerIsNotHeld(t *testing.T) {
	socket := serveControl(t, &steward{refuses: errors.New("this daemon cannot tell")})
	for _, args := range []string{"lease run -- /bin/sh", "lease run --wait -- /bin/sh"} {
		if code, _, stderr := ask(socket, strings.Fields(args)...); code != 75 || stderr != "certswarm: this daemon cannot tell; /bin/sh was not run\n" {
			t.Errorf("%s: exit %d, %s", args, code, stderr)
		}
	}
}

func TestASpanThatIsNoneSaysWhatToWrite(t *testing.T) {
	for args, want := range map[string]string{
		"barrier --path p --timeout bogus": `certswarm: --timeout "bogus" is no span of time: write 30s or 5m (see certswarm barrier --help)`,
		"wait --for synced --timeout 30":   `certswarm: --timeout "30" is no span of time: write 30s or 5m (see certswarm wait --help)`,
		"cert rollback a --generation x":   `certswarm: --generation "x": that is no value for it (see certswarm cert rollback --help)`,
	} {
		if code, _, stderr := ask("none", strings.Fields(args)...); code != 2 || strings.TrimSpace(stderr) != want {
			t.Errorf("%s: exit %d, %s", args, code, stderr)
		}
	}
}

func TestLeaseRunIsInterruptedWhileTheDaemonHangs(t *testing.T) {
	code, _, stderr := ask(serveControl(t, &steward{hangs: true}), "lease", "run", "--", "/bin/sh")
	if code != 75 || stderr != "certswarm: interrupted before the lease was held here; /bin/sh was not run\n" {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// A program does not outlive the lease run that was killed: nobody else would tell it that the lease is lost.
func TestAKilledLeaseRunEndsItsProgram(t *testing.T) {
	socket := serveControl(t, &steward{right: t.Context()})
	test, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(test, "--socket", socket, "lease", "run", "--", "/bin/sh", "-c", `trap "echo told; exit" TERM; echo runs; i=0; while [ $((i+=1)) -lt 600 ]; do sleep 0.1; done`)
	command.Env = append(os.Environ(), "CERTSWARM_TEST_MAIN=1")
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	patience := time.AfterFunc(time.Minute, func() { _ = out.Close() })
	defer patience.Stop()
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "runs" {
		t.Errorf("it says %q, %v", lines.Text(), lines.Err())
	}
	if err := command.Process.Kill(); err != nil {
		t.Error(err)
	}
	if !lines.Scan() || lines.Text() != "told" {
		t.Errorf("after the kill it says %q, %v", lines.Text(), lines.Err())
	}
	_ = command.Wait() // it was killed
}

func TestVotersThatAreNotConnectedAreCounted(t *testing.T) {
	s := healthyFleet()
	s.Lease.Engine, s.Lease.Wished = "raft", 3
	s.Lease.Voters = control.List[control.Voter]{{Name: "fe1", Connected: true, Listed: true}, {Name: "fe2", Listed: true}, {Name: "fe3", Listed: true}}
	if page := renderLease(s, time.Now(), look{}); !strings.Contains(page, "3 of 3, 1 connected") {
		t.Error(page)
	}
}
