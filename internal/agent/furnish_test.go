package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/nginx"
)

// standingHouse returns a house over a store in which nothing was issued for site, and its log.
func standingHouse(t *testing.T, declared ...config.Certificate) (*house, *strings.Builder) {
	t.Helper()
	l := openStore(t)
	l.declared = append([]config.Certificate{{Name: site, Names: []string{site}, Key: []config.KeyType{"ecdsa-p256"}}}, declared...)
	var log strings.Builder
	h := &house{store: l, cfg: &config.Config{}, log: slog.New(slog.NewTextHandler(&log, nil)), changed: newBroadcast(), events: control.NewChronicle()}
	h.cfg.StateDir, h.self.Name = filepath.Join(filepath.Dir(l.dir.Root().Dir()), "state"), "fe1"
	h.findings.init()
	h.keeper = nginx.NewKeeper(applied{}, h.noteReport) // nobody runs it
	return h, &log
}

// at is the path of a file in the store.
func (h *house) at(path ...string) string {
	return filepath.Join(append([]string{h.store.dir.Root().Dir()}, path...)...)
}

// leads tells where a live link leads, and whether nginx can load that.
func (h *house) leads(name string) string {
	target, err := os.Readlink(h.at(liveDir, name))
	if _, broken := nginx.Loads(h.at(liveDir, name)); err != nil || broken != nil {
		return "nowhere"
	}
	return filepath.Base(target)
}

