package fleet_test

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"certswarm/internal/fleet"

	"pgregory.net/rapid"
)

func id(seed byte) fleet.NodeID {
	return fleet.IDOf(ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(seed)), 32))).Public().(ed25519.PublicKey))
}

func TestNodeIDTextRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want fleet.NodeID
		copy(want[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "id"))
		got, err := fleet.ParseNodeID(want.String())
		if err != nil || got != want {
			t.Fatalf("ParseNodeID(%q) = %v, %v", want, got, err)
		}
	})
}

func TestParseNodeIDRefuses(t *testing.T) {
	good := id('a').String()
	for name, text := range map[string]string{
		"empty":                "",
		"too short":            good[:51],
		"too long":             good + "a",
		"a digit base32 lacks": "1" + good[1:],
		"bits past the end":    good[:51] + "b",
	} {
		if _, err := fleet.ParseNodeID(text); err == nil {
			t.Errorf("%s: %q was taken for a node id", name, text)
		}
	}
	if got, err := fleet.ParseNodeID(strings.ToUpper(good)); err != nil || got != id('a') {
		t.Errorf("upper case: %v, %v", got, err)
	}
}

func TestEpochsAreOrderedByGenerationFirst(t *testing.T) {
	ascending := []fleet.Epoch{
		{},
		{Term: 1, Index: 9},
		{Term: 2, Index: 1},
		{Term: 2, Index: 2},
		{Generation: 1, Nonce: 7},
		{Generation: 1, Nonce: 7, Term: 1},
		{Generation: 1, Nonce: 8},
		{Generation: 2},
	}
	for i, a := range ascending {
		for j, b := range ascending {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := a.Compare(b); got != want {
				t.Errorf("%v compared to %v is %d, not %d", a, b, got, want)
			}
		}
		if back, err := fleet.ParseEpoch(a.String()); err != nil || back != a {
			t.Errorf("%q reads back as %v, %v", a, back, err)
		}
	}
	if _, err := fleet.ParseEpoch("1-2.3"); err == nil {
		t.Error("a truncated epoch was read")
	}
}

func TestRosterRefusesAmbiguity(t *testing.T) {
	a := fleet.Member{Name: "fe1", ID: id('a'), Role: fleet.Issuer}
	b := fleet.Member{Name: "fe2", ID: id('b'), Role: fleet.Issuer}
	for name, members := range map[string][]fleet.Member{
		"the same id twice":   {a, {Name: "fe2", ID: a.ID}},
		"the same name twice": {a, {Name: "fe1", ID: b.ID}},
		"no id":               {{Name: "fe1"}},
		"no name":             {{ID: a.ID}},
	} {
		if _, err := fleet.NewRoster(members); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRosterDigestIgnoresOrderAndAddresses(t *testing.T) {
	a := fleet.Member{Name: "fe1", ID: id('a'), Role: fleet.Issuer, Addresses: []string{"10.0.0.1:7443"}}
	b := fleet.Member{Name: "fe2", ID: id('b'), Role: fleet.Receive}
	digest := func(members ...fleet.Member) [32]byte {
		r, err := fleet.NewRoster(members)
		if err != nil {
			t.Fatal(err)
		}
		return r.Digest()
	}
	moved := a
	moved.Addresses = nil
	if digest(a, b) != digest(b, moved) {
		t.Error("order or addresses changed the digest")
	}
	promoted := b
	promoted.Role = fleet.Issuer
	if digest(a, b) == digest(a, promoted) {
		t.Error("a changed role left the digest as it was")
	}
}
