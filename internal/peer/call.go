package peer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"certswarm/internal/fleet"
)

// The limits of a call.
const (
	MaxMethod = 64      // bytes of a method's name
	MaxBody   = 1 << 20 // bytes of a request's or response's body

	errorTextMax    = 1 << 10          // bytes of an error's text that travel
	requestWait     = 10 * time.Second // for the whole request to arrive
	responseWait    = 10 * time.Second // for the caller to take the response
	callSucceeded   = 0
	callFailed      = 1
	frameHeaderSize = 5 // a byte and the length of the body (4 bytes, big endian)
)

// RemoteError is what the other node's handler of a call returned.
type RemoteError struct{ Text string }

func (e *RemoteError) Error() string { return e.Text }

// HandleCall sets who answers calls of method. answer's context ends when the caller gives up or the session ends;
// the text of its error, up to 1 KiB, is told to the caller.
func (m *Mesh) HandleCall(method string, answer func(ctx context.Context, from fleet.NodeID, body []byte) ([]byte, error)) {
	if _, taken := m.calls[method]; taken || method == "" || len(method) > MaxMethod {
		panic(fmt.Sprintf("peer: method %q is answered already, or its name does not fit", method))
	}
	m.calls[method] = answer
}

// Call asks a peer and waits for the answer, as long as ctx and the session last. The error matches ErrNotConnected
// when there is no session, and is a *RemoteError when the peer answered with an error.
//
// A request is the purpose byte, the method's length (1 byte) and name, the body's length (4 bytes, big endian), and
// the body; a response is a status byte, the body's length, and the body.
func (m *Mesh) Call(ctx context.Context, to fleet.NodeID, method string, body []byte) ([]byte, error) {
	if len(method) > MaxMethod || len(body) > MaxBody {
		return nil, fmt.Errorf("call %s: a method of %d and a body of %d bytes exceed %d and %d", method, len(method), len(body), MaxMethod, MaxBody)
	}
	s, connected := m.Session(to)
	if !connected {
		return nil, fmt.Errorf("call %s on %s: %w", method, m.nameOf(to), ErrNotConnected)
	}
	answer, err := s.call(ctx, method, body)
	var remote *RemoteError
	if err != nil && !errors.As(err, &remote) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("call %s on %s: %w", method, m.nameOf(to), err)
	}
	return answer, err
}

func (s *Session) call(ctx context.Context, method string, body []byte) ([]byte, error) {
	request := make([]byte, 0, 2+len(method)+4+len(body))
	request = append(request, byte(PurposeCall), byte(len(method)))
	request = append(request, method...)
	request = binary.BigEndian.AppendUint32(request, uint32(len(body)))
	request = append(request, body...)

	opened, err := s.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	asked := stream{opened}
	defer asked.Close()
	giveUp := context.AfterFunc(ctx, func() { _ = asked.SetDeadline(time.Unix(1, 0)) })
	defer giveUp()
	_, unsent := asked.Write(request)
	if unsent == nil {
		unsent = asked.CloseWrite()
	}
	status, answer, err := readFrame(asked) // a peer that did not want all of the request may still have answered
	switch {
	case err != nil:
		return nil, cmp.Or(unsent, err)
	case status == callSucceeded:
		return answer, nil
	default:
		return nil, &RemoteError{Text: string(answer)}
	}
}

// answerCall serves one stream of PurposeCall.
func (m *Mesh) answerCall(ctx context.Context, s *Session, asked Stream) {
	_ = asked.SetReadDeadline(time.Now().Add(requestWait))
	var length [1]byte
	if _, err := io.ReadFull(asked, length[:]); err != nil {
		return
	}
	if length[0] > MaxMethod {
		m.respond(asked, nil, fmt.Errorf("a method's name of %d bytes, more than %d", length[0], MaxMethod))
		return
	}
	method := make([]byte, length[0])
	if _, err := io.ReadFull(asked, method); err != nil {
		return
	}
	body, err := readBody(asked)
	var tooLarge *oversizeError
	if err != nil {
		if errors.As(err, &tooLarge) {
			m.respond(asked, nil, err)
		}
		return
	}
	answer := m.calls[string(method)]
	if answer == nil {
		m.respond(asked, nil, fmt.Errorf("no such method: %q", method))
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A caller that gives up stops the answer's direction, which ends the stream's own context.
	if quicStream, ok := asked.(stream); ok {
		defer context.AfterFunc(quicStream.Context(), cancel)()
	}
	response, err := answer(ctx, s.peer, body)
	m.respond(asked, response, err)
}

// respond writes the response. A caller that is gone is no fault of anybody here.
func (m *Mesh) respond(asked Stream, body []byte, failure error) {
	status := byte(callSucceeded)
	if failure == nil && len(body) > MaxBody {
		failure = &oversizeError{len(body)}
	}
	if failure != nil {
		status, body = callFailed, []byte(failure.Error())
		body = body[:min(len(body), errorTextMax)]
	}
	frame := make([]byte, frameHeaderSize, frameHeaderSize+len(body))
	frame[0] = status
	binary.BigEndian.PutUint32(frame[1:], uint32(len(body)))
	_ = asked.SetWriteDeadline(time.Now().Add(responseWait))
	_, _ = asked.Write(append(frame, body...)) // the caller is gone: see above
}

type oversizeError struct{ size int }

func (e *oversizeError) Error() string {
	return fmt.Sprintf("a body of %d bytes, more than %d", e.size, MaxBody)
}

func readFrame(from io.Reader) (status byte, body []byte, err error) {
	var first [1]byte
	if _, err := io.ReadFull(from, first[:]); err != nil {
		return 0, nil, err
	}
	body, err = readBody(from)
	return first[0], body, err
}

// readBody reads a length and as many bytes. Memory grows with what arrives, not with what is announced.
func readBody(from io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > MaxBody {
		return nil, &oversizeError{int(size)}
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, from, int64(size)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return body.Bytes(), nil
}
