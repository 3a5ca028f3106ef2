package acmeclient

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/crypto/acme"
)

// revoked is one certificate that was revoked at the CA by this fleet.
type revoked struct {
	Leaf   string    `json:"leaf"`   // SHA-256 of it
	Serial string    `json:"serial"` // lower-case hex
	At     time.Time `json:"at"`
	Node   string    `json:"node"` // that did it
	Reason string    `json:"reason"`
}

// revocationList is what was revoked of one declared certificate, oldest first. It is a file of its own, so that a
// revocation need not wait for an attempt that stands at the barrier.
type revocationList []revoked

const revokedKept = 20

func revokedPath(name string) string { return "revoked/" + name + ".json" }

// reasons are those that a CA takes from a subscriber (RFC 5280 5.3.1; CA/Browser Forum BR 4.9.1.1).
var reasons = map[string]acme.CRLReasonCode{
	"unspecified":          acme.CRLReasonUnspecified,
	"keyCompromise":        acme.CRLReasonKeyCompromise,
	"affiliationChanged":   acme.CRLReasonAffiliationChanged,
	"superseded":           acme.CRLReasonSuperseded,
	"cessationOfOperation": acme.CRLReasonCessationOfOperation,
}

// Revoke has the CA revoke the certificate in force for name, for one of the reasons of RFC 5280 5.3.1 ("": unspecified),
// and returns its serial, in lower-case hex. From then on another one is due, with another key; Obtain with Renew asks for
// it by name. meant is the serial of the one to revoke, "" for whichever is in force: to repeat that is harmless, and right when the
// answer was lost, although its replacement may be in force by then.
func (c *Client) Revoke(ctx context.Context, name, meant, reason string) (serial string, err error) {
	w, err := c.worker(name)
	if err != nil {
		return "", err
	}
	if reason == "" {
		reason = "unspecified"
	}
	code, ok := reasons[reason]
	if !ok {
		return "", fmt.Errorf("%q is not a reason to revoke a certificate (RFC 5280 5.3.1); write one of unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation", reason)
	}
	s, leave, err := c.enter(c.cfg.Directory)
	if err != nil {
		return "", err
	}
	defer leave()
	ctx, release := s.within(ctx)
	defer release()
	if done, err := c.revocations(name); err == nil && !done.of(meant).IsZero() {
		return meant, nil
	}
	held, err := c.cfg.Fleet.Held(name)
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the certificate in force: %w", err)
	case held == nil || held.Placeholder:
		return "", fmt.Errorf("there is no certificate of %s to revoke", name)
	case meant != "" && meant != held.Leaf.SerialNumber.Text(16):
		return "", fmt.Errorf("the certificate of %s with serial %s is no longer in force, serial %s is: nothing is revoked; again to revoke that one", name, meant, held.Leaf.SerialNumber.Text(16))
	}
	if err := s.revoke(ctx, held.Leaf.Raw, code); err != nil {
		if s.ctx.Err() != nil {
			return "", ErrNotActing
		}
		if isProblem(err, "unauthorized") {
			err = fmt.Errorf("%w; the account of this fleet may revoke only what it ordered, or names that it has proven lately: certswarm cert issue, then again", err)
		}
		return "", fmt.Errorf("the CA does not revoke the certificate of %s: %w", name, err)
	}
	c.revoking.Lock()
	defer c.revoking.Unlock()
	list, err := c.revocations(name)
	if err != nil {
		c.cfg.Log.Error("what was revoked before", "name", name, "err", err)
	}
	serial = held.Leaf.SerialNumber.Text(16)
	list = append(list, revoked{Leaf: fingerprint(held.Leaf), Serial: serial, At: time.Now().UTC(), Node: c.cfg.Node, Reason: reason})
	if n := len(list) - revokedKept; n > 0 {
		list = slices.Delete(list, 0, n)
	}
	if err := s.saveJSON(s.ctx, revokedPath(name), list); err != nil {
		return serial, err
	}
	c.cfg.Observe(Event{Time: time.Now(), Name: name, Node: c.cfg.Node, Text: fmt.Sprintf("serial %s was revoked: %s", serial, reason)})
	w.nudge()
	return serial, nil
}

// Revoked reports whether leaf was revoked by this fleet as a certificate of name. Every issuer can tell it, whether it acts or not.
func (c *Client) Revoked(name string, leaf *x509.Certificate) (bool, error) {
	if _, err := c.worker(name); err != nil {
		return false, err
	}
	list, err := c.revocations(name)
	return list.has(leaf), err
}

// revoke asks the CA, which may have forgotten the account.
func (s *session) revoke(ctx context.Context, leaf []byte, code acme.CRLReasonCode) error {
	client, err := s.connect(ctx, "")
	if err != nil {
		return err
	}
	permitted, err := s.permit(ctx)
	if err != nil {
		return err
	}
	err = client.RevokeCert(permitted, nil, leaf, code)
	if !isProblem(err, "accountDoesNotExist") {
		return err
	}
	if client, err = s.connect(ctx, string(client.KID)); err != nil {
		return err
	}
	if permitted, err = s.permit(ctx); err != nil {
		return err
	}
	return client.RevokeCert(permitted, nil, leaf, code)
}

// revocations returns what was revoked of name.
func (c *Client) revocations(name string) (list revocationList, err error) {
	content, err := c.cfg.Fleet.Load(revokedPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", revokedPath(name), err)
	}
	return list, nil
}

// of returns when a serial was revoked, zero if it was not.
func (l revocationList) of(serial string) time.Time {
	for _, r := range l {
		if serial != "" && r.Serial == serial {
			return r.At
		}
	}
	return time.Time{}
}

// has reports whether leaf was revoked.
func (l revocationList) has(leaf *x509.Certificate) bool {
	print := fingerprint(leaf)
	return slices.ContainsFunc(l, func(r revoked) bool { return r.Leaf == print })
}
