package nginx

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// CheckPair returns the leaf of a certificate file if nginx can be handed it with this key: the key is the leaf's, each
// certificate is signed by the next, every name is covered, and the leaf has not expired. nginx -t sees none of the
// last three. Both texts are PEM; names are host names, addresses, or wildcards, which must be there as such. Who
// issued the last certificate is not asked, so that a self-signed one passes. A leaf that is not valid yet passes: this
// node's clock may be behind, and the certificate it would keep instead is older still. No error quotes key material.
func CheckPair(fullchain, privkey []byte, names []string, now time.Time) (*x509.Certificate, error) {
	chain, err := parseChain(fullchain)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(privkey)
	if err != nil {
		return nil, err
	}
	leaf := chain[0]
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return nil, errors.New("the private key belongs to another certificate")
	}
	for i, parent := range chain[1:] {
		child := chain[i]
		if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
			return nil, fmt.Errorf("the chain is out of order: certificate %d was issued by %q, but is followed by %q", i+1, child.Issuer, parent.Subject)
		}
		if err := parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature); err != nil {
			return nil, fmt.Errorf("certificate %d of the chain did not sign certificate %d: %w", i+2, i+1, err)
		}
	}
	for _, name := range names {
		if !covers(leaf, name) {
			return nil, fmt.Errorf("the certificate is not for %s, only for %s", name, strings.Join(namesOf(leaf), ", "))
		}
	}
	if !now.Before(leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return leaf, nil
}

// parseChain reads a PEM file of certificates, leaf first; there is at least one.
func parseChain(data []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the chain cannot be read: %w", len(chain)+1, err)
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errors.New("the chain file holds no certificate")
	}
	return chain, nil
}

// parseKey reads the first private key of a PEM file: PKCS #8, PKCS #1 or SEC 1.
func parseKey(data []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return nil, errors.New("the key file holds no private key that can be used")
		}
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			continue
		}
		if err != nil {
			// The parser's own words may quote key material; that it failed is all there is to say.
			return nil, fmt.Errorf("the %s in the key file cannot be read", strings.ToLower(block.Type))
		}
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
	}
}

// covers reports whether leaf is for name: a host name, an IP address, or a wildcard, which must be there as such.
func covers(leaf *x509.Certificate, name string) bool {
	if strings.HasPrefix(name, "*.") {
		return slices.ContainsFunc(leaf.DNSNames, func(have string) bool { return strings.EqualFold(have, name) })
	}
	return leaf.VerifyHostname(name) == nil
}

// namesOf returns everything that leaf is for.
func namesOf(leaf *x509.Certificate) []string {
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// keyType returns what the contract calls the kind of a certificate's key.
func keyType(c *x509.Certificate) string {
	switch c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ecdsa"
	case *rsa.PublicKey:
		return "rsa"
	case ed25519.PublicKey:
		return "ed25519"
	}
	return strings.ToLower(c.PublicKeyAlgorithm.String())
}

// fingerprint identifies a certificate: the SHA-256 of its DER.
type fingerprint [sha256.Size]byte

// fingerprintOf returns the fingerprint of c.
func fingerprintOf(c *x509.Certificate) fingerprint { return sha256.Sum256(c.Raw) }

// isIP reports whether a name is an address, which TLS has no server name for (RFC 6066 3).
func isIP(name string) bool { return net.ParseIP(name) != nil }
