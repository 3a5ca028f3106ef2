package agent_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet"
)

const www = "www.example.com"

const days = 24 * time.Hour

// pair returns a key and a new certificate for it, in PEM.
func pair(t *testing.T, serial int64) (key, certificate string) {
	t.Helper()
	return pairWith(t, serial, 90*days)
}

// pairWith is pair for a certificate that has so much left of a life of 90 days.
func pairWith(t *testing.T, serial int64, left time.Duration) (key, certificate string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: www}, DNSNames: []string{www},
		NotBefore: time.Now().Add(left - 90*days), NotAfter: time.Now().Add(left),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func story(t *testing.T, options testnet.Options, tell func(t *testing.T, f *testnet.Fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, options)
		f.Settle()
		tell(t, f)
	})
}

func expect(t *testing.T, f *testnet.Fleet, file, want string) {
	t.Helper()
	f.Settle()
	f.AssertSame()
	for node := range 3 {
		if got, ok := f.Read(node, file); !ok || got != want {
			t.Errorf("fe%d has %q as %s (there: %v), not %q", node+1, got, file, ok, want)
		}
	}
}

func historyOf(t *testing.T, f *testnet.Fleet, node int, file string) control.History {
	t.Helper()
	h, err := f.Agent(node).History(t.Context(), "", file)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// What was overwritten or deleted comes back on every node, and what it replaces is kept in turn.
func TestARestoredFileIsTheFleets(t *testing.T) {
	story(t, testnet.Options{Nodes: 3}, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "dir/site.conf", "good")
		f.Chmod(0, "dir/site.conf", 0o640)
		f.Settle()
		f.Write(0, "dir/site.conf", "bad")
		f.Settle()
		if _, err := f.Agent(0).Restore(t.Context(), control.Restoration{Path: "dir/site.conf"}); err == nil || !strings.Contains(err.Error(), "fe1 has no version of certs/dir/site.conf") {
			t.Errorf("where the edit was made nothing is kept: %v", err)
		}
		done, err := f.Agent(1).Restore(t.Context(), control.Restoration{Path: "dir/site.conf"})
		if err != nil || len(done.Restored) != 1 || done.Restored[0].Path != "dir/site.conf" {
			t.Fatalf("%+v, %v", done, err)
		}
		expect(t, f, "dir/site.conf", "good")
		if info, err := os.Lstat(f.Path(2, "dir/site.conf")); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%v, %v", info, err)
		}
		for node := range 3 {
			if kept := f.Archived(node, "dir/site.conf"); !slices.Contains(kept, "bad") {
				t.Errorf("fe%d kept %q", node+1, kept)
			}
		}

		again, err := f.Agent(1).Restore(t.Context(), control.Restoration{Path: "dir/site.conf", Version: done.Restored[0].Version})
		if err != nil || len(again.Restored) != 0 || len(again.Unchanged) != 1 {
			t.Errorf("what stands already: %+v, %v", again, err)
		}

		f.Remove(0, "dir")
		f.Settle()
		if _, err := f.Agent(2).Restore(t.Context(), control.Restoration{Path: f.Path(2, "dir/site.conf")}); err != nil {
			t.Fatal(err)
		}
		expect(t, f, "dir/site.conf", "good")
	})
}

