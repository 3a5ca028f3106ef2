package pairs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// issued is a key and its certificate, as the PEM that programs write.
type issued struct{ key, leaf, chain, fullchain string }

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// issue makes a pair below an intermediate CA.
func issue(t testing.TB, private crypto.Signer) issued {
	t.Helper()
	caKey := newKey(t)
	ca := certificate(t, "intermediate", "root", true, caKey.Public(), newKey(t))
	leaf := certificate(t, "site", "intermediate", false, private.Public(), caKey)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return issued{key: encodePEM("PRIVATE KEY", der), leaf: leaf, chain: ca, fullchain: leaf + ca}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func certificate(t testing.TB, subject, issuer string, ca bool, public crypto.PublicKey, by crypto.Signer) string {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: subject}, IsCA: ca, BasicConstraintsValid: true,
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
	}
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: issuer}}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	return encodePEM("CERTIFICATE", der)
}

func TestWholePEM(t *testing.T) {
	pair := issue(t, newKey(t))
	for name, content := range map[string]string{
		"a.key":        pair.key,
		"a.pem":        pair.fullchain + pair.key,
		"crlf.crt":     strings.ReplaceAll(pair.fullchain, "\n", "\r\n"),
		"unended.crt":  strings.TrimSuffix(pair.fullchain, "\n"),
		"said.pem":     "subject=/CN=site\n" + pair.leaf + "\nissuer: somebody\n" + pair.chain,
		"dh.pem":       encodePEM("DH PARAMETERS", []byte("anything")),
		"proc.key":     string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}, Bytes: make([]byte, 64)})),
		"pkcs8.key":    encodePEM("ENCRYPTED PRIVATE KEY", make([]byte, 64)),
		"der.crt":      "\x30\x82\x01\x02\x00\xff",
		"ticket.key":   strings.Repeat("\x01\xfe", 40),
		"tsig.key":     "key \"a\" { algorithm hmac-sha256; };\n",
		"negative.crt": encodePEM("CERTIFICATE", []byte{0x30, 3, 2, 1, 0xff}), // a SEQUENCE, and nothing that Go would take
	} {
		if f := Read(name, []byte(content)); f.Broken != "" {
			t.Errorf("%s: %s", name, f.Broken)
		}
	}
}

func TestBrokenPEM(t *testing.T) {
	pair := issue(t, newKey(t))
	three := pair.leaf + pair.chain + pair.chain
	cut := strings.LastIndex(three, "-----END")
	for _, c := range []struct{ name, content, want string }{
		{"a.pem", "", "it is empty"},
		{"a.key", "", "it is empty"},
		{"zeroed.crt", strings.Repeat("\x00", 4096), "it is empty"},
		{"a.pem", "-----BEG", "it ends within the BEGIN line of its first PEM block"},
		{"a.crt", pair.leaf + "-----BEGIN CERTIF", "it ends within the BEGIN line of its second PEM block"},
		{"a.crt", three[:cut], "the third PEM block has no END line"},
		{"a.crt", three[:cut+12], "the third PEM block has no END line"},
		{"a.crt", pair.leaf[:strings.Index(pair.leaf, "\n-----END")+1] + pair.leaf, "the first PEM block has no END line"},
		{"a.crt", strings.ReplaceAll(pair.leaf, "END CERTIFICATE", "END PRIVATE KEY"), "the first PEM block begins as CERTIFICATE and ends as PRIVATE KEY"},
		{"a.crt", strings.Replace(pair.leaf, "M", "!", 1), "the first PEM block is not base64"},
		{"a.crt", encodePEM("CERTIFICATE", []byte{0x30, 3, 2, 1}), "the first PEM block is no certificate: its DER is damaged"},
		{"a.key", encodePEM("EC PRIVATE KEY", []byte("nonsense")), "the first PEM block is no private key: its DER is damaged"},
		{"a.pem", "hello\n", "there is no PEM block in it"},
	} {
		if f := Read(c.name, []byte(c.content)); f.Broken != c.want {
			t.Errorf("%s of %.60q: %q, not %q", c.name, c.content, f.Broken, c.want)
		}
	}
}

// No beginning of a PEM file is taken for the whole, but where a block ends.
func TestEveryTruncationShows(t *testing.T) {
	pair := issue(t, newKey(t))
	for _, content := range []string{pair.fullchain, pair.key} {
		for n := range len(content) {
			rest := content[n:]
			complete := rest == "\n" || n > 0 && strings.HasSuffix(content[:n], "-----\n") && !strings.HasSuffix(content[:n], "BEGIN CERTIFICATE-----\n") &&
				strings.HasPrefix(rest, "-----BEGIN") || strings.HasPrefix(rest, "\n-----BEGIN")
			if broken := Read("a.pem", []byte(content[:n])).Broken != ""; broken == complete {
				t.Errorf("the first %d of %d bytes, before %.20q: broken %v", n, len(content), rest, broken)
			}
		}
	}
}

