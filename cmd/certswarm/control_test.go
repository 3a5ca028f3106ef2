package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent/config"
	_ "certswarm/internal/bubble"
	"certswarm/internal/control"
)

// scripted is a daemon whose answers the test writes.
type scripted struct {
	mu       sync.Mutex
	statuses []control.Status // told one after the other; the last stays
	reload   error
	verify   control.Verification

	rescans  atomic.Int32
	accepted atomic.Bool
}

func (d *scripted) Status() control.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.statuses[0]
	if len(d.statuses) > 1 {
		d.statuses = d.statuses[1:]
	}
	return now
}

// Changed says that the next status of the script is due as soon as the last one was told.
func (d *scripted) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	changed := make(chan struct{})
	if len(d.statuses) > 1 {
		close(changed)
	}
	return changed
}

func (d *scripted) Reload(context.Context) error { return d.reload }

func (d *scripted) Rescan(context.Context) error {
	d.rescans.Add(1)
	return nil
}

func (d *scripted) Resume(_ context.Context, directory string, accept bool) error {
	if directory != "certs" {
		return fmt.Errorf("there is no directory %q", directory)
	}
	d.accepted.Store(accept)
	return nil
}

func (d *scripted) Verify(_ context.Context, name string) (control.Verification, error) {
	if name == "nobody" {
		return control.Verification{}, control.ErrUnknownCertificate
	}
	return d.verify, nil
}

// serveControl runs d's control socket and returns its path.
func serveControl(t *testing.T, d control.Daemon) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "control.sock")
	ln, err := control.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- control.NewServer(d, slog.New(slog.DiscardHandler)).Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return socket
}

// ask runs one command against socket.
func ask(socket string, args ...string) (code int, stdout, stderr string) {
	var out, talk bytes.Buffer
	code = run(append([]string{"certswarm", "--socket", socket}, args...), &out, &talk)
	return code, out.String(), talk.String()
}

