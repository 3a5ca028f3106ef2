package nginx_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certswarm/internal/durable"
	"certswarm/nginx"
)

var asItIs = durable.AsItIs

// ensure makes a placeholder for www without anything that could displace a directory.
func (f *node) ensure(p nginx.Placeholder) nginx.Placed {
	f.Helper()
	if p.Name == "" {
		p.Name, p.Owner = www, asItIs
	}
	if p.Names == nil {
		p.Names = []string{www}
	}
	placed, err := nginx.EnsurePlaceholder(f.store, p)
	f.must(err)
	return placed
}

func TestPlaceholderIsMadeOnce(t *testing.T) {
	f, _ := newNode(t, 0)
	dir := filepath.Join(f.dir, "archive", www, "placeholder")
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		f.must(err)
		return string(data)
	}
	names := nginx.Placeholder{Names: []string{www, "*.example.com", "192.0.2.1"}}
	if !f.ensure(names).Made {
		t.Fatal("not made")
	}
	chain, key := read("fullchain.pem"), read("privkey.pem")
	if read("cert.pem") != chain || read("chain.pem") != chain {
		t.Error("cert.pem and chain.pem should be the one certificate there is")
	}
	if info, err := os.Stat(filepath.Join(dir, "privkey.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", info.Mode(), err)
	}

	if placed := f.ensure(names); placed.Made || placed.Broken != nil {
		t.Errorf("the second time: %+v", placed)
	}
	// A crash before the link: what is there is used.
	f.must(os.Remove(filepath.Join(f.dir, "live", www)))
	if placed := f.ensure(names); !placed.Made || read("privkey.pem") != key {
		t.Errorf("after a crash before the link: %+v", placed)
	}
	f.must(os.WriteFile(filepath.Join(dir, "replaced-20261122T000000.000Z"), nil, 0o600))
	// A crash between the files, whether the link is there or not: they do not belong together, and are made again.
	for _, linked := range []bool{false, true} {
		if !linked {
			f.must(os.Remove(filepath.Join(f.dir, "live", www)))
		}
		chain = read("fullchain.pem")
		f.must(os.WriteFile(filepath.Join(dir, "privkey.pem"), fresh(www).privkey, 0o600))
		if placed := f.ensure(names); !placed.Made || read("fullchain.pem") == chain || len(placed.Others) > 0 {
			t.Errorf("after a crash between the files, linked: %v: %+v", linked, placed)
		}
	}
	// What it stands in for has another kind of key by now.
	placed := f.ensure(nginx.Placeholder{RSA: true})
	pair, err := tls.X509KeyPair([]byte(read("fullchain.pem")), []byte(read("privkey.pem")))
	if !placed.Made || err != nil || pair.Leaf.PublicKeyAlgorithm != x509.RSA {
		t.Errorf("for an RSA certificate: %+v, %v", placed, err)
	}
}

// brought is what may stand at live/NAME: files by their names in it, "" being live/NAME itself. "-> " makes a link, "/" a directory.
type brought map[string]string

func (f *node) bring(what brought) {
	for name, content := range what {
		place := filepath.Join(f.dir, "live", www, name)
		f.must(os.MkdirAll(filepath.Dir(place), 0o755))
		target, link := strings.CutPrefix(content, "-> ")
		switch {
		case link:
			f.must(os.Symlink(target, place))
		case content == "/":
			f.must(os.Mkdir(place, 0o755))
		default:
			f.must(os.WriteFile(place, []byte(content), 0o600))
		}
	}
}

