package nginx_test

import (
	"context"
	"crypto/tls"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"certswarm/nginx"
)

const www = "www.example.com"

// counting counts reloads of the real nginx.
type counting struct {
	nginx.Runner
	reloads int
	before  func() // runs before every test of the configuration
}

func (c *counting) Test(ctx context.Context) (string, error) {
	if c.before != nil {
		c.before()
	}
	return c.Runner.Test(ctx)
}

func (c *counting) Reload(ctx context.Context) error {
	c.reloads++
	return c.Runner.Reload(ctx)
}

func one(generation int) []nginx.Install {
	return []nginx.Install{{Name: www, Names: []string{www}, Generation: generation}}
}

func startWWW(t *testing.T) (*node, pair) {
	t.Helper()
	old := fresh(www)
	return start(t, 1, tlsServer("PORT0 ssl", www, www), func(f *node) { f.install(www, "1", old) }), old
}

func TestInstallReloadsAndConfirmsTheNewSerial(t *testing.T) {
	f, old := startWWW(t)
	run := &counting{Runner: f.exec}
	n := f.open(nginx.Config{Run: run})
	wantState(t, n.Verify(t.Context(), []nginx.Want{{Name: www, Names: []string{www}, Leaf: old.leaf}}), nginx.Current, old.leaf)

	next := fresh(www)
	f.put(www, "2", next)
	r := n.Apply(t.Context(), one(2))
	wantState(t, r.Served, nginx.Current, next.leaf)
	o := r.Outcomes[0]
	if !o.Installed || !o.Used || o.Previous != "1" || o.Reason != "" || !r.Reloaded || len(r.Problems) != 0 {
		t.Errorf("the report is %+v", r)
	}
	var steps []string
	for _, s := range r.Steps {
		steps = append(steps, s.Name)
	}
	if got := strings.Join(steps, " "); got != "validate baseline switch test reload confirm" {
		t.Errorf("the steps were %s", got)
	}

	r = n.Apply(t.Context(), one(2))
	wantState(t, r.Served, nginx.Current, next.leaf)
	if run.reloads != 1 || r.Reloaded {
		t.Errorf("the same again reloaded: %d reloads, %+v", run.reloads, r)
	}
	// A new process knows nothing, and nginx serves what it should: no reason to disturb it.
	run.reloads = 0
	if r = f.open(nginx.Config{Run: run}).Apply(t.Context(), one(2)); run.reloads != 0 {
		t.Errorf("a restart of the agent reloaded nginx: %+v", r)
	}
	wantState(t, n.Verify(t.Context(), []nginx.Want{{Name: www, Names: []string{www}, Leaf: old.leaf}}), nginx.Stale, next.leaf)
}

func TestTwoSwapsWithinASecondAreBothServed(t *testing.T) {
	f, _ := startWWW(t)
	n := f.open(nginx.Config{})
	for _, generation := range []int{2, 3} {
		p := fresh(www)
		f.put(www, string(rune('0'+generation)), p)
		wantState(t, n.Apply(t.Context(), one(generation)).Served, nginx.Current, p.leaf)
	}
}

func TestCrashBetweenSwitchAndReloadIsHealed(t *testing.T) {
	f, _ := startWWW(t)
	next := fresh(www)
	f.install(www, "2", next) // the link is switched, nginx was never told
	r := f.open(nginx.Config{}).Apply(t.Context(), one(2))
	wantState(t, r.Served, nginx.Current, next.leaf)
	if !r.Reloaded {
		t.Error("nothing was reloaded")
	}
}

func TestABrokenConfigurationIsNotOurFault(t *testing.T) {
	f, old := startWWW(t)
	f.configure("server { listen PORT0 ssl; no_such_directive; }")
	f.put(www, "2", fresh(www))
	run := &counting{Runner: f.exec}
	n := f.open(nginx.Config{Run: run, Verify: f.ports})
	r := n.Apply(t.Context(), one(2))
	if codes(r) != "nginx-test-failed" || !strings.Contains(r.Problems[0].Text, `unknown directive "no_such_directive" in `+f.exec.ConfigFile) {
		t.Errorf("the problems are %+v", r.Problems)
	}
	if !r.Outcomes[0].Installed || f.link(www) != "2" || run.reloads != 0 {
		t.Errorf("not installed, or reloaded: %+v", r)
	}
	wantState(t, n.Verify(t.Context(), []nginx.Want{{Name: www, Names: []string{www}, Leaf: old.leaf}}), nginx.Current, old.leaf)
}

