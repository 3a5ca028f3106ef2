package peer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"certswarm/internal/fleet"

	"github.com/quic-go/quic-go"
)

// pair runs two connected nodes, the second prepared before it runs.
func pair(t *testing.T, prepare func(*Mesh), story func(t *testing.T, w *world, asker *Session)) {
	t.Helper()
	inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
		w.start(0)
		w.start(1, func(_ *Config, n *node) { n.prepare = prepare })
		w.pass(2 * time.Second)
		asker, ok := w.nodes[0].mesh.Session(w.nodes[1].id.ID())
		if !ok {
			t.Fatal("not connected")
		}
		story(t, w, asker)
	})
}

func TestStreamsArriveByPurpose(t *testing.T) {
	echo := func(suffix string) func(context.Context, *Session, Stream) {
		return func(_ context.Context, s *Session, from Stream) {
			text, _ := io.ReadAll(from)
			_, _ = from.Write(append(text, suffix+s.Peer().Short()...))
		}
	}
	prepare := func(m *Mesh) {
		m.Handle(PurposeSync, echo(" by sync "))
		m.Handle(PurposeLease, echo(" by lease "))
	}
	pair(t, prepare, func(t *testing.T, w *world, s *Session) {
		for purpose, want := range map[Purpose]string{PurposeSync: " by sync ", PurposeLease: " by lease "} {
			stream, err := s.Open(t.Context(), purpose)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Write([]byte("heard")); err != nil {
				t.Fatal(err)
			}
			if err := stream.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(stream)
			if err != nil || string(got) != "heard"+want+w.nodes[0].id.ID().Short() {
				t.Errorf("purpose %d: %q, %v", purpose, got, err)
			}
			stream.Close()
		}
		stream, err := s.Open(t.Context(), PurposeFetch) // nobody serves it
		if err != nil {
			t.Fatal(err)
		}
		var reset *quic.StreamError
		if _, err := stream.Read(make([]byte, 1)); !errors.As(err, &reset) || reset.ErrorCode != resetPurpose {
			t.Errorf("a purpose that nobody serves: %v", err)
		}
		stream.Close()
		w.sameSession(0, 1)
	})
}

// More streams than one peer may have open, one after another, each ended by only one side: no credit is lost.
func TestStreamsLeaveNothingBehind(t *testing.T) {
	prepare := func(m *Mesh) { m.Handle(PurposeSync, func(context.Context, *Session, Stream) {}) }
	pair(t, prepare, func(t *testing.T, w *world, s *Session) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for i := range 5 * streamsMax {
			purpose := PurposeSync
			if i%2 == 0 {
				purpose = PurposeFetch
			}
			stream, err := s.Open(ctx, purpose)
			if err != nil {
				t.Fatalf("stream %d: %v", i, err)
			}
			stream.Close()
		}
	})
}

func TestAStreamThatStopsHalfWayIsClosed(t *testing.T) {
	pair(t, nil, func(t *testing.T, w *world, s *Session) {
		silent, err := s.conn.OpenStreamSync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		unfinished, err := s.Open(t.Context(), PurposeCall) // makes the silent one exist for the peer (RFC 9000 2.1)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		for _, c := range []struct {
			what   string
			stream Stream
			wait   time.Duration
		}{
			{"no purpose", stream{silent}, purposeWait},
			{"half a request", unfinished, requestWait},
		} {
			_ = c.stream.SetReadDeadline(begin.Add(time.Minute))
			if _, err := c.stream.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("%s: %v", c.what, err)
			}
			if took := time.Since(begin); took < c.wait || took > c.wait+100*time.Millisecond {
				t.Errorf("%s: closed after %s", c.what, took)
			}
		}
		w.sameSession(0, 1)
	})
}

func TestTheContextOfASessionEndsWithIt(t *testing.T) {
	var ended chan time.Time
	prepare := func(m *Mesh) {
		ended = make(chan time.Time, 2) // a channel of the bubble
		m.OnSession(func(ctx context.Context, _ *Session) {
			<-ctx.Done()
			ended <- time.Now()
		})
	}
	pair(t, prepare, func(t *testing.T, w *world, s *Session) {
		begin := time.Now()
		s.Close("changed my mind")
		if took := (<-ended).Sub(begin); took > 10*time.Millisecond {
			t.Errorf("after %s", took)
		}
		w.pass(0)
		if text := w.status(1, 0).LastError; !strings.Contains(text, "changed my mind") {
			t.Errorf("the peer was told %q", text)
		}
		w.until(reconnectWithin, "reconnect", func() bool { return w.connected(0, 1) })
	})
}

