package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/quic-go/quic-go"
)

// TLS alerts (RFC 8446 6.2) as QUIC transport error codes (RFC 9001 4.8).
const (
	alertBadCertificate quic.TransportErrorCode = 0x100 + 42
	alertNoProtocol     quic.TransportErrorCode = 0x100 + 120
)

// explain says for an operator what err, which ended or prevented a connection with a peer, means.
func (m *Mesh) explain(err error) string {
	var (
		key         *keyError
		stray       *strayError
		transport   *quic.TransportError
		application *quic.ApplicationError
		silent      *quic.IdleTimeoutError
		restarted   *quic.StatelessResetError
	)
	switch {
	case errors.As(err, &key):
		return key.text
	case errors.As(err, &stray):
		return stray.text
	case errors.As(err, &application) && application.Remote && application.ErrorCode == codeWrongCluster:
		return m.otherCluster(application.ErrorMessage)
	case errors.As(err, &application) && application.Remote:
		return "it closed the connection: " + strconv.QuoteToGraphic(application.ErrorMessage[:min(len(application.ErrorMessage), 200)])
	case errors.As(err, &application):
		return application.ErrorMessage
	case errors.As(err, &silent):
		return fmt.Sprintf("silent for %s", idleTimeout)
	case errors.As(err, &restarted):
		return "it was restarted"
	case errors.As(err, &transport) && transport.Remote && transport.ErrorCode == alertBadCertificate:
		return fmt.Sprintf("it refuses this node's key: its peer list lacks %s, or it was dialled as another node", m.self.ID())
	case errors.As(err, &transport) && transport.ErrorCode == alertNoProtocol:
		return "it speaks another version of the protocol than " + alpn
	case errors.As(err, &transport) && transport.Remote && transport.ErrorCode == quic.ConnectionRefused:
		return "it takes no connections now (too many handshakes, or shutting down)"
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %s", helloWait)
	}
	return err.Error()
}

// isTimeout reports whether a dial failed for want of any answer.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}
