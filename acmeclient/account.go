package acmeclient

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/crypto/acme"
)

// account guards the one account that all issuers share at one CA (limits, and the reuse of orders, are per account):
// only one goroutine at a time may find that there is none. It also lets all of them use one connection: the directory is
// fetched once, and each answer's nonce serves the next request.
type account struct {
	one  chan struct{}         // holds one while somebody looks; not a mutex, for it may take as long as the CA and the fleet do
	open map[string]connection // by directory; belongs to whoever has put into one
}

// connection is a client of one CA. It is used for so long that many certificates share it, and so short that a change of
// the CA's directory is noticed.
type connection struct {
	client *acme.Client
	opened time.Time
}

const connectionLife = 10 * time.Minute

// accountFile is the account as it is replicated among the issuers.
type accountFile struct {
	Directory string    `json:"directory"`
	Key       []byte    `json:"key"`           // PEM
	KID       string    `json:"kid,omitempty"` // its URL; empty: not registered yet, or not known to be
	Created   time.Time `json:"created"`
}

// accountPath names the account by the CA's directory URL: another CA is another account.
func accountPath(directory string) string {
	id := sha256.Sum256([]byte(directory))
	return "accounts/" + hex.EncodeToString(id[:8]) + ".json"
}

// connect returns a client of the CA that acts for the fleet's account, registering it if that was never done. stale is
// an account URL that the CA said it does not know, or "": it is replaced, unless somebody else just did.
//
// Crash: the key is on a majority of the issuers before the CA sees it. Whoever continues registers the same key again and
// is told the same account (RFC 8555 7.3.1).
func (s *session) connect(ctx context.Context, stale string) (*acme.Client, error) {
	guard := &s.client.account
	select {
	case guard.one <- struct{}{}:
		defer func() { <-guard.one }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}

	cfg := &s.client.cfg
	path := accountPath(s.directory)
	file := accountFile{Directory: s.directory}
	content, err := cfg.Fleet.Load(path)
	if err == nil {
		if err = json.Unmarshal(content, &file); err != nil {
			err = fmt.Errorf("%s is damaged: %w; restore it from the archive, or remove it to register a new account", path, err)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, ofFleet(err, "loading the CA account")
	}
	if len(file.Key) == 0 {
		key, err := ECDSAP256.generate()
		if err != nil {
			return nil, err
		}
		if file.Key, err = encodeKey(key); err != nil {
			return nil, err
		}
		file.Created = time.Now().UTC()
		if err := s.saveJSON(ctx, path, &file); err != nil {
			return nil, err
		}
	}
	key, err := decodeKey(file.Key)
	if err != nil {
		return nil, ofFleet(err, "reading the key of the CA account in "+path)
	}
	if stale != "" && file.KID == stale {
		file.KID = ""
	}
	known, ok := guard.open[s.directory]
	if ok && file.KID != "" && known.client.KID == acme.KeyID(file.KID) && samePublic(known.client.Key.Public(), key.Public()) && time.Since(known.opened) < connectionLife {
		return known.client, nil
	}
	client := &acme.Client{
		Key:          key,
		DirectoryURL: s.directory,
		HTTPClient:   s.client.http,
		UserAgent:    cfg.UserAgent,
		RetryBackoff: retryNonce,
		KID:          acme.KeyID(file.KID),
	}
	if file.KID == "" {
		if err := s.register(ctx, client); err != nil {
			return nil, err
		}
		file.KID = string(client.KID)
		if err := s.saveJSON(ctx, path, &file); err != nil {
			return nil, err
		}
	}
	if guard.open == nil {
		guard.open = make(map[string]connection)
	}
	guard.open[s.directory] = connection{client, time.Now()}
	return client, nil
}

// register makes the account at the CA, or finds that it is there; client knows its URL afterwards.
func (s *session) register(ctx context.Context, client *acme.Client) error {
	cfg := &s.client.cfg
	directory, err := client.Discover(ctx)
	if err != nil {
		return err
	}
	if directory.Terms != "" && !cfg.AcceptTerms {
		return &failure{code: CodeRefused, err: fmt.Errorf("the CA has terms of service (%s); read them and set acme: accept_terms: true", directory.Terms)}
	}
	wanted := new(acme.Account)
	if cfg.Email != "" {
		wanted.Contact = []string{"mailto:" + cfg.Email}
	}
	permitted, err := s.permit(ctx)
	if err != nil {
		return err
	}
	if _, err := client.Register(permitted, wanted, acme.AcceptTOS); err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return err
	}
	if client.KID == "" {
		return &failure{code: CodeRefused, err: errors.New("the CA registered the account without saying its URL")}
	}
	return nil
}
