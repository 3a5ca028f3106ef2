package acmeclient

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/crypto/acme"
)

// maxNonces is how often a nonce that the CA does not like is replaced.
const maxNonces = 20

// post sends one signed request that the ACME library has no words for (RFC 8555 6.2) and returns the answer, whose body
// has been read. What the CA refuses is an *acme.Error.
func (s *session) post(ctx context.Context, client *acme.Client, url string, payload any) (http.Header, []byte, error) {
	body, err := json.Marshal(payload)
	if err != nil {
		return nil, nil, err
	}
	directory, err := client.Discover(ctx)
	if err != nil {
		return nil, nil, err
	}
	for try := 1; ; try++ {
		nonce, err := s.nonce(ctx, client, directory.NonceURL)
		if err != nil {
			return nil, nil, err
		}
		signed, err := signRequest(client, url, nonce, body)
		if err != nil {
			return nil, nil, err
		}
		status, header, answer, err := s.send(ctx, client, http.MethodPost, url, signed)
		if err != nil {
			return nil, nil, err
		}
		if fresh := header.Get("Replay-Nonce"); fresh != "" {
			select {
			case s.nonces <- fresh:
			default:
			}
		}
		if status < 300 {
			return header, answer, nil
		}
		problem := problemOf(status, header, answer)
		if !isProblem(problem, "badNonce") || try == maxNonces {
			return nil, nil, problem
		}
	}
}

// nonce returns one that the CA gave with an earlier answer, or fetches one (RFC 8555 7.2).
func (s *session) nonce(ctx context.Context, client *acme.Client, url string) (string, error) {
	select {
	case nonce := <-s.nonces:
		return nonce, nil
	default:
	}
	status, header, body, err := s.send(ctx, client, http.MethodHead, url, nil)
	if err != nil {
		return "", err
	}
	if nonce := header.Get("Replay-Nonce"); nonce != "" && status < 300 {
		return nonce, nil
	}
	return "", problemOf(status, header, body)
}

// signRequest wraps body for url in a JWS (RFC 7515) of the account's key, which is ECDSA P-256: see connect.
func signRequest(client *acme.Client, url, nonce string, body []byte) ([]byte, error) {
	key, ok := client.Key.(*ecdsa.PrivateKey)
	if !ok || key.Curve.Params().BitSize != 256 {
		return nil, errors.New("the key of the CA account is not ECDSA P-256")
	}
	header, err := json.Marshal(map[string]string{"alg": "ES256", "kid": string(client.KID), "nonce": nonce, "url": url})
	if err != nil {
		return nil, err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	protected, payload := b64(header), b64(body)
	sum := sha256.Sum256([]byte(protected + "." + payload))
	r, v, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return nil, err
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	v.FillBytes(signature[32:])
	return json.Marshal(map[string]string{"protected": protected, "payload": payload, "signature": b64(signature)})
}

// send is one request to the CA.
func (s *session) send(ctx context.Context, client *acme.Client, method, url string, body []byte) (int, http.Header, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/jose+json")
	}
	return fetch(client.HTTPClient, request, s.client.cfg.UserAgent)
}

// problemOf is what the CA says in an answer that is no success (RFC 7807).
func problemOf(status int, header http.Header, body []byte) *acme.Error {
	var told struct {
		Type, Detail, Instance string
	}
	if err := json.Unmarshal(body, &told); err != nil {
		told.Detail = fmt.Sprintf("HTTP status %d and no problem document", status)
	}
	return &acme.Error{StatusCode: status, ProblemType: told.Type, Detail: told.Detail, Instance: told.Instance, Header: header}
}

// newOrder is AuthorizeOrder with what the ACME library has no words for: that the order replaces a certificate (RFC 9773 5).
func (s *session) newOrder(ctx context.Context, client *acme.Client, names []string, profile, replaces string) (*acme.Order, error) {
	directory, err := client.Discover(ctx)
	if err != nil {
		return nil, err
	}
	type identifier struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	}
	wish := struct {
		Identifiers []identifier `json:"identifiers"`
		Profile     string       `json:"profile,omitempty"`
		Replaces    string       `json:"replaces,omitempty"`
	}{Profile: profile, Replaces: replaces}
	for _, name := range names {
		wish.Identifiers = append(wish.Identifiers, identifier{"dns", name})
	}
	header, body, err := s.post(ctx, client, directory.OrderURL, wish)
	if err != nil {
		return nil, err
	}
	var placed struct {
		Finalize string    `json:"finalize"`
		Expires  time.Time `json:"expires"`
	}
	if err := json.Unmarshal(body, &placed); err != nil {
		return nil, fmt.Errorf("the CA's answer to newOrder is not an order: %w", err)
	}
	return &acme.Order{URI: header.Get("Location"), FinalizeURL: placed.Finalize, Expires: placed.Expires}, nil
}
