package peer

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"certswarm/internal/fleet"
)

// loopback runs two meshes on real sockets until the test ends and returns their session as the first sees it.
func loopback(t testing.TB, prepare func(*Mesh)) (*Mesh, *Session) {
	t.Helper()
	var conns [2]*net.UDPConn
	var members [2]fleet.Member
	seeds := [2]byte{0, 1}
	if testIdentity(0).ID().Compare(testIdentity(1).ID()) > 0 {
		seeds = [2]byte{1, 0} // the first is the arbiter
	}
	for i := range conns {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = conn
		members[i] = fleet.Member{Name: string(rune('a' + i)), ID: testIdentity(seeds[i]).ID(), Addresses: []string{conn.LocalAddr().String()}}
	}
	var meshes [2]*Mesh
	for i := range meshes {
		mesh, err := New(Config{
			Identity: testIdentity(seeds[i]), Cluster: "edge", Conn: conns[i],
			Roster: rosterOf(t, members[0], members[1]), Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		prepare(mesh)
		meshes[i] = mesh
		done := make(chan error, 1)
		go func() { done <- mesh.Run(t.Context()) }()
		t.Cleanup(func() {
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	fuse := time.After(30 * time.Second)
	for {
		changed := meshes[0].Changed()
		if s, ok := meshes[0].Session(members[1].ID); ok {
			return meshes[0], s
		}
		select {
		case <-changed:
		case <-fuse:
			t.Fatalf("not connected: %+v", meshes[0].Peers())
		}
	}
}

func echoForEver(_ context.Context, _ *Session, s Stream) {
	frame := make([]byte, 64)
	for {
		if _, err := io.ReadFull(s, frame); err != nil {
			return
		}
		if _, err := s.Write(frame); err != nil {
			return
		}
	}
}

func echoCall(_ context.Context, _ fleet.NodeID, body []byte) ([]byte, error) { return body, nil }

func TestOverRealSockets(t *testing.T) {
	mesh, s := loopback(t, func(m *Mesh) { m.HandleCall("echo", echoCall) })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	large := make([]byte, MaxBody)
	answer, err := mesh.Call(ctx, s.Peer(), "echo", large)
	if err != nil || len(answer) != len(large) {
		t.Errorf("%d bytes, %v", len(answer), err)
	}
}

// BenchmarkRoundTrip is a frame of 64 bytes there and back on an open stream.
func BenchmarkRoundTrip(b *testing.B) {
	_, s := loopback(b, func(m *Mesh) { m.Handle(PurposeSync, echoForEver) })
	stream, err := s.Open(b.Context(), PurposeSync)
	if err != nil {
		b.Fatal(err)
	}
	defer stream.Close()
	frame := make([]byte, 64)
	for b.Loop() {
		if _, err := stream.Write(frame); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(stream, frame); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCall is a call with 1 KiB there and back.
func BenchmarkCall(b *testing.B) {
	mesh, s := loopback(b, func(m *Mesh) { m.HandleCall("echo", echoCall) })
	body := make([]byte, 1<<10)
	for b.Loop() {
		if _, err := mesh.Call(b.Context(), s.Peer(), "echo", body); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSession is one session from nothing: handshake, Hello, verdict, and the end of the one before it.
func BenchmarkSession(b *testing.B) {
	mesh, s := loopback(b, func(*Mesh) {})
	address := s.conn.RemoteAddr().(*net.UDPAddr)
	for b.Loop() {
		conn, err := mesh.dial(b.Context(), s.Peer(), address)
		if err != nil {
			b.Fatal(err)
		}
		mesh.greet(b.Context(), conn, true)
		if now, ok := mesh.Session(s.Peer()); !ok || now.conn != conn {
			b.Fatal("no new session")
		}
	}
}
