package peer

import (
	"context"
	"fmt"
	"io"
	"time"

	"certswarm/internal/fleet"

	"github.com/quic-go/quic-go"
)

// Purpose is the first byte of every stream: what it is for.
type Purpose byte

// The purposes. A stream for any other is reset, so that nodes of different versions can meet.
const (
	purposeHello Purpose = 1
	PurposeSync  Purpose = 2
	PurposeFetch Purpose = 3
	PurposeCall  Purpose = 4 // served by HandleCall, opened by Mesh.Call
	PurposeLease Purpose = 5
)

// purposeWait bounds how long a peer may take between opening a stream and saying what it is for.
const purposeWait = 3 * time.Second

// The application error codes (RFC 9000 20.2) with which connections end. They are part of the protocol.
const (
	codeLeaving      quic.ApplicationErrorCode = 0
	codeWrongCluster quic.ApplicationErrorCode = 1
	codeProtocol     quic.ApplicationErrorCode = 2
	codeDuplicate    quic.ApplicationErrorCode = 3 // another connection of this pair was chosen
	codeReplaced     quic.ApplicationErrorCode = 4 // a newer connection of this pair took over
	codeRemoved      quic.ApplicationErrorCode = 5
	codeClosed       quic.ApplicationErrorCode = 6 // Session.Close
	codeSilent       quic.ApplicationErrorCode = 7 // nothing was heard for silenceMost
)

const (
	resetDone    quic.StreamErrorCode = 0 // the reader has what it wanted
	resetPurpose quic.StreamErrorCode = 1 // nobody serves streams of this purpose
)

// Stream is a reliable two-way byte stream with a peer. Writes to a dead peer succeed locally until flow control or the
// end of the session stops them: only deadlines and answers tell. Setting a deadline never fails.
type Stream interface {
	io.Reader
	io.Writer
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	// CloseWrite ends what is written; the peer reads io.EOF after the last byte. It fails when the peer has stopped reading.
	CloseWrite() error
	// Close ends both directions: what was written is still delivered, what the peer still sends is discarded. It must
	// not run at the same time as Write, and returns nil.
	Close() error
}

type stream struct{ *quic.Stream }

func (s stream) CloseWrite() error { return s.Stream.Close() }

// Close cancels the read side too: a stream whose both sides are not ended holds stream credit for ever.
func (s stream) Close() error {
	s.CancelRead(resetDone)
	_ = s.Stream.Close() // fails only to say that the peer has stopped reading
	return nil
}

// Session is one live connection with a peer whose key was proven and whose Hello was heard.
type Session struct {
	mesh    *Mesh
	peer    fleet.NodeID
	dialled bool
	conn    *quic.Conn
	since   time.Time
	name    sessionName

	// Guarded by mesh.mu once the session is adopted.
	hello   hello
	told    uint64 // revision of this node's last Hello
	heard   time.Time
	packets uint64 // received at the time of heard
}

// Peer returns who is at the other end.
func (s *Session) Peer() fleet.NodeID { return s.peer }

// Dialled reports whether this node opened the connection.
func (s *Session) Dialled() bool { return s.dialled }

// Address returns the remote end of the connection as host:port.
func (s *Session) Address() string { return s.conn.RemoteAddr().String() }

// RTT returns the smallest round-trip time seen. On a connection that is mostly idle the smoothed one is made of
// delayed acknowledgements and of how busy both ends were during the handshake.
func (s *Session) RTT() time.Duration { return s.conn.ConnectionStats().MinRTT }

// Close ends the session; the peer is told reason. Both sides will connect again unless the list forbids it.
func (s *Session) Close(reason string) { s.end(codeClosed, reason) }

func (s *Session) end(code quic.ApplicationErrorCode, reason string) {
	_ = s.conn.CloseWithError(code, reason) // documented to return nil
}

// Open starts a stream for purpose. It waits while the peer has as many open streams of this node as it allows.
func (s *Session) Open(ctx context.Context, purpose Purpose) (Stream, error) {
	opened, err := s.open(ctx, []byte{byte(purpose)})
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// open starts a stream whose first bytes, purpose included, are first: a stream exists for the peer only once data
// arrives on it, and what is written together travels together.
func (s *Session) open(ctx context.Context, first []byte) (stream, error) {
	opened, err := s.conn.OpenStreamSync(ctx)
	if err != nil {
		return stream{}, fmt.Errorf("open a stream to %s: %w", s.peer.Short(), err)
	}
	if deadline, bounded := ctx.Deadline(); bounded {
		_ = opened.SetWriteDeadline(deadline)
	}
	if _, err := opened.Write(first); err != nil {
		stream{opened}.Close()
		return stream{}, fmt.Errorf("write to %s: %w", s.peer.Short(), err)
	}
	_ = opened.SetWriteDeadline(time.Time{})
	return stream{opened}, nil
}

// serve hands over the peer's streams until the connection ends.
func (s *Session) serve() {
	ctx := s.conn.Context()
	for _, f := range s.mesh.onSession {
		s.mesh.spawn(func() { f(ctx, s) })
	}
	for {
		accepted, err := s.conn.AcceptStream(ctx)
		if err != nil {
			break
		}
		if !s.mesh.spawn(func() { s.dispatch(ctx, stream{accepted}) }) {
			break
		}
	}
	<-ctx.Done()
	s.mesh.retire(s, context.Cause(ctx))
}

func (s *Session) dispatch(ctx context.Context, opened stream) {
	defer opened.Close()
	var purpose [1]byte
	_ = opened.SetReadDeadline(time.Now().Add(purposeWait))
	if _, err := io.ReadFull(opened, purpose[:]); err != nil {
		return
	}
	_ = opened.SetReadDeadline(time.Time{})
	serve := s.mesh.streams[Purpose(purpose[0])]
	if serve == nil {
		opened.CancelRead(resetPurpose)
		opened.CancelWrite(resetPurpose)
		return
	}
	serve(ctx, s, opened)
}

// endSilence takes leave of peers that are not heard any more, a moment before QUIC would drop them without a word: where packets get through in one
// direction only, the other side hears nothing wrong and would go on for as long again.
func (m *Mesh) endSilence(ctx context.Context) {
	for look := time.NewTicker(time.Second); ; {
		select {
		case <-ctx.Done():
			look.Stop()
			return
		case now := <-look.C:
			for _, s := range m.Sessions() {
				m.mu.Lock()
				silent := now.Sub(s.heardLocked(now)) > silenceMost
				m.mu.Unlock()
				if silent {
					s.end(codeSilent, "nothing is heard from you")
				}
			}
		}
	}
}

// heardLocked returns when the peer was last heard, as far as looking at the count of packets now can tell.
func (s *Session) heardLocked(now time.Time) time.Time {
	if packets := s.conn.ConnectionStats().PacketsReceived; packets != s.packets {
		s.packets, s.heard = packets, now
	}
	return s.heard
}
