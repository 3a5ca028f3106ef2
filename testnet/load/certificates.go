package load

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// Certificates returns what a store of n certificates holds, two files in a directory each: a chain of three and its key, which
// match. Every call issues new ones.
func Certificates(n int) (Tree, error) {
	root, err := issue(nil, "Test Root", true)
	if err != nil {
		return nil, err
	}
	issuer, err := issue(root, "Test Issuer", true)
	if err != nil {
		return nil, err
	}
	tree := make(Tree, 0, 2*n)
	for i := range n {
		name := fmt.Sprintf("site-%04d.example.com", i)
		leaf, err := issue(issuer, name, false)
		if err != nil {
			return nil, err
		}
		key, err := x509.MarshalPKCS8PrivateKey(leaf.key)
		if err != nil {
			return nil, err
		}
		var chain []byte
		for _, c := range []*issued{leaf, issuer, root} {
			chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		tree = append(tree,
			File{name + "/privkey.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600},
			File{name + "/fullchain.pem", chain, 0o644})
	}
	return tree, nil
}

type issued struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

// issue makes a certificate that by signed, itself if by is nil.
func issue(by *issued, name string, authority bool) (*issued, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 3, 0),
		IsCA: authority, BasicConstraintsValid: true,
	}
	if !authority {
		template.DNSNames = []string{name}
		template.OCSPServer = []string{"http://ocsp.example.net"}
		template.IssuingCertificateURL = []string{"http://issuer.example.net"}
	}
	parent := &issued{template, key}
	if by != nil {
		parent = by
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent.Certificate, key.Public(), parent.key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(raw)
	return &issued{certificate, key}, err
}
