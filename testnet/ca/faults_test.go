package ca_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"certswarm/testnet/ca"

	"golang.org/x/crypto/acme"
)

// customer is an ACME client that asks for certificates, and repeats nothing by itself.
type customer struct {
	*acme.Client
	t    *testing.T
	ctx  context.Context
	ca   *ca.CA
	http *http.Client
}

// newCustomer starts a CA with that script, and registers with it.
func newCustomer(t *testing.T, faults *ca.Faults) *customer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &customer{Client: &acme.Client{Key: key}, t: t, ctx: ctx}
	c.RetryBackoff = func(int, *http.Request, *http.Response) time.Duration { return 0 }
	addresses, port, _ := frontEnds(t, func(path string) string {
		answer, err := c.HTTP01ChallengeResponse(path[strings.LastIndex(path, "/")+1:])
		if err != nil {
			t.Error(err)
		}
		return answer
	})
	c.ca, err = ca.Start(ctx, ca.Config{Addresses: addresses, HTTPPort: port, Faults: faults})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.ca.Close(); err != nil {
			t.Error(err)
		}
	})
	c.http = trusting(c.ca.Root())
	c.http.Transport.(*http.Transport).ForceAttemptHTTP2 = true
	c.DirectoryURL, c.HTTPClient = c.ca.DirectoryURL(), c.http
	if _, err := c.Register(ctx, new(acme.Account), acme.AcceptTOS); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *customer) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// order places an order and returns it with the challenge that must be met.
func (c *customer) order(name string) (*acme.Order, *acme.Challenge) {
	c.t.Helper()
	order, err := c.AuthorizeOrder(c.ctx, acme.DomainIDs(name))
	c.must(err)
	authz, err := c.GetAuthorization(c.ctx, order.AuthzURLs[0])
	c.must(err)
	for _, challenge := range authz.Challenges {
		if challenge.Type == "http-01" {
			return order, challenge
		}
	}
	c.t.Fatal("http-01 is not offered")
	return nil, nil
}

// ready takes an order to where it can be finalized.
func (c *customer) ready(name string) *acme.Order {
	c.t.Helper()
	order, challenge := c.order(name)
	if challenge.Status == acme.StatusPending { // Pebble reuses one authorization in a hundred, even if told not to
		_, err := c.Accept(c.ctx, challenge)
		c.must(err)
	}
	return c.decided(order)
}

// decided returns the order when the CA has validated, or failed to.
func (c *customer) decided(order *acme.Order) (seen *acme.Order) {
	c.t.Helper()
	c.await(func() bool {
		var err error
		seen, err = c.GetOrder(c.ctx, order.URI)
		c.must(err)
		return seen.Status != acme.StatusPending
	})
	return seen
}

// await looks whenever the CA has recorded something.
func (c *customer) await(look func() bool) {
	c.t.Helper()
	for {
		changed := c.ca.Changed()
		if look() {
			return
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			c.t.Fatal(context.Cause(c.ctx))
		}
	}
}

func (c *customer) finalize(order *acme.Order, name string) ([][]byte, error) {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	c.must(err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, key)
	c.must(err)
	chain, _, err := c.CreateCertFromOrder(c.ctx, order, csr, true)
	return chain, err
}

func (c *customer) issue(name string) ([][]byte, error) {
	c.t.Helper()
	return c.finalize(c.ready(name), name)
}

// leaf parses what was issued.
func (c *customer) leaf(chain [][]byte, err error) *x509.Certificate {
	c.t.Helper()
	c.must(err)
	leaf, err := x509.ParseCertificate(chain[0])
	c.must(err)
	return leaf
}

const (
	one   = "one.example.com"
	other = "other.example.com"
)

func TestARequestIsLostOrItsAnswer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script func(*ca.Faults) *ca.Rule
		orders int
	}{
		"request": {func(f *ca.Faults) *ca.Rule { return f.On(ca.CallNewOrder).About(one).LoseRequest() }, 0},
		"answer":  {func(f *ca.Faults) *ca.Rule { return f.On(ca.CallNewOrder).About(one).LoseAnswer() }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			faults := new(ca.Faults)
			rule := c.script(faults)
			client := newCustomer(t, faults)
			client.order(other) // the rule is about another name
			if _, err := client.AuthorizeOrder(client.ctx, acme.DomainIDs(one)); err == nil {
				t.Error("there was an answer")
			}
			if got := client.ca.Count(ca.Order) - 1; got != c.orders || faults.Done(ca.CallNewOrder, one) != c.orders {
				t.Errorf("the CA took %d orders, not %d", got, c.orders)
			}
			client.order(one) // once is enough
			if rule.Met() != 1 || len(faults.Passages(ca.CallNewOrder, "")) != 3 {
				t.Errorf("it happened %d times; requests: %+v", rule.Met(), faults.Passages(ca.CallNewOrder, ""))
			}
		})
	}
}

