package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// Call is a kind of request (RFC 8555 7.1, RFC 9773).
type Call string

// The kinds.
const (
	CallDirectory   Call = "directory"
	CallNewNonce    Call = "newNonce"
	CallNewAccount  Call = "newAccount"
	CallNewOrder    Call = "newOrder"
	CallOrder       Call = "order"
	CallAuthz       Call = "authorization"
	CallAccept      Call = "accept" // a challenge, to have it validated
	CallFinalize    Call = "finalize"
	CallCert        Call = "certificate"
	CallRenewalInfo Call = "renewalInfo"
	CallRevoke      Call = "revokeCert"
	CallOther       Call = "other"
)

// paths are what Pebble calls its resources.
var paths = []struct {
	prefix string
	call   Call
}{
	{"/dir", CallDirectory},
	{"/nonce-plz", CallNewNonce},
	{"/sign-me-up", CallNewAccount},
	{"/order-plz", CallNewOrder},
	{"/my-order/", CallOrder},
	{"/authZ/", CallAuthz},
	{"/chalZ/", CallAccept},
	{"/finalize-order/", CallFinalize},
	{"/certZ/", CallCert},
	{"/draft-ietf-acme-ari-03/renewalInfo/", CallRenewalInfo},
	{"/revoke-cert", CallRevoke},
}

// callOf tells what a request is, from its path and from what it says.
func callOf(path string, said jws) Call {
	for _, known := range paths {
		if !strings.HasPrefix(path, known.prefix) {
			continue
		}
		if known.call == CallAccept && len(said.payload) == 0 {
			return CallOther // only read
		}
		return known.call
	}
	return CallOther
}

// jws is what a signed request says. The signature is the CA's business.
type jws struct {
	account string // the key id, or "" where the key itself is sent
	payload []byte // empty: a POST-as-GET (RFC 8555 6.3)
}

func parseJWS(body []byte) (said jws) {
	var outer struct{ Protected, Payload string }
	if json.Unmarshal(body, &outer) != nil {
		return said
	}
	said.payload, _ = base64.RawURLEncoding.DecodeString(outer.Payload)
	header, _ := base64.RawURLEncoding.DecodeString(outer.Protected)
	var protected struct{ Kid string }
	_ = json.Unmarshal(header, &protected) // what is no header names no account
	said.account = protected.Kid
	return said
}

// wish is the payload of newOrder.
type wish struct {
	Identifiers []struct{ Value string }
	Profile     string
	Replaces    string
}

func (w wish) names() []string {
	var names []string
	for _, id := range w.Identifiers {
		names = append(names, id.Value)
	}
	return names
}

// what is what a URL is about.
type what struct{ names []string }

// about tells what a request is about, as far as the answers to earlier ones have told.
func (f *Faults) about(call Call, path string, said jws) what {
	switch call {
	case CallNewOrder:
		var w wish
		_ = json.Unmarshal(said.payload, &w) // the CA says what is wrong with it
		return what{w.names()}
	case CallRevoke:
		var w struct{ Certificate string }
		_ = json.Unmarshal(said.payload, &w)
		der, _ := base64.RawURLEncoding.DecodeString(w.Certificate)
		if cert, err := x509.ParseCertificate(der); err == nil {
			return what{cert.DNSNames}
		}
		return what{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known[place(call, path)]
}

// place is by what a URL is known: renewal information by its last part, wherever the CA keeps it.
func place(call Call, at string) string {
	if call == CallRenewalInfo {
		return path.Base(at)
	}
	return at
}

// orderBody is an order as the CA shows it (RFC 8555 7.1.3).
type orderBody struct {
	Status         string
	Authorizations []string
	Finalize       string
	Certificate    string
}

// learn remembers what the URLs in an answer are about. f.mu is not held.
func (f *Faults) learn(x *exchange) {
	if x.answer.status >= 300 {
		return
	}
	about := map[string]what{}
	body := x.answer.body.Bytes()
	switch x.call {
	case CallNewOrder, CallOrder, CallFinalize:
		var order orderBody
		if json.Unmarshal(body, &order) != nil {
			return
		}
		for _, at := range append(order.Authorizations, order.Finalize, order.Certificate, x.answer.header.Get("Location")) {
			about[pathOf(at)] = x.what
		}
	case CallAuthz:
		var authz struct {
			Identifier struct{ Value string }
			Challenges []struct{ URL string }
		}
		if json.Unmarshal(body, &authz) != nil {
			return
		}
		for _, c := range authz.Challenges {
			about[pathOf(c.URL)] = what{[]string{authz.Identifier.Value}}
		}
	case CallCert:
		block, _ := pem.Decode(body)
		if block == nil {
			return
		}
		if leaf, err := x509.ParseCertificate(block.Bytes); err == nil {
			about[certID(leaf)] = what{leaf.DNSNames}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil {
		f.known = map[string]what{}
	}
	for at, w := range about {
		if at != "" {
			f.known[at] = w
		}
	}
}

func pathOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Path
}

// certID identifies a certificate in renewal information (RFC 9773 4.1).
func certID(leaf *x509.Certificate) string {
	serial := leaf.SerialNumber.Bytes()
	if len(serial) > 0 && serial[0]&0x80 != 0 {
		serial = append([]byte{0}, serial...) // as DER has it
	}
	return base64.RawURLEncoding.EncodeToString(leaf.AuthorityKeyId) + "." + base64.RawURLEncoding.EncodeToString(serial)
}

// answer is what the CA said, or what is said in its place, before it is sent.
type answer struct {
	status int
	header http.Header
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) { a.status = status }

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

func (a *answer) writeTo(w http.ResponseWriter) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes()) // a client that is gone does not want it
}
