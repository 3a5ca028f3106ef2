package peer

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// beginning is what begins a connection, as far as its lengths tell, with tail after the ids.
func beginning(id []byte, tail ...byte) []byte {
	datagram := longHeader(0xc0, 1, id, 1200)
	copy(datagram[6+len(id):], tail)
	return datagram
}

// longHeader is a datagram of size bytes with the given first byte, version and destination (RFC 9000 17.2).
func longHeader(first byte, version uint32, to []byte, size int) []byte {
	head := append(binary.BigEndian.AppendUint32([]byte{first}, version), byte(len(to)))
	return slices.Concat(head, to, make([]byte, max(0, size-len(head)-len(to))))
}

func TestWhatIsGarbage(t *testing.T) {
	ids, others := testIdentity(0).connectionIDs(), testIdentity(1).connectionIDs()
	made, _ := ids.GenerateConnectionID()
	own := made.Bytes()
	made, _ = others.GenerateConnectionID()
	foreign := made.Bytes()
	altered := append([]byte{own[0] ^ 1}, own[1:]...)
	short := func(first byte, id []byte, size int) []byte {
		return slices.Concat([]byte{first}, id, make([]byte, size-1-len(id)))
	}
	const v1, v2, question, negotiation = 1, 0x6b3343cf, 0x1a2a3a4a, 0
	for name, c := range map[string]struct {
		datagram []byte
		garbage  bool
	}{
		"nothing":                                   {nil, true},
		"of a connection":                           {short(0x40, own, 30), false},
		"of a connection, the fixed bit is not":     {short(0x00, own, 30), true},
		"of another node's connection":              {short(0x40, foreign, 30), true},
		"a bit is wrong":                            {short(0x40, altered, 30), true},
		"less than an id":                           {short(0x40, own[:idLength-1], idLength), true},
		"as long as a stateless reset":              {short(0x40, foreign, resetLength), false},
		"a byte longer":                             {short(0x40, foreign, resetLength+1), true},
		"as long as a stateless reset, not QUIC":    {short(0x00, foreign, resetLength), true},
		"the beginning of a connection":             {longHeader(0xc0, v1, foreign[:8], 1200), false},
		"a beginning that is too short":             {longHeader(0xc0, v1, foreign[:8], 1199), true},
		"a beginning with too short an id":          {longHeader(0xc0, v1, foreign[:7], 1200), true},
		"a beginning, the fixed bit is not":         {longHeader(0x80, v1, foreign[:8], 1200), true},
		"a beginning of another version":            {longHeader(0xc0, v2, foreign[:8], 1200), true},
		"early data":                                {longHeader(0xd0, v1, foreign[:8], 1200), true},
		"a beginning from an id":                    {beginning(foreign[:8], 20), false},
		"a beginning from too long an id":           {beginning(foreign[:8], 21), true},
		"a beginning with a token":                  {beginning(foreign[:8], 0, 0x44, 0x9e), false},
		"a beginning with a token and nothing else": {beginning(foreign[:8], 0, 0x44, 0x9f), true},
		"a beginning with a longer token":           {beginning(foreign[:8], 0, 0x7f, 0xff), true},
		"a beginning with a token beyond measure":   {beginning(foreign[:8], 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), true},
		"a beginning with a payload":                {beginning(foreign[:8], 0, 0, 0x44, 0x9e), false},
		"a beginning with less than its payload":    {beginning(foreign[:8], 0, 0, 0x44, 0x9f), true},
		"a handshake that nobody began":             {longHeader(0xe0, v1, foreign, 1200), true},
		"a handshake":                               {longHeader(0xe0, v1, own, 100), false},
		"an answer to a beginning":                  {longHeader(0xc0, v1, own, 1200), false},
		"a question for versions":                   {longHeader(0xc0, question, foreign[:8], 1200), false},
		"a question that is too short":              {longHeader(0xc0, question, foreign[:8], 1199), true},
		"an answer about versions":                  {longHeader(0x80, negotiation, own, 30), false},
		"an answer about versions, asked by nobody": {longHeader(0x80, negotiation, foreign, 1200), true},
		"a long header that ends in the version":    {[]byte{0xc0, 0, 0, 0, 1}, true},
		"a long header that ends in the id":         {longHeader(0xc0, v1, own, 0)[:6+idLength-1], true},
		"a long header with too long an id":         {longHeader(0xc0, v1, make([]byte, 21), 1200), true},
	} {
		if ids.garbage(c.datagram) != c.garbage {
			t.Errorf("%s: garbage is %v", name, !c.garbage)
		}
	}
	if again := testIdentity(0).connectionIDs(); !again.own(own) {
		t.Error("after a restart the node does not know its own ids")
	}
}

