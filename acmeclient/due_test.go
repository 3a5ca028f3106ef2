package acmeclient

import (
	"crypto"
	"crypto/x509"
	"math/big"
	"testing"
	"time"
)

var birth = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// aged returns a held certificate for names that lives so long from birth on.
func aged(t *testing.T, life time.Duration, key KeyType, names ...string) *Held {
	t.Helper()
	return &Held{Leaf: &x509.Certificate{
		SerialNumber:   big.NewInt(0x87654321),
		AuthorityKeyId: []byte{0x69, 0x88, 0x5b, 0x6b},
		NotBefore:      birth,
		NotAfter:       birth.Add(life),
		DNSNames:       names,
		PublicKey:      publicOf(t, key),
	}}
}

var keysForTests = map[KeyType]crypto.Signer{}

// publicOf returns one public key of each type; making them takes time.
func publicOf(t *testing.T, key KeyType) crypto.PublicKey {
	t.Helper()
	if keysForTests[key] == nil {
		made, err := key.generate()
		if err != nil {
			t.Fatal(err)
		}
		keysForTests[key] = made
	}
	return keysForTests[key].Public()
}

func TestNextDueGoesByFractionsOfTheLife(t *testing.T) {
	wanted := Certificate{Name: www, Names: []string{www}, Key: ECDSAP256}
	for _, c := range []struct {
		life, due, emergency time.Duration // after birth
	}{
		{160 * time.Hour, 80 * time.Hour, 152 * time.Hour},
		{10*day - time.Hour, 5*day - 30*time.Minute, 10*day - time.Hour - (10*day-time.Hour)/20},
		{45 * day, 30 * day, 45*day - 54*time.Hour},
		{64 * day, 42*day + 16*time.Hour, 64*day - 76*time.Hour - 48*time.Minute},
		{90 * day, 60 * day, 90*day - 108*time.Hour},
	} {
		held := aged(t, c.life, ECDSAP256, www)
		for _, now := range []time.Time{birth, birth.Add(c.due), birth.Add(c.life), birth.Add(2 * c.life)} {
			if got := NextDue(held, wanted, DefaultPolicy(), nil, now); !got.At.Equal(birth.Add(c.due)) {
				t.Errorf("a life of %v is due %v after birth, not %v", c.life, got.At.Sub(birth), c.due)
			}
		}
		window := map[string]Window{CertID(held.Leaf): {Start: birth, End: birth.Add(2 * c.life), Chosen: birth.Add(c.life)}}
		if got := NextDue(held, wanted, DefaultPolicy(), window, birth); !got.At.Equal(birth.Add(c.emergency)) {
			t.Errorf("a life of %v: the emergency begins %v after birth, not %v", c.life, got.At.Sub(birth), c.emergency)
		}
	}
}

func TestNextDueNow(t *testing.T) {
	now := birth.Add(time.Hour)
	wanted := Certificate{Name: www, Names: []string{"example.com", www}, Key: ECDSAP256}
	placeholder := aged(t, 90*day, ECDSAP256, "example.com", www)
	placeholder.Placeholder = true
	later := birth.Add(60 * day)
	for name, c := range map[string]struct {
		held    *Held
		adopted bool
		shared  bool
		want    time.Time
	}{
		"nothing held":                         {nil, false, false, now},
		"only a placeholder":                   {placeholder, false, false, now},
		"the same names in another order":      {aged(t, 90*day, ECDSAP256, www, "EXAMPLE.com"), false, false, later},
		"a name too few":                       {aged(t, 90*day, ECDSAP256, www), false, false, now},
		"a name too many":                      {aged(t, 90*day, ECDSAP256, www, "example.com", "old.example.com"), false, false, now},
		"another key type":                     {aged(t, 90*day, ECDSAP384, www, "example.com"), false, false, now},
		"half of a pair":                       {aged(t, 90*day, ECDSAP256, www, "example.com"), false, true, later},
		"adopted, a name too few":              {aged(t, 90*day, ECDSAP256, www), true, false, now},
		"adopted, a name too many":             {aged(t, 90*day, ECDSAP256, www, "example.com", "old.example.com"), true, false, later},
		"adopted, a wildcard":                  {aged(t, 90*day, ECDSAP256, "*.example.com", "example.com"), true, false, later},
		"adopted, another key type":            {aged(t, 90*day, RSA2048, www, "example.com"), true, false, later},
		"adopted, a short one":                 {aged(t, 2*day, RSA2048, www, "example.com"), true, false, birth.Add(day)},
		"adopted half of a pair":               {aged(t, 90*day, ECDSAP256, www, "example.com"), true, true, later},
		"adopted half of a pair, another name": {aged(t, 90*day, ECDSAP256, "*.example.com", "example.com"), true, true, later},
		"adopted, the other half's key type":   {aged(t, 90*day, RSA2048, www, "example.com"), true, true, now},
	} {
		policy := DefaultPolicy()
		policy.Adopted, policy.Shared = c.adopted, c.shared
		if got := NextDue(c.held, wanted, policy, nil, now); !got.At.Equal(c.want) || got.Reason == "" {
			t.Errorf("%s: due at %v (%s), not %v", name, got.At, got.Reason, c.want)
		}
	}
}

func TestNextDueObeysOnlyTheWindowOfTheCertificateHeld(t *testing.T) {
	held := aged(t, 90*day, ECDSAP256, www)
	wanted := Certificate{Name: www, Names: []string{www}, Key: ECDSAP256}
	soon := Window{Start: birth, End: birth.Add(2 * day), Chosen: birth.Add(day)}
	ordinary := birth.Add(60 * day)
	for name, c := range map[string]struct {
		windows map[string]Window
		want    time.Time
	}{
		"its own":            {map[string]Window{CertID(held.Leaf): soon}, soon.Chosen},
		"its predecessor's":  {map[string]Window{"aYhbaw.AA": soon}, ordinary},
		"an empty one":       {map[string]Window{CertID(held.Leaf): {Start: birth, End: birth, Chosen: birth}}, ordinary},
		"one not chosen yet": {map[string]Window{CertID(held.Leaf): {Start: birth, End: birth.Add(day)}}, ordinary},
	} {
		if got := NextDue(held, wanted, DefaultPolicy(), c.windows, birth); !got.At.Equal(c.want) {
			t.Errorf("%s: due at %v, not %v", name, got.At, c.want)
		}
	}
}

func TestCertIDIsTheOneOfTheStandard(t *testing.T) {
	leaf := &x509.Certificate{ // the example of RFC 9773 4.1
		SerialNumber: big.NewInt(0x8765432100 >> 8),
		AuthorityKeyId: []byte{0x69, 0x88, 0x5B, 0x6B, 0x87, 0x46, 0x40, 0x41, 0xE1, 0xB3,
			0x7B, 0x84, 0x7B, 0xA0, 0xAE, 0x2C, 0xDE, 0x01, 0xC8, 0xD4},
	}
	if got := CertID(leaf); got != "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE" {
		t.Errorf("CertID is %s", got)
	}
}
