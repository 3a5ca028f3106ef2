package acmeclient

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// What changed from outside counts at once, not when the plan is looked at again by itself.
func TestAnotherCertificateInForceIsAnotherPlan(t *testing.T) {
	publicOf(t, ECDSAP256)
	synctest.Test(t, func(t *testing.T) {
		made := func() *Held {
			return &Held{Generation: 1, Leaf: sign(t, &x509.Certificate{
				Subject: pkix.Name{CommonName: www}, DNSNames: []string{www}, NotBefore: time.Now(), NotAfter: time.Now().Add(90 * day),
			}, keysForTests[ECDSAP256], nil, nil)}
		}
		m, d := newMemFleet(), new(deadCA)
		good, compromised := made(), made()
		m.held[www] = good
		content, err := json.Marshal(revocationList{{Leaf: fingerprint(compromised.Leaf), Serial: compromised.Leaf.SerialNumber.Text(16), At: time.Now()}})
		if err == nil {
			err = m.Save(t.Context(), revokedPath(www), content)
		}
		if err != nil {
			t.Fatal(err)
		}
		r := start(t, deadConfig(m, d), tenure{ctx: t.Context()})
		time.Sleep(time.Minute)
		synctest.Wait()
		putInForce := func(held *Held, names ...string) Status {
			m.mu.Lock()
			m.held[www] = held
			m.mu.Unlock()
			r.Reconsider(names...)
			synctest.Wait()
			return r.Snapshot()[0]
		}

		old := made()
		old.Leaf.NotAfter = time.Now().Add(80 * day)
		if s := putInForce(old, "nobody's", www); !s.NextAttempt.Equal(old.Leaf.NotAfter.Add(-old.Leaf.NotAfter.Sub(old.Leaf.NotBefore) / 3)) {
			t.Errorf("an older one: %+v", s)
		}
		old.Newer = good.Leaf
		if s := putInForce(compromised, "nobody's"); s.State != StateIssued {
			t.Errorf("another certificate was meant: %+v", s)
		}
		if s := putInForce(compromised); s.State != StateIssuing || len(d.rounds()) != 1 || !d.rounds()[0].Equal(time.Now()) {
			t.Errorf("a revoked one: %+v, the CA tried at %v, it is %v", s, d.rounds(), time.Now())
		}
		r.stop()
	})
}

// The plan is made anew without a wait, and without a Run.
func TestReconsiderNeedsNobodyToAct(t *testing.T) {
	c, err := New(deadConfig(newMemFleet(), new(deadCA)))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.Reconsider()
		c.Reconsider(www)
	}
}

func TestWhatWasRevokedIsKnownByItsLeaf(t *testing.T) {
	m := newMemFleet()
	var sick error
	m.onLoad = func(string) error { return sick }
	c, err := New(deadConfig(m, new(deadCA)))
	if err != nil {
		t.Fatal(err)
	}
	leaf, other := &x509.Certificate{Raw: []byte("one")}, &x509.Certificate{Raw: []byte("other")}
	if revoked, err := c.Revoked(www, leaf); revoked || err != nil {
		t.Errorf("nothing was: %v, %v", revoked, err)
	}
	content, err := json.Marshal(revocationList{{Leaf: fingerprint(leaf)}})
	if err == nil {
		err = m.Save(t.Context(), revokedPath(www), content)
	}
	if err != nil {
		t.Fatal(err)
	}
	if revoked, err := c.Revoked(www, leaf); !revoked || err != nil {
		t.Errorf("it was: %v, %v", revoked, err)
	}
	if revoked, err := c.Revoked(www, other); revoked || err != nil {
		t.Errorf("another was: %v, %v", revoked, err)
	}
	if _, err := c.Revoked("unknown", leaf); !errors.Is(err, ErrUnknown) {
		t.Errorf("of an undeclared certificate: %v", err)
	}
	sick = io.ErrUnexpectedEOF
	if revoked, err := c.Revoked(www, leaf); revoked || !errors.Is(err, sick) {
		t.Errorf("it cannot be told: %v, %v", revoked, err)
	}
}