func TestABrokenConfigurationThatTheCertificateCures(t *testing.T) {
	f, _ := startWWW(t)
	f.must(os.Remove(filepath.Join(f.dir, "archive", www, "1", "privkey.pem")))
	next := fresh(www)
	f.put(www, "2", next)
	r := f.open(nginx.Config{}).Apply(t.Context(), one(2))
	wantState(t, r.Served, nginx.Current, next.leaf)
	if len(r.Problems) != 0 {
		t.Errorf("problems: %+v", r.Problems)
	}
}

// refused writes a generation whose pair is good. nginx also reads chain.pem, and finds out that it is rubbish.
func refused(f *node, name, generation string) {
	f.Helper()
	f.put(name, generation, fresh(name))
	f.must(f.store.WriteFile("archive/"+name+"/"+generation+"/chain.pem", []byte("rubbish"), 0o644))
}

// stapled also reads the chain of a certificate.
func stapled(listen, name string) string {
	return strings.Replace(tlsServer(listen, name, name), "}", "ssl_trusted_certificate STORE/live/"+name+"/chain.pem; }", 1)
}

func TestWhatNginxRefusesIsPutBackAndNotTriedAgain(t *testing.T) {
	old := fresh(www)
	f := start(t, 1, stapled("PORT0 ssl", www), func(f *node) {
		f.install(www, "1", old)
		f.must(f.store.WriteFile("archive/"+www+"/1/chain.pem", certPEM(authority().cert), 0o644))
	})
	tests := 0
	run := &counting{Runner: f.exec, before: func() { tests++ }}
	n := f.open(nginx.Config{Run: run})
	refused(f, www, "2")
	r := n.Apply(t.Context(), one(2))
	o := r.Outcomes[0]
	if o.Installed || !o.RolledBack || o.Previous != "1" || !strings.Contains(o.Reason, "[emerg]") || !strings.Contains(o.Reason, "chain.pem") {
		t.Errorf("the outcome is %+v", o)
	}
	if f.link(www) != "1" || codes(r) != "nginx-test-failed" || run.reloads != 0 || tests != 3 {
		t.Errorf("link %s, problems %+v, %d reloads, %d tests", f.link(www), r.Problems, run.reloads, tests)
	}
	wantState(t, n.Verify(t.Context(), []nginx.Want{{Name: www, Names: []string{www}, Leaf: old.leaf}}), nginx.Current, old.leaf)

	tests = 0
	again := n.Apply(t.Context(), one(2))
	if got := again.Outcomes[0]; got.Installed || got.Reason != o.Reason || codes(again) != "nginx-test-failed" || tests > 1 || f.link(www) != "1" {
		t.Errorf("the second time: %+v after %d tests", again, tests)
	}
	// Somebody has mended it. What is in place already is not refused, and Force tries again.
	f.must(f.store.WriteFile("archive/"+www+"/2/chain.pem", certPEM(authority().cert), 0o644))
	f.must(f.store.ReplaceSymlink("live/"+www, "../archive/"+www+"/2"))
	if r := n.Apply(t.Context(), one(2)); !r.Outcomes[0].Installed || len(r.Problems) != 0 {
		t.Errorf("put in place by hand: %+v", r)
	}
	f.must(f.store.ReplaceSymlink("live/"+www, "../archive/"+www+"/1"))
	forced := one(2)
	forced[0].Force = true
	if r := n.Apply(t.Context(), forced); !r.Outcomes[0].Installed || len(r.Problems) != 0 {
		t.Errorf("forced: %+v", r)
	}
	if r := n.Apply(t.Context(), one(2)); len(r.Problems) != 0 {
		t.Errorf("it is still remembered as bad: %+v", r)
	}
}