// What this program says of a pair is what nginx says, and only what cannot be loaded makes way.
func TestWhatNginxCannotLoadMakesWayForAPlaceholder(t *testing.T) {
	good, other, late := fresh(www), fresh(www), issue("ecdsa", time.Now().Add(-time.Hour), "other.example.com")
	chain, key := string(good.fullchain), string(good.privkey)
	der, _ := pem.Decode(good.privkey)
	pkcs8 := string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der.Bytes}))
	legacy := string(pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte("no DER"),
	}))
	for name, c := range map[string]struct {
		there  brought
		loads  bool   // nginx does
		untold bool   // only nginx knows
		why    string // it does not
		others string
		kept   string // where a link led; "a file" for a copy
	}{
		"good":                         {there: brought{"fullchain.pem": chain, "privkey.pem": key}, loads: true},
		"expired, and for other names": {there: brought{"fullchain.pem": string(late.fullchain), "privkey.pem": string(late.privkey)}, loads: true},
		"good, with more in it":        {there: brought{"fullchain.pem": chain, "privkey.pem": key, "dhparam.pem": "x"}, loads: true},
		"good, by links":               {there: brought{"fullchain.pem": "-> ../../f.pem", "privkey.pem": "-> ../../k.pem", "../../f.pem": chain, "../../k.pem": key}, loads: true},
		"a link to a good one":         {there: brought{"": "-> ../elsewhere", "../../elsewhere/fullchain.pem": chain, "../../elsewhere/privkey.pem": key}, loads: true},
		"encrypted":                    {there: brought{"fullchain.pem": chain, "privkey.pem": pkcs8}, untold: true},
		"encrypted as of old":          {there: brought{"fullchain.pem": chain, "privkey.pem": legacy}, untold: true},
		"empty":                        {there: brought{"": "/"}, why: "no such file"},
		"no key":                       {there: brought{"fullchain.pem": chain, "README": "x"}, why: "privkey.pem: no such file"},
		"no chain":                     {there: brought{"privkey.pem": key, "cert.pem": chain, "chain.pem": chain}, why: "fullchain.pem: no such file"},
		"the key of another":           {there: brought{"fullchain.pem": chain, "privkey.pem": string(other.privkey)}, why: "belongs to another certificate"},
		"cut off":                      {there: brought{"fullchain.pem": chain[:len(chain)-100], "privkey.pem": key}, why: "is cut off"},
		"a key that is cut off":        {there: brought{"fullchain.pem": chain, "privkey.pem": key[:100]}, why: "no private key in it"},
		"zeros":                        {there: brought{"fullchain.pem": strings.Repeat("\x00", len(chain)), "privkey.pem": key}, why: "no certificate in it"},
		"damaged":                      {there: brought{"fullchain.pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "privkey.pem": key}, why: "a certificate in it is damaged"},
		"links to nothing":             {there: brought{"fullchain.pem": "-> ../../gone/f.pem", "privkey.pem": "-> ../../gone/k.pem"}, why: "no such file"},
		"a link to nothing":            {there: brought{"": "-> ../archive/" + www + "/7"}, why: "no such file", kept: "../archive/" + www + "/7"},
		"a link to itself":             {there: brought{"": "-> " + www}, why: "too many levels", kept: www},
		"a file":                       {there: brought{"": "hello"}, why: "not a directory", kept: "a file"},
		"in use under other names":     {there: brought{"privkey.pem": key, "site.crt": chain, "site.key": key}, why: "no such file", others: "site.crt site.key"},
		"a link to what may be in use": {there: brought{"": "-> ../elsewhere", "../../elsewhere/site.crt": chain}, why: "no such file", others: "site.crt"},
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := newNode(t, 0)
			live := filepath.Join(f.dir, "live", www)
			f.must(os.Mkdir(filepath.Dir(live), 0o755))
			f.bring(c.there)
			f.configure(tlsServer("127.0.0.1:1 ssl", www, www))
			if _, err := f.exec.Test(t.Context()); (err == nil) != c.loads && !c.untold {
				t.Fatalf("nginx says: %v", err)
			}
			leaf, err := nginx.Loads(live)
			if (leaf != nil) != c.loads || (err == nil) != (c.loads || c.untold) || err != nil && !strings.Contains(err.Error(), c.why) {
				t.Errorf("loads: %v, %v", leaf != nil, err)
			}
			displaced := ""
			placed := f.ensure(nginx.Placeholder{Name: www, Owner: asItIs, Displace: func(target string) error {
				displaced = target
				return errors.Join(os.RemoveAll(live), os.Symlink(target, live))
			}})
			stays := c.loads || c.untold || c.others != ""
			if placed.Made == stays || (placed.Broken == nil) != (c.loads || c.untold) || strings.Join(placed.Others, " ") != c.others {
				t.Errorf("%+v", placed)
			}
			itself, alone := c.there[""]
			if wantDisplaced := !stays && (!alone || itself == "/"); (displaced == "../archive/"+www+"/placeholder") != wantDisplaced {
				t.Errorf("displaced for %q", displaced)
			}
			switch text, err := os.ReadFile(placed.Kept); {
			case c.kept == "a file" && (err != nil || string(text) != "hello" || filepath.Dir(placed.Kept) != filepath.Join(f.dir, "archive", www, "placeholder")):
				t.Errorf("the file is kept as %q: %q, %v", placed.Kept, text, err)
			case c.kept != "a file" && placed.Kept != c.kept:
				t.Errorf("kept %q", placed.Kept)
			}
			if stays {
				return
			}
			if _, err := f.exec.Test(t.Context()); err != nil || f.link(www) != "placeholder" {
				t.Errorf("with the placeholder: %s, %v", f.link(www), err)
			}
			if again := f.ensure(nginx.Placeholder{}); again.Made || again.Broken != nil {
				t.Errorf("the next time: %+v", again)
			}
		})
	}
	if nginx.IsPlaceholder(good.leaf) {
		t.Error("an issued certificate is called a placeholder")
	}
}

