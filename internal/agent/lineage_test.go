package agent

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"certswarm/internal/agent/config"
	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/syncer"
)

const site = "www.example.com"

// openStore opens a store directory on a node without peers.
func openStore(t testing.TB) *lineages {
	t.Helper()
	base := t.TempDir()
	for _, dir := range []string{"state", "certs"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	state, err := durable.OpenRoot(filepath.Join(base, "state"))
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	declared := []config.Certificate{{Name: site, Names: []string{site}}}
	all := func(fleet.NodeID) bool { return true }
	s, err := syncer.Open(syncer.Config{
		Self: fleet.IDOf(public), Key: public, Sign: func(m []byte) []byte { return ed25519.Sign(private, m) },
		Cluster: "test", State: state, NameOf: fleet.NodeID.Short, Watch: syncer.NewInotify, Log: slog.New(slog.DiscardHandler),
	}, []syncer.DirectoryConfig{{
		Name: "certs", Path: filepath.Join(base, "certs"), MaxFile: 1 << 20, MaxDelete: 50, Reserved: reservedPaths(declared),
		Members: func() []fleet.NodeID { return []fleet.NodeID{fleet.IDOf(public)} }, MayWrite: all, MayLease: all,
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Abandon(); err != nil {
			t.Error(err)
		}
		if err := state.Close(); err != nil {
			t.Error(err)
		}
	})
	return &lineages{dir: s.Directories()[0], declared: declared, keyPerm: 0o600}
}

// pair returns a key and a certificate for site, in PEM.
func pair(t testing.TB, notAfter time.Time) (key, chain []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(notAfter.UnixNano()), Subject: pkix.Name{CommonName: site}, DNSNames: []string{site},
		NotBefore: notAfter.Add(-90 * 24 * time.Hour), NotAfter: notAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// bring puts a pair into live/NAME as a real directory, as other clients and people do.
func bring(t *testing.T, l *lineages, key, chain []byte) {
	t.Helper()
	dir := filepath.Join(l.dir.Root().Dir(), liveDir, site)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"privkey.pem": key, "fullchain.pem": chain} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Somebody's valid pair in a real directory becomes a generation, and the directory the link to it; the pair stays readable.
func TestAPairThatWasBroughtIsAdopted(t *testing.T) {
	l := openStore(t)
	key, chain := pair(t, time.Now().Add(60*24*time.Hour))
	bring(t, l, key, chain)

	gotKey, gotChain, ok := l.found(l.declared[0], time.Now())
	if !ok {
		t.Fatal("not found")
	}
	generation, _, err := l.install(fleet.Epoch{}, site, gotKey, gotChain)
	if err != nil {
		t.Fatal(err)
	}
	if generation != 1 || l.wished(site) != 1 {
		t.Errorf("generation %d is installed, %d wished", generation, l.wished(site))
	}
	if err := l.makeWay(site, generation); err != nil {
		t.Fatal(err)
	}
	if got := l.installed(site); got != generation {
		t.Errorf("live/%s leads to generation %d", site, got)
	}
	served, err := os.ReadFile(filepath.Join(l.dir.Root().Dir(), liveDir, site, "fullchain.pem"))
	if err != nil || string(served) != string(chain) {
		t.Errorf("what nginx would read: %v", err)
	}
	held, err := l.held(site)
	if err != nil || held == nil || held.Generation != 1 || held.Leaf.DNSNames[0] != site {
		t.Errorf("held: %+v, %v", held, err)
	}
}

func TestAPairThatIsNotGoodEnoughIsNotAdopted(t *testing.T) {
	key, chain := pair(t, time.Now().Add(time.Hour))
	otherKey, _ := pair(t, time.Now().Add(time.Hour))
	lateKey, lateChain := pair(t, time.Now().Add(-time.Hour))
	for name, brought := range map[string][2][]byte{
		"the key of another": {otherKey, chain},
		"expired":            {lateKey, lateChain},
		"cut off":            {key, chain[:len(chain)/2]},
	} {
		l := openStore(t)
		bring(t, l, brought[0], brought[1])
		if _, _, ok := l.found(l.declared[0], time.Now()); ok {
			t.Errorf("%s: adopted", name)
		}
	}
	l := openStore(t)
	bring(t, l, key, chain)
	if _, _, ok := l.found(config.Certificate{Name: site, Names: []string{"other.example.com"}}, time.Now()); ok {
		t.Error("adopted for a name that it does not have")
	}
}

// The same bundle is installed once; old generations go when there are more than are kept.
func TestGenerationsGrowAndArePruned(t *testing.T) {
	l := openStore(t)
	for i := 1; i <= generationsKept+2; i++ {
		key, chain := pair(t, time.Now().Add(time.Duration(i)*time.Hour))
		for range 2 {
			if generation, _, err := l.install(fleet.Epoch{Term: 1}, site, key, chain); err != nil || generation != i {
				t.Fatalf("installed as generation %d, not %d: %v", generation, i, err)
			}
		}
	}
	got := l.generations(site)
	if len(got) != generationsKept || got[len(got)-1] != generationsKept+2 {
		t.Errorf("generations %v are kept", got)
	}
	if l.wished(site) != generationsKept+2 {
		t.Errorf("generation %d is wished", l.wished(site))
	}
}