func TestCalls(t *testing.T) {
	var abandoned chan struct{}
	prepare := func(m *Mesh) {
		abandoned = make(chan struct{}) // a channel of the bubble
		m.HandleCall("echo", func(_ context.Context, from fleet.NodeID, body []byte) ([]byte, error) {
			return append(body, from.Short()...), nil
		})
		m.HandleCall("fail", func(context.Context, fleet.NodeID, []byte) ([]byte, error) {
			return nil, errors.New("no such luck")
		})
		m.HandleCall("ramble", func(context.Context, fleet.NodeID, []byte) ([]byte, error) {
			return nil, errors.New(strings.Repeat("x", 1<<20))
		})
		m.HandleCall("swell", func(_ context.Context, _ fleet.NodeID, body []byte) ([]byte, error) {
			return make([]byte, MaxBody+1), nil
		})
		m.HandleCall("wait", func(ctx context.Context, _ fleet.NodeID, body []byte) ([]byte, error) {
			<-ctx.Done()
			close(abandoned)
			return nil, ctx.Err()
		})
		m.HandleCall(strings.Repeat("m", MaxMethod), func(_ context.Context, _ fleet.NodeID, body []byte) ([]byte, error) {
			return body, nil
		})
	}
	pair(t, prepare, func(t *testing.T, w *world, s *Session) {
		asker, to := w.nodes[0].mesh, w.nodes[1].id.ID()
		for _, size := range []int{0, 1, 70_000, MaxBody - 8} {
			body := bytes.Repeat([]byte{'b'}, size)
			answer, err := asker.Call(t.Context(), to, "echo", body)
			if err != nil || string(answer) != string(body)+w.nodes[0].id.ID().Short() {
				t.Errorf("echo of %d bytes: %d bytes, %v", size, len(answer), err)
			}
		}
		if answer, err := asker.Call(t.Context(), to, strings.Repeat("m", MaxMethod), make([]byte, MaxBody)); err != nil || len(answer) != MaxBody {
			t.Errorf("at the limits: %d bytes, %v", len(answer), err)
		}

		for method, want := range map[string]string{
			"fail":    "no such luck",
			"swell":   "a body of 1048577 bytes, more than 1048576",
			"ramble":  strings.Repeat("x", errorTextMax),
			"unknown": `no such method: "unknown"`,
		} {
			_, err := asker.Call(t.Context(), to, method, nil)
			var remote *RemoteError
			if !errors.As(err, &remote) || remote.Text != want {
				t.Errorf("%s: %v", method, err)
			}
		}

		if _, err := asker.Call(t.Context(), to, "echo", make([]byte, MaxBody+1)); err == nil {
			t.Error("an oversize request was sent")
		}
		if _, err := asker.Call(t.Context(), testIdentity(77).ID(), "echo", nil); !errors.Is(err, ErrNotConnected) {
			t.Errorf("a call of nobody: %v", err)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := asker.Call(ctx, to, "wait", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call without an answer: %v", err)
		}
		<-abandoned
		w.sameSession(0, 1)
	})
}

func TestACallEndsWithTheSession(t *testing.T) {
	prepare := func(m *Mesh) {
		m.HandleCall("wait", func(ctx context.Context, _ fleet.NodeID, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
	}
	pair(t, prepare, func(t *testing.T, w *world, s *Session) {
		begin := time.Now()
		time.AfterFunc(time.Second, func() { w.isolate(1) })
		if _, err := w.nodes[0].mesh.Call(t.Context(), w.nodes[1].id.ID(), "wait", nil); err == nil {
			t.Error("no error")
		}
		if took := time.Since(begin); took > deadWithin+time.Second {
			t.Errorf("took %s", took)
		}
		w.heal()
	})
}

// What a request announces or claims beyond the limits is answered, not obeyed.
func TestHostileRequests(t *testing.T) {
	for name, c := range map[string]struct{ request, answer string }{
		"overlong method": {"\xff", "a method's name of 255 bytes"},
		"oversize body":   {"\x01m\xff\xff\xff\xff", "a body of 4294967295 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			pair(t, nil, func(t *testing.T, w *world, s *Session) {
				stream, err := s.open(t.Context(), append([]byte{byte(PurposeCall)}, c.request...))
				if err != nil {
					t.Fatal(err)
				}
				status, answer, err := readFrame(stream)
				if err != nil || status != callFailed || !strings.Contains(string(answer), c.answer) {
					t.Errorf("status %d, %q, %v", status, answer, err)
				}
				stream.Close()
				w.sameSession(0, 1)
			})
		})
	}
}
