package acmeclient

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"
)

// sign makes a certificate from template; parent and parentKey nil: self-signed.
func sign(t *testing.T, template *x509.Certificate, key crypto.Signer, parent *x509.Certificate, parentKey crypto.Signer) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(1)
	template.BasicConstraintsValid = true
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestCheckChain(t *testing.T) {
	now := birth.Add(day)
	newKey := func() crypto.Signer {
		key, err := ECDSAP256.generate()
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	rootKey, middleKey, key := newKey(), newKey(), newKey()
	authority := func(name string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
			NotBefore: birth.AddDate(-1, 0, 0), NotAfter: birth.AddDate(9, 0, 0)}
	}
	root := sign(t, authority("Root"), rootKey, nil, nil)
	middle := sign(t, authority("Middle"), middleKey, root, rootKey)
	stagingRoot := sign(t, authority("(STAGING) Pretend Pear X1"), rootKey, nil, nil)
	stagingMiddle := sign(t, authority("Bogus Broccoli"), middleKey, stagingRoot, rootKey)
	leaf := func(change func(*x509.Certificate)) *x509.Certificate {
		template := &x509.Certificate{DNSNames: []string{www, "example.com"}, NotBefore: birth, NotAfter: birth.Add(90 * day)}
		if change != nil {
			change(template)
		}
		return sign(t, template, key, middle, middleKey)
	}

	for name, c := range map[string]struct {
		chain   []*x509.Certificate
		public  crypto.PublicKey // nil: the ordered key
		staging bool             // the configured CA is one
		want    string
	}{
		"good":                        {chain: []*x509.Certificate{leaf(nil), middle}},
		"good, with the root":         {chain: []*x509.Certificate{leaf(nil), middle, root}},
		"good, from a wanted staging": {chain: []*x509.Certificate{leaf(nil), stagingMiddle}, staging: true},
		"slightly in the future":      {chain: []*x509.Certificate{leaf(func(l *x509.Certificate) { l.NotBefore = now.Add(time.Minute) }), middle}},

		"empty":                  {want: "empty"},
		"issuer first":           {chain: []*x509.Certificate{middle, leaf(nil)}, want: "is a CA's"},
		"another key":            {chain: []*x509.Certificate{leaf(nil), middle}, public: middleKey.Public(), want: "another key"},
		"a name missing":         {chain: []*x509.Certificate{leaf(func(l *x509.Certificate) { l.DNSNames = []string{www} }), middle}, want: "not www.example.com, example.com"},
		"a name more":            {chain: []*x509.Certificate{leaf(func(l *x509.Certificate) { l.DNSNames = append(l.DNSNames, "evil.example") }), middle}, want: "evil.example"},
		"expired":                {chain: []*x509.Certificate{leaf(func(l *x509.Certificate) { l.NotAfter = now }), middle}, want: "expired"},
		"far in the future":      {chain: []*x509.Certificate{leaf(func(l *x509.Certificate) { l.NotBefore = now.Add(day) }), middle}, want: "not valid before"},
		"most of its life gone":  {chain: []*x509.Certificate{leaf(func(l *x509.Certificate) { l.NotBefore = birth.Add(-100 * day) }), middle}, want: "less than half"},
		"issuer missing a link":  {chain: []*x509.Certificate{leaf(nil), root}, want: "not signed by the next"},
		"staging, not asked for": {chain: []*x509.Certificate{leaf(nil), stagingMiddle}, want: "staging"},
	} {
		public := c.public
		if public == nil {
			public = key.Public()
		}
		err := checkChain(c.chain, []string{www, "example.com"}, public, !c.staging, now)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, not %q", name, err, c.want)
		}
	}
}
