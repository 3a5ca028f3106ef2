package agent_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent"
	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/nginx"
	"certswarm/testnet"
)

// reconfigure changes a running node's configuration file and has it read again.
func reconfigure(t *testing.T, f *testnet.Fleet, node int, from, to string) error {
	t.Helper()
	file := filepath.Join(filepath.Dir(f.Path(node, "")), "certswarm.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		t.Fatalf("%q is not in\n%s", from, text)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return f.Agent(node).Reload(t.Context())
}

// absent is an nginx that is not there.
type absent struct{}

func (absent) Running(context.Context) (bool, error) { return false, nil }
func (absent) Test(context.Context) (dump string, err error) {
	return "", errors.New("there is no nginx here")
}
func (absent) Reload(context.Context) error { return errors.New("there is no nginx here") }

// RoundTrip implements http.RoundTripper: there is no CA either.
func (absent) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("there is no CA here")
}

// withCertificates is the world around a fleet that has a certificate to care for, without nginx or CA.
func withCertificates(options testnet.Options) testnet.Options {
	options.Config = func(_ int, yaml string) string {
		return strings.Replace(yaml, "nginx: {enabled: false}", "nginx: {enabled: true, verify: ['127.0.0.1:1']}", 1) +
			"acme: {accept_terms: true, http01_address: '127.0.0.1:1'}\ncertificates: [{name: www.example.com}]\n"
	}
	options.Edges = func(_ int, edges *agent.Edges) {
		edges.Nginx = func(config.Nginx) nginx.Runner { return absent{} }
		edges.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
		edges.CA = absent{}
	}
	return options
}

// A house that is built anew remembers when each peer was last heard, what it said, and how long the daemon is up, and does
// not take for lost whom it has not had the time to hear.
func TestAReloadForgetsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, withCertificates(testnet.Options{Nodes: 3}))
		f.Settle()
		f.Stop(2)
		f.Advance(10 * time.Second)
		before := f.Status(1)
		if !before.Peers[1].Serves {
			t.Fatalf("fe3 has not said that it serves: %+v", before.Peers[1])
		}
		if err := reconfigure(t, f, 1, "nginx: {", "lease: {ttl: 20s}\nnginx: {"); err != nil {
			t.Fatal(err)
		}
		now := f.Status(1)
		lost := now.Peers[1]
		if lost.LastHeard != before.Peers[1].LastHeard || lost.LastHeard.IsZero() {
			t.Errorf("fe3 was last heard %v before the reload and %v after it", before.Peers[1].LastHeard, lost.LastHeard)
		}
		if !lost.Serves {
			t.Error("what fe3 said last is forgotten")
		}
		if !tells(now, control.PeerLost, "fe3 is not connected") {
			t.Errorf("fe3 is no longer lost: %+v", now.Problems)
		}
		if tells(now, control.PeerLost, "fe1") || now.Peers[0].Connected {
			t.Errorf("fe1, which is about to connect, is said to be lost: %+v", now.Problems)
		}
		if tells(now, control.NoLeaseHolder, "") {
			t.Errorf("nobody is said to hold the lease before anybody can have been heard: %+v", now.Problems)
		}
		if now.Node.UptimeSeconds < 10 {
			t.Errorf("up for %v s", now.Node.UptimeSeconds)
		}
		f.Stop(0)
		f.Advance(6 * time.Second)
		if s := f.Status(1); !tells(s, control.PeerLost, "fe1 is not connected") {
			t.Errorf("fe1 is down: %+v", s.Problems)
		}
	})
}

// leaving is a socket that tells when its house is left.
type leaving struct {
	net.PacketConn
	tell func()
}

func (l leaving) Close() error {
	l.tell()
	return l.PacketConn.Close()
}

