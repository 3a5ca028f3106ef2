package peer

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	_ "certswarm/internal/bubble"
	"certswarm/internal/fleet"

	"github.com/quic-go/quic-go"
)

func TestNodesThatListEachOtherConnect(t *testing.T) {
	inWorld(t, 3, 5*time.Millisecond, func(t *testing.T, w *world) {
		w.startAll()
		for i := range w.nodes {
			for j := range w.nodes {
				if i == j {
					continue
				}
				w.sameSession(i, j)
				status := w.status(i, j)
				if status.Address != w.nodes[j].address || status.Version != fmt.Sprintf("v%d", j+1) ||
					status.RosterDigest != w.roster().Digest() || status.RTT < 10*time.Millisecond || status.LastHeard.IsZero() || status.LastError != "" {
					t.Errorf("fe%d sees fe%d as %+v", i+1, j+1, status)
				}
			}
			if w.nodes[i].sessions != 2 {
				t.Errorf("fe%d had %d sessions on the way to 2", i+1, w.nodes[i].sessions)
			}
		}
	})
}

func TestAStrangerIsRefusedOnceInTheLogAndCounted(t *testing.T) {
	inWorld(t, 3, time.Millisecond, func(t *testing.T, w *world) {
		stranger := 2
		for _, i := range []int{0, 1} {
			w.start(i, func(c *Config, _ *node) { c.Roster = w.roster(0, 1) })
		}
		w.pass(time.Second)
		before, _ := w.nodes[0].mesh.Session(w.nodes[1].id.ID())
		w.start(stranger)
		w.pass(10 * time.Second)

		refusals := w.nodes[0].mesh.Refusals()
		if refusals.Counts[ReasonUnknownKey] < 3 || len(refusals.Recent) != 1 {
			t.Fatalf("refusals: %+v", refusals)
		}
		got := refusals.Recent[0]
		if got.ID != w.nodes[stranger].id.ID() || got.Address != w.nodes[stranger].address || got.Reason != ReasonUnknownKey || got.Times < 3 {
			t.Errorf("refusal: %+v", got)
		}
		if lines := strings.Count(w.nodes[0].log.String(), got.ID.String()); lines != 1 {
			t.Errorf("%d lines name the stranger:\n%s", lines, w.nodes[0].log)
		}
		if after, _ := w.nodes[0].mesh.Session(w.nodes[1].id.ID()); before == nil || after != before {
			t.Error("the session of those who belong did not survive")
		}
		if text := w.status(stranger, 0).LastError; !strings.Contains(text, "peer list lacks "+got.ID.String()) {
			t.Errorf("the stranger is told %q", text)
		}
	})
}

func TestOnlyTheDialledKeyIsTalkedTo(t *testing.T) {
	inWorld(t, 3, time.Millisecond, func(t *testing.T, w *world) {
		absent := w.member(2)
		absent.Addresses = []string{w.nodes[1].address} // fe2 lives there
		w.start(0, func(c *Config, _ *node) { c.Roster = rosterOf(t, w.member(0), absent) })
		w.start(1)
		w.pass(2 * time.Second)
		if w.status(0, 2).Connected || len(w.nodes[0].mesh.Sessions()) != 0 {
			t.Fatal("fe1 took fe2 for fe3")
		}
		if text := w.status(0, 2).LastError; !strings.Contains(text, "fe3 was dialled") {
			t.Errorf("last error: %q", text)
		}
		if w.nodes[0].mesh.Refusals().Counts[ReasonOtherKey] == 0 {
			t.Error("not counted")
		}
	})
}

func TestANodesOwnKeyIsNoPeer(t *testing.T) {
	inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
		itself := fleet.Member{Name: "fe2", ID: w.nodes[1].id.ID(), Addresses: []string{w.nodes[0].address}}
		mesh := w.start(0, func(c *Config, _ *node) { c.Roster = rosterOf(t, w.member(0), itself) })
		w.pass(time.Second)
		dialled := mesh.Refusals().Counts[ReasonOwnKey]
		if dialled == 0 || !strings.Contains(w.status(0, 1).LastError, "own key") {
			t.Errorf("dialled itself: %+v, %+v", mesh.Refusals(), w.status(0, 1))
		}
		conn, remove := w.endpoint(w.nodes[1].address)
		defer remove()
		thief := &quic.Transport{Conn: conn}
		defer thief.Close()
		if dialled, err := thief.Dial(t.Context(), udpAddress(w.nodes[0].address), mesh.baseTLS(), nil); err == nil {
			<-dialled.Context().Done()
		}
		if got := mesh.Refusals(); got.Counts[ReasonOwnKey] <= dialled || got.Recent[len(got.Recent)-1].Address != w.nodes[1].address {
			t.Errorf("a stolen key: %+v", got)
		}
	})
}

