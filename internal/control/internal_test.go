package control

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/fleet"
	"certswarm/testnet/prometheus"
)

var update = flag.Bool("update", false, "write testdata/metrics.golden anew")

// still is a Daemon whose status changes when the test says so.
type still struct {
	Daemon
	mu      sync.Mutex
	changed chan struct{}
}

func (s *still) Status() Status { return Status{} }

func (s *still) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *still) change() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

func TestStreamCoalescesChangesAndIsNeverSilentForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var at []time.Duration
		d := &still{changed: make(chan struct{})}
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		go func() {
			time.Sleep(2 * time.Second)
			for range 50 { // within a tenth of a second
				d.change()
				time.Sleep(time.Millisecond)
			}
		}()
		err := stream(ctx, d, func(Status) error {
			at = append(at, time.Since(begin))
			return nil
		})
		want := []time.Duration{0, 2 * time.Second, 2*time.Second + streamPause, 12*time.Second + streamPause, 22*time.Second + streamPause}
		if !errors.Is(err, context.DeadlineExceeded) || len(at) != len(want) {
			t.Fatalf("%v, %v", at, err)
		}
		for i := range want {
			if at[i] != want[i] {
				t.Errorf("line %d after %v, not %v", i, at[i], want[i])
			}
		}
	})
}

func TestStreamEndsWithItsReader(t *testing.T) {
	gone := errors.New("gone")
	if err := stream(t.Context(), &still{}, func(Status) error { return gone }); !errors.Is(err, gone) {
		t.Error(err)
	}
}

// frozen returns a client of a daemon that takes a connection, and perhaps says something, but then nothing more.
func frozen(t *testing.T, words string) *Client {
	return &Client{path: "/run/x", http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				if _, err := http.ReadRequest(bufio.NewReader(theirs)); err == nil && words != "" {
					_, _ = io.WriteString(theirs, words)
				}
			}()
			t.Cleanup(func() { _ = theirs.Close() })
			return ours, nil
		},
	}}}
}

func TestAFrozenDaemonIsNoDaemon(t *testing.T) {
	for name, test := range map[string]struct {
		words string
		ask   func(context.Context, *Client) error
		after time.Duration
	}{
		"asked for the status": {"", func(ctx context.Context, c *Client) error {
			_, err := c.Status(ctx)
			return err
		}, askTimeout},
		"watched from the start": {"", func(ctx context.Context, c *Client) error {
			return c.Watch(ctx, func(Status) bool { return true })
		}, askTimeout},
		"watched, frozen later": {"HTTP/1.1 200 OK\r\n\r\n{}\n", func(ctx context.Context, c *Client) error {
			return c.Watch(ctx, func(Status) bool { return true })
		}, askTimeout + streamHeartbeat},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				err := test.ask(t.Context(), frozen(t, test.words))
				if !errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), "does not answer") || time.Since(begin) != test.after {
					t.Errorf("%v after %v", err, time.Since(begin))
				}
			})
		})
	}
}

// A program that runs under the lease may take as long as it wants: what bounds the daemon's first word bounds nothing after it.
func TestARightOutlivesTheQuestionForIt(t *testing.T) {
	const ttl = 600
	for _, wait := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			c := frozen(t, "HTTP/1.1 200 OK\r\n\r\n"+`{"held":true,"ttl_seconds":`+strconv.Itoa(ttl)+"}\n")
			err := c.Tenure(t.Context(), wait, func(right context.Context, _ fleet.Epoch) error {
				<-right.Done()
				return context.Cause(right)
			})
			if lasted := time.Since(begin); lasted != ttl*time.Second/tenureSilence || err == nil || !strings.Contains(err.Error(), "does not answer any more") {
				t.Errorf("wait %v: it ended after %v: %v", wait, lasted, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		err := frozen(t, "").Tenure(t.Context(), false, func(context.Context, fleet.Epoch) error { t.Error("acted"); return nil })
		if !errors.Is(err, ErrNoDaemon) || time.Since(begin) != askTimeout {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

func TestAnAnswerThatCannotBeReadIsNotTakenForNoDaemon(t *testing.T) {
	for _, body := range []string{"<html>", `{"node":7}`} {
		answer := "HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
		_, err := frozen(t, answer).Status(t.Context())
		if err == nil || errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), "another version") {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestExposition(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	status := Status{
		Node:        Node{Name: "fe2", Version: "1.2.3", UptimeSeconds: 12.5},
		Lease:       Lease{Holder: "fe1", Wished: 3, Voters: List[Voter]{{Name: "fe1"}, {Name: "fe2"}, {Name: "fe3", Learner: true}}},
		Directories: []Directory{{Name: `a"\b`, Files: 31, State: Behind}},
		Peers: []Peer{
			{Name: "fe1", ID: fleet.NodeID{1}, Connected: true, RTTSeconds: 0.0004, LastHeard: At(noon), Behind: 2},
			{Name: "fe3"},
		},
		Certificates: []Certificate{
			{Name: "a", NotAfter: At(noon), State: Issued, Served: []Served{
				{Node: "fe1", Listener: "127.0.0.1:443", KeyType: "ecdsa", State: Current},
				{Node: "fe2", Listener: "127.0.0.1:443", KeyType: "ecdsa", State: Stale},
			}},
			{Name: "b", State: Placeholder},
		},
		Problems: []Problem{
			{Code: PeerLost, Severity: Warn, Node: "fe3"},
			{Code: HeldFile, Severity: Warn, Node: "fe1", Text: "a"},
			{Code: HeldFile, Severity: Warn, Node: "fe1", Text: "b"},
		},
	}
	got := string(exposition(status, []Counts{
		{Name: "certswarm_bytes_total", Help: "Bytes.", Values: map[string]float64{"": 12e9}},
		{Name: "certswarm_orders_total", Help: "Orders by kind.", Label: "kind", Values: map[string]float64{"new": 3, `a"\b`: 1}},
		{Name: "certswarm_none_total", Help: "Of what never happened.", Label: "kind"},
	}))
	families, err := prometheus.Parse(got)
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := families.Value("certswarm_orders_total", "kind", `a"\b`); n != 1 {
		t.Errorf("the orders are %v", families["certswarm_orders_total"])
	}
	if *update {
		if err := os.WriteFile("testdata/metrics.golden", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/metrics.golden")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the metrics are\n%s", got)
	}
}