func TestHistoryTellsOfFilesAndNeverWhatIsSecret(t *testing.T) {
	story(t, testnet.Options{Nodes: 3}, func(t *testing.T, f *testnet.Fleet) {
		key, certificate := pair(t, 0xabc)
		f.Write(0, "a.key", key)
		f.Write(0, "a.crt", certificate)
		f.Write(0, "\xff", "x")
		f.Symlink(0, "a.crt", "link")
		f.Settle()
		for _, file := range []string{"a.key", "a.crt", "\xff", "link"} {
			f.Remove(0, file)
			f.Advance(20 * time.Second) // so that they are not too many at once
		}
		f.Settle()

		all := historyOf(t, f, 1, "")
		var paths []string
		for _, k := range all.Paths {
			paths = append(paths, k.Path)
			if k.Versions != 1 || k.Replaced.IsZero() {
				t.Errorf("%+v", k)
			}
		}
		f.Mkdir(0, "dir")
		f.Write(0, "dir/in/it", "x")
		f.Settle()
		f.Remove(0, "dir/in/it", "dir/in", "dir")
		f.Advance(20 * time.Second)
		if below := historyOf(t, f, 1, "dir"); below.Path != "dir" || len(below.Versions) != 0 || len(below.Paths) != 1 || below.Paths[0].Path != "dir/in/it" {
			t.Errorf("of a directory that is gone: %+v", below)
		}
		if slices.Sort(paths); !slices.Equal(paths, []string{"%FF", "a.crt", "a.key", "link"}) || all.Directory != "certs" || len(all.Versions) != 0 {
			t.Errorf("%+v", all)
		}
		one := historyOf(t, f, 1, "a.crt").Versions[0]
		if c := one.Cert; c == nil || c.Serial != "abc" || !slices.Equal(c.Names, []string{www}) || c.NotAfter.IsZero() {
			t.Errorf("%+v", one)
		}
		if one.Size != int64(len(certificate)) || one.Mode != "0644" || len(one.Digest) != 12 {
			t.Errorf("%+v", one)
		}
		if text, err := os.ReadFile(one.File); err != nil || string(text) != certificate {
			t.Errorf("%s: %v", one.File, err)
		}
		secret := historyOf(t, f, 1, "a.key")
		if v := secret.Versions[0]; v.Cert != nil || v.Size != int64(len(key)) {
			t.Errorf("%+v", v)
		}
		block, _ := pem.Decode([]byte(key))
		if text, err := json.Marshal(secret); err != nil || strings.Contains(string(text), base64.StdEncoding.EncodeToString(block.Bytes[:30])) {
			t.Errorf("%s, %v", text, err)
		}
		if link := historyOf(t, f, 1, "link").Versions[0]; link.Link != "a.crt" || link.Digest != "" {
			t.Errorf("%+v", link)
		}
		for _, spelled := range []string{"\xff", "%FF", f.Path(1, "\xff")} {
			if h := historyOf(t, f, 1, spelled); len(h.Versions) != 1 || h.Path != "%FF" || !strings.HasPrefix(h.Versions[0].File, "file:/") {
				t.Errorf("%q: %+v", spelled, h)
			}
		}
		// A file that is really called so is meant first.
		f.Write(0, "%FF", "literally")
		f.Settle()
		if h := historyOf(t, f, 1, "%FF"); len(h.Versions) != 0 {
			t.Errorf("%+v", h)
		}

		for _, c := range [][3]string{
			{"nowhere", "a.key", `no directory "nowhere": there is certs`}, {".issuers", "", `no directory ".issuers"`},
			{"", "/etc/passwd", "/etc/passwd is in none of the replicated directories"}, {"", "../a", "leaves the directory"},
		} {
			if _, err := f.Agent(1).History(t.Context(), c[0], c[1]); err == nil || !strings.Contains(err.Error(), c[2]) {
				t.Errorf("%q: %v", c, err)
			}
		}
	})
}

func TestOfSeveralDirectoriesOneMustBeMeant(t *testing.T) {
	base := t.TempDir()
	options := testnet.Options{Config: func(_ int, yaml string) string {
		return strings.Replace(yaml, "directories:\n", "directories:\n  - {name: other, path: "+base+"}\n", 1)
	}}
	story(t, options, func(t *testing.T, f *testnet.Fleet) {
		for _, c := range [][3]string{
			{"", "a", ""}, {"", "", ""}, {"other", "a", "other"}, {"", filepath.Join(base, "a"), "other"}, {"", f.Path(0, "a"), "certs"},
			{"certs", filepath.Join(base, "a"), ""},
		} {
			h, err := f.Agent(0).History(t.Context(), c[0], c[1])
			if h.Directory != c[2] || (err == nil) != (c[2] != "") {
				t.Errorf("%q: %+v, %v", c, h, err)
			}
			if c[0]+c[2] == "" && !strings.Contains(err.Error(), "several directories (other, certs): say which one with --directory") {
				t.Error(err)
			}
		}
	})
}

// One half of a pair takes the other with it, whichever is asked for; in one batch, so that nobody ever sees them apart.
func TestAPairIsRestoredTogether(t *testing.T) {
	for _, asked := range []string{"site/privkey.pem", "site/fullchain.pem"} {
		t.Run(asked, func(t *testing.T) {
			story(t, testnet.Options{Nodes: 3}, func(t *testing.T, f *testnet.Fleet) {
				var keys, certificates []string
				for serial := range int64(3) {
					key, certificate := pair(t, serial+1)
					keys, certificates = append(keys, key), append(certificates, certificate)
					f.Write(0, "site/privkey.pem", key)
					f.Write(0, "site/fullchain.pem", certificate)
					f.Write(0, "site/cert.pem", certificate)
					f.Settle()
				}
				oldest := historyOf(t, f, 1, asked).Versions[1].Version
				done, err := f.Agent(1).Restore(t.Context(), control.Restoration{Path: asked, Version: oldest})
				if err != nil || len(done.Restored) != 3 {
					t.Fatalf("%+v, %v", done, err)
				}
				expect(t, f, "site/privkey.pem", keys[0])
				expect(t, f, "site/fullchain.pem", certificates[0])
				expect(t, f, "site/cert.pem", certificates[0])
			})
		})
	}
}

