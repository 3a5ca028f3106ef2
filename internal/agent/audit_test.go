package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent/config"
	_ "certswarm/internal/bubble"
	"certswarm/internal/control"
	"certswarm/internal/durable"
)

// inState returns an agent at home in a state directory, on a disk that interposer stands before, and what it logs.
func inState(t *testing.T, interposer durable.Interposer) (a *Agent, dir string, log *bytes.Buffer) {
	t.Helper()
	dir, log = t.TempDir(), new(bytes.Buffer)
	state, err := durable.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = state.Close() })
	state.Interpose(interposer)
	a = New(nil, "", Edges{}, slog.New(slog.NewJSONHandler(log, nil)))
	a.house.Store(&house{cfg: &config.Config{StateDir: dir}, state: state})
	return a, dir, log
}

// auditing runs keepAudit; what it returns ends it, as the end of the daemon does.
func auditing(a *Agent) (end func()) {
	ended, audited := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(audited)
		a.keepAudit(ended)
	}()
	return func() { a.endAudit(ended, audited) }
}

// What was asked for before the end is in the audit log, in its order, a JSON object a line, and stays within bounds.
func TestWhatPeopleChangeIsWrittenDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rounds = 9
		a, dir, log := inState(t, nil)
		for round := range rounds {
			end := auditing(a)
			for i := range auditQueue {
				a.Audit(control.Act{UID: int64(round), PID: int64(i), Act: "resume", Outcome: control.ActFailed, Error: strings.Repeat("x", 3000)})
			}
			end()
		}
		text, err := os.ReadFile(filepath.Join(dir, auditFile))
		old, oldErr := os.ReadFile(filepath.Join(dir, auditFile+".1"))
		if err := errors.Join(err, oldErr); err != nil {
			t.Fatal(err)
		}
		if len(text) > auditLimit || len(old) > auditLimit || len(old) < auditLimit-4000 {
			t.Errorf("%d bytes, and before them %d", len(text), len(old))
		}
		if info, err := os.Lstat(filepath.Join(dir, auditFile)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		lines := strings.Split(strings.TrimSuffix(string(old)+string(text), "\n"), "\n")
		for i, line := range lines {
			var act control.Act
			nth := rounds*auditQueue - len(lines) + i
			if err := json.Unmarshal([]byte(line), &act); err != nil || act.UID != int64(nth/auditQueue) || act.PID != int64(nth%auditQueue) {
				t.Fatalf("line %d of %d: %v, %s", i, len(lines), err, line)
			}
		}
		if log.Len() > 0 {
			t.Errorf("said: %s", log)
		}
	})
}

// An act is never held up by the audit log: the daemon's log has what could not be written there.
func TestAnActThatCannotBeAuditedIsLogged(t *testing.T) {
	for name, c := range map[string]struct {
		disk func(back <-chan struct{}) durable.Interposer
		acts int // more than this are asked for than can be written
		want string
	}{
		"a full disk": {func(<-chan struct{}) durable.Interposer {
			return func(durable.Effect, func() error) error { return errors.New("no space left") }
		}, 1, "no space left"},
		"a disk that hangs": {func(back <-chan struct{}) durable.Interposer {
			return func(durable.Effect, func() error) error { <-back; return errors.New("the disk is back") }
		}, auditQueue + 2, "the disk does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				back := make(chan struct{})
				a, _, log := inState(t, c.disk(back))
				end, begun := auditing(a), time.Now()
				for i := range c.acts {
					a.Audit(control.Act{Act: fmt.Sprintf("act %d", i)})
					synctest.Wait()
				}
				end()
				if took := time.Since(begun); took > auditPatience {
					t.Errorf("the end took %v", took)
				}
				if last := fmt.Sprintf("act %d", c.acts-1); !strings.Contains(log.String(), c.want) || !strings.Contains(log.String(), last) {
					t.Errorf("%q and %q were not said: %s", last, c.want, log)
				}
				close(back)
				synctest.Wait()
			})
		})
	}
}
