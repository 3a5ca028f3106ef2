package agent

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/acmeclient"
	"certswarm/internal/agent/config"
	"certswarm/internal/fleet"
	"certswarm/nginx"
	"certswarm/syncer"
)

const days = 24 * time.Hour

// issue installs one generation after the other, with so much of their lives left.
func issue(t testing.TB, l *lineages, left ...time.Duration) {
	t.Helper()
	for _, life := range left {
		key, chain := pair(t, time.Now().Add(life))
		if _, _, err := l.install(fleet.Epoch{Term: 1}, site, key, chain); err != nil {
			t.Fatal(err)
		}
	}
}

// spoil replaces a file of a generation everywhere, as the holder of the lease could; nil deletes it.
func spoil(t testing.TB, l *lineages, generation int, file string, data []byte) {
	t.Helper()
	w := syncer.Write{Path: archivePath(site, generation, file), Data: data, Perm: 0o600, Delete: data == nil}
	if _, err := l.dir.Publish(fleet.Epoch{Term: 1}, w); err != nil {
		t.Fatal(err)
	}
}

// What a file says is known from the last time, unless it says something else.
func TestAChainIsTheOneInTheFile(t *testing.T) {
	l := openStore(t)
	issue(t, l, 10*days, 40*days)
	read := func() *x509.Certificate {
		t.Helper()
		chain, err := l.chain(site, 2)
		if err != nil {
			t.Fatal(err)
		}
		return chain[0]
	}
	first := read()
	if read() != first {
		t.Error("it was parsed again")
	}
	_, other := pair(t, time.Now().Add(20*days))
	spoil(t, l, 2, "fullchain.pem", other)
	if second := read(); second.Equal(first) {
		t.Error("another file says the same")
	}
	spoil(t, l, 2, "fullchain.pem", []byte("no certificate"))
	if chain, err := l.chain(site, 2); err == nil {
		t.Errorf("%v is in a file without a certificate", chain[0].Subject)
	}
	spoil(t, l, 2, "fullchain.pem", nil)
	if _, err := l.chain(site, 2); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is gone: %v", err)
	}
	for generation := range 2 * mostChains {
		if _, err := l.read.parse(archivePath(site, generation, "fullchain.pem"), other); err != nil || len(l.read.of) > mostChains {
			t.Fatalf("after %d there are %d, %v", generation, len(l.read.of), err)
		}
	}
}

// BenchmarkChain is what every report costs for each certificate.
func BenchmarkChain(b *testing.B) {
	l := openStore(b)
	issue(b, l, 40*days)
	for b.Loop() {
		if _, err := l.chain(site, 1); err != nil {
			b.Fatal(err)
		}
	}
}

func noneRevoked(*x509.Certificate) (bool, error) { return false, nil }