func TestOneBadCertificateDoesNotHoldUpTheOthers(t *testing.T) {
	f := start(t, 1, stapled("PORT0 ssl", "a.example")+stapled("PORT0 ssl", "b.example"), func(f *node) {
		for _, name := range []string{"a.example", "b.example"} {
			f.install(name, "1", fresh(name))
			f.must(f.store.WriteFile("archive/"+name+"/1/chain.pem", certPEM(authority().cert), 0o644))
		}
	})
	good := fresh("b.example")
	f.put("b.example", "2", good)
	f.must(f.store.WriteFile("archive/b.example/2/chain.pem", certPEM(authority().cert), 0o644))
	refused(f, "a.example", "2")
	r := f.open(nginx.Config{}).Apply(t.Context(), []nginx.Install{
		{Name: "a.example", Names: []string{"a.example"}, Generation: 2}, {Name: "b.example", Names: []string{"b.example"}, Generation: 2}})
	if a, b := r.Outcomes[0], r.Outcomes[1]; a.Installed || !a.RolledBack || !b.Installed || b.RolledBack || f.link("a.example") != "1" || f.link("b.example") != "2" {
		t.Errorf("outcomes %+v", r.Outcomes)
	}
	wantState(t, r.Served, nginx.Current, good.leaf)
}

func TestSomebodyElseBreaksTheConfigurationMeanwhile(t *testing.T) {
	f, _ := startWWW(t)
	f.put(www, "2", fresh(www))
	run := &counting{Runner: f.exec}
	run.before = func() {
		if f.link(www) == "2" {
			f.configure("no_such_directive;")
		}
	}
	n := f.open(nginx.Config{Run: run})
	r := n.Apply(t.Context(), one(2))
	if o := r.Outcomes[0]; o.Installed || !o.RolledBack || !strings.Contains(o.Reason, "somebody else") {
		t.Errorf("the outcome is %+v", o)
	}
	run.before = nil
	f.configure(tlsServer("PORT0 ssl", www, www))
	if r := n.Apply(t.Context(), one(2)); !r.Outcomes[0].Installed {
		t.Errorf("the generation was blamed: %+v", r)
	}
}

func TestStoppingBeforeTheVerdictUndoesTheSwitch(t *testing.T) {
	f, _ := startWWW(t)
	f.put(www, "2", fresh(www))
	ctx, cancel := context.WithCancel(t.Context())
	run := &counting{Runner: f.exec}
	run.before = func() {
		if f.link(www) == "2" {
			cancel()
		}
	}
	n := f.open(nginx.Config{Run: run})
	if o := n.Apply(ctx, one(2)).Outcomes[0]; o.Installed || !o.RolledBack || f.link(www) != "1" {
		t.Errorf("the outcome is %+v", o)
	}
	run.before = nil
	if o := n.Apply(t.Context(), one(2)).Outcomes[0]; !o.Installed {
		t.Errorf("it is not tried again: %+v", o)
	}
}

func TestBadPairsAreNotTouched(t *testing.T) {
	f, old := startWWW(t)
	other, expired := fresh(www), issue("ecdsa", time.Now().Add(-time.Hour), www)
	good := fresh(www)
	for generation, c := range map[int]struct {
		pair
		names []string
		say   string
	}{
		2: {pair{fullchain: good.fullchain, privkey: other.privkey}, []string{www}, "the private key belongs to another certificate"},
		3: {expired, []string{www}, "expired at"},
		4: {good, []string{www, "shop.example.com"}, "is not for shop.example.com, only for " + www},
		5: {pair{fullchain: append(certPEM(good.leaf), certPEM(old.leaf)...), privkey: good.privkey}, []string{www}, "out of order"},
		6: {pair{fullchain: good.fullchain[:100], privkey: good.privkey}, []string{www}, "holds no certificate"},
		7: {pair{fullchain: good.fullchain, privkey: good.privkey[:100]}, []string{www}, "holds no private key"},
		8: {good, []string{"*.example.com"}, "is not for *.example.com"},
	} {
		f.put(www, string(rune('0'+generation)), c.pair)
		install := one(generation)
		install[0].Names = c.names
		r := f.open(nginx.Config{}).Apply(t.Context(), install)
		if o := r.Outcomes[0]; o.Installed || !strings.Contains(o.Reason, c.say) || codes(r) != "chain-refused" {
			t.Errorf("generation %d should be refused with %q: %+v", generation, c.say, r)
		}
	}
	r := f.open(nginx.Config{}).Apply(t.Context(), one(9))
	if o := r.Outcomes[0]; o.Installed || !strings.Contains(o.Reason, "archive/"+www+"/9") || codes(r) != "chain-refused" {
		t.Errorf("a generation that is not there: %+v", r)
	}
	for _, name := range []string{"", "..", "a/b"} {
		if r := f.open(nginx.Config{}).Apply(t.Context(), []nginx.Install{{Name: name, Generation: 1}}); r.Outcomes[0].Installed || codes(r) != "chain-refused" {
			t.Errorf("the name %q: %+v", name, r)
		}
	}
	if f.link(www) != "1" {
		t.Errorf("the link leads to %s", f.link(www))
	}
}

