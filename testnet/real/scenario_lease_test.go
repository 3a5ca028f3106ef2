package real_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/real"
)

// leaseTTL is short, so that what takes its time takes seconds.
const leaseTTL = 3 * time.Second

var leaseOf3s = []string{"ttl: 3s"}

// command runs the command line on a node and returns its exit status and what it said.
func (w *world) command(n *real.Node, args ...string) (code int, stdout, stderr string) {
	w.t.Helper()
	var out, talk bytes.Buffer
	command := n.Certswarm(w.ctx, args...)
	// Whatever comes after -- is another program's.
	if slices.Contains(args, "--") {
		command.Args = append([]string{command.Args[0], "--config", n.ConfigFile}, args...)
	}
	command.Stdout, command.Stderr = &out, &talk
	err := command.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), out.String(), talk.String()
	}
	w.must(err)
	return 0, out.String(), talk.String()
}

// exits fails the test unless the command ends with that status.
func (w *world) exits(want int, n *real.Node, args ...string) (stdout, stderr string) {
	w.t.Helper()
	code, stdout, stderr := w.command(n, args...)
	if code != want {
		w.t.Errorf("certswarm %s on %s exits with %d, not %d: %s%s", strings.Join(args, " "), n.Name, code, want, stdout, stderr)
	}
	return stdout, stderr
}

// agreed is true when the nodes name the same holder, which may act, and all know of that many voters.
func agreed(voters int) real.Condition {
	return func(all []control.Status) (bool, string) {
		held := ""
		for _, s := range all {
			votes := 0
			for _, v := range s.Lease.Voters {
				if !v.Learner {
					votes++
				}
			}
			switch {
			case s.Lease.Engine != "raft":
				return false, s.Node.Name + " has the engine " + s.Lease.Engine
			case votes != voters:
				return false, s.Node.Name + " knows of another number of voters"
			case s.Lease.Holder == "" || s.Lease.Holder != all[0].Lease.Holder:
				return false, s.Node.Name + " names another holder: " + s.Lease.Holder
			}
			if s.Lease.HeldHere {
				held = s.Node.Name
			}
		}
		return held != "" && held == all[0].Lease.Holder, "the holder may not act yet"
	}
}

// acting returns the node that holds the lease, and the others.
func (w *world) acting() (holder *real.Node, others []*real.Node) {
	w.t.Helper()
	for _, n := range w.Nodes {
		if n.Running() && w.status(n).Lease.HeldHere {
			holder = n
		} else {
			others = append(others, n)
		}
	}
	if holder == nil {
		w.t.Fatal("nobody holds the lease")
	}
	return holder, others
}

// taken waits until another node than that one may act, and returns how long that took.
func (w *world) taken(from *real.Node, since time.Time) time.Duration {
	w.t.Helper()
	w.await(func(all []control.Status) (bool, string) {
		for _, s := range all {
			if s.Lease.HeldHere && s.Node.Name != from.Name {
				return true, ""
			}
		}
		return false, "nobody has taken the lease of " + from.Name + " over"
	})
	return time.Since(since)
}

// A lease of three nodes: who holds it, how it moves, and what other programs do under it.
func TestLease(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3), Lease: leaseOf3s})
	w.await(agreed(3))
	holder, others := w.acting()

	w.exits(7, holder, "lease", "run", "--", "sh", "-c", "exit 7")
	w.exits(137, holder, "lease", "run", "--", "sh", "-c", "kill -9 $$")
	w.exits(127, holder, "lease", "run", "--", "no-such-program-at-all")
	w.exits(2, holder, "lease", "run")
	for _, n := range others {
		if out, said := w.exits(75, n, "lease", "run", "--", "echo", "ran"); out != "" || !strings.Contains(said, holder.Name) {
			t.Errorf("%s says %q and %q", n.Name, out, said)
		}
		w.exits(1, n, "lease", "resign")
		w.exits(1, n, "lease", "recover", "--yes")
	}
	page, _ := w.exits(0, others[0], "lease", "show")
	if !strings.Contains(page, holder.Name) || !strings.Contains(page, "3 of 3") {
		t.Errorf("lease show says\n%s", page)
	}

	// A program that runs under the lease is told to end when it is given away, one that waits for it begins when the other has ended.
	marks := t.TempDir()
	running, waiting := w.underLease(holder, nil, "trap 'sleep 1; touch "+marks+"/ended; exit 3' TERM; echo begun; sleep 60 & wait"), []*inLease{}
	for _, n := range others {
		waiting = append(waiting, w.underLease(n, []string{"--wait"}, "touch "+marks+"/begun; echo begun"))
	}
	running.begins(t)
	given := time.Now()
	w.exits(0, holder, "lease", "resign")
	if took := w.taken(holder, given); took > leaseTTL {
		t.Errorf("another node may act %v after the lease was given away", took)
	}
	if code := running.ends(t); code != 3 || !strings.Contains(running.said.String(), "the lease is lost") {
		t.Errorf("what ran under the lease ends with %d: %s", code, running.said.String())
	}
	holder, _ = w.acting()
	for _, waits := range waiting {
		if waits.node == holder {
			waits.begins(t)
			if ended, begun := w.writtenAt(marks+"/ended"), w.writtenAt(marks+"/begun"); begun.Before(ended) {
				t.Errorf("the next program begins %v before the one before it has ended", ended.Sub(begun))
			}
			if code := waits.ends(t); code != 0 {
				t.Errorf("what waited for the lease ends with %d", code)
			}
		} else {
			waits.interrupt(t)
		}
	}

	// A daemon that ends hands the lease over; one that dies does not.
	ended := time.Now()
	w.must(holder.Stop())
	if took := w.taken(holder, ended); took > leaseTTL {
		t.Errorf("another node may act %v after the holder was told to end", took)
	}
	w.must(holder.Start(w.ctx))
	w.await(agreed(3))
	holder, _ = w.acting()
	died := time.Now()
	holder.Kill()
	if took := w.taken(holder, died); took < leaseTTL/2 || took > 5*leaseTTL {
		t.Errorf("another node may act %v after the holder died", took)
	}
	w.must(holder.Start(w.ctx))
	w.await(agreed(3))
}

