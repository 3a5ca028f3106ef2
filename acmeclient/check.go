package acmeclient

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// checkChain says why a chain that the CA returned must not be published, nil if nothing speaks against it. production
// is set when the directory is not one for tests. Whether clients trust the root is not judged: the operator chose the CA.
func checkChain(chain []*x509.Certificate, names []string, public crypto.PublicKey, production bool, now time.Time) error {
	if len(chain) == 0 {
		return errors.New("the chain is empty")
	}
	leaf := chain[0]
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	const clockSkew = time.Hour
	switch {
	case leaf.IsCA:
		return fmt.Errorf("the first certificate of the chain (%s) is a CA's", leaf.Subject)
	case !samePublic(leaf.PublicKey, public):
		return errors.New("the certificate is for another key than the one that was ordered")
	case nameSet(lowered(leaf.DNSNames)) != nameSet(names):
		return fmt.Errorf("the certificate is for %s, not %s", strings.Join(leaf.DNSNames, ", "), strings.Join(names, ", "))
	case !now.Before(leaf.NotAfter):
		return fmt.Errorf("the certificate expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case leaf.NotBefore.After(now.Add(clockSkew)):
		return fmt.Errorf("the certificate is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	case leaf.NotAfter.Sub(now) < life/2:
		return fmt.Errorf("less than half of the certificate's life is left: it expires at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	for i, cert := range chain[:len(chain)-1] {
		if err := cert.CheckSignatureFrom(chain[i+1]); err != nil {
			return fmt.Errorf("certificate %d of the chain (%s) is not signed by the next (%s): %w", i+1, cert.Subject, chain[i+1].Subject, err)
		}
	}
	if production {
		for _, cert := range chain {
			if staging(cert.Subject.String()) || staging(cert.Issuer.String()) {
				return fmt.Errorf("%s is of a staging CA, and the configured one is not", cert.Issuer)
			}
		}
	}
	return nil
}

// staging tells names of test CAs and of their directories.
func staging(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"staging", "fake le "}, func(mark string) bool { return strings.Contains(name, mark) })
}
