package agent

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"time"
)

// A key and its certificate are two files, and one without the other is an outage: nginx refuses a pair that does not match. Which files belong
// together is decided by their names (syncer.Companions); what follows decides by their keys whether they do.

// half is one of the two files of a pair, by the public key that both have; nil where that cannot be told, because the private key is
// encrypted.
type half struct{ public crypto.PublicKey }

func (h half) fits(other half) bool {
	k, ok := h.public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(other.public)
}

// halfOf reads a PEM file. It is half of a pair if it holds a certificate or a private key. What holds both is whole by itself, and what begins with
// the certificate of an intermediate CA is the upper part of a chain.
func halfOf(text []byte) (half, bool) {
	var key, certificate *half
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "CERTIFICATE" && certificate == nil:
			leaf, err := x509.ParseCertificate(block.Bytes)
			if err != nil || leaf.IsCA && !bytes.Equal(leaf.RawIssuer, leaf.RawSubject) {
				return half{}, false
			}
			certificate = &half{leaf.PublicKey}
		case key != nil:
		case block.Type == "ENCRYPTED PRIVATE KEY", block.Headers["DEK-Info"] != "":
			key = new(half)
		default:
			if signer := signerOf(block); signer != nil {
				key = &half{signer.Public()}
			}
		}
	}
	switch {
	case key != nil && certificate == nil:
		return *key, true
	case certificate != nil && key == nil:
		return *certificate, true
	}
	return half{}, false
}

// signerOf returns the private key in a block: PKCS #8, PKCS #1 or SEC 1; nil if there is none.
func signerOf(block *pem.Block) crypto.Signer {
	var key any
	switch block.Type {
	case "PRIVATE KEY":
		key, _ = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		if rsa, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
			key = rsa
		}
	case "EC PRIVATE KEY":
		if ec, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
			key = ec
		}
	}
	signer, _ := key.(crypto.Signer)
	return signer
}

// keptHalf is an earlier version of one half.
type keptHalf struct {
	half
	version  string
	replaced time.Time
}

// matching returns the version that fits wanted and was replaced nearest to a moment: with a key that is used again and again several fit.
func matching(wanted half, at time.Time, versions []keptHalf) (nearest keptHalf, found bool) {
	for _, v := range versions {
		if v.fits(wanted) && (!found || v.replaced.Sub(at).Abs() < nearest.replaced.Sub(at).Abs()) {
			nearest, found = v, true
		}
	}
	return nearest, found
}