func TestAKeyGoesWithItsCertificateInEveryEncoding(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecKey := newKey(t)
	sec1, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := ecKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	bare, err := asn1.Marshal(struct { // as programs write it that leave the public half out
		Version int
		Key     []byte
		Curve   asn1.ObjectIdentifier `asn1:"explicit,tag:0"`
	}{1, scalar, asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		private crypto.Signer
		text    string // "": PKCS #8
	}{
		"rsa":                   {rsaKey, ""},
		"rsa, PKCS #1":          {rsaKey, encodePEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey))},
		"ec":                    {ecKey, ""},
		"ec, SEC 1":             {ecKey, "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + encodePEM("EC PRIVATE KEY", sec1)},
		"ec without its public": {ecKey, encodePEM("EC PRIVATE KEY", bare)},
		"ed25519":               {edKey, ""},
	} {
		pair := issue(t, c.private)
		if c.text == "" {
			c.text = pair.key
		}
		k, f := Read("a.key", []byte(c.text)), Read("a.crt", []byte(pair.fullchain))
		if len(k.keys) != 1 || !f.certified || k.keys[0] != f.certifies || k.opaque || f.opaque {
			t.Errorf("%s: %+v and %+v", name, k, f)
		}
		if up := Read("chain.pem", []byte(pair.chain)); !up.chain {
			t.Errorf("an intermediate is taken for a server's certificate: %+v", up)
		}
	}
}

func TestHalvesOfAPair(t *testing.T) {
	ec := newKey(t)
	pair, other := issue(t, ec), issue(t, newKey(t))
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	ecKey := encodePEM("EC PRIVATE KEY", sec1)
	root := certificate(t, "root", "root", true, newKey(t).Public(), newKey(t))
	encrypted := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte{1}}))
	for name, c := range map[string]struct {
		text       string
		half, fits bool // fits the certificate
	}{
		"its key":                     {ecKey, true, true},
		"its key after params":        {encodePEM("EC PARAMETERS", []byte{6, 0}) + ecKey, true, true},
		"another's key":               {other.key, true, false},
		"its key before another's":    {ecKey + other.key, true, true},
		"its key after another's":     {other.key + ecKey, true, false},
		"an encrypted key":            {encrypted, true, false},
		"an encrypted PKCS #8":        {encodePEM("ENCRYPTED PRIVATE KEY", []byte{1}), true, false},
		"a key that Go does not know": {encodePEM("PRIVATE KEY", []byte{0x30, 3, 2, 1, 0}), true, false},
		"the leaf and its CA":         {pair.fullchain, true, true},
		"the leaf and half of its CA": {pair.fullchain[:len(pair.fullchain)-99], true, true},
		"a CA's own":                  {root, true, false},
		"the upper part":              {pair.chain, false, false},
		"both":                        {pair.leaf + ecKey, false, false},
		"both, encrypted":             {pair.leaf + encrypted, false, false},
		"a key that is damaged":       {encodePEM("PRIVATE KEY", []byte{1}), false, false},
		"parameters":                  {encodePEM("DH PARAMETERS", []byte{1}), false, false},
		"no PEM":                      {"hello", false, false},
		"nothing":                     {"", false, false},
	} {
		certificate, _ := Read("a.pem", []byte(pair.leaf)).Half()
		got, ok := Read("a.pem", []byte(c.text)).Half()
		if ok != c.half || got.Fits(certificate) != c.fits || certificate.Fits(got) != c.fits {
			t.Errorf("%s: half %v, fits %v", name, ok, got.Fits(certificate))
		}
	}
	if (PublicKey{}).Fits(PublicKey{}) {
		t.Error("what cannot be told goes with what cannot be told")
	}
}

func BenchmarkRead(b *testing.B) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ec": newKey(b), "rsa": rsaKey} {
		pair := issue(b, key)
		b.Run(name+"-key", func(b *testing.B) {
			for b.Loop() {
				Read("a.key", []byte(pair.key))
			}
		})
		b.Run(name+"-fullchain", func(b *testing.B) {
			for b.Loop() {
				Read("a.crt", []byte(pair.fullchain))
			}
		})
	}
}
