package acmeclient

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// fetch gets the certificate and journals it with its URL: an order may be gone soon, even a valid one.
func (i *issuance) fetch(ctx context.Context) error {
	a := i.j.Attempt
	ders, err := i.acme.FetchCert(ctx, i.order.CertURL, true)
	if err != nil {
		return err
	}
	a.CertURL, a.Chain = i.order.CertURL, encodeChain(ders)
	return i.reach(ctx, StepValid, a.CertURL)
}

// maxFetches is how often a certificate is fetched that is not what was ordered. It may have been spoilt on its way; to
// order another costs budget, and would come the same way.
const maxFetches = 4

// check judges what the CA returned.
func (i *issuance) check(ctx context.Context) error {
	a := i.j.Attempt
	chain, err := decodeChain(a.Chain)
	if err == nil {
		err = i.judge(chain)
	}
	if err == nil {
		return i.reach(ctx, StepChecked, "")
	}
	f := &failure{code: CodeChain, final: true, err: fmt.Errorf("the CA's certificate is not published: %w", err)}
	if a.Fetches++; a.Fetches < maxFetches {
		f.final, f.transient = false, true
		a.Chain, a.Step = nil, StepFinalized
		if err := i.save(ctx); err != nil {
			return err
		}
		i.say("", f.Error()+"; it is fetched again")
	}
	return f
}

// judge compares what came with what was ordered, as the journal has it: the key is the journalled one, on whatever node
// the CSR was made.
func (i *issuance) judge(chain []*x509.Certificate) error {
	a := i.j.Attempt
	key, err := decodeKey(a.Key)
	if err != nil {
		return fmt.Errorf("the journalled key cannot be read: %w", err)
	}
	return checkChain(chain, a.Names, key.Public(), !staging(i.directory), time.Now())
}

// install hands the certificate to the fleet.
func (i *issuance) install(ctx context.Context) error {
	a := i.j.Attempt
	chain, err := decodeChain(a.Chain)
	if err != nil {
		return ofFleet(err, "reading the chain in the journal")
	}
	from := origin{fingerprint(chain[0]), i.directory, a.Account}
	if !slices.Contains(i.j.Issued, from) {
		i.j.Issued = append(i.j.Issued, from)
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