func TestRefusalsAreSkippedCountedAndEnded(t *testing.T) {
	t.Parallel()
	faults := new(ca.Faults)
	client := newCustomer(t, faults)
	faults.On(ca.CallNewOrder).Skip(1).Times(2).Refuse(ca.RateLimited(1500 * time.Millisecond))
	down := faults.On(ca.CallNewOrder).About(other).Always().Refuse(ca.Broken)
	client.order(one)
	for range 2 {
		_, err := client.AuthorizeOrder(client.ctx, acme.DomainIDs(one))
		problem, ok := errors.AsType[*acme.Error](err)
		if !ok || problem.StatusCode != 429 || problem.Header.Get("Retry-After") != "2" || problem.Header.Get("Replay-Nonce") == "" ||
			problem.ProblemType != "urn:ietf:params:acme:error:rateLimited" {
			t.Errorf("%#v", err)
		}
	}
	client.order(one)
	for range 3 {
		if _, err := client.AuthorizeOrder(client.ctx, acme.DomainIDs(other)); err == nil {
			t.Error("it was not refused")
		}
	}
	down.End()
	client.order(other)
	if n := client.ca.Count(ca.Order); n != 3 {
		t.Errorf("the CA took %d orders", n)
	}
}

func TestAStormOfNoncesPasses(t *testing.T) {
	t.Parallel()
	faults := new(ca.Faults)
	client := newCustomer(t, faults)
	client.RetryBackoff = func(int, *http.Request, *http.Response) time.Duration { return time.Millisecond }
	storm := faults.On(ca.CallNewOrder, ca.CallAuthz, ca.CallFinalize).Times(7).Refuse(ca.BadNonce)
	client.leaf(client.issue(one))
	if storm.Met() != 7 || client.ca.Count(ca.Order) != 1 {
		t.Errorf("%d nonces were refused, %d orders taken", storm.Met(), client.ca.Count(ca.Order))
	}
}

// Every request that an issuance and a renewal consist of is known for what it is, and whom it is about.
func TestEveryRequestIsKnown(t *testing.T) {
	t.Parallel()
	faults := new(ca.Faults)
	client := newCustomer(t, faults)
	client.leaf(client.issue(other))
	leaf := client.leaf(client.issue(one))
	client.renewalInfo(leaf)
	client.must(client.RevokeCert(client.ctx, nil, leaf.Raw, acme.CRLReasonUnspecified))
	for _, call := range []ca.Call{ca.CallNewOrder, ca.CallAuthz, ca.CallAccept, ca.CallOrder, ca.CallFinalize, ca.CallCert,
		ca.CallRenewalInfo, ca.CallRevoke} {
		if faults.Done(call, one) == 0 {
			t.Errorf("no %s about %s among %+v", call, one, faults.Passages("", ""))
		}
	}
	for _, call := range []ca.Call{ca.CallDirectory, ca.CallNewNonce, ca.CallNewAccount} {
		if faults.Done(call, "") == 0 {
			t.Errorf("no %s among %+v", call, faults.Passages("", ""))
		}
	}
	if n := faults.Done(ca.CallAccept, one); n != 1 {
		t.Errorf("%d accepts", n)
	}
}

