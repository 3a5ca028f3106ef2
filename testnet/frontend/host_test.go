package frontend_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"certswarm/internal/need"
	"certswarm/testnet/frontend"
)

// eachKind runs test over real nginx and over the stand-in: what holds for one holds for the other.
func eachKind(t *testing.T, test func(t *testing.T, h *host)) {
	t.Run("nginx", func(t *testing.T) {
		t.Parallel()
		test(t, newHost(t, need.Tool(t, "nginx")))
	})
	t.Run("stand-in", func(t *testing.T) {
		t.Parallel()
		test(t, newHost(t, frontend.Standin))
	})
}

// host is the machine of one front-end: its certs directory, its agent's socket, its configuration.
type host struct {
	t      *testing.T
	ctx    context.Context
	config frontend.Config
}

const (
	site   = "www.example.com"
	alias  = "example.com"
	second = "mail.example.org"
	token  = "/.well-known/acme-challenge/token-1"
)

var hosts atomic.Int32

func newHost(t *testing.T, binary string) *host {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a fuse
	t.Cleanup(cancel)
	dir, err := os.MkdirTemp("", "frontend") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	// An address of its own: nobody else binds there, so a port that was free a moment ago still is.
	number := hosts.Add(1)
	address := fmt.Sprintf("127.%d.%d.%d", 64+os.Getpid()%64, number/250, number%250+1)
	httpPort, httpsPort := freePorts(t, address)
	h := &host{t: t, ctx: ctx, config: frontend.Config{
		Dir: filepath.Join(dir, "it's nginx"), Address: address, HTTPPort: httpPort, HTTPSPort: httpsPort,
		Store: filepath.Join(dir, "certs"), Socket: filepath.Join(dir, "http01.sock"),
		Names: []string{site, alias}, Also: [][]string{{second}}, Binary: binary,
	}}
	h.write("acme"+token, "from the file")
	return h
}

func freePorts(t *testing.T, address string) (int, int) {
	t.Helper()
	var ports [2]int
	for i := range ports {
		l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports[0], ports[1]
}

func (h *host) start() *frontend.Frontend {
	h.t.Helper()
	f, err := frontend.Start(h.ctx, h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(f.Stop)
	return f
}

// write puts a file into the certs directory.
func (h *host) write(path, content string) {
	h.t.Helper()
	full := filepath.Join(h.config.Store, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), 0o644)); err != nil {
		h.t.Fatal(err)
	}
}

// install makes a generation of the certificate and points live/name at it; it returns the leaf.
func (h *host) install(name string, generation int) leaf {
	h.t.Helper()
	chain, key, made := newPair(h.t, name)
	h.writeGeneration(name, generation, chain, key)
	return made
}

func (h *host) writeGeneration(name string, generation int, chain, key string) {
	h.t.Helper()
	folder := filepath.Join("archive", name, strconv.Itoa(generation))
	h.write(filepath.Join(folder, "fullchain.pem"), chain)
	h.write(filepath.Join(folder, "privkey.pem"), key)
	link := filepath.Join(h.config.Store, "live", name)
	err := errors.Join(
		os.MkdirAll(filepath.Dir(link), 0o755),
		os.Symlink(filepath.Join("..", folder), link+".new"),
		os.Rename(link+".new", link))
	if err != nil {
		h.t.Fatal(err)
	}
}

// nginx runs the front-end's binary as an agent would.
func (h *host) nginx(args ...string) (stdout, stderr string, err error) {
	h.t.Helper()
	paths, err := frontend.WriteConfig(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	var out, talk bytes.Buffer
	cmd := exec.CommandContext(h.ctx, paths.Binary, append([]string{"-c", paths.ConfigFile, "-p", paths.Prefix}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &talk
	err = cmd.Run()
	return out.String(), talk.String(), err
}

// get asks the HTTP port as a CA would.
func (h *host) get(path string) (status int, location, body string) {
	h.t.Helper()
	url := fmt.Sprintf("http://%s:%d%s", h.config.Address, h.config.HTTPPort, path)
	request, err := http.NewRequestWithContext(h.ctx, http.MethodGet, url, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	request.Host = site
	request.Header.Set("User-Agent", `certswarm/"test"`)
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return response.StatusCode, response.Header.Get("Location"), string(content)
}

func (h *host) wantGet(path string, wantStatus int, want string) {
	h.t.Helper()
	status, location, body := h.get(path)
	if status != wantStatus || location+body != want && wantStatus < 400 {
		h.t.Errorf("GET %s: %d %q %q, want %d %q", path, status, location, body, wantStatus, want)
	}
}

// served returns the leaf that a client is shown who asks for name.
func (h *host) served(name string) leaf {
	h.t.Helper()
	dialer := tls.Dialer{Config: &tls.Config{ServerName: name, InsecureSkipVerify: true}}
	conn, err := dialer.DialContext(h.ctx, "tcp", net.JoinHostPort(h.config.Address, strconv.Itoa(h.config.HTTPSPort)))
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return sha256.Sum256(conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw)
}

// eventually waits for what nginx does after its command has returned.
func (h *host) eventually(what string, done func() bool) {
	h.t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-h.ctx.Done():
			h.t.Fatalf("still not so: %s", what)
		case <-ticker.C:
		}
	}
}

type leaf [sha256.Size]byte

func newPair(t *testing.T, name string) (chain, key string, made leaf) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER), sha256.Sum256(der)
}
