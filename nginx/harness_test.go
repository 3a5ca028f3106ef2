package nginx_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/need"
	"certswarm/nginx"
)

// authority is one test CA for all tests.
var authority = sync.OnceValue(func() (ca struct {
	cert *x509.Certificate
	key  crypto.Signer
}) {
	ca.key, ca.cert = sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
	}, newKey("ecdsa"), nil, nil)
	return ca
})

var serials atomic.Int64

func newKey(kind string) crypto.Signer {
	var key crypto.Signer
	var err error
	if kind == "rsa" {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		panic(err)
	}
	return key
}

func sign(template *x509.Certificate, key crypto.Signer, parent *x509.Certificate, parentKey crypto.Signer) (crypto.Signer, *x509.Certificate) {
	template.SerialNumber = big.NewInt(serials.Add(1) + 0xabc000)
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return key, cert
}

// pair is a certificate with its key, as files.
type pair struct {
	leaf               *x509.Certificate
	fullchain, privkey []byte
}

func issue(kind string, notAfter time.Time, names ...string) pair {
	ca := authority()
	key, leaf := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: notAfter.Add(-48 * time.Hour), NotAfter: notAfter,
	}, newKey(kind), ca.cert, ca.key)
	return pair{leaf: leaf, fullchain: append(certPEM(leaf), certPEM(ca.cert)...), privkey: keyPEM(key)}
}

func fresh(names ...string) pair { return issue("ecdsa", time.Now().Add(24*time.Hour), names...) }

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func keyPEM(key crypto.Signer) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// node is one front-end: a store, and perhaps an nginx over it.
type node struct {
	*testing.T
	prefix, dir string // dir is the store
	store       *durable.Root
	exec        *nginx.Exec
	ports       []string // host:port that nginx listens on
}

// newNode makes a store and reserves n ports.
func newNode(t *testing.T, n int) (*node, []*net.TCPListener) {
	t.Helper()
	need.Tool(t, "nginx")
	f := &node{T: t, prefix: t.TempDir()}
	f.dir = filepath.Join(f.prefix, "certs")
	f.must(os.MkdirAll(filepath.Join(f.dir, "acme", ".well-known", "acme-challenge"), 0o755))
	store, err := durable.OpenRoot(f.dir)
	f.must(err)
	t.Cleanup(func() { f.must(store.Close()) })
	f.store = store
	f.exec = &nginx.Exec{Prefix: f.prefix, ConfigFile: filepath.Join(f.prefix, "nginx.conf")}
	var sockets []*net.TCPListener
	for range n {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		f.must(err)
		sockets = append(sockets, l)
		f.ports = append(f.ports, l.Addr().String())
	}
	return f, sockets
}

// start runs nginx with what stands in http{}; PORT0, PORT1 … and STORE are replaced. nginx inherits its listening
// sockets, as it does during a binary upgrade: they accept from the beginning, so there is nothing to wait for.
func start(t *testing.T, ports int, http string, prepare func(f *node)) *node {
	t.Helper()
	f, sockets := newNode(t, ports)
	if prepare != nil {
		prepare(f)
	}
	f.configure(http)
	cmd := exec.Command("nginx", "-p", f.prefix, "-c", f.exec.ConfigFile, "-g", "daemon off;")
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.Env = append(os.Environ(), "NGINX=")
	for i, l := range sockets {
		file, err := l.File()
		f.must(err)
		defer file.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
		cmd.Env[len(cmd.Env)-1] += strconv.Itoa(3+i) + ";"
	}
	f.must(cmd.Start())
	for _, l := range sockets {
		f.must(l.Close())
	}
	t.Cleanup(func() {
		f.must(cmd.Process.Signal(syscall.SIGTERM))
		if err := cmd.Wait(); err != nil {
			t.Errorf("nginx ended with %v", err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(f.prefix, "error.log"))
			t.Logf("nginx said:\n%s%s", &said, log)
		}
	})
	conn, err := net.Dial("tcp", f.ports[0]) // waits in the backlog until a worker takes it …
	f.must(err)
	f.must(conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = conn.Write([]byte("hello\r\n\r\n"))
	f.must(err)
	_, _ = conn.Read(make([]byte, 1)) // … and answers, or hangs up: the pid file is written before workers start
	f.must(conn.Close())
	return f
}

func (f *node) configure(http string) {
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // the test's directory is private
	}
	text := fmt.Sprintf(`%s
pid nginx.pid;
error_log error.log info;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path tmp-body; proxy_temp_path tmp-proxy; fastcgi_temp_path tmp-fastcgi; uwsgi_temp_path tmp-uwsgi; scgi_temp_path tmp-scgi;
    %s
}
`, user, f.expand(http))
	f.must(os.WriteFile(f.exec.ConfigFile, []byte(text), 0o644))
}

func (f *node) expand(text string) string {
	text = strings.ReplaceAll(text, "STORE", f.dir)
	for i, port := range f.ports {
		text = strings.ReplaceAll(text, "PORT"+strconv.Itoa(i), port)
	}
	return text
}

func (f *node) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// put writes a generation.
func (f *node) put(name, generation string, p pair) {
	f.Helper()
	dir := "archive/" + name + "/" + generation
	f.must(f.store.WriteFile(dir+"/fullchain.pem", p.fullchain, 0o644))
	f.must(f.store.WriteFile(dir+"/privkey.pem", p.privkey, 0o600))
}

// install writes a generation and links it.
func (f *node) install(name, generation string, p pair) {
	f.Helper()
	f.put(name, generation, p)
	f.must(f.store.ReplaceSymlink("live/"+name, "../archive/"+name+"/"+generation))
}

func (f *node) link(name string) string {
	f.Helper()
	target, err := os.Readlink(filepath.Join(f.dir, "live", name))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

func (f *node) open(config nginx.Config) *nginx.Nginx {
	config.Store, config.Dial = f.store, new(net.Dialer).DialContext
	if config.Run == nil {
		config.Run = f.exec
	}
	return nginx.New(config)
}

// tls is a server block for one certificate.
func tlsServer(listen, names, live string) string {
	return fmt.Sprintf("server { listen %s; server_name %s; ssl_certificate STORE/live/%s/fullchain.pem; ssl_certificate_key STORE/live/%s/privkey.pem; }\n",
		listen, names, live, live)
}

func wantState(t *testing.T, served []nginx.Served, state nginx.State, leaf *x509.Certificate) {
	t.Helper()
	if len(served) == 0 {
		t.Error("nothing was asked")
	}
	for _, s := range served {
		if s.State != state {
			t.Errorf("%s on %s is %s, not %s: %s", s.Name, s.Listener, s.State, state, s.Detail)
		}
		if leaf != nil && s.Serial != leaf.SerialNumber.Text(16) {
			t.Errorf("%s on %s has serial %s, not %s", s.Name, s.Listener, s.Serial, leaf.SerialNumber.Text(16))
		}
	}
}

func codes(r nginx.Report) string {
	var all []string
	for _, p := range r.Problems {
		all = append(all, string(p.Code))
	}
	return strings.Join(all, " ")
}
