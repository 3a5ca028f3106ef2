package agent_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"certswarm/testnet"
)

// willing is a CA that believes everybody, and can live in a bubble: it asks for no challenge and looks at no signature. What matters to it is who
// orders what, and when.
type willing struct {
	life time.Duration // of its certificates
	root *x509.Certificate
	key  *ecdsa.PrivateKey

	mu     sync.Mutex
	placed []placement // guarded by mu: all newOrder requests, answered or not
	signed [][]byte    // guarded by mu: by order, the chain in PEM, nil before it is finalized
	silent bool        // guarded by mu: newOrder is not answered
	spoils bool        // guarded by mu: an order is invalid once it is finalized
	unwell int         // guarded by mu: how many requests to finalize are still refused
}

// placement is one newOrder.
type placement struct {
	node     int
	replaces string
	at       time.Time
}

func newWilling(t *testing.T, life time.Duration) *willing {
	t.Helper()
	ca := &willing{life: life}
	ca.root, ca.key = issue(t, nil, nil, "a CA", 365*days)
	return ca
}

// issue makes a certificate for name, signed by a CA, or by itself where there is none.
func issue(t *testing.T, by *x509.Certificate, with *ecdsa.PrivateKey, name string, life time.Duration) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, SubjectKeyId: []byte(name),
		NotBefore: time.Now(), NotAfter: time.Now().Add(life), IsCA: by == nil, BasicConstraintsValid: true,
	}
	if by == nil {
		by, with = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), with)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// at is the CA as a node sees it.
func (ca *willing) at(node int) http.RoundTripper { return counter{ca, node} }

type counter struct {
	ca   *willing
	node int
}

// RoundTrip implements http.RoundTripper.
func (d counter) RoundTrip(r *http.Request) (*http.Response, error) {
	var said struct{ Payload string }
	if r.Body != nil {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		_ = json.Unmarshal(text, &said) // HEAD and GET say nothing
	}
	payload, err := base64.RawURLEncoding.DecodeString(said.Payload)
	if err != nil {
		return nil, err
	}
	status, header, body := d.ca.answer(d.node, r.URL.Path, payload)
	if status == 0 {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	header.Set("Replay-Nonce", "nonce")
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
}

const willingURL = "https://ca.example"

// answer is what the CA says; status 0: nothing, ever.
func (ca *willing) answer(node int, at string, payload []byte) (status int, header http.Header, body []byte) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	header = http.Header{}
	tell := func(value any) []byte {
		text, _ := json.Marshal(value) // of texts and times: it cannot fail
		return text
	}
	order := func(status int) (int, http.Header, []byte) {
		n, _ := strconv.Atoi(path.Base(at))
		if n >= len(ca.signed) {
			return http.StatusNotFound, header, nil
		}
		shown := map[string]any{"status": "ready", "finalize": fmt.Sprintf("%s/finalize/%d", willingURL, n), "expires": ca.root.NotAfter}
		switch {
		case ca.signed[n] == nil:
		case len(ca.signed[n]) == 0:
			shown["status"] = "invalid"
		default:
			shown["status"], shown["certificate"] = "valid", fmt.Sprintf("%s/chain/%d", willingURL, n)
		}
		header.Set("Location", fmt.Sprintf("%s/order/%d", willingURL, n))
		return status, header, tell(shown)
	}
	switch {
	case strings.HasSuffix(at, "/directory"):
		urls := map[string]string{}
		for _, call := range []string{"newNonce", "newAccount", "newOrder", "revokeCert", "keyChange", "renewalInfo"} {
			urls[call] = willingURL + "/" + call
		}
		return http.StatusOK, header, tell(urls)
	case at == "/newNonce":
		return http.StatusOK, header, nil
	case at == "/newAccount":
		header.Set("Location", willingURL+"/account/1")
		return http.StatusCreated, header, tell(map[string]string{"status": "valid"})
	case at == "/newOrder":
		var wish struct{ Replaces string }
		_ = json.Unmarshal(payload, &wish) // certswarm's own JSON
		ca.placed = append(ca.placed, placement{node, wish.Replaces, time.Now()})
		if ca.silent {
			return 0, nil, nil
		}
		ca.signed = append(ca.signed, nil)
		at = strconv.Itoa(len(ca.signed) - 1)
		return order(http.StatusCreated)
	case strings.HasPrefix(at, "/order/"):
		return order(http.StatusOK)
	case strings.HasPrefix(at, "/finalize/"):
		if ca.unwell > 0 {
			ca.unwell--
			return http.StatusServiceUnavailable, header, nil
		}
		n, _ := strconv.Atoi(path.Base(at))
		ca.signed[n] = []byte{}
		if !ca.spoils {
			ca.signed[n] = ca.sign(payload)
		}
		return order(http.StatusOK)
	case strings.HasPrefix(at, "/chain/"):
		n, _ := strconv.Atoi(path.Base(at))
		return http.StatusOK, header, ca.signed[n]
	}
	return http.StatusNotFound, header, nil
}

// sign returns the chain for a request; nil: it is none.
func (ca *willing) sign(payload []byte) []byte {
	var asked struct{ CSR string }
	_ = json.Unmarshal(payload, &asked) // certswarm's own JSON
	der, _ := base64.RawURLEncoding.DecodeString(asked.CSR)
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(ca.signed))), Subject: csr.Subject, DNSNames: csr.DNSNames,
		NotBefore: time.Now(), NotAfter: time.Now().Add(ca.life),
	}
	leaf, err := x509.CreateCertificate(rand.Reader, template, ca.root, csr.PublicKey, ca.key)
	if err != nil {
		return nil
	}
	var chain []byte
	for _, der := range [][]byte{leaf, ca.root.Raw} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return chain
}

// be changes how the CA behaves.
func (ca *willing) be(change func(*willing)) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	change(ca)
}

// orders returns the newOrder requests of a node.
func (ca *willing) orders(node int) (of []placement) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	for _, p := range ca.placed {
		if p.node == node {
			of = append(of, p)
		}
	}
	return of
}

// ordersWithoutLease is what a node's metric counts, -1 if there is none.
func ordersWithoutLease(f *testnet.Fleet, node int) float64 {
	for _, c := range f.Agent(node).Counters() {
		if c.Name == "certswarm_break_glass_orders_total" {
			return c.Values[""]
		}
	}
	return -1
}
