package real_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/prometheus"
	"certswarm/testnet/real"

	"github.com/quic-go/quic-go"
)

// Whoever knocks and does not belong changes nothing but a counter, the log and what status says.
func TestStrangers(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(2)})
	w.await(real.Synced)
	w.replicates("before", w.Nodes...)
	before := w.status(w.Nodes[0]).Directories[0].Fingerprint

	unknown := start(t, real.Config{Addresses: addresses(1), Prefix: "unknown", Others: w.Roster()})
	w.await(says(control.PeerRefused))
	elsewhere := start(t, real.Config{Addresses: addresses(1), Prefix: "elsewhere", Cluster: "staging", Others: w.Roster()})
	w.must(w.WriteConfigs(append(w.Roster(), elsewhere.Roster()[0])))
	for _, n := range w.Nodes { // in the list, and yet of another cluster
		if code, said := w.reload(n); code != 0 {
			t.Fatalf("the reload exits with %d: %s", code, said)
		}
	}
	w.await(says(control.TwoClusters))
	for _, stranger := range []*world{unknown, elsewhere} {
		stranger.write(stranger.Nodes[0], "poison", "from a stranger")
	}
	for _, n := range w.Nodes {
		sendGarbage(t, n.Listen())
		callWithoutCertificate(t, w.ctx, n.Listen())
	}
	for _, n := range w.Nodes {
		for _, reason := range []string{"unknown-key", "wrong-cluster", "garbage", "protocol"} {
			w.eventually(func() error { return counts(t, w.ctx, n, reason) })
		}
		if now := w.status(n).Directories[0].Fingerprint; now != before {
			t.Errorf("%s holds something else than before", n.Name)
		}
	}
	w.replicates("after", w.Nodes...)
	for _, n := range w.Nodes {
		if entries, err := os.ReadDir(n.Certs); err != nil || len(entries) != 2 {
			t.Errorf("%s holds %v (%v)", n.Name, entries, err)
		}
	}
	for _, stranger := range []*world{unknown, elsewhere} {
		if entries, err := os.ReadDir(stranger.Nodes[0].Certs); err != nil || len(entries) != 1 {
			t.Errorf("%s was told of %v (%v)", stranger.Nodes[0].Name, entries, err)
		}
	}
}

// says is true when every node has a problem of that kind itself.
func says(code control.Code) real.Condition {
	return func(all []control.Status) (bool, string) {
		for _, s := range all {
			own := func(p control.Problem) bool { return p.Code == code && p.Node == s.Node.Name }
			if !slices.ContainsFunc(s.Problems, own) {
				return false, fmt.Sprintf("%s says nothing of %s", s.Node.Name, code)
			}
		}
		return true, ""
	}
}

// sendGarbage sends datagrams of every kind of length: random ones, and ones that begin like QUIC.
func sendGarbage(t *testing.T, address string) {
	t.Helper()
	conn, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for size := range 1400 {
		datagram := make([]byte, size+1)
		if _, err := rand.Read(datagram); err != nil {
			t.Fatal(err)
		}
		if size%2 == 0 && size > 5 {
			copy(datagram, []byte{0xc3, 0, 0, 0, 1}) // a long header of version 1 (RFC 9000 17.2)
		}
		if _, err := conn.Write(datagram); err != nil {
			t.Fatal(err)
		}
	}
}

// counts is nil when n has counted something that it refused for that reason, and has a few lines of it in its log.
func counts(t *testing.T, ctx context.Context, n *real.Node, reason string) error {
	t.Helper()
	families, err := prometheus.Parse(scrape(t, ctx, n))
	if err != nil {
		return fmt.Errorf("%s tells Prometheus what it cannot read: %w", n.Name, err)
	}
	refused, _ := families.Value("certswarm_refused_total", "reason", reason)
	lines := 0
	for _, e := range n.Log.Events() {
		if e.Text == "connection refused" && e.Attribute("reason") == reason {
			lines++
		}
	}
	if refused < 1 || lines < 1 || lines > 4 { // one each minute, and more after a reload
		return fmt.Errorf("%s counts %v refused as %s, and has %d lines of that", n.Name, refused, reason, lines)
	}
	return nil
}

// callWithoutCertificate speaks the protocol, but proves no key.
func callWithoutCertificate(t *testing.T, ctx context.Context, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := quic.DialAddr(ctx, address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"certswarm/1"}}, nil)
	if err != nil {
		return // it heard of the refusal in the handshake
	}
	select {
	case <-conn.Context().Done(): // or a moment later
	case <-ctx.Done():
		t.Errorf("%s keeps a caller without a certificate", address)
	}
}

// scrape is what Prometheus would be told.
func scrape(t *testing.T, ctx context.Context, n *real.Node) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", n.Socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://certswarm/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A configuration that is wrong is refused with all that is wrong with it, and the old one stays in force; one that is
// right is taken, and whoever is no longer in it is cut off.
func TestReload(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3)})
	w.await(real.Synced)
	first := w.Nodes[0]

	good, err := os.ReadFile(first.ConfigFile)
	w.must(err)
	lines := bytes.Count(good, []byte("\n"))
	w.must(os.WriteFile(first.ConfigFile, append(good, "listne: 1\nlease: {ttl: soon}\n"...), 0o644))
	code, said := w.reload(first)
	if code != 1 {
		t.Errorf("a reload of a wrong configuration exits with %d", code)
	}
	for _, place := range []string{fmt.Sprintf("%s:%d:1: ", first.ConfigFile, lines+1), fmt.Sprintf("%s:%d:14: ", first.ConfigFile, lines+2)} {
		if !strings.Contains(said, place) {
			t.Errorf("nothing is said about %s:\n%s", place, said)
		}
	}
	if _, ok := problem(w.status(first), control.ConfigRefused); !ok {
		t.Error("status does not say that a configuration was refused")
	}
	w.replicates("under-the-old-one", w.Nodes...)

	w.must(os.WriteFile(first.ConfigFile, good, 0o644))
	if code, said := w.reload(first); code != 0 {
		t.Errorf("a reload of a good configuration exits with %d: %s", code, said)
	}
	if p, ok := problem(w.status(first), control.ConfigRefused); ok {
		t.Errorf("status still says %q", p.Text)
	}

	w.must(w.WriteConfigs(w.Roster()[:2]))
	for _, n := range w.Nodes[:2] {
		if code, said := w.reload(n); code != 0 {
			t.Errorf("the reload on %s exits with %d: %s", n.Name, code, said)
		}
	}
	outsider := w.Nodes[2]
	w.await(among(w.Nodes[2:], func(all []control.Status) (bool, string) {
		for _, p := range all[0].Peers {
			if p.Connected {
				return false, fmt.Sprintf("%s is still connected with %s", outsider.Name, p.Name)
			}
		}
		return true, ""
	}))
	w.write(outsider, "from-outside", "it must not go anywhere")
	w.replicates("from-inside", w.Nodes[:2]...)
	for n, name := range map[*real.Node]string{w.Nodes[0]: "from-outside", w.Nodes[1]: "from-outside", outsider: "from-inside"} {
		if _, err := os.Stat(filepath.Join(n.Certs, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s came to %s", name, n.Name)
		}
	}
}

// reload runs the command on n; it returns its exit status and what it said.
func (w *world) reload(n *real.Node) (code int, said string) {
	w.t.Helper()
	output, err := n.Certswarm(w.ctx, "reload", "--wait").CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	return code, string(output)
}