func TestClustersDoNotMix(t *testing.T) {
	inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
		w.start(0)
		w.start(1, func(c *Config, _ *node) { c.Cluster = "staging" })
		w.pass(30 * time.Second)
		for i, n := range w.nodes {
			if len(n.mesh.Sessions()) != 0 || n.sessions != 0 {
				t.Errorf("fe%d has a session", i+1)
			}
			if n.mesh.Refusals().Counts[ReasonWrongCluster] == 0 {
				t.Errorf("fe%d counted nothing: %+v", i+1, n.mesh.Refusals())
			}
			if lines := strings.Count(n.log.String(), "connection refused"); lines != 1 {
				t.Errorf("fe%d wrote %d lines in half a minute", i+1, lines)
			}
			clusters := []string{"edge", "staging"}
			want := fmt.Sprintf("belongs to cluster %q, this node to %q", clusters[1-i], clusters[i])
			if text := w.status(i, 1-i).LastError; text != want {
				t.Errorf("fe%d says of fe%d that it %q", i+1, 2-i, text)
			}
			for _, r := range n.mesh.Refusals().Recent {
				if r.ID != w.nodes[1-i].id.ID() || r.Text != want {
					t.Errorf("fe%d remembers %+v", i+1, r)
				}
			}
		}
	})
}

func TestGarbageOnThePortChangesNothing(t *testing.T) {
	inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
		w.startAll()
		attacker, remove := w.endpoint("10.0.0.66:9")
		defer remove()
		random := rand.New(rand.NewPCG(1, 2))
		target := udpAddress(w.nodes[0].address)
		for range 2000 {
			datagram := make([]byte, 1+random.IntN(1300))
			for i := range datagram {
				datagram[i] = byte(random.Uint32())
			}
			if random.IntN(2) == 0 { // looks like an Initial of QUIC version 1
				copy(datagram, []byte{0xc3, 0, 0, 0, 1, 8})
			}
			if _, err := attacker.WriteTo(datagram, target); err != nil {
				t.Fatal(err)
			}
			w.pass(time.Millisecond)
		}
		w.pass(20 * time.Second)
		w.sameSession(0, 1)
		for i, n := range w.nodes {
			if n.sessions != 1 || n.mesh.gate.inFlight != 0 {
				t.Errorf("fe%d: %d sessions, %d handshakes in flight", i+1, n.sessions, n.mesh.gate.inFlight)
			}
		}
	})
}

func TestARemovedPeerIsCutAtOnceAndAnAddedOneDialled(t *testing.T) {
	inWorld(t, 3, time.Millisecond, func(t *testing.T, w *world) {
		w.startAll()
		mesh := w.nodes[0].mesh
		changed := mesh.Changed()
		cut, _ := mesh.Session(w.nodes[1].id.ID())
		mesh.SetRoster(w.roster(0, 2))
		select {
		case <-changed:
		default:
			t.Error("nobody was told")
		}
		if _, still := mesh.Session(w.nodes[1].id.ID()); still || cut.conn.Context().Err() == nil {
			t.Fatal("the removed peer's session lives on")
		}
		w.pass(10 * time.Millisecond)
		if w.status(1, 0).Connected {
			t.Error("the removed peer does not know")
		}
		w.pass(20 * time.Second)
		if len(mesh.Sessions()) != 1 {
			t.Errorf("sessions: %+v", mesh.Peers())
		}
		mesh.SetRoster(w.roster())
		w.until(5*time.Second, "added again", func() bool { return w.connected(0, 1) })
	})
}

func TestAChangedListIsTold(t *testing.T) {
	inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
		w.startAll()
		changed := w.nodes[0].mesh.Changed()
		grown := rosterOf(t, append(w.roster().Members(), fleet.Member{Name: "fe9", ID: testIdentity(9).ID()})...)
		w.nodes[1].mesh.SetRoster(w.roster(0, 1))
		w.nodes[1].mesh.SetRoster(grown)
		w.pass(10 * time.Millisecond)
		if got := w.status(0, 1).RosterDigest; got != grown.Digest() {
			t.Error("fe1 does not know of fe2's new list")
		}
		select {
		case <-changed:
		default:
			t.Error("nobody was told")
		}
		if w.nodes[0].sessions != 1 {
			t.Error("it cost the session")
		}
	})
}

