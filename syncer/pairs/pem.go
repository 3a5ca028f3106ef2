package pairs

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"path"
	"strings"
)

// IsPEMName reports whether a file of this name is expected to be PEM (RFC 7468): .pem, .crt, .cer or .key.
func IsPEMName(name string) bool {
	switch path.Ext(name) {
	case ".pem", ".crt", ".cer", ".key":
		return true
	}
	return false
}

// File is what a file of a PEM name says. The zero File says nothing: it is not PEM, or neither a key nor a certificate.
type File struct {
	// Broken is what shows that the file is not whole; "" if nothing does, as where it is cut off between two blocks. What else is known of a broken
	// file is known from the blocks before.
	Broken string

	certified bool        // there is a certificate in it
	certifies PublicKey   // of the first one, which is the one that is served
	keys      []PublicKey // those of its private keys
	opaque    bool        // there is a key in it that cannot be told: an encrypted one, or of an algorithm that Go does not know
	authority bool        // its first certificate is a CA's
	chain     bool        // which somebody else issued: the file is the upper part of a chain
}

// PublicKey identifies a key pair: the hash of a subjectPublicKey (RFC 5280 4.1.2.7). The algorithm is not in it; no two share bytes. The zero
// PublicKey is one that cannot be told.
type PublicKey [sha256.Size]byte

// Fits reports whether two files with these keys go together; what cannot be told goes with nothing.
func (k PublicKey) Fits(other PublicKey) bool { return k != PublicKey{} && k == other }

// Half returns the key by which a file goes with the other half of a pair. It is the half of one if it holds a private key or a certificate: not
// both, which is whole by itself, nor the certificate of an intermediate CA first, which is the upper part of a chain.
func (f File) Half() (public PublicKey, ok bool) {
	switch {
	case f.chain || f.certified && (f.opaque || len(f.keys) > 0):
		return PublicKey{}, false
	case f.opaque:
		return PublicKey{}, true
	case f.certified:
		return f.certifies, true
	case len(f.keys) > 0:
		return f.keys[0], true // the one that nginx takes
	}
	return PublicKey{}, false
}

const (
	pemBegin = "-----BEGIN "
	pemEnd   = "-----END "
	pemDash  = "-----"
)

// Read judges the content of a file of a PEM name. What stands between the blocks is nobody's business (RFC 7468 2); what
// cannot be PEM at all is left alone unless it is called .pem. A key is known by what the file says of it: whether the halves of an RSA key belong
// together, and whether a certificate is signed, is not looked at.
func Read(name string, content []byte) File {
	if len(bytes.Trim(content, "\x00 \t\r\n")) == 0 {
		return File{Broken: "it is empty"}
	}
	var f File
	blocks, certificates := 0, 0
	var line []byte
	for rest := content; len(rest) > 0; {
		line, rest = cutLine(rest)
		kind, begins := label(line, pemBegin)
		if !begins {
			continue
		}
		blocks++
		body, after, wrong := bodyOf(rest, kind)
		if wrong == "" {
			wrong = f.take(kind, body, &certificates)
		}
		if wrong != "" {
			f.Broken = fmt.Sprintf("the %s PEM block %s", ordinal(blocks), wrong)
			return f
		}
		rest, line = after, nil
	}
	switch {
	case cutOff(line) && content[len(content)-1] != '\n':
		f.Broken = fmt.Sprintf("it ends within the BEGIN line of its %s PEM block", ordinal(blocks+1))
	case blocks == 0 && path.Ext(name) == ".pem":
		f.Broken = "there is no PEM block in it"
	}
	return f
}

// cutLine returns the first line without its end, and what follows it.
func cutLine(text []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(text, []byte{'\n'})
	return bytes.TrimRight(line, " \t\r"), rest
}

// label returns what a BEGIN or END line names.
func label(line []byte, prefix string) (kind string, ok bool) {
	if line, ok = bytes.CutPrefix(line, []byte(prefix)); ok {
		line, ok = bytes.CutSuffix(line, []byte(pemDash))
	}
	return string(line), ok
}

// cutOff reports whether a line is the beginning of a BEGIN line.
func cutOff(line []byte) bool {
	return len(line) > 0 && (strings.HasPrefix(pemBegin, string(line)) || bytes.HasPrefix(line, []byte(pemBegin)))
}

// bodyOf returns the lines up to the END line of a block, and what follows that; or what is wrong with the block.
func bodyOf(text []byte, kind string) (body, after []byte, wrong string) {
	for rest := text; len(rest) > 0; {
		begin := len(text) - len(rest)
		var line []byte
		line, rest = cutLine(rest)
		if !bytes.HasPrefix(line, []byte(pemDash)) {
			continue
		}
		switch of, ends := label(line, pemEnd); {
		case !ends:
			return nil, nil, "has no END line"
		case of != kind:
			return nil, nil, fmt.Sprintf("begins as %s and ends as %s", kind, of)
		}
		return text[:begin], rest, ""
	}
	return nil, nil, "has no END line"
}