// renewalInfo asks when to renew.
func (c *customer) renewalInfo(leaf *x509.Certificate) string {
	c.t.Helper()
	base := strings.TrimSuffix(c.DirectoryURL, "/dir")
	answer, err := c.http.Get(base + "/draft-ietf-acme-ari-03/renewalInfo/" + certID(leaf))
	c.must(err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	c.must(err)
	return string(text)
}

// certID identifies a certificate in renewal information (RFC 9773 4.1).
func certID(leaf *x509.Certificate) string {
	serial := leaf.SerialNumber.Bytes()
	if serial[0]&0x80 != 0 {
		serial = append([]byte{0}, serial...)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return encode(leaf.AuthorityKeyId) + "." + encode(serial)
}

// A client that goes away while its request is held was never heard; one whose answer is held was.
func TestARequestIsHeldOrItsAnswer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script func(*ca.Faults) *ca.Rule
		issued int
	}{
		"request": {func(f *ca.Faults) *ca.Rule { return f.On(ca.CallFinalize).About(one).Hold() }, 0},
		"answer":  {func(f *ca.Faults) *ca.Rule { return f.On(ca.CallFinalize).About(one).HoldAnswer() }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			faults := new(ca.Faults)
			held := c.script(faults)
			client := newCustomer(t, faults)
			order := client.ready(one)
			ctx := client.ctx
			dying, die := context.WithCancel(ctx)
			client.ctx = dying
			ended := make(chan error)
			go func() {
				_, err := client.finalize(order, one)
				ended <- err
			}()
			client.must(held.Await(ctx, 1))
			die()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("it ended with %v", err)
			}
			client.ctx = ctx
			client.leaf(client.issue(other)) // nobody else is held up; and what was under way is over
			if got := len(client.ca.Issued()) - 1; got != c.issued {
				t.Errorf("%d certificates were issued, not %d", got, c.issued)
			}
		})
	}
	t.Run("and let go", func(t *testing.T) {
		t.Parallel()
		faults := new(ca.Faults)
		client := newCustomer(t, faults)
		held := faults.On(ca.CallNewOrder).Always().Hold()
		ended := make(chan error)
		go func() {
			_, err := client.AuthorizeOrder(client.ctx, acme.DomainIDs(one))
			ended <- err
		}()
		client.must(held.Await(client.ctx, 1))
		if n := client.ca.Count(ca.Order); n != 0 {
			t.Errorf("the CA has taken %d orders already", n)
		}
		held.End()
		client.must(<-ended)
		client.order(one)
	})
}

func TestAnOrderStallsInProcessing(t *testing.T) {
	t.Parallel()
	faults := new(ca.Faults)
	stalled := faults.On(ca.CallOrder, ca.CallFinalize).About(one).Always().Processing()
	late := faults.On(ca.CallOrder).About(other).Processing()
	client := newCustomer(t, faults)
	client.leaf(client.issue(other))
	if late.Met() != 1 { // it was not used up by what there was nothing to change in
		t.Errorf("an order stalled %d times", late.Met())
	}
	order := client.ready(one) // until it is valid nothing is disguised
	ended := make(chan error)
	go func() {
		_, err := client.finalize(order, one)
		ended <- err
	}()
	client.must(stalled.Await(client.ctx, 2))
	client.await(func() bool { return len(client.ca.Issued()) == 2 }) // although it says otherwise:
	seen, err := client.GetOrder(client.ctx, order.URI)
	client.must(err)
	if seen.Status != acme.StatusProcessing || seen.CertURL != "" {
		t.Errorf("the order is %s with certificate %q", seen.Status, seen.CertURL)
	}
	stalled.End()
	client.must(<-ended)
}

func TestChainsAndWindowsAreReplaced(t *testing.T) {
	t.Parallel()
	faults := new(ca.Faults)
	client := newCustomer(t, faults)
	faults.On(ca.CallCert).About(one).ReverseChain()
	faults.On(ca.CallCert).About(one).StrangeChain()
	if leaf := client.leaf(client.issue(one)); !leaf.IsCA {
		t.Error("the chain does not begin with a CA")
	}
	chain, err := client.issue(one)
	leaf := client.leaf(chain, err)
	strange, err := x509.ParseCertificate(chain[1])
	client.must(err)
	if leaf.IsCA || leaf.CheckSignatureFrom(strange) == nil {
		t.Error("the second certificate has signed the first")
	}
	good := client.leaf(client.issue(one))

	begin := time.Date(2020, 3, 1, 12, 0, 0, 0, time.UTC)
	faults.On(ca.CallRenewalInfo).About(one).Suggest(begin, begin.Add(time.Hour))
	faults.On(ca.CallRenewalInfo).About(one).Say("}")
	if got := client.renewalInfo(good); !strings.Contains(got, `"start":"2020-03-01T12:00:00Z"`) || !strings.Contains(got, `"end":"2020-03-01T13:00:00Z"`) {
		t.Errorf("the window is %s", got)
	}
	if got := client.renewalInfo(good); got != "}" {
		t.Errorf("the window is %s", got)
	}
	if got := client.renewalInfo(good); !strings.Contains(got, "suggestedWindow") || strings.Contains(got, "2020") {
		t.Errorf("the window is %s", got)
	}
}