func TestCommandsAgainstADaemon(t *testing.T) {
	lagging, unissued := healthyFleet(), healthyFleet()
	lagging.Peers[1].Behind = 2
	unissued.Certificates[0].State = control.Placeholder
	verified := func(states ...control.ServedState) control.Verification {
		var v control.Verification
		for _, state := range states {
			v.Results = append(v.Results, control.Result{Node: "fe1", Name: "www.example.com", State: state})
		}
		return v
	}
	for name, test := range map[string]struct {
		daemon         *scripted
		args           string
		code           int
		stdout, stderr string // parts
	}{
		"status":                 {&scripted{}, "status", 0, "No problems.\n", ""},
		"status of a sick fleet": {&scripted{statuses: []control.Status{troubledFleet()}}, "status", 0, "ERROR  fe1  nginx-test-failed", ""},
		"status schema":          {&scripted{}, "status --schema", 0, `"$id": "certswarm.status/v1"`, ""},
		"status with argument":   {&scripted{}, "status now", 2, "", "now"},
		"peers":                  {&scripted{}, "peers", 0, "fe3   member  connected, 12.3 ms", ""},
		"certs":                  {&scripted{}, "certs", 0, "served by 3 of 3 nodes", ""},
		"lease":                  {&scripted{}, "lease", 0, "holder   fe1", ""},
		"lease show":             {&scripted{}, "lease show", 0, "holder   fe1", ""},
		"lease of nothing":       {&scripted{}, "lease shwo", 2, "", "shwo"},

		"reload taken":   {&scripted{}, "reload --wait", 0, "", "the new configuration is in force"},
		"reload refused": {&scripted{reload: errors.New("certswarm.yaml:3:1: no such key")}, "reload --wait", 1, "", "certswarm.yaml:3:1: no such key"},

		"rescan":                  {&scripted{}, "rescan", 0, "", "every directory was read again"},
		"resume":                  {&scripted{}, "resume certs --restore", 0, "", "directory certs goes on"},
		"resume: unknown":         {&scripted{}, "resume cets --accept", 1, "", `there is no directory "cets"`},
		"resume: which way":       {&scripted{}, "resume certs", 2, "", "either --restore or --accept"},
		"resume: not both":        {&scripted{}, "resume certs --restore --accept", 2, "", "either --restore or --accept"},
		"resume: which directory": {&scripted{}, "resume --restore", 2, "", "resume needs one directory"},

		"verify: all current": {&scripted{verify: verified(control.Current)}, "verify", 0, "current", ""},
		"verify: mismatch":    {&scripted{verify: verified(control.Unreachable, control.Stale)}, "verify www.example.com", 1, "stale", "1 of 2 handshakes show another certificate"},
		"verify: unreachable": {&scripted{verify: verified(control.Current, control.Unreachable)}, "verify", 3, "unreachable", "1 of 2 handshakes failed"},
		"verify: JSON":        {&scripted{verify: verified(control.Stale)}, "verify www.example.com --json", 1, `"state": "stale"`, "another certificate"},
		"verify: unknown":     {&scripted{}, "verify nobody", 2, "", "nobody: no certificate is declared"},
		"verify: two names":   {&scripted{}, "verify a b", 2, "", "takes one certificate"},

		"wait: already synced":      {&scripted{}, "wait --for synced", 0, "", ""},
		"wait: synced later":        {&scripted{statuses: []control.Status{lagging, lagging, healthyFleet()}}, "wait --for synced --timeout 5m", 0, "", ""},
		"wait: issued":              {&scripted{statuses: []control.Status{unissued, healthyFleet()}}, "wait --for issued --name www.example.com", 0, "", ""},
		"wait: served":              {&scripted{}, "wait --for served", 0, "", ""},
		"wait: timed out":           {&scripted{statuses: []control.Status{lagging}}, "wait --for synced --timeout 250ms", 124, "", "not synced within 250ms: "},
		"wait: an undeclared name":  {&scripted{}, "wait --for served --name nobody", 2, "", "nobody: no certificate is declared"},
		"wait: for nothing":         {&scripted{}, "wait", 2, "", "wait needs --for"},
		"wait: for what is unknown": {&scripted{}, "wait --for ever", 2, "", `this is "ever"`},
		"wait: synced has no names": {&scripted{}, "wait --for synced --name a", 2, "", "--name is for issued and served"},
		"wait: into the past":       {&scripted{}, "wait --for synced --timeout -1s", 2, "", "lies in the past"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.daemon.statuses == nil {
				test.daemon.statuses = []control.Status{healthyFleet()}
			}
			code, stdout, stderr := ask(serveControl(t, test.daemon), strings.Fields(test.args)...)
			if code != test.code || !strings.Contains(stdout, test.stdout) || !strings.Contains(stderr, test.stderr) {
				t.Errorf("exit %d, not %d\nstdout: %s\nstderr: %s", code, test.code, stdout, stderr)
			}
			if test.stdout == "" && stdout != "" || test.stderr == "" && stderr != "" {
				t.Errorf("nothing should be said\nstdout: %s\nstderr: %s", stdout, stderr)
			}
		})
	}
}

func TestWaitForSyncedCountsWhatWasWrittenJustBefore(t *testing.T) {
	d := &scripted{statuses: []control.Status{healthyFleet()}}
	if code, _, stderr := ask(serveControl(t, d), "wait", "--for", "synced"); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if n := d.rescans.Load(); n != 1 {
		t.Errorf("%d rescans before the answer, not 1", n)
	}
}

func TestResumePassesOnWhichWay(t *testing.T) {
	for flag, accept := range map[string]bool{"--accept": true, "--restore": false} {
		d := &scripted{}
		d.accepted.Store(!accept)
		if code, _, stderr := ask(serveControl(t, d), "resume", "certs", flag); code != 0 {
			t.Fatalf("%s: exit %d: %s", flag, code, stderr)
		}
		if d.accepted.Load() != accept {
			t.Errorf("%s reached the daemon the other way round", flag)
		}
	}
}

func TestJSONIsTheContract(t *testing.T) {
	socket := serveControl(t, &scripted{statuses: []control.Status{healthyFleet()}})
	for command, want := range map[string]any{
		"status": healthyFleet(),
		"peers":  healthyFleet().Peers,
		"certs":  healthyFleet().Certificates,
		"lease":  healthyFleet().Lease,
	} {
		code, stdout, stderr := ask(socket, command, "--json")
		var got bytes.Buffer
		if err := json.Compact(&got, []byte(stdout)); err != nil {
			t.Fatalf("%s: exit %d, %v: %s%s", command, code, err, stdout, stderr)
		}
		if text, err := json.Marshal(want); err != nil || got.String() != string(text) {
			t.Errorf("%s is\n%s\nnot\n%s (%v)", command, &got, text, err)
		}
	}
}