// certbot's links are halves of a pair too: by what they lead to.
func TestLinksToAPairAreRestoredTogether(t *testing.T) {
	story(t, testnet.Options{Nodes: 3}, func(t *testing.T, f *testnet.Fleet) {
		for serial, n := range []string{"1", "2"} {
			key, certificate := pair(t, int64(serial)+1)
			f.Write(0, "archive/a/privkey"+n+".pem", key)
			f.Write(0, "archive/a/fullchain"+n+".pem", certificate)
			f.Mkdir(0, "live/a")
			for _, kind := range []string{"privkey", "fullchain"} {
				f.Symlink(0, "../../archive/a/"+kind+n+".pem", "live/a/"+kind+".pem")
			}
			f.Settle()
		}
		done, err := f.Agent(2).Restore(t.Context(), control.Restoration{Path: "live/a/privkey.pem"})
		if err != nil || len(done.Restored) != 2 {
			t.Fatalf("%+v, %v", done, err)
		}
		f.Settle()
		f.AssertSame()
		for _, kind := range []string{"privkey", "fullchain"} {
			if target, err := os.Readlink(f.Path(0, "live/a/"+kind+".pem")); err != nil || target != "../../archive/a/"+kind+"1.pem" {
				t.Errorf("%s leads to %q, %v", kind, target, err)
			}
		}
	})
}

// A half whose other half is nowhere to be had stays where it is, unless somebody insists.
func TestHalfAPairIsNotRestoredAlone(t *testing.T) {
	story(t, testnet.Options{Nodes: 3}, func(t *testing.T, f *testnet.Fleet) {
		oldKey, oldCertificate := pair(t, 1)
		key, certificate := pair(t, 2)
		f.Write(0, "a.key", oldKey)
		f.Write(0, "a.crt", oldCertificate)
		f.Settle()
		f.Write(0, "a.key", key)
		f.Write(0, "a.crt", certificate)
		f.Settle()
		if err := os.RemoveAll(filepath.Dir(historyOf(t, f, 1, "a.crt").Versions[0].File)); err != nil {
			t.Fatal(err)
		}
		_, err := f.Agent(1).Restore(t.Context(), control.Restoration{Path: "a.key"})
		if err == nil || !strings.Contains(err.Error(), "a.key would stand beside a.crt, which belongs to another key") || !strings.Contains(err.Error(), "--force") {
			t.Errorf("%v", err)
		}
		expect(t, f, "a.key", key)
		done, err := f.Agent(1).Restore(t.Context(), control.Restoration{Path: "a.key", Force: true})
		if err != nil || len(done.Restored) != 1 {
			t.Errorf("%+v, %v", done, err)
		}
		expect(t, f, "a.key", oldKey)
		expect(t, f, "a.crt", certificate)
		// The way back needs no force: it makes the pair whole.
		if done, err := f.Agent(1).Restore(t.Context(), control.Restoration{Path: "a.key"}); err != nil || len(done.Restored) != 1 {
			t.Errorf("%+v, %v", done, err)
		}
		expect(t, f, "a.key", key)
	})
}

func TestWhoMayNotRestoreIsToldWhoMay(t *testing.T) {
	options := testnet.Options{Nodes: 3, Roles: []string{"issuer", "issuer", "member"}, Writers: []string{"fe2"}}
	story(t, options, func(t *testing.T, f *testnet.Fleet) {
		f.Write(1, "a", "1")
		f.Settle()
		f.Write(1, "a", "2")
		f.Settle()
		for _, node := range []int{0, 2} {
			if h := historyOf(t, f, node, "a"); len(h.Versions) != 1 {
				t.Errorf("anybody may look: %+v", h)
			}
			for _, path := range []string{"a", "never-there"} {
				_, err := f.Agent(node).Restore(t.Context(), control.Restoration{Path: path})
				if err == nil || !strings.Contains(err.Error(), "may not change certs/"+path) || !strings.Contains(err.Error(), "on a writer (fe2), or") {
					t.Errorf("fe%d: %v", node+1, err)
				}
			}
		}
		expect(t, f, "a", "2")
	})
}