func TestALinkThatIsNotOursStays(t *testing.T) {
	f, _ := newNode(t, 0)
	f.must(f.store.WriteFile("live/"+www+"/fullchain.pem", []byte("certbot's"), 0o644))
	f.put(www, "1", fresh(www))
	r := f.open(nginx.Config{Disabled: true}).Apply(t.Context(), one(1))
	if codes(r) != "write-failed" || r.Outcomes[0].Installed {
		t.Errorf("%+v", r)
	}
}

func TestNginxThatIsDownIsNoError(t *testing.T) {
	f, sockets := newNode(t, 1)
	f.must(sockets[0].Close())
	f.configure(tlsServer("PORT0 ssl", www, www))
	f.put(www, "1", fresh(www))
	for name, pid := range map[string]string{"no pid file": "", "an empty pid file": "\n", "the pid of somebody else": strconv.Itoa(os.Getpid())} {
		if pid != "" {
			f.must(os.WriteFile(filepath.Join(f.prefix, "nginx.pid"), []byte(pid), 0o644))
		}
		run := &counting{Runner: f.exec}
		run.before = func() { t.Errorf("%s: nginx was run", name) }
		r := f.open(nginx.Config{Run: run}).Apply(t.Context(), one(1))
		if codes(r) != "nginx-down" || !r.Outcomes[0].Installed || f.link(www) != "1" || run.reloads != 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if _, err := os.Stat(filepath.Join(f.prefix, "error.log")); err == nil {
		t.Error("nginx was run: it made a log file")
	}
	leaf := fresh(www).leaf
	n := f.open(nginx.Config{})
	wantState(t, n.Verify(t.Context(), []nginx.Want{{Name: www, Names: []string{www}, Leaf: leaf}}), nginx.Unreachable, nil)
}

func TestDisabledInstallsAndDoesNothingElse(t *testing.T) {
	f, _ := newNode(t, 0)
	f.put(www, "1", fresh(www))
	n := nginx.New(nginx.Config{Disabled: true, Store: f.store})
	r := n.Apply(t.Context(), one(1))
	if !r.Outcomes[0].Installed || len(r.Problems) != 0 || f.link(www) != "1" {
		t.Errorf("%+v", r)
	}
	if served := n.Verify(t.Context(), []nginx.Want{{Name: www}}); served != nil {
		t.Errorf("it was looked at: %+v", served)
	}
}

func TestACertificateThatNoServerUsesIsInstalledAndNotAnError(t *testing.T) {
	f, _ := startWWW(t)
	f.put("mail.example.com", "1", fresh("mail.example.com"))
	r := f.open(nginx.Config{Verify: f.ports}).Apply(t.Context(), []nginx.Install{{Name: "mail.example.com", Generation: 1}})
	if o := r.Outcomes[0]; !o.Installed || o.Used || r.Reloaded || len(r.Problems) != 0 || len(r.Served) != 0 {
		t.Errorf("%+v", r)
	}
}

func TestBothHalvesOfAPairAreInstalledAndAskedFor(t *testing.T) {
	conf := "server { listen PORT0 ssl; server_name " + www + "; ssl_protocols %; " +
		"ssl_certificate STORE/live/NAME/fullchain.pem; ssl_certificate_key STORE/live/NAME/privkey.pem; " +
		"ssl_certificate STORE/live/NAME-rsa/fullchain.pem; ssl_certificate_key STORE/live/NAME-rsa/privkey.pem; }"
	conf = strings.ReplaceAll(conf, "NAME", www)
	day := time.Now().Add(24 * time.Hour)
	f := start(t, 1, strings.Replace(conf, "%", "TLSv1.2 TLSv1.3", 1), func(f *node) {
		f.install(www, "1", issue("ecdsa", day, www))
		f.install(www+"-rsa", "1", issue("rsa", day, www))
	})
	ecdsa, rsa := issue("ecdsa", day, www), issue("rsa", day, www)
	f.put(www, "2", ecdsa)
	f.put(www+"-rsa", "2", rsa)
	n := f.open(nginx.Config{})
	both := []nginx.Install{{Name: www, Names: []string{www}, Generation: 2}, {Name: www + "-rsa", Names: []string{www}, Generation: 2}}
	r := n.Apply(t.Context(), both)
	wantState(t, r.Served, nginx.Current, nil)
	if len(r.Served) != 2 || r.Served[0].KeyType != "ecdsa" || r.Served[0].Serial != ecdsa.leaf.SerialNumber.Text(16) ||
		r.Served[1].KeyType != "rsa" || r.Served[1].Serial != rsa.leaf.SerialNumber.Text(16) {
		t.Errorf("served %+v", r.Served)
	}

	// Without TLS 1.2 only one of the two can be seen: the other is not called stale.
	f.configure(strings.Replace(conf, "%", "TLSv1.3", 1))
	r = n.Apply(t.Context(), both)
	states := map[nginx.State]int{}
	for _, s := range r.Served {
		states[s.State]++
	}
	if states[nginx.Current] != 1 || states[nginx.Unverified] != 1 || len(r.Problems) != 0 {
		t.Errorf("served %+v", r.Served)
	}
}

func TestAnOldCertificateOfAnotherKeyTypeIsStale(t *testing.T) {
	f := start(t, 1, tlsServer("PORT0 ssl", www, www), func(f *node) {
		f.install(www, "1", issue("rsa", time.Now().Add(time.Hour), www))
	})
	served := f.open(nginx.Config{}).Verify(t.Context(), []nginx.Want{{Name: www, Names: []string{www}, Leaf: fresh(www).leaf}})
	wantState(t, served, nginx.Stale, nil)
}

func TestANameThatLeadsToAnotherServerIsStale(t *testing.T) {
	mine, other := fresh(www), fresh("other.example")
	f := start(t, 1, tlsServer("PORT0 ssl default_server", "other.example", "other")+tlsServer("PORT0 ssl", "typo.example.com", www), func(f *node) {
		f.install(www, "1", mine)
		f.install("other", "1", other)
	})
	n := f.open(nginx.Config{})
	wantState(t, n.Verify(t.Context(), []nginx.Want{{Name: www, Names: []string{www}, Leaf: mine.leaf}}), nginx.Stale, other.leaf)
	wantState(t, n.Verify(t.Context(), []nginx.Want{{Name: "other", Names: []string{"other.example"}, Leaf: other.leaf}}), nginx.Current, other.leaf)
}

func TestANameThatAnotherCertificateServesHereIsNotAskedFor(t *testing.T) {
	both, other := fresh(www, "other.example"), fresh("other.example")
	f := start(t, 1, tlsServer("PORT0 ssl", www, www)+tlsServer("PORT0 ssl", "other.example", "other"), func(f *node) {
		f.install(www, "1", both)
		f.install("other", "1", other)
	})
	want := []nginx.Want{{Name: www, Names: []string{www, "other.example", "elsewhere.example"}, Leaf: both.leaf}}
	for _, verify := range [][]string{nil, f.ports} {
		wantState(t, f.open(nginx.Config{Verify: verify}).Verify(t.Context(), want), nginx.Current, both.leaf)
	}
}

func TestARejectedHandshakeIsStale(t *testing.T) {
	f := start(t, 1, "server { listen PORT0 ssl default_server; ssl_reject_handshake on; }\n"+tlsServer("PORT0 ssl", "typo.example.com", www), func(f *node) {
		f.install(www, "1", fresh(www))
	})
	served := f.open(nginx.Config{}).Verify(t.Context(), []nginx.Want{{Name: www, Names: []string{www}, Leaf: fresh(www).leaf}})
	wantState(t, served, nginx.Stale, nil)
	if !strings.Contains(served[0].Detail, "ssl_reject_handshake") {
		t.Errorf("the reason is %q", served[0].Detail)
	}
}

func TestProxyProtocolAndUnixListeners(t *testing.T) {
	p := fresh(www)
	f := start(t, 2, tlsServer("PORT0 ssl proxy_protocol; listen PORT1 ssl; listen unix:STORE/../tls.sock ssl", www, www), func(f *node) { f.install(www, "1", p) })
	served := f.open(nginx.Config{}).Verify(t.Context(), []nginx.Want{{Name: www, Names: []string{www}, Leaf: p.leaf}})
	wantState(t, served, nginx.Current, p.leaf)
	if len(served) != 3 {
		t.Errorf("served %+v", served)
	}
	given := f.open(nginx.Config{Verify: []string{f.ports[0], "unix:" + f.dir + "/../tls.sock"}})
	wantState(t, given.Verify(t.Context(), []nginx.Want{{Name: www, Names: []string{www}, Leaf: p.leaf}}), nginx.Current, p.leaf)
}

func TestFilesThatOthersChangedAreReloadedOnce(t *testing.T) {
	// A flat layout, below it certbot's: nothing of it is ours.
	f := start(t, 1, "server { listen PORT0 ssl; server_name "+www+"; ssl_certificate STORE/www.crt; ssl_certificate_key STORE/www.key; }", func(f *node) {
		p := fresh(www)
		f.must(f.store.WriteFile("www.crt", p.fullchain, 0o644))
		f.must(f.store.WriteFile("www.key", p.privkey, 0o600))
	})
	run := &counting{Runner: f.exec}
	n := f.open(nginx.Config{Run: run})
	n.Apply(t.Context(), nil)
	p := fresh(www)
	f.must(f.store.WriteFile("www.crt", p.fullchain, 0o644))
	f.must(f.store.WriteFile("www.key", p.privkey, 0o600))
	before := run.reloads
	for range 2 {
		r := n.Apply(t.Context(), nil)
		wantState(t, r.Served, nginx.Current, p.leaf)
		if len(r.Problems) != 0 || r.Served[0].Name != f.dir+"/www.crt" {
			t.Errorf("%+v", r)
		}
	}
	if run.reloads != before+1 {
		t.Errorf("%d reloads for one change", run.reloads-before)
	}
}

func TestAFlatLayoutIsFollowedIntoLive(t *testing.T) {
	f := start(t, 1, "server { listen PORT0 ssl; server_name "+www+"; ssl_certificate STORE/www.crt; ssl_certificate_key STORE/www.key; }", func(f *node) {
		f.install(www, "1", fresh(www))
		f.must(f.store.ReplaceSymlink("www.crt", "live/"+www+"/fullchain.pem"))
		f.must(f.store.ReplaceSymlink("www.key", "live/"+www+"/privkey.pem"))
	})
	p := fresh(www)
	f.put(www, "2", p)
	r := f.open(nginx.Config{}).Apply(t.Context(), one(2))
	wantState(t, r.Served, nginx.Current, p.leaf)
	if !r.Outcomes[0].Used {
		t.Errorf("%+v", r.Outcomes)
	}
}

func TestAPlaceholderLetsNginxStartAndGivesWay(t *testing.T) {
	f := start(t, 1, tlsServer("PORT0 ssl", www, www), func(f *node) {
		if placed := f.ensure(nginx.Placeholder{}); !placed.Made || placed.Warn != nil {
			f.Fatalf("%+v", placed)
		}
	})
	conn, err := tls.Dial("tcp", f.ports[0], &tls.Config{ServerName: www, InsecureSkipVerify: true})
	f.must(err)
	if leaf := conn.ConnectionState().PeerCertificates[0]; !nginx.IsPlaceholder(leaf) {
		t.Errorf("nginx serves %s", leaf.Subject)
	}
	f.must(conn.Close())
	p := fresh(www)
	f.put(www, "1", p)
	r := f.open(nginx.Config{}).Apply(t.Context(), one(1))
	wantState(t, r.Served, nginx.Current, p.leaf)
	if r.Outcomes[0].Previous != nginx.PlaceholderGeneration {
		t.Errorf("previous is %q", r.Outcomes[0].Previous)
	}
}
