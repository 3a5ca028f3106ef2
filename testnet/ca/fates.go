package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// exchange is one request on its way to the CA.
type exchange struct {
	faults  *Faults
	next    http.Handler
	request *http.Request
	call    Call
	what    what
	said    jws
	rule    *Rule // that acts on it; nil: none
	counted bool
	at      int // of its Passage
	answer  answer
}

// receive reads a request as a whole.
func (f *Faults) receive(next http.Handler, r *http.Request) (*exchange, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	x := &exchange{faults: f, next: next, request: r, said: parseJWS(body)}
	x.answer = answer{status: http.StatusOK, header: http.Header{}}
	x.call = callOf(r.URL.Path, x.said)
	x.what = f.about(x.call, r.URL.Path, x.said)
	f.mu.Lock()
	defer f.mu.Unlock()
	x.at = len(f.passed)
	f.passed = append(f.passed, Passage{Time: time.Now(), Call: x.call, Names: x.what.names})
	return x, nil
}

// came says, once, that the rule has acted.
func (x *exchange) came() {
	if !x.counted {
		x.counted = true
		x.rule.came()
	}
}

// pass lets the CA answer.
func (x *exchange) pass() {
	x.lead(x.call == CallAccept && x.rule != nil && x.rule.misleads)
	if !x.faults.fromShelf(x) {
		x.next.ServeHTTP(&x.answer, x.request)
		x.faults.mu.Lock()
		x.faults.passed[x.at].Status = x.answer.status
		x.faults.mu.Unlock()
	}
	x.faults.learn(x)
	x.faults.toShelf(x)
}

// lead decides whether the name server knows the name that a challenge is for.
func (x *exchange) lead(astray bool) {
	if x.call != CallAccept {
		return
	}
	x.faults.mu.Lock()
	defer x.faults.mu.Unlock()
	if x.faults.astray == nil {
		x.faults.astray = map[string]bool{}
	}
	for _, name := range x.what.names {
		x.faults.astray[name] = astray
	}
}

// refuse answers in the CA's place, with a problem document (RFC 7807) and a good nonce.
func (x *exchange) refuse(r Refusal) {
	fresh := answer{header: http.Header{}}
	if ask, err := http.NewRequestWithContext(x.request.Context(), http.MethodHead, "/nonce-plz", http.NoBody); err == nil {
		ask.Header.Set("User-Agent", x.request.UserAgent()) // Pebble wants one
		x.next.ServeHTTP(&fresh, ask)
	}
	x.answer = answer{status: r.Status, header: http.Header{"Content-Type": {"application/problem+json"}}}
	if nonce := fresh.header.Get("Replay-Nonce"); nonce != "" {
		x.answer.header.Set("Replay-Nonce", nonce)
	}
	if r.RetryAfter > 0 {
		x.answer.header.Set("Retry-After", strconv.Itoa(int((r.RetryAfter+time.Second-1)/time.Second)))
	}
	text, _ := json.Marshal(map[string]any{ // of texts and a number: it cannot fail
		"type": "urn:ietf:params:acme:error:" + r.Type, "detail": "the script says so", "status": r.Status,
	})
	_, _ = x.answer.Write(text)
}

// cut ends the connection, or the stream, without an answer.
func cut() { panic(http.ErrAbortHandler) }

// LoseRequest cuts the connection before the CA sees the request. With On().Always() the CA is down until End.
func (r *Rule) LoseRequest() *Rule {
	return r.so(func(*exchange) bool { cut(); return true })
}

// LoseAnswer cuts the connection after the CA has done what it was asked.
func (r *Rule) LoseAnswer() *Rule {
	return r.so(func(x *exchange) bool { x.pass(); cut(); return true })
}

// Delay makes the CA see the request later.
func (r *Rule) Delay(d time.Duration) *Rule {
	return r.so(func(x *exchange) bool {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-x.request.Context().Done():
			cut()
		}
		x.pass()
		return true
	})
}

// Hold keeps the request from the CA until End. If the client goes away meanwhile the CA never sees it.
func (r *Rule) Hold() *Rule {
	return r.so(func(x *exchange) bool {
		x.stand()
		x.pass()
		return true
	})
}