// certificateOf is pair for any kind of key and any names.
func certificateOf(t *testing.T, isRSA bool, names ...string) (key, chain []byte) {
	t.Helper()
	var private any
	var public any
	if isRSA {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		private, public = k, k.Public()
	} else {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		private, public = k, k.Public()
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(60 * days),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// A directory that nginx cannot load is in the archive before a placeholder takes its place, and the log says where. A crash in the middle is
// mended by the next start.
func TestABrokenPairIsSetAsideBeforeNginxStarts(t *testing.T) {
	h, log := standingHouse(t)
	key, chain := pair(t, time.Now().Add(60*days))
	otherKey, _ := pair(t, time.Now().Add(60*days))
	bring(t, h.store, otherKey, chain)
	if err := h.furnish(); err != nil {
		t.Fatal(err)
	}
	if got := h.leads(site); got != nginx.PlaceholderGeneration {
		t.Errorf("live/%s leads to %s", site, got)
	}
	where := filepath.Join(h.cfg.StateDir, "archive", "certs", liveDir, site)
	kept, err := os.ReadDir(where)
	if err != nil || len(kept) != 2 || !strings.Contains(log.String(), "kept="+where) || !strings.Contains(log.String(), "belongs to another certificate") {
		t.Errorf("%v, %v\n%s", kept, err, log)
	}
	log.Reset()
	if err := h.furnish(); err != nil || strings.Contains(log.String(), "set aside") || len(h.standingProblems()) > 0 {
		t.Errorf("the next start: %v\n%s", err, log)
	}
	// A crash between the last file and the link leaves an empty directory.
	if err := errors.Join(os.Remove(h.at(liveDir, site)), os.Mkdir(h.at(liveDir, site), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := h.furnish(); err != nil || h.leads(site) != nginx.PlaceholderGeneration {
		t.Errorf("after a crash live/%s leads to %s, %v", site, h.leads(site), err)
	}
	// What is good stays, and is adopted as before.
	if err := os.Remove(h.at(liveDir, site)); err != nil {
		t.Fatal(err)
	}
	bring(t, h.store, key, chain)
	if err := h.furnish(); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := h.store.found(h.store.declared[0], time.Now()); !ok {
		t.Error("a good pair is not there any more")
	}
}

// A link to a generation that is not here gives way to the one that the fleet wishes, if that is here, or to a placeholder.
func TestALinkToWhatIsNotHereIsReplacedAtTheStart(t *testing.T) {
	h, _ := standingHouse(t)
	issue(t, h.store, 20*days, 80*days)
	for _, want := range []string{"2", nginx.PlaceholderGeneration} {
		if want != "2" {
			if err := os.Remove(h.at(archiveDir, site, "2", "privkey.pem")); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.store.dir.Root().ReplaceSymlink(liveDir+"/"+site, "../archive/gone/7"); err != nil {
			t.Fatal(err)
		}
		if err := h.furnish(); err != nil || h.leads(site) != want {
			t.Errorf("live/%s leads to %s, not %s: %v", site, h.leads(site), want, err)
		}
	}
}

// A directory that may be in use under other names stays, and somebody is told what to do; it is over when that was done, or when the first
// certificate is there.
func TestADirectoryInUseIsLeftAndSaid(t *testing.T) {
	for _, end := range []string{"cleared up", "issued"} {
		h, _ := standingHouse(t)
		if err := errors.Join(os.MkdirAll(h.at(liveDir, site), 0o755), os.WriteFile(h.at(liveDir, site, "site.crt"), []byte("x"), 0o644)); err != nil {
			t.Fatal(err)
		}
		if err := h.furnish(); err != nil {
			t.Fatal(err)
		}
		problems := h.standingProblems()
		if len(problems) != 1 || problems[0].Code != control.ChainRefused || problems[0].Severity != control.Error || !h.untaken.any() ||
			!strings.Contains(problems[0].Text, "live/"+site+" holds no pair that nginx can load") || !strings.Contains(problems[0].Text, "in use as site.crt") ||
			!strings.Contains(problems[0].Next, "on fe1: move what nobody uses out of "+h.at(liveDir, site)) {
			t.Errorf("%+v", problems)
		}
		h.pursueWishes(false, false)
		if len(h.standingProblems()) != 1 {
			t.Error("it is forgotten")
		}
		if end == "issued" {
			issue(t, h.store, 60*days)
		} else if err := os.Remove(h.at(liveDir, site, "site.crt")); err != nil {
			t.Fatal(err)
		}
		h.pursueWishes(false, false)
		if len(h.standingProblems()) != 0 || h.leads(site) == "nowhere" {
			t.Errorf("%s: %+v, live/%s leads to %s", end, h.standingProblems(), site, h.leads(site))
		}
	}
}

// One directory that cannot be set aside does not keep the agent from starting, for the sake of all others; and it is tried again.
func TestWhatCannotBeSetAsideIsSaid(t *testing.T) {
	h, _ := standingHouse(t)
	if err := os.MkdirAll(h.at(liveDir, site), 0o755); err != nil {
		t.Fatal(err)
	}
	fails := true
	h.store.dir.Root().Interpose(func(e durable.Effect, do func() error) error {
		if fails && e.Act == durable.ActPlace && e.Name == liveDir+"/"+site {
			return errors.New("permission denied")
		}
		return do()
	})
	if err := h.furnish(); err != nil {
		t.Fatal(err)
	}
	problems := h.standingProblems()
	if len(problems) != 1 || problems[0].Code != control.WriteFailed || !strings.Contains(problems[0].Text, "permission denied") || !strings.Contains(problems[0].Next, h.at(liveDir, site)) {
		t.Errorf("%+v", problems)
	}
	fails = false
	h.pursueWishes(false, false)
	if len(h.standingProblems()) != 0 || h.leads(site) != nginx.PlaceholderGeneration {
		t.Errorf("%+v, live/%s leads to %s", h.standingProblems(), site, h.leads(site))
	}
}

// What replication takes away from under a live link is replaced at once; what somebody has half copied is left alone.
func TestALinkThatIsLeftDanglingGetsAPlaceholder(t *testing.T) {
	h, _ := standingHouse(t)
	if err := errors.Join(os.MkdirAll(h.at(liveDir, site), 0o755), os.WriteFile(h.at(liveDir, site, "fullchain.pem"), []byte("x"), 0o644)); err != nil {
		t.Fatal(err)
	}
	h.pursueWishes(false, false)
	if text, err := os.ReadFile(h.at(liveDir, site, "fullchain.pem")); string(text) != "x" {
		t.Fatalf("half a copy is taken away: %v", err)
	}
	if err := errors.Join(os.Remove(h.at(liveDir, site, "fullchain.pem")), os.Symlink("../../archive/gone.pem", h.at(liveDir, site, "fullchain.pem"))); err != nil {
		t.Fatal(err)
	}
	a := applied{make(chan []nginx.Install, 9)}
	synctest.Test(t, func(t *testing.T) {
		h.changed = newBroadcast()
		h.keeper = nginx.NewKeeper(a, h.noteReport)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { h.keeper.Run(ctx); close(ended) }()
		for round, want := range []int{1, 0} {
			h.pursueWishes(false, false)
			time.Sleep(time.Minute)
			if len(a.installs) != want || h.leads(site) != nginx.PlaceholderGeneration {
				t.Errorf("round %d: nginx was told %d times, live/%s leads to %s", round, len(a.installs), site, h.leads(site))
			}
			for range len(a.installs) {
				<-a.installs
			}
		}
		cancel()
		<-ended
	})
}

// A pair is declared for what was an RSA certificate alone: the placeholder of the other half does not hide it, whether it was there before or not,
// and is not taken for a certificate of its own.
func TestAPlaceholderDoesNotHideTheOtherHalf(t *testing.T) {
	const half = site + "-rsa"
	second := config.Certificate{Name: half, Names: []string{strings.ToUpper(site)}, Key: []config.KeyType{"rsa-2048"}}
	for _, before := range []bool{false, true} {
		h, _ := standingHouse(t, second)
		if before {
			if err := h.furnish(); err != nil || h.leads(half) != nginx.PlaceholderGeneration {
				t.Fatal(err)
			}
		}
		served := func() *x509.Certificate {
			leaf, err := nginx.Loads(h.at(liveDir, half))
			if leaf == nil || err != nil || h.leads(half) != nginx.PlaceholderGeneration {
				t.Fatalf("live/%s leads to %s, %v", half, h.leads(half), err)
			}
			return leaf
		}
		key, chain := certificateOf(t, true, site)
		if _, _, err := h.store.install(fleet.Epoch{Term: 1}, site, key, chain); err != nil {
			t.Fatal(err)
		}
		if err := h.store.dir.Root().ReplaceSymlink(liveDir+"/"+site, generationLink(site, 1)); err != nil {
			t.Fatal(err)
		}
		if before { // while it runs: it came into force from another node
			h.pursueWishes(false, false)
		} else if err := h.furnish(); err != nil {
			t.Fatal(err)
		}
		real, err := nginx.Loads(h.at(liveDir, site))
		if err != nil || !served().Equal(real) {
			t.Errorf("there before: %v: %s hides what is in force, %v", before, served().Subject, err)
		}
		h.mayAdopt.Store(true)
		h.pursueWishes(false, false)
		if h.store.wished(half) != 0 {
			t.Error("the copy is taken for a certificate that somebody brought")
		}
		// The other half comes: the copy is still the best there is for those who can do with RSA alone.
		issue(t, h.store, 80*days)
		if err := errors.Join(h.store.dir.Root().ReplaceSymlink(liveDir+"/"+site, generationLink(site, 2)), h.furnish()); err != nil || !served().Equal(real) {
			t.Errorf("%s, %v", served().Subject, err)
		}
	}
}

// Only what would be on the same servers, is in force, and has the kind of key of the placeholder, is hidden by it.
func TestWhatAPlaceholderWouldHide(t *testing.T) {
	for name, c := range map[string]struct {
		names []string
		isRSA bool
		want  string
	}{
		"the same kind": {[]string{"b.test", site}, true, "other"},
		"another kind":  {[]string{"b.test", site}, false, ""},
		"other names":   {[]string{site}, true, ""},
		"nothing":       {[]string{"b.test", site}, true, ""},
	} {
		h, _ := standingHouse(t)
		mine := config.Certificate{Name: "mine", Names: []string{site, "B.test"}, Key: []config.KeyType{"rsa-2048"}}
		other := config.Certificate{Name: "other", Names: c.names, Key: []config.KeyType{"rsa-2048"}}
		h.store.declared = []config.Certificate{mine, other}
		if name != "nothing" {
			key, chain := certificateOf(t, c.isRSA, c.names...)
			if err := errors.Join(os.MkdirAll(h.at(liveDir, "other"), 0o755), os.WriteFile(h.at(liveDir, "other", "privkey.pem"), key, 0o600),
				os.WriteFile(h.at(liveDir, "other", "fullchain.pem"), chain, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if got := h.store.hiddenBy(mine); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
		if err := h.furnish(); err != nil {
			t.Fatal(err)
		}
		var before []byte
		for range 2 { // a placeholder hides nothing that is in force, and stays as it is
			if h.store.hiddenBy(other) == "mine" {
				t.Errorf("%s: a placeholder is taken for a certificate in force", name)
			}
			now, err := os.ReadFile(h.at(liveDir, "mine", "fullchain.pem"))
			if err != nil || before != nil && !slices.Equal(before, now) {
				t.Errorf("%s: it was made again, %v", name, err)
			}
			before = now
			if err := h.furnish(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
