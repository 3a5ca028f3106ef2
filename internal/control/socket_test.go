package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/prometheus"
)

// daemon is a control.Daemon in the test's hand.
type daemon struct {
	mu      sync.Mutex
	status  control.Status
	changed chan struct{}

	reload func(context.Context) error
	verify func(context.Context, string) (control.Verification, error)
	obtain func(context.Context, control.Order, func(control.Progress)) (control.Obtained, error)

	rescans  atomic.Int32
	accepted atomic.Bool
}

func (d *daemon) Status() control.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status
}

func (d *daemon) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

func (d *daemon) set(s control.Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status = s
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *daemon) Reload(ctx context.Context) error { return d.reload(ctx) }

func (d *daemon) Rescan(context.Context) error {
	d.rescans.Add(1)
	return nil
}

func (d *daemon) Resume(_ context.Context, directory string, accept bool) error {
	if directory != "certs" {
		return fmt.Errorf("there is no directory %q", directory)
	}
	d.accepted.Store(accept)
	return nil
}

func (d *daemon) Verify(ctx context.Context, name string) (control.Verification, error) {
	return d.verify(ctx, name)
}

func (d *daemon) Counters() []control.Counts {
	return []control.Counts{{Name: "certswarm_orders_total", Help: "Orders.", Values: map[string]float64{"": 2}}}
}

var quiet = slog.New(slog.DiscardHandler)

// up runs a server for the daemon and returns a client of it, its socket and what ends it.
func up(t *testing.T, d *daemon) (client *control.Client, socket string, stop func() error) {
	t.Helper()
	d.changed = make(chan struct{})
	return serve(t, d)
}

func serve(t *testing.T, d control.Daemon) (client *control.Client, socket string, stop func() error) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "control.sock")
	ln, err := control.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- control.NewServer(d, quiet).Serve(ctx, ln) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = stop() })
	return control.Dial(socket), socket, stop
}

func TestClientReadsStatus(t *testing.T) {
	client, _, stop := up(t, &daemon{status: healthy()})
	status, err := client.Status(t.Context())
	if err != nil || status.Schema != control.Schema || status.Node != healthy().Node || len(status.Peers) != 2 {
		t.Errorf("%+v, %v", status, err)
	}
	if err := stop(); err != nil {
		t.Errorf("Serve ended with %v", err)
	}
	if _, err := client.Status(t.Context()); !errors.Is(err, control.ErrNoDaemon) || !strings.Contains(err.Error(), "is certswarm running? systemctl status certswarm") {
		t.Errorf("after the end: %v", err)
	}
}