// A command that has nothing to show says in JSON what came of it, failure included: one document, and the exit code and stderr are as without.
func TestCommandsWithNothingToShowSayInJSONWhatCameOfThem(t *testing.T) {
	lagging := healthyFleet()
	lagging.Peers[1].Behind = 2
	for args, test := range map[string]struct {
		daemon control.Daemon
		code   int
		want   string
	}{
		"wait --for synced":                         {&scripted{}, 0, `{"ok":true,"text":"synced","for":"synced","name":""}`},
		"wait --for served --name nobody":           {&scripted{}, 2, `{"ok":false,"text":"nobody: no certificate is declared under that name: certswarm certs","for":"served","name":"nobody"}`},
		"wait --for synced --timeout 500ms":         {&scripted{statuses: []control.Status{lagging}}, 124, `{"ok":false,"text":"not synced within 500ms: fe3 has not confirmed 2 changes","for":"synced","name":""}`},
		"wait --for ever":                           {&scripted{}, 2, ""},
		"barrier --path file":                       {&steward{passes: true}, 0, `{"ok":true,"text":"file is everywhere","path":"file","directory":"","http":"","missing":[]}`},
		"barrier --path sub/ --directory certs":     {&steward{barrier: errors.New("sub/ is none")}, 1, `{"ok":false,"text":"sub/ is none","path":"sub/","directory":"certs","http":"","missing":[]}`},
		"barrier --path f --http h --timeout 500ms": {&steward{missing: []string{"fe2 lacks it", "fe3 lacks it"}}, 124, `{"ok":false,"text":"f is not everywhere within 500ms: fe2 lacks it; fe3 lacks it","path":"f","directory":"","http":"h","missing":["fe2 lacks it","fe3 lacks it"]}`},
		"barrier":               {&steward{}, 2, ""},
		"reload --wait":         {&scripted{}, 0, `{"ok":true,"text":"the new configuration is in force"}`},
		"reload":                {&scripted{reload: config.Errors{{File: "a.yaml", Line: 3, Col: 1, What: "no", Instead: "yes"}}}, 1, `{"ok":false,"text":"a.yaml:3:1: no; yes"}`},
		"rescan":                {&scripted{}, 0, `{"ok":true,"text":"every directory was read again"}`},
		"resume certs --accept": {&scripted{}, 0, `{"ok":true,"text":"directory certs goes on"}`},
		"resume cets --accept":  {&scripted{}, 1, `{"ok":false,"text":"there is no directory \"cets\""}`},
		"lease resign":          {&steward{}, 0, `{"ok":true,"text":"the lease was given away: certswarm lease show"}`},
	} {
		t.Run(args, func(t *testing.T) {
			if d, plain := test.daemon.(*scripted); plain && d.statuses == nil {
				d.statuses = []control.Status{healthyFleet()}
			}
			socket := serveControl(t, test.daemon)
			code, stdout, stderr := ask(socket, append(strings.Fields(args), "--json")...)
			var got bytes.Buffer
			if stdout != "" {
				if err := json.Compact(&got, []byte(stdout)); err != nil {
					t.Fatalf("%v: %s", err, stdout)
				}
			}
			if code != test.code || got.String() != test.want {
				t.Errorf("exit %d, not %d\n%s\nnot\n%s", code, test.code, &got, test.want)
			}
			plainCode, stdout, talk := ask(socket, strings.Fields(args)...)
			if plainCode != code || talk != stderr || stdout != "" {
				t.Errorf("without --json: exit %d, %q, %q; with it: exit %d, %q", plainCode, stdout, talk, code, stderr)
			}
		})
	}
	none := filepath.Join(t.TempDir(), "none.sock")
	for _, command := range []string{"rescan", "barrier --path p", "wait --for synced --timeout 1ms"} {
		if code, stdout, _ := ask(none, append(strings.Fields(command), "--json")...); code == 0 || !strings.Contains(stdout, `"ok": false`) {
			t.Errorf("%s without a daemon: exit %d, %s", command, code, stdout)
		}
	}
}

func TestWithoutADaemonEveryCommandSaysSoAndExits2(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	for _, command := range []string{"status", "status --watch", "status --json", "peers", "certs", "lease", "reload", "verify", "events", "events -f"} {
		code, stdout, stderr := ask(socket, strings.Fields(command)...)
		if code != 2 || stdout != "" || !strings.Contains(stderr, "no daemon answers at "+socket) {
			t.Errorf("%s: exit %d\nstdout: %s\nstderr: %s", command, code, stdout, stderr)
		}
	}
	code, _, stderr := ask(socket, "wait", "--for", "synced", "--timeout", "1ms")
	if code != 124 {
		t.Errorf("wait: exit %d: %s", code, stderr)
	}
}

