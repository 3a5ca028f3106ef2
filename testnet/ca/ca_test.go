package ca_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"certswarm/testnet/ca"

	"github.com/miekg/dns"
	"golang.org/x/crypto/acme"
)

// frontEnds listens on one port of several loopback addresses and answers every request with answer(); it returns the
// addresses, the port, and how often each address was asked.
func frontEnds(t *testing.T, answer func(path string) string) (addresses []string, port int, asked func() []int) {
	t.Helper()
	addresses = []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"}
	var mu sync.Mutex
	counts := make([]int, len(addresses))
	for i, address := range addresses {
		listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		port = listener.Addr().(*net.TCPAddr).Port
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			counts[i]++
			mu.Unlock()
			_, _ = w.Write([]byte(answer(r.URL.Path)))
		})}
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(func() { _ = server.Close() })
	}
	return addresses, port, func() []int {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(counts)
	}
}

func TestIssuesAfterAskingThreeFrontEndsAndRecordsIt(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	client := &acme.Client{Key: key, UserAgent: "test"}
	addresses, port, asked := frontEnds(t, func(path string) string {
		answer, err := client.HTTP01ChallengeResponse(path[strings.LastIndex(path, "/")+1:])
		if err != nil {
			t.Error(err)
		}
		return answer
	})
	authority, err := ca.Start(ctx, ca.Config{
		Addresses: addresses,
		HTTPPort:  port,
		Profiles:  map[string]time.Duration{"short": 160 * time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := authority.Close(); err != nil {
			t.Error(err)
		}
	}()
	client.DirectoryURL = authority.DirectoryURL()
	client.HTTPClient = trusting(authority.Root())

	if _, err := client.Register(ctx, new(acme.Account), acme.AcceptTOS); err != nil {
		t.Fatal(err)
	}
	order, err := client.AuthorizeOrder(ctx, acme.DomainIDs("www.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	authorization, err := client.GetAuthorization(ctx, order.AuthzURLs[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range authorization.Challenges {
		if c.Type == "http-01" {
			if _, err := client.Accept(ctx, c); err != nil {
				t.Fatal(err)
			}
		}
	}
	if order, err = client.WaitOrder(ctx, order.URI); err != nil {
		t.Fatal(err)
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"www.example.com"}}, leafKey)
	if err != nil {
		t.Fatal(err)
	}
	chain, _, err := client.CreateCertFromOrder(ctx, order, csr, true)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}

	if life := leaf.NotAfter.Sub(leaf.NotBefore).Round(time.Minute); life != 160*time.Hour {
		t.Errorf("the certificate lives %v", life)
	}
	if got := asked(); !slices.Equal(got, []int{1, 1, 1}) {
		t.Errorf("the front-ends were asked %v times, not once each", got)
	}
	if got := authority.Issued(); !slices.Equal(got, []string{leaf.SerialNumber.Text(16)}) {
		t.Errorf("recorded serials: %v, issued: %x", got, leaf.SerialNumber)
	}
	for kind, want := range map[ca.Kind]int{ca.Account: 1, ca.Order: 1, ca.Accept: 1, ca.Finalize: 1, ca.Validation: 3, ca.Valid: 1, ca.Issued: 1} {
		if got := authority.Count(kind); got != want {
			t.Errorf("%s: recorded %d times, not %d: %+v", kind, got, want, authority.Events())
		}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.IssuingRoot())
	intermediates := x509.NewCertPool()
	for _, der := range chain[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		intermediates.AddCert(cert)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: "www.example.com", Roots: roots, Intermediates: intermediates}); err != nil {
		t.Error(err)
	}

	authority.Forget()
	if _, err := client.GetOrder(ctx, order.URI); err == nil {
		t.Error("a CA that forgot everything still knows the order")
	}
}

func TestNameServerTurnsOverUDPAndTCP(t *testing.T) {
	authority, err := ca.Start(t.Context(), ca.Config{Addresses: []string{"127.0.0.2", "127.0.0.3"}, HTTPPort: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = authority.Close() }()
	var first []string
	for i, network := range []string{"udp", "tcp", "udp", "udp"} {
		if i == 3 {
			if err := authority.Point("127.0.0.4", "127.0.0.5"); err != nil {
				t.Fatal(err)
			}
		}
		question := new(dns.Msg)
		question.SetQuestion("www.example.com.", dns.TypeA)
		answer, _, err := (&dns.Client{Net: network}).Exchange(question, authority.NameServer())
		if err != nil {
			t.Fatal(err)
		}
		if len(answer.Answer) != 2 {
			t.Fatalf("%s: %v", network, answer)
		}
		first = append(first, answer.Answer[0].(*dns.A).A.String())
	}
	if !slices.Equal(first, []string{"127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.5"}) {
		t.Errorf("first answers: %v", first)
	}
	if err := authority.Point("elsewhere"); err == nil {
		t.Error("names point to what is no address")
	}
}

func TestEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	authority, err := ca.Start(ctx, ca.Config{Addresses: []string{"127.0.0.2"}, HTTPPort: 1})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := authority.Close(); err != nil { // waits for what the context began
		t.Error(err)
	}
	host := strings.TrimSuffix(strings.TrimPrefix(authority.DirectoryURL(), "https://"), "/dir")
	listener, err := net.Listen("tcp", host)
	if err != nil {
		t.Fatalf("the directory still listens: %v", err)
	}
	_ = listener.Close()
}

func TestRefusesToStartWithoutFrontEnds(t *testing.T) {
	for _, addresses := range [][]string{nil, {"fe1"}, {"::1"}} {
		if _, err := ca.Start(t.Context(), ca.Config{Addresses: addresses}); err == nil {
			t.Errorf("started with %q", addresses)
		}
	}
}

// trusting returns a client that trusts root alone.
func trusting(root []byte) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
}