// Every packet of every session is looked at.
func TestALookAtAGoodPacketCostsNoMemory(t *testing.T) {
	m := &Mesh{ids: testIdentity(0).connectionIDs()}
	id, _ := m.ids.GenerateConnectionID()
	packet := slices.Concat([]byte{0x40}, id.Bytes(), make([]byte, 30))
	if n := testing.AllocsPerRun(100, func() { m.sift(packet, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Garbage at the port changes a counter, by one for each datagram, and writes a line a minute.
func TestGarbageIsCounted(t *testing.T) {
	inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
		w.startAll()
		const address = "10.0.9.9:9"
		conn, remove := w.endpoint(address)
		defer remove()
		random := rand.New(rand.NewPCG(1, 2))
		sent := uint64(0)
		for size := range 350 {
			size = 1 + size*4
			if size == resetLength {
				t.Fatal("this length is not counted")
			}
			datagram := make([]byte, size)
			for i := range datagram {
				datagram[i] = byte(random.Uint32())
			}
			if size%7 < 2 {
				copy(datagram, longHeader(0xc3, 1, datagram[:min(8, size)], 0))
			}
			if _, err := conn.WriteTo(datagram, udpAddress(w.nodes[0].address)); err != nil {
				t.Fatal(err)
			}
			sent++
			w.pass(10 * time.Millisecond)
		}
		w.pass(2 * handshakeWait) // what looked like the beginning of a connection
		refusals := w.nodes[0].mesh.Refusals()
		if refusals.Counts[ReasonGarbage] != sent || len(refusals.Counts) != 1 {
			t.Errorf("of %d datagrams counted: %v", sent, refusals.Counts)
		}
		for _, r := range refusals.Recent {
			if !r.ID.IsZero() {
				t.Errorf("garbage is told of as a node: %+v", r)
			}
		}
		lines := func() int { return strings.Count(w.nodes[0].log.String(), "reason=garbage") }
		if lines() != 1 || !strings.Contains(w.nodes[0].log.String(), "address="+address) {
			t.Errorf("the log:\n%s", w.nodes[0].log)
		}
		for range 3 {
			w.pass(refusalLogPause / 2)
			if _, err := conn.WriteTo([]byte("noise"), udpAddress(w.nodes[0].address)); err != nil {
				t.Fatal(err)
			}
			w.pass(time.Second)
		}
		if lines() != 2 {
			t.Errorf("%d lines a minute later:\n%s", lines(), w.nodes[0].log)
		}
		w.sameSession(0, 1)
		if w.nodes[0].sessions != 1 || len(w.nodes[1].mesh.Refusals().Counts) != 0 {
			t.Errorf("%d sessions; the other counts %v", w.nodes[0].sessions, w.nodes[1].mesh.Refusals().Counts)
		}
	})
}

// What nodes send each other is never taken for garbage, however they end, and on whatever network.
func TestAFleetSendsItselfNoGarbage(t *testing.T) {
	inWorld(t, 3, 5*time.Millisecond, func(t *testing.T, w *world) {
		w.startAll()
		clean := func() {
			t.Helper()
			for i, n := range w.nodes {
				if n.mesh == nil {
					continue
				}
				counts := n.mesh.Refusals().Counts
				for _, reason := range []Reason{ReasonGarbage, ReasonProtocol} {
					if counts[reason] > 0 {
						t.Errorf("fe%d counts %d as %s:\n%s", i+1, counts[reason], reason, n.log)
					}
				}
			}
		}
		for i := range w.nodes {
			w.kill(i) // its peers go on sending to connections that the next one does not have, and get stateless resets
			w.start(i)
			w.pass(20 * time.Second)
			clean()
			w.nodes[i].stop()
			w.pass(20 * time.Second)
			clean()
			w.start(i)
			w.pass(20 * time.Second)
			clean()
		}
		random := rand.New(rand.NewPCG(1, 2))
		w.router.setDrop(func(string, string) bool { return random.IntN(10) == 0 })
		w.pass(2 * time.Minute)
		clean()
		w.heal()
		w.until(20*time.Second, "connect", func() bool { return w.connected(0, 1) && w.connected(1, 2) && w.connected(0, 2) })
		clean()
	})
}

// Whoever speaks the protocol and shows no certificate is refused by TLS itself, and counted all the same.
func TestACallerWithoutACertificate(t *testing.T) {
	inWorld(t, 1, time.Millisecond, func(t *testing.T, w *world) {
		w.start(0)
		const address = "10.0.9.9:9"
		conn, remove := w.endpoint(address)
		defer remove()
		transport := &quic.Transport{Conn: conn}
		defer transport.Close()
		const calls = 3
		for range calls {
			session, err := transport.Dial(t.Context(), udpAddress(w.nodes[0].address), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}}, nil)
			if err == nil {
				<-session.Context().Done() // RFC 8446 4.4.2: a client hears of it after its own handshake
			}
			w.pass(time.Second)
		}
		counts, log := w.nodes[0].mesh.Refusals().Counts, w.nodes[0].log.String()
		if counts[ReasonProtocol] != calls || len(counts) != 1 {
			t.Errorf("counted %v", counts)
		}
		if strings.Count(log, "reason=protocol") != 1 || !strings.Contains(log, `what="no certificate"`) || !strings.Contains(log, "address="+address) {
			t.Errorf("the log:\n%s", log)
		}
	})
}