// take adds one block; it returns what is wrong with it.
func (f *File) take(kind string, body []byte, certificates *int) (wrong string) {
	body, encrypted := cutHeaders(body)
	der, err := base64.StdEncoding.AppendDecode(nil, body)
	if err != nil { // the decoder minds no line ends, but blanks
		der, err = base64.StdEncoding.AppendDecode(nil, bytes.Join(bytes.Fields(body), nil))
	}
	if err != nil {
		return "is not base64"
	}
	switch kind {
	case "CERTIFICATE":
		if !wellFormed(der) {
			return "is no certificate: its DER is damaged"
		}
		if *certificates++; *certificates == 1 {
			f.takeCertificate(der)
		}
	case "ENCRYPTED PRIVATE KEY":
		f.opaque = true
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
		if encrypted {
			f.opaque = true
			return ""
		}
		if !wellFormed(der) {
			return "is no private key: its DER is damaged"
		}
		if bits := publicBits(der); bits != nil {
			f.keys = append(f.keys, sha256.Sum256(bits))
		} else {
			f.opaque = true
		}
	}
	return ""
}

// cutHeaders returns a block's body without its headers (RFC 1421 4.6), which end at an empty line, and whether they say that it is encrypted.
func cutHeaders(body []byte) (text []byte, encrypted bool) {
	if first, _ := cutLine(body); bytes.IndexByte(first, ':') < 0 {
		return body, false
	}
	for len(body) > 0 {
		var line []byte
		if line, body = cutLine(body); len(line) == 0 {
			break
		}
		encrypted = encrypted || bytes.HasPrefix(line, []byte("Proc-Type:")) && bytes.HasSuffix(line, []byte("ENCRYPTED"))
	}
	return body, encrypted
}

func (f *File) takeCertificate(der []byte) {
	c, err := x509.ParseCertificate(der)
	if err != nil { // there are certificates that only Go does not like
		f.opaque = true
		return
	}
	bits := subjectPublicKey(c.RawSubjectPublicKeyInfo)
	if bits == nil {
		f.opaque = true
		return
	}
	f.authority = c.IsCA
	f.chain = c.IsCA && !bytes.Equal(c.RawIssuer, c.RawSubject)
	f.certified, f.certifies = true, sha256.Sum256(bits)
}

// wellFormed reports whether der is one SEQUENCE with whole elements and nothing behind them. What was cut off or overwritten in part
// rarely is, and what is unusual is not for this program to refuse.
func wellFormed(der []byte) bool {
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(der, &outer)
	if err != nil || len(rest) > 0 || outer.Class != asn1.ClassUniversal || outer.Tag != asn1.TagSequence || len(outer.Bytes) == 0 {
		return false
	}
	for inner := outer.Bytes; len(inner) > 0; {
		var element asn1.RawValue
		if inner, err = asn1.Unmarshal(inner, &element); err != nil {
			return false
		}
	}
	return true
}

// publicBits returns the subjectPublicKey that belongs to a private key in any of the three encodings, nil if it cannot be told. Where the
// encoding says it, it is read and not computed: that is what nginx compares, and to compute it takes up to half a millisecond.
func publicBits(der []byte) []byte {
	inner := der
	var pkcs8 struct { // RFC 5958 2
		Version   int
		Algorithm asn1.RawValue
		Key       []byte
	}
	if _, err := asn1.Unmarshal(der, &pkcs8); err == nil && pkcs8.Algorithm.Tag == asn1.TagSequence {
		inner = pkcs8.Key
	}
	var rsa struct { // RFC 8017 A.1.2; what follows in it is of no interest
		Version int
		N       *big.Int
		E       int
	}
	if _, err := asn1.Unmarshal(inner, &rsa); err == nil {
		bits, err := asn1.Marshal(struct { // A.1.1
			N *big.Int
			E int
		}{rsa.N, rsa.E})
		if err == nil {
			return bits
		}
	}
	var ec struct { // RFC 5915 3
		Version int
		Key     []byte
		Curve   asn1.RawValue  `asn1:"optional,explicit,tag:0"`
		Public  asn1.BitString `asn1:"optional,explicit,tag:1"`
	}
	if _, err := asn1.Unmarshal(inner, &ec); err == nil && len(ec.Public.Bytes) > 0 {
		return inFull(ec.Public.Bytes)
	}
	return computedBits(der)
}

// computedBits is for the keys that come without their public half: Ed25519, and EC keys of some programs.
func computedBits(der []byte) []byte {
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		if private, err = x509.ParseECPrivateKey(der); err != nil {
			return nil
		}
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return nil
	}
	info, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil
	}
	return subjectPublicKey(info)
}

// subjectPublicKey returns the bits of a SubjectPublicKeyInfo, nil if it is none.
func subjectPublicKey(info []byte) []byte {
	var parsed struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(info, &parsed); err != nil {
		return nil
	}
	return inFull(parsed.Key.Bytes)
}

// inFull returns the bits unless they are a point of a curve in its short form (SEC 1 2.3.3), which has a long one too.
func inFull(bits []byte) []byte {
	if len(bits)%2 == 1 && (bits[0] == 2 || bits[0] == 3) {
		return nil
	}
	return bits
}

func ordinal(n int) string {
	words := []string{"first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"}
	if n <= len(words) {
		return words[n-1]
	}
	return fmt.Sprintf("%dth", n)
}
