package nginx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// State is what handshakes with one listener have shown.
type State string

// The states of a listener, worst first: of several names behind one listener, the worst one counts.
const (
	Stale       State = "stale"       // it shows another certificate, or refuses the name
	Unreachable State = "unreachable" // no handshake came about
	Unverified  State = "unverified"  // it answers, but cannot be made to show a certificate of this key type
	Current     State = "current"     // it shows exactly the certificate that was asked for
)

// Served is what one listener serves for one certificate.
type Served struct {
	Name     string // of the certificate
	Listener string // as it was dialled: host:port, or the path of a Unix socket
	KeyType  string // of the certificate that was asked for: ecdsa, rsa, ed25519
	State    State
	Serial   string // of the leaf that was shown, lower-case hex; empty when none was
	Detail   string // why it is not current; empty when it is
}

// Dial opens the connections of handshakes and token fetches; net.Dialer.DialContext is the real one.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// target is one question: what does this listener show for this name?
type target struct {
	want   Want
	at     listener
	sni    string // empty: none is sent
	paired bool   // the server has, or may have, certificates of several key types
	where  string // file:line of the server that should answer; empty when that is not known
}

// probeTime bounds one handshake, connecting included.
const probeTime = 3 * time.Second

// proxyHeader announces a connection of which nothing is known (PROXY protocol, 2.1): nginx falls back to the real peer.
const proxyHeader = "PROXY UNKNOWN\r\n"

// probe asks once.
//
// A listener with certificates of several key types shows a TLS 1.3 client whichever it likes best, and this TLS stack
// cannot ask for a signature algorithm. A TLS 1.2 suite names the key type. Only where that is refused is whatever TLS 1.3
// shows taken for the answer.
func (t target) probe(ctx context.Context, dial Dial) Served {
	leaf, err := t.handshake(ctx, dial, suitesFor(t.want.keyType()))
	if suiteRefused(err) {
		leaf, err = t.handshake(ctx, dial, nil)
	}
	return t.judge(leaf, err)
}

// judge turns the outcome of a handshake into an observation.
func (t target) judge(leaf *x509.Certificate, err error) Served {
	out := Served{Name: t.want.Name, Listener: t.at.dial, KeyType: t.want.keyType()}
	client := t.sni
	if client == "" {
		client = "a client without a server name"
	}
	if t.where != "" {
		client += " (server at " + t.where + ")"
	}
	switch {
	case err != nil && alert(err) == "unrecognized name":
		out.State, out.Detail = Stale, fmt.Sprintf("the server rejects handshakes for %s (ssl_reject_handshake)", client)
	case err != nil:
		out.State, out.Detail = Unreachable, fmt.Sprintf("no handshake for %s: %v", client, err)
	case fingerprintOf(leaf) == fingerprintOf(t.want.Leaf):
		out.State, out.Serial = Current, serial(leaf)
	case keyType(leaf) != out.KeyType && t.paired:
		out.State, out.Serial = Unverified, serial(leaf)
		out.Detail = fmt.Sprintf("for %s only a certificate with an %s key can be seen: the server has no TLS 1.2 suite for %s", client, keyType(leaf), out.KeyType)
	default:
		out.State, out.Serial = Stale, serial(leaf)
		out.Detail = fmt.Sprintf("for %s it shows the certificate %s of %s", client, serial(leaf), strings.Join(namesOf(leaf), ", "))
	}
	return out
}

// handshake returns the leaf that the listener shows. suites nil leaves the choice to TLS 1.3.
func (t target) handshake(ctx context.Context, dial Dial, suites []uint16) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	conn, err := dial(ctx, t.at.network, t.at.dial)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if t.at.proxy {
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		_, err := conn.Write([]byte(proxyHeader))
		if !stop() || err != nil {
			return nil, errors.Join(errors.New("the PROXY header could not be sent"), err, ctx.Err())
		}
	}
	config := &tls.Config{
		ServerName: t.sni,
		MinVersion: tls.VersionTLS12,
		// The question is not "would a browser trust this?": placeholders, private CAs and expired certificates must be
		// recognised too. The caller compares the leaf with the one certificate that it wants; that is stricter.
		InsecureSkipVerify: true,
	}
	if suites != nil {
		config.MaxVersion, config.CipherSuites = tls.VersionTLS12, suites
	}
	session := tls.Client(conn, config)
	if err := session.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	defer session.Close()
	return session.ConnectionState().PeerCertificates[0], nil
}

// suitesFor returns the TLS 1.2 suites in which only a certificate with this kind of key can answer (Ed25519 signs in the
// ECDSA suites: RFC 8422 2.2), old ones included: it is the server's choice what it still speaks.
func suitesFor(keyType string) []uint16 {
	sign := "_RSA_"
	if keyType != "rsa" {
		sign = "_ECDSA_"
	}
	var ids []uint16
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if strings.Contains(suite.Name, sign) {
			ids = append(ids, suite.ID)
		}
	}
	return ids
}

// suiteRefused reports whether a server answered that it will not speak TLS 1.2 with a certificate of that key type.
func suiteRefused(err error) bool {
	switch alert(err) {
	case "handshake failure", "protocol version not supported", "insufficient security level":
		return true
	}
	return false
}

// alert returns the name of the alert with which a peer ended a handshake, "" for any other error. crypto/tls exports
// alerts as values for QUIC only; over TCP they are the text of a net.OpError.
func alert(err error) string {
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Op != "remote error" {
		return ""
	}
	return strings.TrimPrefix(remote.Err.Error(), "tls: ")
}

func serial(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// merge puts the observations of several names behind one listener into one, the worst first.
func merge(all []Served) []Served {
	rank := map[State]int{Stale: 0, Unreachable: 1, Unverified: 2, Current: 3}
	type key struct{ name, listener, keyType string }
	at := make(map[key]int)
	var out []Served
	for _, s := range all {
		k := key{s.Name, s.Listener, s.KeyType}
		i, known := at[k]
		switch {
		case !known:
			at[k] = len(out)
			out = append(out, s)
		case rank[s.State] < rank[out[i].State]:
			out[i] = s
		}
	}
	return out
}