func TestAPeerRemovedDuringTheHelloStaysOut(t *testing.T) {
	for remover := range 2 {
		for after := time.Duration(0); after < 400*time.Millisecond; after += 20 * time.Millisecond {
			inWorld(t, 2, 50*time.Millisecond, func(t *testing.T, w *world) {
				w.start(0)
				w.start(1)
				w.pass(after)
				n, removed := w.nodes[remover], 1-remover
				n.mesh.SetRoster(w.roster(remover))
				before := n.sessions
				w.pass(2 * time.Second)
				if w.status(removed, remover).Connected || n.sessions != before {
					t.Errorf("removed by fe%d after %s: %+v", remover+1, after, w.status(removed, remover))
				}
			})
		}
	}
}

func TestOnlyLaterWordsCount(t *testing.T) {
	pair(t, nil, func(t *testing.T, w *world, s *Session) {
		said := hello{
			Format: helloFormat, Cluster: "edge", Instance: w.nodes[0].mesh.instance, Roster: make([]byte, 32),
		}
		for _, c := range []struct {
			revision uint64
			version  string
			want     string
		}{{10, "ten", "ten"}, {9, "nine", "ten"}, {11, "eleven", "eleven"}} {
			said.Revision, said.Version = c.revision, c.version
			stream, err := s.open(t.Context(), append([]byte{byte(purposeHello)}, said.encode()...))
			if err != nil {
				t.Fatal(err)
			}
			w.pass(10 * time.Millisecond)
			stream.Close()
			if got := w.status(1, 0).Version; got != c.want {
				t.Errorf("after revision %d: %q", c.revision, got)
			}
		}
		said.Cluster = "staging"
		if _, err := s.open(t.Context(), append([]byte{byte(purposeHello)}, said.encode()...)); err != nil {
			t.Fatal(err)
		}
		w.pass(10 * time.Millisecond)
		if w.status(1, 0).Connected {
			t.Error("a peer that changed its cluster is still talked to")
		}
	})
}

// The list may change at any moment of an exchange of Hellos; what counts in the end is the last one.
func TestAListThatChangesDuringTheHelloIsTold(t *testing.T) {
	grown := func(w *world, i int) fleet.Roster {
		return rosterOf(t, append(w.roster().Members(), fleet.Member{Name: "fe9", ID: testIdentity(byte(99 + i)).ID()})...)
	}
	for after := time.Duration(0); after < 500*time.Millisecond; after += 20 * time.Millisecond {
		inWorld(t, 2, 50*time.Millisecond, func(t *testing.T, w *world) {
			w.start(0)
			w.start(1)
			w.pass(after)
			for i, n := range w.nodes {
				n.mesh.SetRoster(grown(w, i))
			}
			w.pass(2 * time.Second)
			for i := range w.nodes {
				if w.status(i, 1-i).RosterDigest != grown(w, 1-i).Digest() {
					t.Errorf("changed after %s: fe%d does not know", after, i+1)
				}
			}
		})
	}
}

func TestNewAddressesAreDialledAtOnce(t *testing.T) {
	inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
		lost := w.member(1)
		lost.Addresses = []string{"10.9.9.9:1"}
		w.start(0, func(c *Config, _ *node) { c.Roster = rosterOf(t, w.member(0), lost) })
		w.start(1, func(c *Config, _ *node) { c.Roster = rosterOf(t, fleet.Member{Name: "fe1", ID: w.nodes[0].id.ID()}) })
		w.pass(time.Minute)
		w.until(dialWait+pauseMax, "a dial that has just begun", func() bool {
			w.nodes[0].mesh.mu.Lock()
			defer w.nodes[0].mesh.mu.Unlock()
			return w.nodes[0].mesh.links[w.nodes[1].id.ID()].stopAttempt != nil
		})
		if text := w.status(0, 1).LastError; !strings.Contains(text, "10.9.9.9:1: no answer") {
			t.Errorf("fe1 says %q", text)
		}
		if text := w.status(1, 0).LastError; !strings.Contains(text, "no address") {
			t.Errorf("fe2 says %q", text)
		}
		lost.Addresses = append(lost.Addresses, w.nodes[1].address) // the second is tried though the first is silent
		w.nodes[0].mesh.SetRoster(rosterOf(t, w.member(0), lost))
		w.until(stagger+100*time.Millisecond, "new address", func() bool { return w.connected(0, 1) })
	})
}

