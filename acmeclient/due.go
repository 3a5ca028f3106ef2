package acmeclient

import (
	"crypto/x509"
	"encoding/base64"
	"slices"
	"strings"
	"time"
)

// Policy says how much of a certificate's life may be left when it is renewed. Fractions of the life, never days:
// lives shrink (160 hours, 45, 64 and 90 days are all in use).
type Policy struct {
	Left      int64         // renew when one Left-th of the life is left
	ShortLeft int64         // the same for lives below Short
	Short     time.Duration // which lives are short
	Emergency int64         // with one Emergency-th left nothing else counts

	// Adopted certificates were found, not issued here: any that is valid for all declared names is as good as the
	// wanted one until it must be renewed.
	Adopted bool

	// Shared names are those of another declared certificate too, which differs in its key type alone: a certificate that was found must be
	// of the declared one, lest it hides the other.
	Shared bool
}

// DefaultPolicy renews at a third of the life, at half of lives below ten days, whatever happens at a twentieth.
func DefaultPolicy() Policy {
	return Policy{Left: 3, ShortLeft: 2, Short: 10 * 24 * time.Hour, Emergency: 20}
}

// Window is the CA's suggestion for one certificate (RFC 9773 4.1) and the instant that was chosen in it. The instant is
// kept as long as the window stays the same.
type Window struct {
	Start, End, Chosen time.Time
}

// usable tells a window that says something: an empty one is no answer.
func (w Window) usable() bool { return w.End.After(w.Start) && !w.Chosen.IsZero() }

// Due says when a certificate must be obtained, and why then.
type Due struct {
	At     time.Time
	Reason string
}

// NextDue decides when wanted must be obtained next, given what is held now (nil: nothing). Windows are keyed by CertID, so
// that one for a certificate already replaced is never obeyed.
func NextDue(held *Held, wanted Certificate, policy Policy, windows map[string]Window, now time.Time) Due {
	switch {
	case held == nil:
		return Due{now, "there is no certificate"}
	case held.Placeholder:
		return Due{now, "only the placeholder is there"}
	case held.Revoked:
		return Due{now, "it was revoked"}
	}
	leaf := held.Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	emergency := leaf.NotAfter.Add(-life / time.Duration(policy.Emergency))
	if wanted.preferred(held) {
		return Due{emergency, "it was put back in force, and is about to expire"}
	}
	if policy.Adopted {
		if name := wanted.uncovered(leaf); name != "" {
			return Due{now, "the certificate found is not valid for " + name}
		}
		if policy.Shared && keyTypeOf(leaf.PublicKey) != wanted.Key {
			return Due{now, "the certificate found differs from what is declared in its key type, by which two with the same names are told apart"}
		}
	} else if reason := wanted.differs(leaf); reason != "" {
		return Due{now, reason}
	}

	left := policy.Left
	if life < policy.Short {
		left = policy.ShortLeft
	}
	due := Due{leaf.NotAfter.Add(-life / time.Duration(left)), "its age"}
	if w, ok := windows[CertID(leaf)]; ok && w.usable() {
		due = Due{w.Chosen, "the CA's renewal window"}
	}
	if emergency.Before(due.At) {
		due = Due{emergency, "it is about to expire"}
	}
	return due
}

// differs says in what a leaf is not what is declared, "" if it is.
func (c Certificate) differs(leaf *x509.Certificate) string {
	switch {
	case nameSet(lowered(leaf.DNSNames)) != c.set():
		return "the declared names changed"
	case keyTypeOf(leaf.PublicKey) != c.Key:
		return "the declared key type changed"
	}
	return ""
}

// uncovered returns the first declared name that a leaf is not valid for, "" if there is none.
func (c Certificate) uncovered(leaf *x509.Certificate) string {
	for _, name := range c.Names {
		if leaf.VerifyHostname(name) != nil {
			return name
		}
	}
	return ""
}

// preferred reports whether an operator has put held back in force although there is a later certificate that is all that is declared.
// To renew held because of its age would bring back, within seconds, what was taken out of force; so that waits for the emergency. Once the
// declaration changes, the later certificate is not what is declared any more, and the ordinary rules decide.
func (c Certificate) preferred(held *Held) bool {
	return held.Newer != nil && c.differs(held.Newer) == "" && c.uncovered(held.Leaf) == ""
}

func lowered(names []string) []string {
	out := slices.Clone(names)
	for i, name := range out {
		out[i] = strings.ToLower(name)
	}
	return out
}

// CertID returns the identifier of a certificate in renewal information (RFC 9773 4.1).
func CertID(leaf *x509.Certificate) string {
	serial := leaf.SerialNumber.Bytes()
	if len(serial) > 0 && serial[0]&0x80 != 0 {
		serial = append([]byte{0}, serial...) // DER integers are signed
	}
	return base64.RawURLEncoding.EncodeToString(leaf.AuthorityKeyId) + "." + base64.RawURLEncoding.EncodeToString(serial)
}
