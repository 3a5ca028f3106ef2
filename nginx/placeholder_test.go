package nginx_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"certswarm/internal/durable"
	"certswarm/nginx"
)

var asItIs = durable.AsItIs

func TestPlaceholderIsMadeOnce(t *testing.T) {
	f, _ := newNode(t, 0)
	dir := filepath.Join(f.dir, "archive", www, "placeholder")
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(f.dir, "live", www, name))
		f.must(err)
		return string(data)
	}
	made, _, err := nginx.EnsurePlaceholder(f.store, nginx.Placeholder{Name: www, Names: []string{www, "*.example.com", "192.0.2.1"}, Owner: asItIs})
	if !made || err != nil {
		t.Fatal(made, err)
	}
	p := nginx.Placeholder{Name: www, Names: []string{www}, Owner: asItIs}
	chain, key := read("fullchain.pem"), read("privkey.pem")
	if read("cert.pem") != chain || read("chain.pem") != chain {
		t.Error("cert.pem and chain.pem should be the one certificate there is")
	}
	if info, err := os.Stat(filepath.Join(dir, "privkey.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", info.Mode(), err)
	}

	if made, _, err := nginx.EnsurePlaceholder(f.store, p); made || err != nil {
		t.Errorf("the second time: %v, %v", made, err)
	}
	// A crash before the link: what is there is used.
	f.must(os.Remove(filepath.Join(f.dir, "live", www)))
	if made, _, err := nginx.EnsurePlaceholder(f.store, p); !made || err != nil || read("privkey.pem") != key {
		t.Errorf("after a crash before the link: %v, %v", made, err)
	}
	// A crash between the files: they do not belong together, and are made again.
	f.must(os.Remove(filepath.Join(f.dir, "live", www)))
	f.must(os.WriteFile(filepath.Join(dir, "privkey.pem"), fresh(www).privkey, 0o600))
	if made, _, err := nginx.EnsurePlaceholder(f.store, p); !made || err != nil || read("fullchain.pem") == chain {
		t.Errorf("after a crash between the files: %v, %v", made, err)
	}
	// What it stands in for has another kind of key by now.
	f.must(os.Remove(filepath.Join(f.dir, "live", www)))
	p.RSA = true
	made, _, err = nginx.EnsurePlaceholder(f.store, p)
	pair, pairErr := tls.X509KeyPair([]byte(read("fullchain.pem")), []byte(read("privkey.pem")))
	if !made || err != nil || pairErr != nil || pair.Leaf.PublicKeyAlgorithm != x509.RSA {
		t.Errorf("for an RSA certificate: %v, %v, %v", made, err, pairErr)
	}
}

func TestPlaceholderNeverReplacesAnything(t *testing.T) {
	f, _ := newNode(t, 0)
	f.must(f.store.WriteFile("live/dir/fullchain.pem", nil, 0o644))
	f.must(f.store.ReplaceSymlink("live/dangling", "../archive/dangling/7"))
	for _, name := range []string{"dir", "dangling"} {
		if made, _, err := nginx.EnsurePlaceholder(f.store, nginx.Placeholder{Name: name, Names: []string{www}, Owner: asItIs}); made || err != nil {
			t.Errorf("%s: %v, %v", name, made, err)
		}
	}
	if nginx.IsPlaceholder(fresh(www).leaf) {
		t.Error("an issued certificate is called a placeholder")
	}
}

func TestPlaceholderKeyIsReadableByTheGroupOfItsOwner(t *testing.T) {
	f, _ := newNode(t, 0)
	if _, _, err := nginx.EnsurePlaceholder(f.store, nginx.Placeholder{Name: www, Names: []string{www}, Owner: durable.Owner{UID: -1, GID: os.Getgid()}}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(f.dir, "live", www, "privkey.pem"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the key: %v, %v", info.Mode(), err)
	}
}