// Without a majority nobody holds the lease, everybody says so, and it comes back with the majority.
func TestLeaseWithoutMajority(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3), Lease: leaseOf3s})
	w.await(agreed(3))
	left := w.Nodes[0]
	w.Nodes[1].Kill()
	w.Nodes[2].Kill()
	w.await(func(all []control.Status) (bool, string) {
		p, there := problem(all[0], control.NoLeaseHolder)
		names := strings.Contains(p.Text, "fe2") && strings.Contains(p.Text, "fe3")
		return there && names && strings.Contains(p.Next, "lease recover"), "no-lease-holder does not say why: " + p.Text
	})
	w.exits(75, left, "lease", "run", "--", "true")
	page, _ := w.exits(1, left, "lease", "recover") // nobody answers the question
	if !strings.Contains(page, "GENERATION") || !strings.Contains(page, "fe1") {
		t.Errorf("lease recover shows\n%s", page)
	}
	before := w.status(left).Lease.Epoch.Generation
	w.exits(0, left, "lease", "recover", "--yes")
	w.await(agreed(1))
	if after := w.status(left).Lease.Epoch.Generation; after <= before {
		t.Errorf("generation %d after %d", after, before)
	}
	for _, n := range w.Nodes[1:] {
		w.must(n.Start(w.ctx))
	}
	w.await(agreed(3))
	w.await(func(all []control.Status) (bool, string) {
		for _, s := range all {
			if len(s.Problems) > 0 {
				return false, s.Node.Name + " says " + s.Problems[0].Text
			}
		}
		return true, ""
	})
}

func (w *world) writtenAt(path string) time.Time {
	w.t.Helper()
	info, err := os.Stat(path)
	w.must(err)
	return info.ModTime()
}

// inLease is a program under `lease run`.
type inLease struct {
	node    *real.Node
	command *exec.Cmd
	said    *bytes.Buffer
	begun   chan struct{}
}

// Write implements io.Writer for what the program prints: whatever it is, it has begun.
func (l *inLease) Write(text []byte) (int, error) {
	select {
	case l.begun <- struct{}{}:
	default:
	}
	return len(text), nil
}

func (w *world) underLease(n *real.Node, flags []string, script string) *inLease {
	w.t.Helper()
	l := &inLease{node: n, said: new(bytes.Buffer), begun: make(chan struct{}, 1)}
	l.command = n.Certswarm(w.ctx)
	l.command.Args = append(append([]string{l.command.Args[0], "lease", "run", "--config", n.ConfigFile}, flags...), "--", "sh", "-c", script)
	l.command.Stdout, l.command.Stderr = l, l.said
	w.must(l.command.Start())
	return l
}

func (l *inLease) begins(t *testing.T) {
	t.Helper()
	select {
	case <-l.begun:
	case <-time.After(fuse):
		t.Fatalf("nothing was run on %s: %s", l.node.Name, l.said)
	}
}

func (l *inLease) ends(t *testing.T) int {
	t.Helper()
	var exit *exec.ExitError
	if err := l.command.Wait(); errors.As(err, &exit) {
		return exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return 0
}

func (l *inLease) interrupt(t *testing.T) {
	t.Helper()
	if err := l.command.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	if code := l.ends(t); code != 75 {
		t.Errorf("what waited on %s and was interrupted ends with %d", l.node.Name, code)
	}
}

// The barrier is over when every live node has the file, and with --http when every nginx serves it.
func TestBarrierCommand(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(2), Names: names, Broken: map[string]bool{"fe2": true}})
	first, second := w.Nodes[0], w.Nodes[1]
	token := "acme/.well-known/acme-challenge/a-token-of-somebody-elses-client"
	w.exits(124, first, "barrier", "--path", token, "--timeout", "300ms")
	w.must(os.MkdirAll(filepath.Join(first.Certs, filepath.Dir(token)), 0o755))
	w.must(os.WriteFile(filepath.Join(first.Certs, token), []byte("its answer\n"), 0o644))
	w.exits(0, first, "barrier", "--path", token, "--timeout", "1m")
	if got, err := os.ReadFile(filepath.Join(second.Certs, token)); err != nil || string(got) != "its answer\n" {
		t.Errorf("after the barrier fe2 has %q, %v", got, err)
	}
	w.exits(0, second, "barrier", "--path", filepath.Join(second.Certs, token), "--timeout", "1m")
	_, said := w.exits(124, first, "barrier", "--path", token, "--http", names[0], "--timeout", "2s")
	if !strings.Contains(said, "fe2 does not serve it") || strings.Contains(said, "fe1 does not") {
		t.Errorf("the barrier says %s", said)
	}
	second.FrontEndConfig.BreakChallenge = false
	w.must(second.FrontEnd.Reload(w.ctx, second.FrontEndConfig))
	w.exits(0, first, "barrier", "--path", token, "--http", names[0], "--timeout", "1m")
	w.exits(1, first, "barrier", "--path", "../outside", "--timeout", "1s")
	w.exits(2, first, "barrier")
	second.Kill() // it no longer counts once that is known
	w.must(os.WriteFile(filepath.Join(first.Certs, "alone"), []byte("x"), 0o644))
	w.exits(0, first, "barrier", "--path", "alone", "--timeout", "1m")
}