// What the fleet wishes comes before a placeholder where it is here, and before whatever directory stands there.
func TestTheWishedGenerationComesBeforeAPlaceholder(t *testing.T) {
	for name, there := range map[string]brought{
		"nothing": nil, "a link to nothing": {"": "-> ../archive/gone"}, "a file": {"": "hello"},
		"a broken directory in use": {"site.crt": "x"},
		"a good directory":          {"fullchain.pem": string(fresh(www).fullchain), "privkey.pem": "x"},
	} {
		f, _ := newNode(t, 0)
		live := filepath.Join(f.dir, "live", www)
		f.must(os.Mkdir(filepath.Dir(live), 0o755))
		f.bring(there)
		f.put(www, "3", fresh(www))
		displace := func(target string) error { return errors.Join(os.RemoveAll(live), os.Symlink(target, live)) }
		if placed := f.ensure(nginx.Placeholder{Name: www, Owner: asItIs, Generation: 3, Displace: displace}); !placed.Made || f.link(www) != "3" {
			t.Errorf("%s: %+v, %s", name, placed, f.link(www))
		}
		// What is wished and not whole is no help.
		f.must(os.Remove(filepath.Join(f.dir, "archive", www, "3", "privkey.pem")))
		if f.ensure(nginx.Placeholder{Name: www, Owner: asItIs, Generation: 3, Displace: displace}); f.link(www) != "placeholder" {
			t.Errorf("%s: without its key live/%s leads to %s", name, www, f.link(www))
		}
	}
	// A link to what can be loaded is for Apply to switch, which asks nginx first.
	f, _ := newNode(t, 0)
	f.install(www, "2", fresh(www))
	f.put(www, "3", fresh(www))
	if placed := f.ensure(nginx.Placeholder{Name: www, Owner: asItIs, Generation: 3}); placed.Made || f.link(www) != "2" {
		t.Errorf("%+v, %s", placed, f.link(www))
	}
}

// A placeholder that would hide a certificate in force is a copy of it, and follows it.
func TestAPlaceholderDoesNotHideWhatIsInForce(t *testing.T) {
	const half = www + "-rsa"
	f, _ := newNode(t, 0)
	p := nginx.Placeholder{Name: half, RSA: true, Owner: asItIs}
	p.Names = []string{www}
	f.ensure(p) // was there before
	served := func() *x509.Certificate {
		pair, err := tls.LoadX509KeyPair(filepath.Join(f.dir, "live", half, "fullchain.pem"), filepath.Join(f.dir, "live", half, "privkey.pem"))
		f.must(err)
		return pair.Leaf
	}
	p.Like = www
	for generation, life := range map[string]time.Duration{"1": time.Hour, "2": -time.Hour} {
		pair := issue("rsa", time.Now().Add(life), www)
		f.install(www, generation, pair)
		if placed := f.ensure(p); !placed.Made || !served().Equal(pair.leaf) || f.link(half) != "placeholder" {
			t.Errorf("generation %s: %+v, %s", generation, placed, served().Subject)
		}
		if placed := f.ensure(p); placed.Made {
			t.Errorf("generation %s, again: %+v", generation, placed)
		}
	}
	// When that is gone it is self-signed again: the copy has expired.
	f.must(os.Remove(filepath.Join(f.dir, "live", www)))
	f.install(www, "1", issue("rsa", time.Now().Add(-time.Hour), www))
	f.ensure(p)
	p.Like = ""
	if placed := f.ensure(p); !placed.Made || !nginx.IsPlaceholder(served()) {
		t.Errorf("%+v, %s", placed, served().Subject)
	}
}

func TestWhatLeadsNowhere(t *testing.T) {
	for name, c := range map[string]struct {
		there brought
		want  bool
	}{
		"nothing":           {nil, false},
		"half a copy":       {brought{"fullchain.pem": "x"}, false},
		"a link to nothing": {brought{"": "-> ../archive/gone"}, true},
		"links to nothing":  {brought{"fullchain.pem": "x", "privkey.pem": "-> ../../archive/gone/privkey.pem"}, true},
		"links to files":    {brought{"fullchain.pem": "-> ../../x", "privkey.pem": "-> ../../x", "../../x": "x"}, false},
	} {
		f, _ := newNode(t, 0)
		f.must(os.MkdirAll(filepath.Join(f.dir, "live"), 0o755))
		f.bring(c.there)
		if got := nginx.LeadsNowhere(filepath.Join(f.dir, "live", www)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPlaceholderKeyIsReadableByTheGroupOfItsOwner(t *testing.T) {
	f, _ := newNode(t, 0)
	f.ensure(nginx.Placeholder{Name: www, Owner: durable.Owner{UID: -1, GID: os.Getgid()}})
	info, err := os.Stat(filepath.Join(f.dir, "live", www, "privkey.pem"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the key: %v, %v", info.Mode(), err)
	}
}