func TestWatchTellsTheStatusAtOnceAndAfterEveryChange(t *testing.T) {
	d := &daemon{status: healthy()}
	client, _, _ := up(t, d)
	var seen []string
	err := client.Watch(t.Context(), func(s control.Status) bool {
		if len(seen) > 0 && seen[len(seen)-1] == s.Cluster {
			return true // a change that fell between two looks is seen twice
		}
		seen = append(seen, s.Cluster)
		s.Cluster += "+"
		d.set(s)
		return len(seen) < 3
	})
	if got := strings.Join(seen, " "); err != nil || got != "edge edge+ edge++" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTheEndOfTheDaemonEndsAWatch(t *testing.T) {
	client, _, stop := up(t, &daemon{status: healthy()})
	stopped := make(chan error, 1)
	err := client.Watch(t.Context(), func(control.Status) bool {
		go func() { stopped <- stop() }()
		return true
	})
	if !errors.Is(err, control.ErrNoDaemon) {
		t.Errorf("the watch ended with %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Serve ended with %v", err)
	}
}

func TestTheCallerEndsAWatch(t *testing.T) {
	client, _, _ := up(t, &daemon{status: healthy()})
	ctx, cancel := context.WithCancel(t.Context())
	if err := client.Watch(ctx, func(control.Status) bool { cancel(); return true }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// inFiles is an error that says of itself that it is in files.
type inFiles struct{ error }

func (inFiles) AtPlaces() {}

func TestReloadCarriesTheReason(t *testing.T) {
	answer := errors.New("certswarm.yaml:3:1: unknown key \"peer\"; did you mean peers?")
	d := &daemon{reload: func(context.Context) error { return answer }}
	client, _, _ := up(t, d)
	if err := client.Reload(t.Context()); err == nil || err.Error() != answer.Error() || errors.Is(err, control.ErrNoDaemon) {
		t.Errorf("%v", err)
	}
	if err := client.Reload(t.Context()); errors.Is(err, control.ErrConfigWrong) {
		t.Errorf("nobody said that %v is in a file", err)
	}
	answer = fmt.Errorf("not taken: %w", inFiles{answer})
	if err := client.Reload(t.Context()); !errors.Is(err, control.ErrConfigWrong) || "not taken: "+err.Error() != answer.Error() {
		t.Errorf("%v", err)
	}
	answer = nil
	if err := client.Reload(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestVerifyCarriesNameResultsAndKindsOfError(t *testing.T) {
	d := &daemon{verify: func(_ context.Context, name string) (control.Verification, error) {
		switch name {
		case "a b&c":
			return control.Verification{Results: []control.Result{{Node: "fe1", Name: name, State: control.Stale}}}, nil
		case "":
			return control.Verification{}, nil
		case "busy":
			return control.Verification{}, errors.New("a verification is under way")
		}
		return control.Verification{}, control.ErrUnknownCertificate
	}}
	client, _, _ := up(t, d)
	if v, err := client.Verify(t.Context(), "a b&c"); err != nil || len(v.Results) != 1 || v.Results[0].Name != "a b&c" || v.Verdict() != control.SomeMismatch {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err := client.Verify(t.Context(), ""); err != nil || len(v.Results) != 0 {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := client.Verify(t.Context(), "busy"); err == nil || errors.Is(err, control.ErrUnknownCertificate) {
		t.Errorf("busy: %v", err)
	}
	if _, err := client.Verify(t.Context(), "nobody"); !errors.Is(err, control.ErrUnknownCertificate) {
		t.Errorf("unknown: %v", err)
	}
}

func TestServeEndsAlthoughARequestIsUnderWay(t *testing.T) {
	asked := make(chan struct{})
	d := &daemon{reload: func(ctx context.Context) error {
		close(asked)
		<-ctx.Done()
		return context.Cause(ctx)
	}}
	client, _, stop := up(t, d)
	reloaded := make(chan error, 1)
	go func() { reloaded <- client.Reload(t.Context()) }()
	<-asked
	if err := stop(); err != nil {
		t.Errorf("Serve ended with %v", err)
	}
	if err := <-reloaded; err == nil {
		t.Error("an interrupted reload was taken for a success")
	}
}

func TestServeReportsALostListener(t *testing.T) {
	ln, err := control.Listen(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := control.NewServer(&daemon{}, quiet).Serve(t.Context(), ln); err == nil {
		t.Error("nothing was reported")
	}
}

func TestAnotherProtocolIsNamed(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close(); <-ended })
	if _, err := control.Dial(socket).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("%v", err)
	}
}

func TestMetricsOverTheSocket(t *testing.T) {
	_, socket, _ := up(t, &daemon{status: healthy()})
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	_, body, _ := strings.Cut(string(text), "\r\n\r\n")
	families, wrong := prometheus.Parse(body)
	up, _ := families.Value("certswarm_up")
	orders, _ := families.Value("certswarm_orders_total")
	if err != nil || wrong != nil || up != 1 || orders != 2 {
		t.Errorf("%s, %v, %v", text, err, wrong)
	}
}

func TestListenMakesASocketThatOthersMayNotTouch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "certswarm", "control.sock")
	ln, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after closing: %v", err)
	}
}

func TestListenAndWhatIsThereAlready(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(t *testing.T, path string)
		want    string // part of the error; "" when Listen succeeds
	}{
		"nothing": {func(*testing.T, string) {}, ""},
		"a dead daemon's socket": {func(t *testing.T, path string) {
			ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
			if err != nil {
				t.Fatal(err)
			}
			ln.SetUnlinkOnClose(false)
			if err := ln.Close(); err != nil {
				t.Fatal(err)
			}
		}, ""},
		"a live daemon's socket": {func(t *testing.T, path string) {
			ln, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = ln.Close() })
		}, "stop it first"},
		"a file": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a socket"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			test.prepare(t, path)
			ln, err := control.Listen(path)
			if err == nil {
				defer func() { _ = ln.Close() }()
			}
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, not %q", err, test.want)
			}
		})
	}
	if _, err := control.Listen("/run/" + strings.Repeat("x", 103)); err == nil || !strings.Contains(err.Error(), "control_socket") {
		t.Errorf("too long a path: %v", err)
	}
}

func TestNoSocketAndNoListenerAreNoDaemon(t *testing.T) {
	dead := filepath.Join(t.TempDir(), "dead")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"no socket": dead + "-no", "no listener": dead} {
		_, err := control.Dial(path).Status(t.Context())
		want := "no daemon answers at " + path + ": is certswarm running? systemctl status certswarm"
		if !errors.Is(err, control.ErrNoDaemon) || err.Error() != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestADaemonThatHangsUpIsNoDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			err = conn.Close()
		}
		ended <- err
	}()
	if _, err := control.Dial(path).Status(t.Context()); !errors.Is(err, control.ErrNoDaemon) {
		t.Errorf("%v", err)
	}
	if err := errors.Join(<-ended, ln.Close()); err != nil {
		t.Error(err)
	}
}

func TestPermissionDeniedNamesTheGroup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)} // root, who may run this test, is never refused
	err = control.Dial(path).Explain(t.Context(), refused)
	if !errors.Is(err, control.ErrDenied) || errors.Is(err, control.ErrNoDaemon) || !strings.HasPrefix(err.Error(), path+": permission denied: run this as root or as a member of group ") {
		t.Errorf("%v", err)
	}
}