func TestAValidationFailsOnce(t *testing.T) {
	t.Parallel()
	faults := new(ca.Faults)
	client := newCustomer(t, faults)
	faults.On(ca.CallAccept).About(one).FailValidation()
	order, challenge := client.order(one)
	_, err := client.Accept(client.ctx, challenge)
	client.must(err)
	client.leaf(client.issue(other))
	if seen := client.decided(order); seen.Status != acme.StatusInvalid {
		t.Errorf("the order is %s", seen.Status)
	}
	client.leaf(client.issue(one))
	if n := client.ca.Count(ca.Invalid); n != 1 {
		t.Errorf("%d authorizations became invalid", n)
	}
}

func TestOrdersAreReusedAsLetsEncryptDoes(t *testing.T) {
	t.Parallel()
	faults := new(ca.Faults)
	faults.ReuseOrders()
	client := newCustomer(t, faults)
	first, challenge := client.order(one)
	if again, _ := client.order(one); again.URI != first.URI || again.FinalizeURL != first.FinalizeURL {
		t.Errorf("a repeated order is %s, not %s", again.URI, first.URI)
	}
	if another, _ := client.order(other); another.URI == first.URI {
		t.Error("an order for another name is the same")
	}
	_, err := client.Accept(client.ctx, challenge)
	client.must(err)
	ready := client.decided(first)
	again, err := client.AuthorizeOrder(client.ctx, acme.DomainIDs(one))
	client.must(err)
	if again.URI != ready.URI || again.Status != acme.StatusReady {
		t.Errorf("the repeated order is %s and %s", again.URI, again.Status)
	}
	client.leaf(client.finalize(ready, one))
	if after, _ := client.order(one); after.URI == first.URI {
		t.Error("a valid order was given again")
	}
	if n := client.ca.Count(ca.Order); n != 3 {
		t.Errorf("Pebble took %d orders", n)
	}
}

// Whoever did not hear that his order was taken cannot replace the same certificate once more.
func TestACertificateIsReplacedOnceAsAtLetsEncrypt(t *testing.T) {
	t.Parallel()
	faults := new(ca.Faults)
	faults.ReuseOrders()
	client := newCustomer(t, faults)
	leaf := client.leaf(client.issue(one))
	if status, _ := client.replace(leaf); status != http.StatusCreated {
		t.Fatalf("the first order to replace it gets %d", status)
	}
	if status, problem := client.replace(leaf); status != http.StatusConflict || !strings.HasSuffix(problem, ":alreadyReplaced") {
		t.Errorf("the second gets %d and %s", status, problem)
	}
	if n := client.ca.Count(ca.Order); n != 2 {
		t.Errorf("Pebble took %d orders", n)
	}
}

// replace asks for an order that replaces a certificate (RFC 9773 5), for which the ACME library has no words.
func (c *customer) replace(leaf *x509.Certificate) (status int, problem string) {
	c.t.Helper()
	base := strings.TrimSuffix(c.DirectoryURL, "/dir")
	fresh, err := c.http.Head(base + "/nonce-plz")
	c.must(err)
	c.must(fresh.Body.Close())
	encode := base64.RawURLEncoding.EncodeToString
	at := base + "/order-plz"
	protected := encode(fmt.Appendf(nil, `{"alg":"ES256","kid":%q,"nonce":%q,"url":%q}`, c.KID, fresh.Header.Get("Replay-Nonce"), at))
	payload := encode(fmt.Appendf(nil, `{"identifiers":[{"type":"dns","value":%q}],"replaces":%q}`, leaf.DNSNames[0], certID(leaf)))
	digest := sha256.Sum256([]byte(protected + "." + payload))
	r, s, err := ecdsa.Sign(rand.Reader, c.Key.(*ecdsa.PrivateKey), digest[:])
	c.must(err)
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	body := fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, protected, payload, encode(signature))
	answer, err := c.http.Post(at, "application/jose+json", strings.NewReader(body))
	c.must(err)
	defer answer.Body.Close()
	var said struct{ Type string }
	c.must(json.NewDecoder(answer.Body).Decode(&said))
	return answer.StatusCode, said.Type
}
