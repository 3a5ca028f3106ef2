package nginx

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
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

// EnsurePlaceholder sees to it that live/NAME exists, because nginx does not start without the files that it names: if
// it does not, it becomes a link to a self-signed certificate for names in archive/NAME/placeholder/. What exists is
// never replaced, whatever it is. The key is readable by its owner, and by the group if owner has one. made says
// whether the link is new; warn that the files could not be given to owner.
func EnsurePlaceholder(store *durable.Root, name string, names []string, owner durable.Owner) (made bool, warn, err error) {
	link := "live/" + name
	if _, err := store.Lstat(link); !errors.Is(err, fs.ErrNotExist) {
		return false, nil, err
	}
	dir := "archive/" + name + "/" + PlaceholderGeneration
	if warn, err = writePlaceholder(store, dir, name, names, owner); err != nil {
		return false, warn, fmt.Errorf("no placeholder for %s: %w", name, err)
	}
	// A crash before this line leaves a directory that nobody refers to, and that the next call uses or replaces.
	if err := store.ReplaceSymlink(link, "../"+dir); err != nil {
		return false, warn, fmt.Errorf("no placeholder for %s: %w", name, err)
	}
	return true, warn, nil
}

// writePlaceholder fills dir, unless a usable pair is there already.
func writePlaceholder(store *durable.Root, dir, name string, names []string, owner durable.Owner) (warn, err error) {
	warn, err = store.MkDir(dir, 0o755, owner)
	if err != nil {
		return warn, err
	}
	chain, chainErr := store.ReadFile(dir+"/chain.pem", certificateLimit) // the last one that is written
	key, keyErr := store.ReadFile(dir+"/privkey.pem", certificateLimit)
	if chainErr == nil && keyErr == nil {
		if _, err := CheckPair(chain, key, names, time.Now()); err == nil {
			return warn, nil
		}
	}
	certificate, key, err := newPlaceholder(name, names, time.Now())
	if err != nil {
		return warn, err
	}
	keyPerm := uint32(0o600)
	if owner.GID >= 0 {
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
		given, err := store.SetMode(path, file.perm, owner)
		if err != nil {
			return warn, err
		}
		warn = errors.Join(warn, given)
	}
	return warn, nil
}

// newPlaceholder makes a self-signed certificate and its key, both PEM.
func newPlaceholder(name string, names []string, now time.Time) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := x509.Certificate{
		SerialNumber:          number.Add(number, big.NewInt(1)), // positive: RFC 5280 4.1.2.2
		Subject:               pkix.Name{Organization: []string{placeholderOrganization}, CommonName: name},
		NotBefore:             now.Add(-24 * time.Hour), // clocks differ
		NotAfter:              now.Add(placeholderLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, n := range names {
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
