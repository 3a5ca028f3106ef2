package pairs

import (
	"slices"
	"testing"

	"certswarm/syncer/index"

	"pgregory.net/rapid"
)

func TestNamesThatBelongTogether(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"x.key", "x.crt", true}, {"x.key", "x.cer", true}, {"x.key", "x.pem", true}, {"ssl/x.key", "ssl/x.crt", true},
		{"x.key", "y.crt", false}, {"x.key", "sub/x.crt", false}, {"lego/x.key", "lego/x.issuer.crt", false},
		{"live/x/privkey.pem", "live/x/fullchain.pem", true}, {"live/x/privkey.pem", "live/x/cert.pem", true},
		{"live/x/chain.pem", "live/x/cert.pem", true}, {"live/x/privkey.pem", "live/y/cert.pem", false},
		{"archive/x/privkey12.pem", "archive/x/fullchain12.pem", true}, {"archive/x/privkey12.pem", "archive/x/fullchain1.pem", false},
		{"x/privkey-1700000000.pem", "x/cert-1700000000.pem", true}, {"x/privkey-1700000000.pem", "x/cert-1700000001.pem", false},
		{"x/privkey-1700000000.pem", "x/privkey.pem", false},
		{"x.org_ecc/x.org.key", "x.org_ecc/fullchain.cer", true}, {"x.org/x.org.key", "x.org/x.org.cer", true},
		{"x.org/x.org.key", "x.org/fullchain.cer", true}, {"x.org/y.org.key", "x.org/fullchain.cer", false}, {"x.org/ca.cer", "x.org/x.org.key", false},
		{"conf/cert.pem", "conf/cert.key", true}, {"key.pem", "cert.pem", true},
		{"x-key.pem", "x.pem", true}, {"x.key.pem", "x.cert.pem", true}, {"x.key", "x-key.crt", false},
	} {
		a, okA := SetOf(index.MustPath(c.a))
		b, okB := SetOf(index.MustPath(c.b))
		if got := okA && okB && a == b; got != c.want {
			t.Errorf("%s and %s: %v (%+v, %+v)", c.a, c.b, got, a, b)
		}
	}
	for _, name := range []string{"x.json", "x.pem.new", "key", "x"} {
		if _, ok := SetOf(index.MustPath(name)); ok {
			t.Errorf("%s is of a set", name)
		}
	}
}

// Whatever is of a set is found when the set is gathered.
func TestASetKnowsItsMembers(t *testing.T) {
	word := rapid.SampledFrom([]string{"privkey", "key", "cert", "fullchain", "chain", "x.org", "a-key", "b.cert", "x.org_ecc", "7"})
	rapid.Check(t, func(t *rapid.T) {
		dir := rapid.SampledFrom([]string{"", "x.org/", "x.org_ecc/", "7/"}).Draw(t, "dir")
		name := dir + word.Draw(t, "word") + rapid.SampledFrom([]string{"", "1", "-1700000000", "-key", ".cert"}).Draw(t, "suffix") +
			rapid.SampledFrom([]string{".pem", ".crt", ".cer", ".key"}).Draw(t, "extension")
		p := index.MustPath(name)
		s, ok := SetOf(p)
		if !ok || !slices.Contains(s.Members(), p) {
			t.Errorf("%s is of %+v, whose members are %v", name, s, s.Members())
		}
	})
}

func TestCompanionsAreWhatMakesAPair(t *testing.T) {
	for of, want := range map[string][]string{
		"live/www/privkey.pem":     {"live/www/fullchain.pem", "live/www/cert.pem"},
		"archive/www/cert12.pem":   {"archive/www/privkey12.pem", "archive/www/fullchain12.pem"},
		"example.com.crt":          {"example.com.key"},
		"example.com_ecc/ca.b.key": {"example.com_ecc/ca.b.crt"},
		"live/www/chain.pem":       nil,
		"readme":                   nil,
	} {
		got := Companions(index.MustPath(of))
		for _, w := range want {
			if !slices.Contains(got, index.MustPath(w)) {
				t.Errorf("%s makes no pair with %s but with %v", of, w, got)
			}
		}
		if want == nil && got != nil || slices.Contains(got, index.MustPath(of)) || slices.Contains(got, index.MustPath("live/www/chain.pem")) {
			t.Errorf("%s makes a pair with %v", of, got)
		}
	}
}

func BenchmarkSetOfANameOfNoInterest(b *testing.B) {
	p := index.MustPath("acme/.well-known/acme-challenge/token")
	for b.Loop() {
		SetOf(p)
	}
}