// A node whose key is listed may still be hostile or broken: it costs no more than its own connection.
func TestAPeerThatBreaksTheProtocolIsDropped(t *testing.T) {
	for name, c := range map[string]struct {
		first []byte
		most  time.Duration
	}{
		"silent":               {nil, helloWait},
		"a Hello cut short":    {[]byte{byte(purposeHello), 0, 9, '{'}, helloWait},
		"no Hello first":       {[]byte{byte(PurposeSync), 1, 2, 3}, 0},
		"an oversize Hello":    {[]byte{byte(purposeHello), 0xff, 0xff}, 0},
		"a Hello that is text": {append([]byte{byte(purposeHello), 0, 5}, "hello"...), 0},
		"an old Hello":         {append([]byte{byte(purposeHello), 0, 12}, `{"format":0}`...), 0},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 3, time.Millisecond, func(t *testing.T, w *world) {
				w.start(0)
				w.start(1)
				w.pass(2 * time.Second)
				conn, remove := w.endpoint(w.nodes[2].address)
				defer remove()
				hostile, err := New(Config{Identity: w.nodes[2].id, Cluster: "edge", Conn: conn, Roster: w.roster()})
				if err != nil {
					t.Fatal(err)
				}
				hostile.transport = hostile.newTransport()
				defer hostile.transport.Close()
				dialled, err := hostile.dial(t.Context(), w.nodes[0].id.ID(), udpAddress(w.nodes[0].address))
				if err != nil {
					t.Fatal(err)
				}
				if c.first != nil {
					stream, err := dialled.OpenStream()
					if err != nil {
						t.Fatal(err)
					}
					if _, err := stream.Write(c.first); err != nil {
						t.Fatal(err)
					}
				}
				begin := time.Now()
				<-dialled.Context().Done()
				if took := time.Since(begin); took > c.most+100*time.Millisecond {
					t.Errorf("it held on for %s", took)
				}
				if got := w.nodes[0].mesh.Refusals().Counts[ReasonProtocol]; c.most == 0 && got != 1 {
					t.Errorf("counted %d times", got)
				}
				if got := len(w.nodes[0].mesh.Sessions()); got != 1 || w.nodes[0].sessions != 1 {
					t.Errorf("%d sessions now, %d ever", got, w.nodes[0].sessions)
				}
			})
		})
	}
}

func TestANodeOfAnotherProtocolVersionIsCounted(t *testing.T) {
	inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
		w.start(0, func(c *Config, _ *node) {
			c.Roster = rosterOf(t, fleet.Member{Name: "fe2", ID: w.nodes[1].id.ID()})
		})
		conn, remove := w.endpoint(w.nodes[1].address)
		defer remove()
		transport := &quic.Transport{Conn: conn}
		defer transport.Close()
		other, err := New(Config{Identity: w.nodes[1].id, Cluster: "edge", Conn: conn, Roster: w.roster()})
		if err != nil {
			t.Fatal(err)
		}
		config := other.baseTLS()
		config.NextProtos = []string{"certswarm/99"}
		_, err = transport.Dial(t.Context(), udpAddress(w.nodes[0].address), config, nil)
		if text := other.explain(err); !strings.Contains(text, "another version") {
			t.Errorf("the dialler is told %q", text)
		}
		if w.nodes[0].mesh.Refusals().Counts[ReasonProtocol] != 1 {
			t.Errorf("refusals: %+v", w.nodes[0].mesh.Refusals())
		}
	})
}

func TestRunSaysThatItsSocketFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, router: &lossyRouter{}}
		conn, remove := w.endpoint("10.0.0.1:7443")
		defer remove()
		mesh, err := New(Config{Identity: testIdentity(1), Cluster: "edge", Conn: conn})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- mesh.Run(t.Context()) }()
		synctest.Wait()
		conn.Close()
		if err := <-done; err == nil || !strings.Contains(err.Error(), "socket") {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	conn := &net.UDPConn{}
	for name, config := range map[string]Config{
		"no identity":      {Cluster: "edge", Conn: conn},
		"no cluster":       {Identity: testIdentity(1), Conn: conn},
		"no socket":        {Identity: testIdentity(1), Cluster: "edge"},
		"overlong name":    {Identity: testIdentity(1), Cluster: strings.Repeat("x", 200), Conn: conn},
		"unprintable name": {Identity: testIdentity(1), Cluster: "e\x1b[2J", Conn: conn},
	} {
		if _, err := New(config); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestLeavingIsToldAndLastHeardKept(t *testing.T) {
	inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
		w.startAll()
		w.nodes[1].stop()
		left := time.Now()
		w.pass(10 * time.Millisecond)
		status := w.status(0, 1)
		if status.Connected || !strings.Contains(status.LastError, "shutting down") || left.Sub(status.LastHeard).Abs() > time.Second {
			t.Errorf("status: %+v", status)
		}
	})
}

func FuzzParseHello(f *testing.F) {
	f.Add([]byte(`{"format":1,"cluster":"edge","version":"1","roster":"AAAA","instance":"x","revision":1,"ended":{}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if said, err := parseHello(text); err == nil && bytes.ContainsRune([]byte(said.Cluster+said.Version+said.Instance), 0x1b) {
			t.Errorf("a terminal escape came through: %q", text)
		}
	})
}
