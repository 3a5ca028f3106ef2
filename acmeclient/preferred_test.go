package acmeclient

import (
	"testing"
	"testing/synctest"
	"time"
)

// What an operator put back in force stays, although it is old, until the emergency, or until something else is declared.
func TestNextDueOfWhatWasPutBackInForce(t *testing.T) {
	wanted := Certificate{Name: www, Names: []string{www, "example.com"}, Key: ECDSAP256}
	now := birth.Add(61 * day) // past the age at which it is renewed otherwise
	newer := func(key KeyType, names ...string) *Held { return aged(t, 90*day, key, names...) }
	emergency := birth.Add(90*day - 108*time.Hour)
	for name, c := range map[string]struct {
		held  *Held
		newer *Held
		want  time.Time
	}{
		"nobody did":                        {aged(t, 90*day, ECDSAP256, www, "example.com"), nil, birth.Add(60 * day)},
		"of the same kind":                  {aged(t, 90*day, ECDSAP256, www, "example.com"), newer(ECDSAP256, "example.com", www), emergency},
		"of another key type":               {aged(t, 90*day, RSA2048, www, "example.com"), newer(ECDSAP256, www, "example.com"), emergency},
		"for a name more":                   {aged(t, 90*day, ECDSAP256, www, "example.com", "old.example.com"), newer(ECDSAP256, www, "example.com"), emergency},
		"for a name too few":                {aged(t, 90*day, ECDSAP256, www), newer(ECDSAP256, www, "example.com"), now},
		"then another key type is declared": {aged(t, 90*day, ECDSAP384, www, "example.com"), newer(ECDSAP384, www, "example.com"), now},
		"then another name is declared":     {aged(t, 90*day, ECDSAP256, www), newer(ECDSAP256, www), now},
	} {
		if c.newer != nil {
			c.held.Newer = c.newer.Leaf
		}
		soon := map[string]Window{CertID(c.held.Leaf): {Start: birth, End: birth.Add(2 * day), Chosen: birth.Add(day)}}
		for _, windows := range []map[string]Window{nil, soon} {
			if windows != nil && c.want != emergency {
				continue
			}
			if got := NextDue(c.held, wanted, DefaultPolicy(), windows, now); !got.At.Equal(c.want) || got.Reason == "" {
				t.Errorf("%s: due at %v (%s), not %v", name, got.At, got.Reason, c.want)
			}
		}
	}
}

// The CA is not asked to undo what an operator did, and yet before the certificate ends.
func TestWhatWasPutBackInForceIsRenewedInTheEmergency(t *testing.T) {
	publicOf(t, ECDSAP256)
	synctest.Test(t, func(t *testing.T) {
		m, d := newMemFleet(), new(deadCA)
		born := time.Now()
		before, after := heldNow(t, 90*day), heldNow(t, 90*day)
		before.Generation, after.Generation = 1, 2
		m.held[www] = after
		time.Sleep(70 * day)
		after.Leaf.NotBefore, after.Leaf.NotAfter = time.Now(), time.Now().Add(90*day)
		r := start(t, deadConfig(m, d), tenure{ctx: t.Context()})
		time.Sleep(time.Hour)
		m.mu.Lock()
		before.Newer = after.Leaf
		m.held[www] = before // it was due ten days ago
		m.mu.Unlock()

		time.Sleep(15 * day)
		synctest.Wait()
		emergency := born.Add(90*day - 108*time.Hour)
		if n := len(d.rounds()); n != 0 {
			t.Errorf("the CA was tried %d times", n)
		}
		if s := r.Snapshot()[0]; s.State != StateIssued || !s.NextAttempt.Equal(emergency) {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Until(emergency) + time.Second)
		synctest.Wait()
		if n := len(d.rounds()); n != 1 {
			t.Errorf("in the emergency the CA was tried %d times", n)
		}
		r.stop()
	})
}
