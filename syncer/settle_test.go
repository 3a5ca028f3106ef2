package syncer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/pairs"
	"certswarm/syncer/wire"
)

// issuePair makes a key and a certificate for it, in PEM.
func issuePair(t testing.TB) (key, certificate string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("PRIVATE KEY", der), encode("CERTIFICATE", signed)
}

// What the fleet has was judged where it was written, if anywhere: here it is as it is.
func TestWhatTheFleetHasIsNotJudged(t *testing.T) {
	d := openAlone(t)
	var writes []Write
	for _, name := range []string{"cut.pem", "x.key", "x.crt"} {
		content := "-----BEGIN CERTIFICATE-----\n"
		if name != "cut.pem" {
			key, certificate := issuePair(t)
			content = map[string]string{"x.key": key, "x.crt": certificate}[name] // of two pairs
		}
		writes = append(writes, Write{Path: index.MustPath(name), Data: []byte(content), Perm: 0o600})
	}
	if _, err := d.Publish(fleet.Epoch{}, writes...); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(d.Path, "x.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := newScan()
	d.walkInto(s, index.Path{})
	touched := d.takeScanLocked(s)
	if len(d.holds) > 0 || !slices.Equal(touched, []index.Path{index.MustPath("x.key")}) {
		t.Errorf("held: %v; changed: %v, where only a mode did", d.holds, touched)
	}
}

// However many files change at once, a key and its certificate travel in one batch.
func TestNoBatchPartsAPair(t *testing.T) {
	m := newWorld("fe1").machines[0]
	m.start()
	var changes []index.Change
	for i := range 1500 {
		for _, ext := range []string{"crt", "issuer.crt", "key"} {
			changes = append(changes, index.Change{Path: index.MustPath(fmt.Sprintf("flat/site%04d.%s", i, ext)), Content: m.content("x")})
		}
	}
	for i := range 300 { // a directory between the two halves
		p := fmt.Sprintf("mixed/site%04d.", i)
		changes = append(changes, index.Change{Path: index.MustPath(p + "crt"), Content: m.content("x")},
			index.Change{Path: index.MustPath(p + "d/file"), Content: m.content("x")}, index.Change{Path: index.MustPath(p + "key"), Content: m.content("x")})
	}
	m.r.author(changes, func(c index.Change) index.Stamp { return m.r.stampFor(m.clock(), c) })
	batches, sizes := map[pairs.Set]uint64{}, map[uint64]int{}
	for _, c := range changes {
		e := m.r.x.Live(c.Path)
		sizes[e.Batch]++
		if s, ok := pairs.SetOf(c.Path); ok {
			if batch, seen := batches[s]; seen && batch != e.Batch {
				t.Fatalf("%s is in batch %d, its other half in %d", c.Path, e.Batch, batch)
			}
			batches[s] = e.Batch
		}
	}
	for batch, n := range sizes {
		if n > wire.MaxBatch {
			t.Errorf("batch %d has %d entries", batch, n)
		}
	}
	if len(sizes) < len(changes)/wire.MaxBatch {
		t.Errorf("%d batches", len(sizes))
	}
}

// BenchmarkSettleAtStart judges 5,000 pairs that a node finds when it starts for the first time, and again when it knows them.
func BenchmarkSettleAtStart(b *testing.B) {
	const sites = 5000
	d := openAlone(b)
	key, certificate := issuePair(b)
	for i := range sites {
		dir := filepath.Join(d.Path, fmt.Sprintf("site%04d", i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			b.Fatal(err)
		}
		for name, content := range map[string]string{"privkey.pem": key, "fullchain.pem": certificate + certificate} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				b.Fatal(err)
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	look := func() *survey {
		s := newScan()
		d.walkInto(s, index.Path{})
		d.verifyScanLocked(s)
		return s
	}
	run := func(b *testing.B) {
		s := look()
		for b.Loop() {
			d.settleLocked(s)
		}
		if len(d.holds) > 0 {
			b.Errorf("%d are held", len(d.holds))
		}
	}
	d.r.seeded = false
	b.Run("all-new", run)
	d.r.seeded = true
	d.takeScanLocked(look())
	b.Run("all-known", run)
	b.Run("the-look-itself", func(b *testing.B) {
		for b.Loop() {
			look()
		}
	})
}

// What stands there again when a deletion comes due is not deleted, even if nobody has heard of it yet.
func TestADeletionIsLookedAtOnceMore(t *testing.T) {
	d := openAlone(t)
	for _, name := range []string{"back", "gone"} {
		if _, err := d.Publish(fleet.Epoch{}, Write{Path: index.MustPath(name), Data: []byte(name), Perm: 0o600}); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(d.Path, name)); err != nil {
			t.Fatal(err)
		}
	}
	d.lookAt([]index.Path{index.MustPath("back"), index.MustPath("gone")}, false, postponed{})
	if err := os.WriteFile(filepath.Join(d.Path, "back"), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tickLocked(time.Now().Add(deleteDelay))
	if d.r.x.Live(index.MustPath("gone")) != nil {
		t.Error("what is gone was not deleted")
	}
	if d.r.x.Live(index.MustPath("back")) == nil {
		t.Error("what is back was deleted")
	}
	select {
	case <-d.rescan:
	default:
		t.Error("nobody looks at it")
	}
}
