package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/quic-go/quic-go"
)

// TLS alerts (RFC 8446 6.2) as QUIC transport error codes (RFC 9001 4.8).
const (
	alertBadCertificate quic.TransportErrorCode = 0x100 + 42
	alertNoCertificate  quic.TransportErrorCode = 0x100 + 116
	alertNoProtocol     quic.TransportErrorCode = 0x100 + 120
)

// Failure is the kind of what ended or prevented the session with a peer; it is a closed list.
type Failure string

// The failures. Any other is "".
const (
	FailureSilence      Failure = "silence"       // nothing answers, or no longer
	FailureOtherKey     Failure = "other-key"     // another key answered
	FailureOtherCluster Failure = "other-cluster" // it is alive, and configured for another cluster
	FailureRefused      Failure = "refused"       // it is alive, and its peer list lacks this node
)

// Refuses reports whether the peer was alive, and wants nothing to do with this node.
func (f Failure) Refuses() bool { return f == FailureOtherCluster || f == FailureRefused }

// failure is an error whose kind and text are known already.
type failure struct {
	kind Failure
	text string
}

func (f *failure) Error() string { return f.text }

// explain says for an operator what err, which ended or prevented a connection with a peer, means.
func (m *Mesh) explain(err error) string {
	_, text := m.diagnose(err)
	return text
}

// diagnose is explain, and says of what kind err is.
func (m *Mesh) diagnose(err error) (Failure, string) {
	var (
		known       *failure
		several     allFailed
		key         *keyError
		stray       *strayError
		transport   *quic.TransportError
		application *quic.ApplicationError
		silent      *quic.IdleTimeoutError
		restarted   *quic.StatelessResetError
	)
	switch {
	case errors.As(err, &known):
		return known.kind, known.text
	case errors.As(err, &several):
		return m.mostTelling(several), several.Error()
	case errors.As(err, &key):
		return FailureOtherKey, key.text
	case errors.As(err, &stray) && stray.reason == ReasonWrongCluster:
		return FailureOtherCluster, stray.text
	case errors.As(err, &stray):
		return "", stray.text
	case errors.As(err, &application) && application.Remote && application.ErrorCode == codeWrongCluster:
		return FailureOtherCluster, m.otherCluster(application.ErrorMessage)
	case errors.As(err, &application) && application.Remote:
		kind := Failure("")
		if application.ErrorCode == codeRemoved {
			kind = FailureRefused
		}
		return kind, "it closed the connection: " + strconv.QuoteToGraphic(application.ErrorMessage[:min(len(application.ErrorMessage), 200)])
	case errors.As(err, &application):
		return "", application.ErrorMessage
	case errors.As(err, &silent):
		return FailureSilence, fmt.Sprintf("silent for %s", idleTimeout)
	case errors.As(err, &restarted):
		return "", "it was restarted"
	case errors.As(err, &transport) && transport.Remote && transport.ErrorCode == alertBadCertificate:
		return FailureRefused, fmt.Sprintf("it refuses this node's key: its peer list lacks %s, or it was dialled as another node", m.self.ID())
	case errors.As(err, &transport) && transport.ErrorCode == alertNoProtocol:
		return "", "it speaks another version of the protocol than " + alpn
	case errors.As(err, &transport) && transport.Remote && transport.ErrorCode == quic.ConnectionRefused:
		return "", "it takes no connections now (too many handshakes, or shutting down)"
	case errors.Is(err, context.DeadlineExceeded):
		return FailureSilence, fmt.Sprintf("no answer within %s", helloWait)
	}
	return "", err.Error()
}

// mostTelling is the kind of a failure at several addresses: what was heard from the peer itself goes before what another node said, that before
// silence.
func (m *Mesh) mostTelling(failures allFailed) Failure {
	rising := []Failure{"", FailureSilence, FailureOtherKey, FailureOtherCluster, FailureRefused}
	best := 0
	for _, err := range failures {
		kind, _ := m.diagnose(err)
		best = max(best, slices.Index(rising, kind))
	}
	return rising[best]
}

// isTimeout reports whether a dial failed for want of any answer.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}
