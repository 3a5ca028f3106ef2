package peer

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"certswarm/internal/fleet"
)

func TestAnIdentityIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state")
	first, created, err := CreateIdentity(dir)
	if err != nil || !created {
		t.Fatal(created, err)
	}
	for name, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, identityFile): 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	second, created, err := CreateIdentity(dir)
	if err != nil || created || second.ID() != first.ID() {
		t.Errorf("the second time: %v, %v", created, err)
	}
	loaded, err := LoadIdentity(dir)
	if err != nil || loaded.ID() != first.ID() || loaded.ID() != fleet.IDOf(loaded.PublicKey()) {
		t.Errorf("loaded: %v", err)
	}
	if !ed25519.Verify(first.PublicKey(), []byte("m"), loaded.Sign([]byte("m"))) {
		t.Error("it does not sign with its key")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestRacingCreatorsGetOneKey(t *testing.T) {
	dir := t.TempDir()
	const racers = 16
	ids := make([]fleet.NodeID, racers)
	made := make([]bool, racers)
	var all sync.WaitGroup
	for i := range racers {
		all.Go(func() {
			id, created, err := CreateIdentity(dir)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i], made[i] = id.ID(), created
		})
	}
	all.Wait()
	creators := 0
	for i := range racers {
		if ids[i] != ids[0] {
			t.Fatal("two keys")
		}
		if made[i] {
			creators++
		}
	}
	if creators != 1 {
		t.Errorf("%d creators", creators)
	}
}

func TestNoIdentitySaysHowToMakeOne(t *testing.T) {
	dir := t.TempDir()
	_, err := LoadIdentity(dir)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "certswarm identity generate --state-dir "+dir) {
		t.Error(err)
	}
}

func TestADamagedOrExposedIdentityIsRefusedAndKept(t *testing.T) {
	encode := func(key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: identityPEM, Bytes: der}))
	}
	_, good, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text string
		mode fs.FileMode
		says string
	}{
		"empty":           {"", 0o600, "identity generate"},
		"truncated":       {encode(good)[:60], 0o600, "identity generate"},
		"not PKCS #8":     {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600, "damaged"},
		"another kind":    {encode(other), 0o600, "not an Ed25519 key"},
		"group can read":  {encode(good), 0o640, "chmod 0600"},
		"others can read": {encode(good), 0o604, "chmod 0600"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, identityFile)
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := LoadIdentity(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("LoadIdentity: %v", err)
			}
			if _, created, err := CreateIdentity(dir); err == nil || created {
				t.Errorf("CreateIdentity: %v, %v", created, err)
			}
			if text, err := os.ReadFile(file); err != nil || string(text) != c.text {
				t.Errorf("the file was changed: %q, %v", text, err)
			}
		})
	}
}

func TestDerivedKeysAreStableAndDistinct(t *testing.T) {
	a, b := testIdentity(1), testIdentity(2)
	if a.derive("x") != testIdentity(1).derive("x") || a.derive("x") == a.derive("y") || a.derive("x") == b.derive("x") {
		t.Error("derived keys")
	}
}