// Who names a configuration means the daemon that it is of: where there is none, no other daemon is asked in its place.
func TestWithoutTheNamedConfigurationNobodyIsAsked(t *testing.T) {
	const none = "certswarm: none.yaml: no such file; name the daemon's socket with --socket\n"
	t.Chdir(t.TempDir())
	for _, command := range []string{
		"status", "status --watch", "peers", "certs", "lease", "lease resign", "lease recover --yes", "lease run -- /bin/sh", "reload", "rescan",
		"resume certs --accept", "history", "restore a", "restore a --to b", "events", "verify", "wait --for synced --timeout 1ms", "barrier --path p --timeout 1ms", "doctor",
		"cert issue a", "cert renew a", "cert revoke a --yes", "cert history a", "cert rollback a",
	} {
		if code, stdout, stderr := certswarm(append([]string{"--config", "none.yaml"}, strings.Fields(command)...)...); code != 2 || stdout != "" || stderr != none {
			t.Errorf("%s: exit %d\nstdout: %s\nstderr: %s", command, code, stdout, stderr)
		}
	}
	if code, stdout, _ := certswarm("check", "--config", "none.yaml"); code != 3 || !strings.HasPrefix(stdout, "CERTSWARM UNKNOWN - none.yaml: no such file") {
		t.Errorf("check: exit %d, %s", code, stdout)
	}
	if code, _, stderr := certswarm("rescan", "--socket", ""); code != 2 || !strings.Contains(stderr, "--socket is empty") {
		t.Errorf("an empty socket: exit %d, %s", code, stderr)
	}
}

// An editor jumps to the place that a line begins with, whoever found it.
func TestReloadSaysWhereTheConfigurationIsWrong(t *testing.T) {
	wrong := config.Errors{{File: "a.yaml", Line: 3, Col: 1, What: "unknown key \"x\"", Instead: "write y"}, {File: "b.yaml", Line: 1, Col: 9, What: "no", Instead: "yes"}}
	code, stdout, stderr := ask(serveControl(t, &scripted{reload: wrong}), "reload")
	if code != 1 || stdout != "" || stderr != "a.yaml:3:1: unknown key \"x\"; write y\nb.yaml:1:9: no; yes\n" {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
	if code, _, stderr := ask(serveControl(t, &scripted{reload: errors.New("cluster changed")}), "reload"); code != 1 || stderr != "certswarm: cluster changed\n" {
		t.Errorf("what is wrong nowhere in a file: exit %d, %q", code, stderr)
	}
}

func TestASocketThatWasGuessedIsSaidToBe(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	daemon, err := globals{Socket: socket, Doubt: "a.yaml:1:1: not YAML"}.dial()
	if err != nil {
		t.Fatal(err)
	}
	_, err = daemon.Status(t.Context())
	if want := "no daemon answers at " + socket + ", which is a guess (a.yaml:1:1: not YAML): name the socket with --socket"; !errors.Is(err, control.ErrNoDaemon) || err.Error() != want {
		t.Error(err)
	}
}

func TestWatchedStatusIsAPageOrALineForEveryChange(t *testing.T) {
	for name, test := range map[string]struct {
		g     globals
		begin string // of every page
	}{
		"for people":   {globals{}, "No problems.\n\nlease"},
		"for programs": {globals{JSON: true}, `{"schema":"certswarm.status/v1",`},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := healthyFleet(), healthyFleet()
			second.Cluster = "other"
			socket := serveControl(t, &scripted{statuses: []control.Status{first, second}})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out := &until{word: "other", found: cancel}
			if err := watchStatus(ctx, control.Dial(socket).Watch, out, test.g); err != nil {
				t.Fatal(err)
			}
			if text := out.seen.String(); strings.Count(text, test.begin) != 2 || test.g.JSON && strings.Count(text, "\n") != 2 {
				t.Errorf("seen:\n%s", text)
			}
		})
	}
}

// until is a writer that tells when a word was written.
type until struct {
	seen  bytes.Buffer
	word  string
	found func()
}

func (u *until) Write(text []byte) (int, error) {
	if bytes.Contains(text, []byte(u.word)) {
		u.found()
	}
	return u.seen.Write(text)
}

