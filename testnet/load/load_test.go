package load

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sample(t *testing.T) Tree {
	t.Helper()
	tree, err := Certificates(3)
	must(t, err)
	return tree
}

func TestKeysMatchChainsThatVerify(t *testing.T) {
	tree := sample(t)
	for i := 0; i < len(tree); i += 2 {
		key, chain := tree[i], tree[i+1]
		pair, err := tls.X509KeyPair(chain.Content, key.Content)
		must(t, err)
		roots, issuers := x509.NewCertPool(), x509.NewCertPool()
		for n, pool := range map[int]*x509.CertPool{1: issuers, 2: roots} {
			c, err := x509.ParseCertificate(pair.Certificate[n])
			must(t, err)
			pool.AddCert(c)
		}
		_, err = pair.Leaf.Verify(x509.VerifyOptions{DNSName: filepath.Dir(key.Path), Roots: roots, Intermediates: issuers})
		must(t, err)
	}
}

func TestVerifyFindsEveryDifference(t *testing.T) {
	tree := sample(t)
	for _, c := range []struct {
		name  string
		spoil func(dir string) error
		want  string // part of the error; empty: none
	}{
		{"nothing", func(string) error { return nil }, ""},
		{"the replication's own", func(dir string) error { return os.MkdirAll(filepath.Join(dir, ".own", "file"), 0o755) }, ""},
		{"missing", func(dir string) error { return os.Remove(filepath.Join(dir, tree[3].Path)) }, "lacks " + tree[3].Path},
		{"more", func(dir string) error { return os.WriteFile(filepath.Join(dir, tree[0].Path+".bak"), nil, 0o600) }, "should not be there"},
		{"a temporary", func(dir string) error { _, err := tree[2].prepare(dir); return err }, "should not be there"},
		{"torn", func(dir string) error { return os.Truncate(filepath.Join(dir, tree[1].Path), 5) }, "5 bytes"},
		{"of the same size", func(dir string) error {
			other := File{tree[1].Path, []byte(strings.Repeat("x", len(tree[1].Content))), tree[1].Perm}
			return Tree{other}.Write(dir)
		}, "that are not"},
		{"mode", func(dir string) error { return os.Chmod(filepath.Join(dir, tree[0].Path), 0o644) }, "has mode"},
	} {
		dir := t.TempDir()
		must(t, tree.Write(dir))
		must(t, c.spoil(dir))
		err := tree.Verify(dir)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestWhatIsWrittenLaterIsOverWhatWasThere(t *testing.T) {
	before, after := sample(t), sample(t)[:2]
	dir := t.TempDir()
	must(t, before.Write(dir))
	must(t, after.Write(dir))
	must(t, after.Over(before).Verify(dir))
	if before.Verify(dir) == nil {
		t.Error("nothing was replaced")
	}
}

func TestArrivalsAreAwaitedByName(t *testing.T) {
	tree, dir := sample(t), t.TempDir()
	must(t, tree.Write(dir))
	arrivals, err := Watch(tree.Below(dir)...)
	must(t, err)
	defer arrivals.Close()
	before := time.Now()
	must(t, tree.Write(dir))
	last, strays, err := arrivals.await(t.Context(), tree[2:].Paths(dir))
	must(t, err)
	if last.Before(before) || strays != 2 {
		t.Errorf("the last of them came %v after they were written, and %d others did", last.Sub(before), strays)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := arrivals.Await(ended, []string{"/nowhere"}); err == nil || !strings.Contains(err.Error(), "/nowhere did not arrive") {
		t.Error(err)
	}
}

func TestQuantiles(t *testing.T) {
	var took []time.Duration
	for i := range 100 {
		took = append(took, time.Duration(100-i)) // 100 ... 1
	}
	spread := SpreadOf(took)
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 51, 0.99: 100, 1: 100} {
		if got := spread.At(q); got != want {
			t.Errorf("%v: %d, want %d", q, got, want)
		}
	}
}

func TestWhatAProcessUses(t *testing.T) {
	used, err := cpu(os.Getpid())
	must(t, err)
	later := used
	for later == used { // this loop is what it sees
		later, err = cpu(os.Getpid())
		must(t, err)
	}
	if used <= 0 || later < used {
		t.Errorf("%v, then %v", used, later)
	}
	resident, err := rss(os.Getpid())
	must(t, err)
	if resident < 1 || resident > 1000 {
		t.Errorf("%v MiB", resident)
	}
	const nobody = 1 << 22 // the largest pid_max, which no process reaches
	if _, err := cpu(nobody); err == nil {
		t.Error("nobody has used time")
	}
	if _, err := rss(nobody); err == nil {
		t.Error("nobody is resident")
	}
}