func TestWhichGenerationIsMeant(t *testing.T) {
	l := openStore(t)
	c := l.declared[0]
	if _, err := l.earlier(c, 0, time.Now(), noneRevoked); err == nil || !strings.Contains(err.Error(), "nothing was issued") {
		t.Error(err)
	}
	issue(t, l, 10*days, 40*days, 70*days)
	for asked, want := range map[int]int{0: 2, 1: 1, 3: 3} {
		if got, err := l.earlier(c, asked, time.Now(), noneRevoked); err != nil || got != want {
			t.Errorf("asked for %d: %d, %v", asked, got, err)
		}
	}
	if _, err := l.earlier(c, 7, time.Now(), noneRevoked); err == nil || !strings.Contains(err.Error(), "no generation 7") || !strings.Contains(err.Error(), "3 (in force, expires ") {
		t.Error(err)
	}
	if _, err := l.wish(fleet.Epoch{Term: 1}, site, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := l.earlier(c, 0, time.Now(), noneRevoked); err == nil || !strings.Contains(err.Error(), "before 1, which is in force") {
		t.Error(err)
	}
}

// What is put in force must be what nginx can be handed on every node; the refusal says what is wrong, and what else there is.
func TestWhatIsNotUsableIsNotPutInForce(t *testing.T) {
	otherKey, otherChain := pair(t, time.Now().Add(50*days))
	for name, c := range map[string]struct {
		left  time.Duration
		spoil func(*testing.T, *lineages)
		names []string
		want  string
	}{
		"good":           {20 * days, nil, nil, ""},
		"expired":        {-time.Hour, nil, nil, "the certificate expired at"},
		"without a key":  {20 * days, func(t *testing.T, l *lineages) { spoil(t, l, 1, "privkey.pem", nil) }, nil, "it lacks privkey.pem"},
		"without either": {20 * days, func(t *testing.T, l *lineages) { spoil(t, l, 1, "cert.pem", nil); spoil(t, l, 1, "chain.pem", nil) }, nil, "it lacks cert.pem, chain.pem"},
		"lost on the disk": {20 * days, func(t *testing.T, l *lineages) {
			if err := os.Remove(filepath.Join(l.dir.Root().Dir(), archivePath(site, 1, "fullchain.pem").String())); err != nil {
				t.Fatal(err)
			}
		}, nil, "it lacks fullchain.pem"},
		"on this disk alone": {20 * days, func(t *testing.T, l *lineages) {
			spoil(t, l, 1, "chain.pem", nil)
			if err := os.WriteFile(filepath.Join(l.dir.Root().Dir(), archivePath(site, 1, "chain.pem").String()), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil, "it lacks chain.pem"},
		"with the key of another": {20 * days, func(t *testing.T, l *lineages) { spoil(t, l, 1, "privkey.pem", otherKey) }, nil, "the private key belongs to another certificate"},
		"with a chain that does not hold": {20 * days, func(t *testing.T, l *lineages) {
			chain, err := l.dir.ReadFile(archivePath(site, 1, "fullchain.pem"), maxPEM)
			if err != nil {
				t.Fatal(err)
			}
			spoil(t, l, 1, "fullchain.pem", append(chain, otherChain...))
		}, nil, "certificate 2 of the chain did not sign certificate 1"},
		"for other names": {20 * days, nil, []string{site, "new.example.com"}, "the certificate is not for new.example.com, only for " + site},
	} {
		t.Run(name, func(t *testing.T) {
			l := openStore(t)
			issue(t, l, c.left, 80*days)
			if c.spoil != nil {
				c.spoil(t, l)
			}
			declared := l.declared[0]
			if c.names != nil {
				declared.Names = c.names
			}
			leaf, err := l.usable(declared, 1, time.Now(), noneRevoked)
			if c.want == "" && (err != nil || leaf == nil) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, not %q", err, c.want)
			}
		})
	}
}

// issuers is what a Client needs of the fleet to plan, and to tell what was revoked.
type issuers struct {
	acmeclient.Fleet
	store *lineages
	list  string // of the revoked
	err   error  // it cannot be read
}

func (f *issuers) Held(name string) (*acmeclient.Held, error) { return f.store.heldFor(name) }
func (f *issuers) Load(path string) ([]byte, error) {
	if path == "revoked/"+site+".json" && f.list+fmt.Sprint(f.err) != "<nil>" {
		return []byte(f.list), f.err
	}
	return nil, fs.ErrNotExist
}

// planner is a Client that never gets as far as the CA.
func planner(t *testing.T, f acmeclient.Fleet) *acmeclient.Client {
	t.Helper()
	c, err := acmeclient.New(acmeclient.Config{
		Directory: "https://127.0.0.1:1/", NoARI: true, Fleet: f,
		Certificates: []acmeclient.Certificate{{Name: site, Names: []string{site}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What was revoked is put in force as little as what has expired, and the list says so; what cannot be known is no better.
func TestARevokedGenerationIsNotPutInForce(t *testing.T) {
	l := openStore(t)
	issue(t, l, 20*days, 30*days, 80*days)
	chain, err := l.chain(site, 2)
	if err != nil {
		t.Fatal(err)
	}
	f := &issuers{store: l}
	h := &house{store: l, acme: planner(t, f), log: slog.New(slog.DiscardHandler), cfg: &config.Config{}}
	h.findings.init()
	f.list = fmt.Sprintf(`[{"leaf": "%x", "serial": "1"}]`, sha256.Sum256(chain[0].Raw))
	for _, asked := range []int{0, 2} {
		_, err := h.rollBackHere(rollBack{site, asked}, fleet.Epoch{Term: 1})
		if err == nil || !strings.Contains(err.Error(), "generation 2 of "+site+" is not put in force: the certificate was revoked; there is 1 (expires ") ||
			!strings.Contains(err.Error(), "), 2 (revoked), 3 (in force, expires ") || l.wished(site) != 3 {
			t.Errorf("asked for %d: %v", asked, err)
		}
	}
	if _, err := h.rollBackHere(rollBack{site, 7}, fleet.Epoch{Term: 1}); err == nil || !strings.Contains(err.Error(), "2 (revoked)") {
		t.Error(err)
	}
	f.err = errors.New("torn")
	if _, err := h.rollBackHere(rollBack{site, 1}, fleet.Epoch{Term: 1}); err == nil || !strings.Contains(err.Error(), "it cannot be told whether the certificate was revoked") || l.wished(site) != 3 {
		t.Error(err)
	}
	f.err = nil
	if done, err := h.rollBackHere(rollBack{site, 1}, fleet.Epoch{Term: 1}); err != nil || done.Generation != 1 || l.wished(site) != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}

// acting is a right that lasts as long as its context.
type acting struct{ ctx context.Context }

func (a acting) Context() context.Context { return a.ctx }
func (a acting) Check() error             { return nil }
func (a acting) Begin() error             { return nil }
func (a acting) Epoch() fleet.Epoch       { return fleet.Epoch{Term: 1} }

// Whoever changed what is wished in force, the plan is made for that.
func TestThePlanFollowsTheWish(t *testing.T) {
	l := openStore(t)
	issue(t, l, 70*days, 80*days)
	if err := l.dir.Root().ReplaceSymlink(liveDir+"/"+site, generationLink(site, 2)); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		h := &house{store: l, acme: planner(t, &issuers{store: l}), log: slog.New(slog.DiscardHandler), changed: newBroadcast()}
		h.findings.init()
		h.keeper = nginx.NewKeeper(applied{}, h.noteReport) // nobody runs it
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := h.acme.Run(ctx, acting{ctx}); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
		h.pursueWishes(false, false)
		planned := func() time.Time {
			time.Sleep(time.Second)
			synctest.Wait()
			return h.acme.Snapshot()[0].NextAttempt
		}
		before := planned()
		// As another node's rollback arrives.
		if _, err := l.wish(fleet.Epoch{Term: 1}, site, 1); err != nil {
			t.Fatal(err)
		}
		h.pursueWishes(true, false)
		after := planned()
		chain, err := l.chain(site, 1)
		if err != nil || before.IsZero() || after.IsZero() || after.Equal(before) || after.Before(chain[0].NotAfter.Add(-6*days)) {
			t.Errorf("planned for %s, then for %s", before, after)
		}
		cancel()
		running.Wait()
	})
}

func TestARolledBackGenerationIsWishedAndRenewalKnows(t *testing.T) {
	l := openStore(t)
	issue(t, l, 20*days, 80*days)
	newest, err := l.heldFor(site)
	if err != nil || newest.Generation != 2 || newest.Newer != nil {
		t.Fatalf("%+v, %v", newest, err)
	}
	was := l.dir.Lookup(livePath(site))
	if _, err := l.wish(fleet.Epoch{Term: 1}, site, 1); err != nil {
		t.Fatal(err)
	}
	if e := l.dir.Lookup(livePath(site)); e.Stamp.Compare(was.Stamp) <= 0 || e.Stamp.Epoch != was.Stamp.Epoch || l.wished(site) != 1 {
		t.Errorf("%+v", e)
	}
	held, err := l.heldFor(site)
	if err != nil || held.Generation != 1 || held.Newer == nil || !held.Newer.Equal(newest.Leaf) {
		t.Errorf("%+v, %v", held, err)
	}
	// The next certificate is a new generation, and the last word again.
	issue(t, l, 90*days)
	if held, err := l.heldFor(site); err != nil || held.Generation != 3 || held.Newer != nil {
		t.Errorf("%+v, %v", held, err)
	}
}

// A node whose nginx refuses the new generation goes on with the one that was in force, however old.
func TestWhatWasRolledBackToIsNotPrunedUnderANode(t *testing.T) {
	l := openStore(t)
	issue(t, l, 50*days, 51*days, 52*days, 53*days, 54*days)
	if _, err := l.wish(fleet.Epoch{Term: 1}, site, 1); err != nil {
		t.Fatal(err)
	}
	issue(t, l, 55*days)
	if _, err := l.usable(l.declared[0], 1, time.Now(), noneRevoked); err != nil {
		t.Errorf("generation 1: %v", err)
	}
	issue(t, l, 56*days)
	if got := l.generations(site); !slices.Equal(got, []int{3, 4, 5, 6, 7}) {
		t.Errorf("generations %v", got)
	}
}

// applied is an nginx that has nothing against anything, and remembers what it was asked.
type applied struct{ installs chan []nginx.Install }

func (a applied) Apply(_ context.Context, installs []nginx.Install) nginx.Report {
	var r nginx.Report
	for _, i := range installs {
		r.Outcomes = append(r.Outcomes, nginx.Outcome{Name: i.Name, Generation: i.Generation, Installed: true})
	}
	a.installs <- installs
	return r
}

// Where nginx had refused the generation that is rolled back, nothing has to be switched, but the problem must end.
func TestARolledBackRefusalIsNoProblemAnyMore(t *testing.T) {
	l := openStore(t)
	issue(t, l, 20*days, 80*days)
	if _, err := l.wish(fleet.Epoch{Term: 1}, site, 1); err != nil {
		t.Fatal(err)
	}
	if err := l.dir.Root().ReplaceSymlink(liveDir+"/"+site, generationLink(site, 1)); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		h := &house{store: l, log: slog.New(slog.DiscardHandler), changed: newBroadcast()}
		h.findings.init()
		h.findings.problems["nginx-test-failed "+site] = finding{Problem: nginx.Problem{Code: nginx.TestFailed, Name: site, Text: "nginx refuses generation 2"}}
		a := applied{make(chan []nginx.Install, 9)}
		h.keeper = nginx.NewKeeper(a, h.noteReport)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { h.keeper.Run(ctx) })
		for round, want := range []int{1, 0} {
			h.pursueWishes(false, false)
			time.Sleep(time.Minute)
			if len(a.installs) != want {
				t.Fatalf("round %d: nginx was asked %d times, not %d", round, len(a.installs), want)
			}
			for range want {
				if installs := <-a.installs; len(installs) != 1 || installs[0].Generation != 1 {
					t.Errorf("%+v", installs)
				}
			}
			if h.findings.refused(site) {
				t.Errorf("%+v", h.findings.problems)
			}
		}
		cancel()
		running.Wait()
	})
}

func TestCopyVersion(t *testing.T) {
	base := t.TempDir()
	from := filepath.Join(base, "\xff.pem")
	if err := errors.Join(os.WriteFile(from, []byte("secret"), 0o600), os.Chmod(from, 0o440), os.Symlink("a", filepath.Join(base, "link"))); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(base, "copy")
	if _, err := CopyVersion(exactly(from), to); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(to)
	if text, readErr := os.ReadFile(to); err != nil || readErr != nil || string(text) != "secret" || info.Mode() != 0o440 {
		t.Errorf("%q, %v, %v, %v", text, info, err, readErr)
	}
	if _, err := CopyVersion(exactly(from), to); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("over what is there: %v", err)
	}
	if _, err := CopyVersion(filepath.Join(base, "link"), to+"2"); err != nil {
		t.Error(err)
	}
	if target, err := os.Readlink(to + "2"); err != nil || target != "a" {
		t.Errorf("%q, %v", target, err)
	}
	if _, err := CopyVersion(filepath.Join(base, "none"), to+"3"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if names, err := os.ReadDir(base); err != nil || len(names) != 4 {
		t.Errorf("%v, %v", names, err)
	}
}
