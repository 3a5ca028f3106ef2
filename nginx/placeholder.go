package nginx

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"slices"
	"time"

	"certswarm/internal/durable"
)

// placeholderOrganization marks a placeholder, in the certificate itself.
const placeholderOrganization = "certswarm placeholder"

// placeholderLife is longer than anybody should wait for a certificate.
const placeholderLife = 10 * 365 * 24 * time.Hour

// PlaceholderGeneration is the directory of a placeholder below archive/NAME/. It belongs to one node: it must not be
// replicated.
const PlaceholderGeneration = "placeholder"

// IsPlaceholder reports whether a certificate only keeps nginx able to start until a real one is issued.
func IsPlaceholder(c *x509.Certificate) bool {
	return slices.Contains(c.Subject.Organization, placeholderOrganization)
}

// Placeholder is the self-signed certificate that stands in for one that is not issued yet.
type Placeholder struct {
	Name  string // of the certificate
	Names []string
	RSA   bool // the kind of its key, as of what it stands in for: a server shows one certificate of each kind, so that two of one kind hide each other
	Owner durable.Owner
}

// EnsurePlaceholder sees to it that live/NAME exists, because nginx does not start without the files that it names: if
// it does not, it becomes a link to p in archive/NAME/placeholder/. What exists is
// never replaced, whatever it is. The key is readable by its owner, and by the group if p.Owner has one. made says
// whether the link is new; warn that the files could not be given to p.Owner.
func EnsurePlaceholder(store *durable.Root, p Placeholder) (made bool, warn, err error) {
	link := "live/" + p.Name
	if _, err := store.Lstat(link); !errors.Is(err, fs.ErrNotExist) {
		return false, nil, err
	}
	dir := "archive/" + p.Name + "/" + PlaceholderGeneration
	if warn, err = p.write(store, dir); err != nil {
		return false, warn, fmt.Errorf("no placeholder for %s: %w", p.Name, err)
	}
	// A crash before this line leaves a directory that nobody refers to, and that the next call uses or replaces.
	if err := store.ReplaceSymlink(link, "../"+dir); err != nil {
		return false, warn, fmt.Errorf("no placeholder for %s: %w", p.Name, err)
	}
	return true, warn, nil
}

// write fills dir, unless a usable pair of this kind is there already.
func (p Placeholder) write(store *durable.Root, dir string) (warn, err error) {
	warn, err = store.MkDir(dir, 0o755, p.Owner)
	if err != nil {
		return warn, err
	}
	chain, chainErr := store.ReadFile(dir+"/chain.pem", certificateLimit) // the last one that is written
	key, keyErr := store.ReadFile(dir+"/privkey.pem", certificateLimit)
	if chainErr == nil && keyErr == nil {
		if leaf, err := CheckPair(chain, key, p.Names, time.Now()); err == nil && (keyType(leaf) == "rsa") == p.RSA {
			return warn, nil
		}
	}
	certificate, key, err := p.sign(time.Now())
	if err != nil {
		return warn, err
	}
	keyPerm := uint32(0o600)
	if p.Owner.GID >= 0 {
		keyPerm = 0o640
	}
	for _, file := range []struct {
		name string
		data []byte
		perm uint32
	}{
		{"privkey.pem", key, keyPerm},
		{"cert.pem", certificate, 0o644},
		{"fullchain.pem", certificate, 0o644},
		{"chain.pem", certificate, 0o644}, // not empty: nginx does not load an empty ssl_trusted_certificate
	} {
		path := dir + "/" + file.name
		// Written for its owner alone; who else may read it is added once it belongs to whom it should.
		if err := store.WriteFile(path, file.data, 0o600); err != nil {
			return warn, err
		}
		given, err := store.SetMode(path, file.perm, p.Owner)
		if err != nil {
			return warn, err
		}
		warn = errors.Join(warn, given)
	}
	return warn, nil
}

// sign makes the certificate and its key, both PEM.
func (p Placeholder) sign(now time.Time) (certificate, key []byte, err error) {
	var private crypto.Signer
	if p.RSA {
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, nil, err
	}
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := x509.Certificate{
		SerialNumber:          number.Add(number, big.NewInt(1)), // positive: RFC 5280 4.1.2.2
		Subject:               pkix.Name{Organization: []string{placeholderOrganization}, CommonName: p.Name},
		NotBefore:             now.Add(-24 * time.Hour), // clocks differ
		NotAfter:              now.Add(placeholderLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, n := range p.Names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}
