package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"log/slog"
	"net"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/internal/peer"
)

type delivered struct {
	from    fleet.NodeID
	message []byte
}

// couriers runs two meshes on real sockets until the test ends. What the first is sent arrives on the channel.
func couriers(t *testing.T) (meshes [2]*peer.Mesh, ids [2]fleet.NodeID, second *courier, arrived chan delivered) {
	t.Helper()
	var members []fleet.Member
	var conns [2]net.PacketConn
	var keys [2]*peer.Identity
	for i := range 2 {
		conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = peer.NewIdentity(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i + 1)}, ed25519.SeedSize)))
		conns[i], ids[i] = conn, keys[i].ID()
		members = append(members, fleet.Member{Name: string(rune('a' + i)), ID: ids[i], Role: fleet.Issuer, Addresses: []string{conn.LocalAddr().String()}})
	}
	roster, err := fleet.NewRoster(members)
	if err != nil {
		t.Fatal(err)
	}
	arrived = make(chan delivered, 4*bagSize)
	silent := slog.New(slog.DiscardHandler)
	for i := range 2 {
		mesh, err := peer.New(peer.Config{Identity: keys[i], Cluster: "edge", Conn: conns[i], Roster: roster, Log: silent})
		if err != nil {
			t.Fatal(err)
		}
		meshes[i] = mesh
		c := newCourier(mesh, 30*time.Second, time.Millisecond, func(from fleet.NodeID, message []byte) {
			if i == 0 {
				arrived <- delivered{from, message}
			}
		}, silent)
		if i == 1 {
			second = c
		}
		done := make(chan error, 1)
		go func() { done <- mesh.Run(t.Context()) }()
		t.Cleanup(func() {
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	return meshes, ids, second, arrived
}

// session returns the one that a mesh has with a peer, another one than old.
func session(t *testing.T, m *peer.Mesh, with fleet.NodeID, old *peer.Session) *peer.Session {
	t.Helper()
	fuse := time.After(30 * time.Second)
	for {
		changed := m.Changed()
		if s, ok := m.Session(with); ok && s != old {
			return s
		}
		select {
		case <-changed:
		case <-fuse:
			t.Fatalf("not connected: %+v", m.Peers())
		}
	}
}

// arrives sends until the message is there: what is sent while a session begins may be lost.
func arrives(t *testing.T, c *courier, to fleet.NodeID, message []byte, arrived chan delivered) delivered {
	t.Helper()
	fuse := time.After(30 * time.Second)
	for {
		c.Send(to, message)
		select {
		case got := <-arrived:
			return got
		case <-time.After(20 * time.Millisecond):
		case <-fuse:
			t.Fatal("nothing arrives")
		}
	}
}

func TestMessagesOfTheLeaseTravel(t *testing.T) {
	meshes, ids, second, arrived := couriers(t)
	session(t, meshes[1], ids[0], nil)
	largest := bytes.Repeat([]byte("x"), lease.MaxMessage)
	if got := arrives(t, second, ids[0], largest, arrived); got.from != ids[1] || !bytes.Equal(got.message, largest) {
		t.Errorf("%d bytes from %s", len(got.message), got.from.Short())
	}
	if peers := second.Peers(); len(peers) != 1 || peers[0].ID != ids[0] || peers[0].Since.IsZero() || peers[0].List == [32]byte{} {
		t.Errorf("the peers are %+v", peers)
	}
	second.Send(fleet.NodeID{9}, largest) // nobody
}

func TestABrokenMessageOfTheLeaseCostsItsConnection(t *testing.T) {
	meshes, ids, second, arrived := couriers(t)
	s := session(t, meshes[1], ids[0], nil)
	for _, length := range []uint32{0, lease.MaxMessage + 1} {
		stream, err := s.Open(t.Context(), peer.PurposeLease)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Write(binary.BigEndian.AppendUint32(nil, length)); err != nil {
			t.Fatal(err)
		}
		s = session(t, meshes[1], ids[0], s) // the old one was ended
	}
	if got := arrives(t, second, ids[0], []byte("well"), arrived); string(got.message) != "well" {
		t.Errorf("%q arrived", got.message)
	}
}

func TestWhoTalksWithoutEndIsReadSlowly(t *testing.T) {
	c := &courier{window: time.Hour, routes: map[*peer.Session]*route{}}
	r := c.routeOf(context.Background(), nil)
	for i := range bagSize {
		if wait := c.pace(r); wait != 0 {
			t.Fatalf("message %d waits for %v", i, wait)
		}
	}
	if wait := c.pace(r); wait < 50*time.Minute {
		t.Errorf("one too many waits for %v", wait)
	}
	r.since = time.Now().Add(-2 * time.Hour)
	if wait := c.pace(r); wait != 0 {
		t.Errorf("the first of another window waits for %v", wait)
	}
}
