package acmeclient

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"
)

// fetch gets the certificate and journals it with its URL: an order may be gone soon, even a valid one.
func (i *issuance) fetch(ctx context.Context) error {
	a := i.j.Attempt
	ders, err := i.acme.FetchCert(ctx, i.order.CertURL, true)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(ders[0])
	a.CertURL, a.Chain = i.order.CertURL, encodeChain(ders)
	i.j.IssuedHere = append(i.j.IssuedHere, hex.EncodeToString(sum[:]))
	return i.reach(ctx, StepValid, a.CertURL)
}

// check judges what the CA returned.
func (i *issuance) check(ctx context.Context) error {
	a := i.j.Attempt
	chain, err := decodeChain(a.Chain)
	if err == nil {
		err = i.judge(chain)
	}
	if err != nil {
		return &failure{code: CodeChain, final: true, err: fmt.Errorf("the CA's certificate is not published: %w", err)}
	}
	return i.reach(ctx, StepChecked, "")
}

// judge compares what came with what was ordered, as the journal has it: the key is the journalled one, on whatever node
// the CSR was made.
func (i *issuance) judge(chain []*x509.Certificate) error {
	a := i.j.Attempt
	key, err := decodeKey(a.Key)
	if err != nil {
		return fmt.Errorf("the journalled key cannot be read: %w", err)
	}
	return checkChain(chain, a.Names, key.Public(), !staging(i.client.cfg.Directory), time.Now())
}

// install hands the certificate to the fleet.
func (i *issuance) install(ctx context.Context) error {
	a := i.j.Attempt
	chain, err := decodeChain(a.Chain)
	if err != nil {
		return ofFleet(err, "reading the chain in the journal")
	}
	generation, err := i.client.cfg.Fleet.Install(ctx, Bundle{
		Name: i.w.cert.Name, Key: a.Key, Chain: a.Chain, Leaf: chain[0], Epoch: i.authority.Epoch(),
	})
	if err != nil {
		return ofFleet(err, "installing the certificate")
	}
	a.Generation = generation
	return i.reach(ctx, StepInstalled, fmt.Sprintf("generation %d, serial %x", generation, chain[0].SerialNumber))
}

// verify asks the front-ends what they serve. Whatever they say, the issuance is over.
func (i *issuance) verify(ctx context.Context) error {
	a := i.j.Attempt
	chain, err := decodeChain(a.Chain)
	if err != nil {
		return ofFleet(err, "reading the chain in the journal")
	}
	states, err := i.client.cfg.Fleet.AwaitVerified(ctx, i.w.cert.Name, a.Generation, chain[0])
	if err != nil && ctx.Err() != nil {
		return err
	}
	a.Verified = states
	text := ""
	if err != nil {
		text = "not by all: " + err.Error()
	}
	return i.reach(ctx, StepVerified, text)
}
