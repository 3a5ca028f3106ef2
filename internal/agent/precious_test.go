package agent_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent"
	"certswarm/internal/control"
	"certswarm/testnet"
)

const precious = "www.example.com"

// noCA is a CA that cannot be reached.
type noCA struct{}

func (noCA) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("unreachable") }

// storeFleet is three nodes with a store and one declared certificate.
func storeFleet(t *testing.T) *testnet.Fleet {
	t.Helper()
	return testnet.New(t, testnet.Options{
		Nodes: 3, Latency: time.Millisecond,
		Config: func(_ int, yaml string) string {
			return yaml + "acme: {email: ops@example.com, accept_terms: true}\ncertificates:\n  - {name: " + precious + ", names: [" + precious + "]}\n"
		},
		Edges: func(_ int, edges *agent.Edges) { edges.CA = noCA{} },
	})
}

// bringCertificate puts a valid pair where an operator would, for the agent to adopt.
func bringCertificate(t *testing.T, f *testnet.Fleet, node int, notAfter time.Time) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), DNSNames: []string{precious}, NotBefore: notAfter.Add(-90 * 24 * time.Hour), NotAfter: notAfter}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	link := f.Path(node, "live/"+precious)
	if err := os.Remove(link); err != nil { // the placeholder's
		t.Fatal(err)
	}
	f.Mkdir(node, "live/"+precious)
	f.Write(node, "live/"+precious+"/privkey.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	f.Write(node, "live/"+precious+"/fullchain.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// A certificate that is declared and still valid is not deleted by a replicated delete; one that nobody can use any more is.
func TestAValidCertificateSurvivesAnRm(t *testing.T) {
	const generation = "archive/" + precious + "/1"
	for name, life := range map[string]time.Duration{"valid": 60 * 24 * time.Hour, "expired meanwhile": 5 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := storeFleet(t)
				f.Settle()
				bringCertificate(t, f, 0, time.Now().Add(life))
				f.Write(0, "other/a", "keeps the deletion below max_delete")
				f.Write(0, "other/b", "as well")
				f.Write(0, "other/c", "as well")
				f.Write(0, "other/d", "as well")
				f.Advance(20 * time.Second)
				f.Settle()
				key, adopted := f.Read(2, generation+"/privkey.pem")
				if !adopted {
					t.Fatal("the certificate was not adopted")
				}
				valid := life > time.Hour
				if !valid {
					f.Advance(life + 11*time.Minute)
				}
				f.Remove(1, generation)
				f.Advance(20 * time.Second)
				for i := range 3 {
					if text, there := f.Read(i, generation+"/privkey.pem"); there != valid || valid && text != key {
						t.Errorf("fe%d has the key: %v", i+1, there)
					}
				}
				reverted := false
				for _, p := range f.Status(1).Problems {
					reverted = reverted || p.Code == control.EditReverted && strings.Contains(p.Text, generation)
				}
				if reverted != valid {
					t.Errorf("fe2 says that it was put back: %v", reverted)
				}
			})
		})
	}
}