func TestAWatchThatCannotBeShownEnds(t *testing.T) {
	socket := serveControl(t, &scripted{statuses: []control.Status{healthyFleet()}})
	full := errors.New("no space left on device")
	if err := watchStatus(t.Context(), control.Dial(socket).Watch, broken{full}, globals{}); !errors.Is(err, full) {
		t.Error(err)
	}
}

// A daemon that is restarted is waited for, and people are told; one that never answered is not.
func TestAWatchOutlivesTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lives := []bool{true, false, false, true} // whether it answers before it ends
		var told bytes.Buffer
		watch := outliving(func(_ context.Context, next func(control.Status) bool) error {
			alive := lives[0]
			lives = lives[1:]
			if alive && !next(healthyFleet()) {
				return nil
			}
			return fmt.Errorf("%w at /run/x", control.ErrNoDaemon)
		}, &told)
		seen := 0
		err := watch(t.Context(), func(control.Status) bool { seen++; return seen < 2 })
		if err != nil || seen != 2 || strings.Count(told.String(), "waiting for it") != 1 {
			t.Errorf("%v; seen %d times, told %q", err, seen, told.String())
		}
		never := outliving(func(context.Context, func(control.Status) bool) error { return control.ErrNoDaemon }, io.Discard)
		if err := never(t.Context(), nil); !errors.Is(err, control.ErrNoDaemon) {
			t.Errorf("one that never answered: %v", err)
		}
	})
}

type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

func TestAwaitTriesADaemonThatIsNotUpYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		watch := func(_ context.Context, next func(control.Status) bool) error {
			if time.Since(begin) < 3*time.Second {
				return control.ErrNoDaemon
			}
			next(healthyFleet())
			return nil
		}
		if why, err := await(t.Context(), watch, "", control.IsSynced); err != nil || why != "" || time.Since(begin) != 3*time.Second {
			t.Errorf("%q, %v after %v", why, err, time.Since(begin))
		}
	})
}

func TestAwaitSaysAtTheEndWhatWasMissing(t *testing.T) {
	lagging := healthyFleet()
	lagging.Peers[1].Behind = 2
	never := func(ctx context.Context, _ func(control.Status) bool) error {
		<-ctx.Done()
		return ctx.Err()
	}
	for name, test := range map[string]struct {
		watch func(context.Context, func(control.Status) bool) error
		why   string
	}{
		"a peer lags": {func(ctx context.Context, next func(control.Status) bool) error {
			if !next(lagging) {
				t.Error("a lagging peer was enough")
			}
			return never(ctx, next)
		}, "fe3 has not confirmed 2 changes"},
		"no daemon":         {func(context.Context, func(control.Status) bool) error { return control.ErrNoDaemon }, "no daemon answers"},
		"a daemon that sat": {never, "the daemon has not answered yet"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				why, err := await(ctx, test.watch, "", control.IsSynced)
				if !errors.Is(err, context.DeadlineExceeded) || why != test.why {
					t.Errorf("%q, %v", why, err)
				}
			})
		})
	}
}

func TestWhatBecameTrueAtTheLastMomentIsTrue(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	watch := func(ctx context.Context, next func(control.Status) bool) error {
		next(healthyFleet())
		cancel()
		return ctx.Err()
	}
	if why, err := await(ctx, watch, "", control.IsSynced); err != nil {
		t.Errorf("%v: %s", err, why)
	}
}

func TestErrorsOfTheSocketHaveTheirExitCodes(t *testing.T) {
	for want, err := range map[int]error{
		0: nil,
		1: errors.New("refused"),
		2: fmt.Errorf("%w: run this as root", control.ErrDenied),
	} {
		var talk bytes.Buffer
		if got := exitCode(unanswered(err), &talk); got != want || err != nil && !strings.Contains(talk.String(), err.Error()) {
			t.Errorf("%v: exit %d, %q", err, got, talk.String())
		}
	}
}

func TestAwaitDoesNotRetryWhatNeverHeals(t *testing.T) {
	denied := func(context.Context, func(control.Status) bool) error { return control.ErrDenied }
	if _, err := await(t.Context(), denied, "", control.IsSynced); !errors.Is(err, control.ErrDenied) {
		t.Error(err)
	}
}

func TestColourIsForTerminalsOnly(t *testing.T) {
	if lookOf(&bytes.Buffer{}, globals{}).colour {
		t.Error("a pipe got colour")
	}
}