// HoldAnswer keeps the answer from the client until End. The CA has done what it was asked, whatever becomes of the client.
func (r *Rule) HoldAnswer() *Rule {
	return r.so(func(x *exchange) bool {
		x.pass()
		x.stand()
		return true
	})
}

// stand waits until the rule ends or the client is gone.
func (x *exchange) stand() {
	x.came()
	select {
	case <-x.rule.released:
	case <-x.request.Context().Done():
		cut()
	}
}

// Refusal is a problem document that is sent in the CA's place.
type Refusal struct {
	Status     int
	Type       string        // without urn:ietf:params:acme:error:
	RetryAfter time.Duration // rounded up to a second; 0: none
}

// What a CA says when it will not.
var (
	BadNonce        = Refusal{Status: http.StatusBadRequest, Type: "badNonce"}
	Broken          = Refusal{Status: http.StatusInternalServerError, Type: "serverInternal"}
	Conflict        = Refusal{Status: http.StatusConflict, Type: "conflict"}
	UnknownAccount  = Refusal{Status: http.StatusBadRequest, Type: "accountDoesNotExist"}
	AlreadyReplaced = Refusal{Status: http.StatusConflict, Type: "alreadyReplaced"}
)

// RateLimited is a 429 with a Retry-After.
func RateLimited(wait time.Duration) Refusal {
	return Refusal{Status: http.StatusTooManyRequests, Type: "rateLimited", RetryAfter: wait}
}

// Refuse answers in the CA's place, which does not see the request.
func (r *Rule) Refuse(refusal Refusal) *Rule {
	return r.so(func(x *exchange) bool { x.refuse(refusal); return true })
}

// Processing makes an order that is valid look as if the CA were still at it.
func (r *Rule) Processing() *Rule {
	return r.alter(func(body []byte) []byte {
		var order map[string]any
		if json.Unmarshal(body, &order) != nil || (order["status"] != "valid" && order["status"] != "processing") {
			return nil
		}
		order["status"] = "processing"
		delete(order, "certificate")
		text, _ := json.Marshal(order) // it was JSON a moment ago
		return text
	})
}

// Suggest makes the CA suggest a window for a renewal (RFC 9773 4.2).
func (r *Rule) Suggest(start, end time.Time) *Rule {
	return r.Say(fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q}}`, start.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339)))
}

// Say puts a text in the place of the body of a good answer.
func (r *Rule) Say(text string) *Rule {
	return r.alter(func([]byte) []byte { return []byte(text) })
}

// ReverseChain sends the certificates of a chain in the opposite order.
func (r *Rule) ReverseChain() *Rule {
	return r.alter(func(body []byte) []byte {
		chain := blocks(body)
		slices.Reverse(chain)
		return bytes.Join(chain, nil)
	})
}

// StrangeChain sends the leaf with the certificate of a CA that has not signed it.
func (r *Rule) StrangeChain() *Rule {
	stranger, err := strangeCA()
	return r.alter(func(body []byte) []byte {
		chain := blocks(body)
		if err != nil || len(chain) == 0 {
			return nil
		}
		return append(chain[0], stranger...)
	})
}

// alter changes the body of a good answer, or returns nil if there is nothing in it to change.
func (r *Rule) alter(change func([]byte) []byte) *Rule {
	return r.so(func(x *exchange) bool {
		x.pass()
		if x.answer.status >= 300 {
			return false
		}
		changed := change(x.answer.body.Bytes())
		if changed == nil {
			return false
		}
		x.answer.body = *bytes.NewBuffer(changed)
		return true
	})
}

// FailValidation lets the CA be told to look, and look where nothing is: the name server does not know the name this time.
func (r *Rule) FailValidation() *Rule {
	r.misleads = true
	return r.so(func(x *exchange) bool { x.pass(); return x.call == CallAccept })
}

// unknown reports whether the name server is not to know a name now.
func (f *Faults) unknown(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.astray[name]
}

// blocks returns the PEM blocks of a chain.
func blocks(chain []byte) [][]byte {
	var all [][]byte
	for {
		var block *pem.Block
		if block, chain = pem.Decode(chain); block == nil {
			return all
		}
		all = append(all, pem.EncodeToMemory(block))
	}
}

// strangeCA returns the certificate (PEM) of a CA that nobody knows.
func strangeCA() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a CA from elsewhere"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