// twoGenerations returns a fleet that has adopted a certificate as the first generation, with serial 10, and beside which a second one lies
// that fits the declaration too, with serial 11. The first is due five minutes from now.
func twoGenerations(t *testing.T, options testnet.Options) *testnet.Fleet {
	t.Helper()
	f := testnet.NewDown(t, options)
	key, certificate := pairWith(t, 0x10, 30*days+5*time.Minute)
	for file, text := range map[string]string{"privkey.pem": key, "fullchain.pem": certificate} {
		place := f.Path(0, "live/"+www+"/"+file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(place), 0o755), os.WriteFile(place, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for node := range 3 {
		f.Start(node)
	}
	f.Settle()
	key, certificate = pair(t, 0x11)
	for file, text := range map[string]string{"privkey.pem": key, "fullchain.pem": certificate, "cert.pem": certificate, "chain.pem": certificate} {
		f.Write(0, "archive/"+www+"/2/"+file, text)
	}
	f.Advance(20 * time.Second)
	f.Settle()
	return f
}

// A certificate is rolled back from any issuer and on every node; nobody asks the CA for another because of it.
func TestARollBackIsTheFleets(t *testing.T) {
	options := withCertificates(testnet.Options{Nodes: 3, Roles: []string{"issuer", "issuer", "member"}})
	synctest.Test(t, func(t *testing.T) {
		f := twoGenerations(t, options)
		inForce := func(generation int) {
			t.Helper()
			f.Advance(20 * time.Second)
			for node := range 3 {
				c := f.Status(node).Certificates[0]
				if target, err := os.Readlink(f.Path(node, "live/"+www)); err != nil || c.Generation != generation || !strings.HasSuffix(target, "/"+string(rune('0'+generation))) {
					t.Errorf("fe%d: generation %d, live leads to %q, %v", node+1, c.Generation, target, err)
				}
				if c.LastError != "" || c.State != control.Issued {
					t.Errorf("fe%d: %+v", node+1, c)
				}
			}
		}
		inForce(1)
		forth, err := f.Agent(1).RollBack(t.Context(), www, 2) // fe1 holds the lease
		if err != nil || forth.Generation != 2 || forth.Previous != 1 || forth.Serial != "11" {
			t.Fatalf("%+v, %v", forth, err)
		}
		inForce(2)
		f.Advance(10 * time.Minute)
		back, err := f.Agent(0).RollBack(t.Context(), www, 0)
		if err != nil || back.Generation != 1 || back.Previous != 2 || back.Serial != "10" || back.NotAfter.IsZero() {
			t.Fatalf("%+v, %v", back, err)
		}
		inForce(1)
		f.Advance(15 * time.Minute) // the plan is made again meanwhile, and by its age the first is overdue
		inForce(1)
		if again, err := f.Agent(0).RollBack(t.Context(), www, 1); err != nil || again.Previous != again.Generation {
			t.Errorf("%+v, %v", again, err)
		}

		for _, c := range []struct {
			node, generation int
			name, want       string
		}{
			{0, 0, www, "no generation of " + www + " before 1, which is in force; there is 1 (in force, expires "},
			{1, 7, www, "fe1 holds the lease and did not roll back: "},
			{1, 7, www, "there is no generation 7"},
			{2, 2, www, "fe3 only receives: certificates are the issuers' business; on one of them: fe1, fe2"},
			{0, 0, "other", "no certificate is declared under that name: other"},
		} {
			if _, err := f.Agent(c.node).RollBack(t.Context(), c.name, c.generation); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: %v", c, err)
			}
		}
		if _, err := f.Agent(0).Restore(t.Context(), control.Restoration{Path: "live/" + www + "/privkey.pem"}); err == nil || !strings.Contains(err.Error(), "certswarm cert rollback NAME") {
			t.Error(err)
		}
		// What only the issuers share is nobody's business, and does not make certs one of several.
		if _, err := f.Agent(0).History(t.Context(), ".issuers", ""); err == nil || !strings.HasSuffix(err.Error(), `".issuers": there is certs`) {
			t.Error(err)
		}
		if h, err := f.Agent(0).History(t.Context(), "", ""); err != nil || h.Directory != "certs" {
			t.Errorf("%+v, %v", h, err)
		}
		f.Stop(0)
		f.Advance(time.Minute)
		if _, err := f.Agent(1).RollBack(t.Context(), www, 2); err == nil || !strings.Contains(err.Error(), "nobody holds the lease") {
			t.Error(err)
		}
	})
}
