package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestHalvesOfAPair(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(public any, by string, authority bool) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "it"}, NotAfter: time.Now().Add(time.Hour), IsCA: authority, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: pkix.Name{CommonName: by}}, public, other)
		if err != nil {
			t.Fatal(err)
		}
		return block("CERTIFICATE", der)
	}
	leaf, upper, root := issue(&ec.PublicKey, "ca", false), issue(&other.PublicKey, "root", true), issue(&other.PublicKey, "it", true)
	ecKey, rsaKey := block("EC PRIVATE KEY", sec1), block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(other))
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte{1}})
	for name, c := range map[string]struct {
		text       []byte
		half, fits bool // fits leaf
	}{
		"its key":               {ecKey, true, true},
		"its key after params":  {append(block("EC PARAMETERS", []byte{6, 0}), ecKey...), true, true},
		"another's key":         {rsaKey, true, false},
		"an encrypted key":      {encrypted, true, false},
		"an encrypted PKCS #8":  {block("ENCRYPTED PRIVATE KEY", []byte{1}), true, false},
		"the leaf and its CA":   {append(append([]byte{}, leaf...), upper...), true, true},
		"a CA's own":            {root, true, false},
		"the upper part":        {upper, false, false},
		"both":                  {append(append([]byte{}, leaf...), ecKey...), false, false},
		"a key that is damaged": {block("PRIVATE KEY", []byte{1}), false, false},
		"parameters":            {block("DH PARAMETERS", []byte{1}), false, false},
		"no PEM":                {[]byte("hello"), false, false},
		"nothing":               {nil, false, false},
	} {
		got, ok := halfOf(c.text)
		certificate, _ := halfOf(leaf)
		if ok != c.half || ok && (got.fits(certificate) != c.fits || certificate.fits(got) != c.fits) {
			t.Errorf("%s: half %v, fits %v", name, ok, ok && got.fits(certificate))
		}
	}
}

// With a key that is used again several certificates fit; the one that was in force at the same time is meant.
func TestTheNearestMatchIsTaken(t *testing.T) {
	a, b := half{&ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(2)}}, half{&ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(3), Y: big.NewInt(4)}}
	at := time.Now()
	versions := []keptHalf{
		{a, "later", at.Add(time.Hour)}, {b, "another key", at}, {a, "a moment before", at.Add(-time.Second)}, {a, "long before", at.Add(-time.Hour)},
	}
	if v, found := matching(a, at, versions); !found || v.version != "a moment before" {
		t.Errorf("%+v, %v", v, found)
	}
	for _, unfit := range []half{{}, {&ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(9), Y: big.NewInt(9)}}} {
		if v, found := matching(unfit, at, versions); found {
			t.Errorf("%+v", v)
		}
	}
}
