package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"certswarm/internal/fleet"
)

// refusal is why a text is not a value of some type, and what to write instead.
type refusal struct{ what, instead string }

func (r *refusal) Error() string { return r.what + "; " + r.instead }

// Duration is a span of time in Go's notation: 30s, 10m, 1h30m. It is a year at most, so that what is reckoned from it has an end too.
type Duration time.Duration

const maxDuration = 366 * 24 * time.Hour

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return &refusal{fmt.Sprintf("%q is not a duration", text), "write a number with its unit: 30s, 10m or 24h"}
	}
	if parsed.Abs() > maxDuration {
		return &refusal{fmt.Sprintf("%s is longer than a year", text), "write 8784h or less"}
	}
	*d = Duration(parsed)
	return nil
}

// String returns the shortest text that UnmarshalText reads back: 24h, not 24h0m0s.
func (d Duration) String() string {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Size is a number of bytes, written with its unit: B, KiB, MiB or GiB.
type Size int64

// sizeUnits go from large to small: String takes the first that divides the size.
var sizeUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// maxSize bounds every size in the configuration.
const maxSize = 1 << 30

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	for _, unit := range sizeUnits {
		number, found := strings.CutSuffix(string(text), unit.name)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSuffix(number, " "), 10, 63)
		switch {
		case err != nil || n == 0:
			return &refusal{fmt.Sprintf("%q is not a size", text), "write a whole number with its unit: 512KiB or 16MiB"}
		case n > uint64(maxSize/unit.bytes):
			return &refusal{fmt.Sprintf("%s is more than %s", text, Size(maxSize)), "write " + Size(maxSize).String() + " or less"}
		}
		*s = Size(int64(n) * unit.bytes)
		return nil
	}
	return &refusal{fmt.Sprintf("%q is not a size", text), "write a whole number with its unit: 512KiB or 16MiB"}
}

// String returns the size in the largest unit in which it is whole.
func (s Size) String() string {
	for _, unit := range sizeUnits {
		if int64(s)%unit.bytes == 0 {
			return strconv.FormatInt(int64(s)/unit.bytes, 10) + unit.name
		}
	}
	panic("unreachable: every size is whole in bytes")
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Percent is a share from 1% to 100%.
type Percent int

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Percent) UnmarshalText(text []byte) error {
	number, found := strings.CutSuffix(string(text), "%")
	n, err := strconv.ParseUint(number, 10, 8)
	if !found || err != nil || n < 1 || n > 100 {
		return &refusal{fmt.Sprintf("%q is not a share", text), "write a whole number from 1% to 100%"}
	}
	*p = Percent(n)
	return nil
}

// String returns the share with its sign.
func (p Percent) String() string { return strconv.Itoa(int(p)) + "%" }

// MarshalText implements encoding.TextMarshaler.
func (p Percent) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Owner is who owns what is written into a directory: names or numbers. The zero Owner says: as at the origin.
type Owner struct{ User, Group string }

var accountName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?$`)

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Owner) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*o = Owner{}
		return nil
	}
	user, group, grouped := strings.Cut(string(text), ":")
	if !accountName.MatchString(user) || grouped && !accountName.MatchString(group) {
		return &refusal{fmt.Sprintf("%q is not an owner", text), "write USER or USER:GROUP"}
	}
	*o = Owner{User: user, Group: group}
	return nil
}

// String returns "", USER or USER:GROUP.
func (o Owner) String() string {
	if o.Group == "" {
		return o.User
	}
	return o.User + ":" + o.Group
}

// MarshalText implements encoding.TextMarshaler.
func (o Owner) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// choice is a text of which only some values exist.
type choice interface{ choices() []string }

// Role is what a peer is for; the values are those of fleet.Role.
type Role string

func (Role) choices() []string {
	return []string{string(fleet.Issuer), string(fleet.Receive), string(fleet.Witness)}
}

// KeyType is the kind of a certificate's key.
type KeyType string

// The key types that CAs take.
const (
	ECDSAP256 KeyType = "ecdsa-p256"
	ECDSAP384 KeyType = "ecdsa-p384"
	RSA2048   KeyType = "rsa-2048"
	RSA3072   KeyType = "rsa-3072"
	RSA4096   KeyType = "rsa-4096"
)

func (KeyType) choices() []string {
	return []string{string(ECDSAP256), string(ECDSAP384), string(RSA2048), string(RSA3072), string(RSA4096)}
}

// Challenge is how control over a name is proven to the CA (RFC 8555 8).
type Challenge string

// HTTP01 is RFC 8555 8.3, the only challenge of this version.
const HTTP01 Challenge = "http-01"

func (Challenge) choices() []string { return []string{string(HTTP01)} }

// Switch is a behaviour that is on where it makes sense, or off.
type Switch string

// The positions of a Switch.
const (
	Auto Switch = "auto"
	Off  Switch = "off"
)

func (Switch) choices() []string { return []string{string(Auto), string(Off)} }

// Engine is how the lease's holder is found.
type Engine string

// The engines.
const (
	EngineAuto   Engine = "auto"   // raft where three or more may vote, else static
	EngineRaft   Engine = "raft"   // the issuers and witnesses vote
	EngineStatic Engine = "static" // the first issuer in the list holds
)

func (Engine) choices() []string {
	return []string{string(EngineAuto), string(EngineRaft), string(EngineStatic)}
}

// Control is how nginx is tested and reloaded.
type Control string

// The controls of this version.
const (
	ControlDirect Control = "direct" // the agent runs nginx itself
	ControlNone   Control = "none"   // somebody else reloads it
)

func (Control) choices() []string { return []string{string(ControlDirect), string(ControlNone)} }

// notYet are values that the documentation names and this version lacks: worth more than "not one of".
var notYet = map[choice]string{
	Challenge("dns-01"):      "the dns-01 challenge is not part of this version",
	Challenge("tls-alpn-01"): "the tls-alpn-01 challenge is not part of this version",
	Control("helper"):        "the root helper is not part of this version",
}