// onLeaving has tell called when the first house of node 0 closes its socket, and counts in built how many opened one.
func onLeaving(tell func(), built *atomic.Int32) testnet.Options {
	return testnet.Options{Nodes: 2, Edges: func(node int, edges *agent.Edges) {
		listen := edges.ListenPacket
		edges.ListenPacket = func(address string) (net.PacketConn, error) {
			conn, err := listen(address)
			if err == nil && node == 0 && built.Add(1) == 1 {
				conn = leaving{conn, tell}
			}
			return conn, err
		}
	}}
}

// Who asks for something, or looks, while one house is left for another is not told of half a daemon.
func TestAReloadIsNotSeenFromOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f *testnet.Fleet
		var built atomic.Int32
		var between control.Status
		rescanned := make(chan error, 1)
		options := onLeaving(func() {
			if built.Load() > 1 {
				return
			}
			a := f.Agent(0)
			go func() { rescanned <- a.Rescan(t.Context()) }()
			time.Sleep(time.Millisecond)
			between = a.Status()
		}, &built)
		options.Config = func(_ int, yaml string) string { return yaml + "acme: {accept_terms: true}\n" }
		f = testnet.New(t, options)
		f.Settle()
		f.Advance(time.Minute)
		if err := reconfigure(t, f, 0, "nginx: {", "lease: {ttl: 20s}\nnginx: {"); err != nil {
			t.Fatal(err)
		}
		if err := <-rescanned; err != nil {
			t.Errorf("a rescan during the reload: %v", err)
		}
		if between.Cluster == "" || len(between.Problems) > 0 {
			t.Errorf("during the reload the status was %+v", between)
		}
		f.Settle()
	})
}

// A daemon that is told to end while it takes a new configuration builds nothing any more.
func TestTheEndComesBeforeAnotherHouse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f *testnet.Fleet
		var built atomic.Int32
		stopped := make(chan struct{})
		f = testnet.New(t, onLeaving(func() {
			go func() {
				f.Stop(0)
				close(stopped)
			}()
			time.Sleep(time.Millisecond)
		}, &built))
		f.Settle()
		if err := reconfigure(t, f, 0, "nginx: {", "lease: {ttl: 20s}\nnginx: {"); err == nil || !strings.Contains(err.Error(), "the daemon is stopping") {
			t.Errorf("the reload ended with %v", err)
		}
		<-stopped
		if n := built.Load(); n != 1 {
			t.Errorf("%d houses were built", n)
		}
	})
}

// Whoever mends a configuration that was refused is told what to do, and a command that says more than "valid".
func TestARefusedConfigurationSaysWhatToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 1})
		f.Settle()
		here := f.Path(0, "")
		none, file := filepath.Join(t.TempDir(), "nodir"), filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		path := func(p string) string { return "path: " + p + "," }
		for _, c := range []struct{ from, to, text, next string }{
			{path(here), path(none), "there is no " + none + "; make it, then certswarm reload", "certswarm reload"},
			{path(none), path(file + "/x"), "not a directory; mend that, then certswarm reload", "certswarm reload"},
			{path(file + "/x"), path(file), file + " is not a directory; make it one or write another path, then certswarm reload", "certswarm reload"},
			{path(file), path(here) + " writes: 1,", "writes", "certswarm config check"},
			{" writes: 1,", "", "", ""},
			{"cluster: testnet", "cluster: another", "which a running daemon cannot take; run systemctl restart certswarm", "systemctl restart certswarm"},
		} {
			err := reconfigure(t, f, 0, c.from, c.to)
			if c.text == "" {
				if err != nil || tells(f.Status(0), control.ConfigRefused, "") {
					t.Errorf("%s: %v, %+v", c.to, err, f.Status(0).Problems)
				}
				continue
			}
			s := f.Status(0)
			if err == nil || !strings.Contains(err.Error(), c.text) || len(s.Problems) == 0 || !strings.Contains(s.Problems[0].Text, c.text) || s.Problems[0].Next != c.next {
				t.Errorf("%s: %v, %+v", c.to, err, s.Problems)
			}
		}
	})
}