// A caller who leaves in the middle may be a peer with another connection, or a bad network: it is counted and nothing more.
func TestACallerWhoLeavesInTheHandshake(t *testing.T) {
	inWorld(t, 1, time.Millisecond, func(t *testing.T, w *world) {
		w.start(0)
		const address = "10.0.9.9:9"
		conn, remove := w.endpoint(address)
		defer remove()
		w.router.setDrop(func(_, to string) bool { return to == address })
		transport := &quic.Transport{Conn: conn}
		defer transport.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := transport.Dial(ctx, udpAddress(w.nodes[0].address), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}}, nil); err == nil {
			t.Fatal("connected")
		}
		w.pass(2*handshakeWait + time.Second)
		refusals := w.nodes[0].mesh.Refusals()
		if refusals.Counts[ReasonUnfinished] != 1 || len(refusals.Counts) != 1 || len(refusals.Recent) != 0 || w.nodes[0].log.Len() != 0 {
			t.Errorf("%+v, the log: %s", refusals, w.nodes[0].log)
		}
	})
}

func TestHowAConnectionThatWasNotJudgedIsCounted(t *testing.T) {
	const peers, elsewhere = "10.0.0.2:1234", "10.0.9.9:9"
	for name, c := range map[string]struct {
		from  string
		spoke bool
		cause error
		want  Reason // "": not at all
		lines int
	}{
		"nothing could be read of it":        {elsewhere, false, &quic.IdleTimeoutError{}, ReasonGarbage, 1},
		"of it neither, but a peer is there": {peers, false, &quic.IdleTimeoutError{}, ReasonUnfinished, 0},
		"fell silent":                        {elsewhere, true, &quic.HandshakeTimeoutError{}, ReasonUnfinished, 0},
		"left":                               {elsewhere, true, &quic.TransportError{Remote: true, ErrorCode: alertBadCertificate}, ReasonUnfinished, 0},
		"showed no certificate":              {elsewhere, true, &quic.TransportError{ErrorCode: alertNoCertificate}, ReasonProtocol, 1},
		"broke the protocol":                 {elsewhere, false, &quic.TransportError{ErrorCode: quic.ProtocolViolation}, ReasonProtocol, 1},
		"this node takes no more":            {elsewhere, false, &quic.TransportError{ErrorCode: quic.ConnectionRefused}, "", 0},
		"this node ends":                     {elsewhere, false, quic.ErrTransportClosed, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 2, time.Millisecond, func(t *testing.T, w *world) {
				w.startAll()
				mesh, log := w.nodes[0].mesh, w.nodes[0].log
				log.Reset()
				h := &hold{}
				h.spoke.Store(c.spoke)
				mesh.noteEnd(h, udpAddress(c.from), c.cause)
				want := map[Reason]uint64{}
				if c.want != "" {
					want[c.want] = 1
				}
				if got := mesh.Refusals().Counts; !maps.Equal(got, want) || strings.Count(log.String(), "\n") != c.lines {
					t.Errorf("counted %v; the log: %s", got, log)
				}
				h.judged.Store(true)
				if mesh.noteEnd(h, udpAddress(c.from), c.cause); !maps.Equal(mesh.Refusals().Counts, want) {
					t.Errorf("counted twice: %v", mesh.Refusals().Counts)
				}
			})
		})
	}
}

// The kernel's sockets are read another way than those of a simulation.
func TestGarbageOnARealSocket(t *testing.T) {
	mesh, s := loopback(t, func(m *Mesh) { m.HandleCall("echo", echoCall) })
	conn, err := net.Dial("udp", mesh.conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const sent = 20
	for range sent {
		if _, err := conn.Write([]byte("noise")); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := mesh.Call(ctx, s.Peer(), "echo", nil); err != nil { // the answer comes after the noise, on the same socket
		t.Fatal(err)
	}
	if counts := mesh.Refusals().Counts; counts[ReasonGarbage] != sent || len(counts) != 1 {
		t.Errorf("counted %v", counts)
	}
}
