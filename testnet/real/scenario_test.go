package real_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/real"
)

// The scenarios know certswarm by its files, its commands and its status alone. Each is played on a fleet that it may share
// with others of its theme, below names that no other uses.

// patience is for how long one scene may wait, all in all. Everything promised comes in seconds.
const patience = 25 * time.Second

// scene plays one story on a fleet that others use too.
func scene(t *testing.T, w *world, name string, play func(*world)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		ctx, cancel := context.WithTimeoutCause(context.Background(), patience, errors.New("the scene's time is up"))
		defer cancel()
		play(&world{w.Fleet, t, ctx})
	})
}

// allIsWell is how a theme ends: nobody knows of a problem, and all hold the same.
func allIsWell(w *world) {
	w.await(real.Synced)
	w.await(quiet())
	w.alike(w.Nodes...)
}

// in returns where a file of the replicated directory lies on a node.
func in(n *real.Node, name string) string { return filepath.Join(n.Certs, name) }

// eventually waits until what can be seen from outside is so. It is for what agents do not speak of, such as files.
func (w *world) eventually(look func() error) {
	w.t.Helper()
	const pause = 5 * time.Millisecond
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		err := look()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-w.ctx.Done():
			w.t.Fatalf("%v; still not so: %v", context.Cause(w.ctx), err)
		}
	}
}

// awaitOn is await for what some nodes say, while others run and may be dumb.
func (w *world) awaitOn(condition real.Condition, nodes ...*real.Node) {
	w.t.Helper()
	w.must((&real.Fleet{Nodes: nodes}).Await(w.ctx, condition))
}

// put makes a file on a node as careful programs do, in a directory that may have to be made.
func (w *world) put(n *real.Node, name, content string) {
	w.t.Helper()
	w.must(os.MkdirAll(filepath.Dir(in(n, name)), 0o755))
	temporary := filepath.Join(n.Dir, "temporary")
	w.must(os.WriteFile(temporary, []byte(content), 0o644))
	err := os.Rename(temporary, in(n, name))
	if errors.Is(err, syscall.EXDEV) { // the directory is a disk of its own
		w.must(os.Remove(temporary))
		temporary = filepath.Join(filepath.Dir(in(n, name)), ".temporary.swp")
		w.must(os.WriteFile(temporary, []byte(content), 0o644))
		err = os.Rename(temporary, in(n, name))
	}
	w.must(err)
}

// arrives waits until the file is on every one of the nodes, as it should be.
func (w *world) arrives(name, content string, nodes ...*real.Node) {
	w.t.Helper()
	for _, n := range nodes {
		w.eventually(func() error { return holds(n, name, content) })
	}
}

func holds(n *real.Node, name, content string) error {
	got, err := os.ReadFile(in(n, name))
	if err == nil && string(got) != content {
		err = fmt.Errorf("%s on %s is %d bytes, %.40q", name, n.Name, len(got), got)
	}
	return err
}

// leaves waits until there is nothing of that name on any of the nodes.
func (w *world) leaves(name string, nodes ...*real.Node) {
	w.t.Helper()
	for _, n := range nodes {
		w.eventually(func() error { return lacks(n, name) })
	}
}

func lacks(n *real.Node, name string) error {
	if _, err := os.Lstat(in(n, name)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is on %s (%v)", name, n.Name, err)
	}
	return nil
}

// never fails the test if the file is on a node. The caller has seen something arrive there that would have come later.
func (w *world) never(name string, nodes ...*real.Node) {
	w.t.Helper()
	for _, n := range nodes {
		if err := lacks(n, name); err != nil {
			w.t.Error(err)
		}
	}
}

var witnesses atomic.Int32

// witness writes a file on the first node and waits for it on the others: what was on its way before is there by then.
func (w *world) witness(from *real.Node, to ...*real.Node) {
	w.t.Helper()
	name := fmt.Sprintf("witness/%d", witnesses.Add(1))
	w.put(from, name, name)
	w.arrives(name, name, to...)
}

// synced runs `certswarm wait --for synced` on a node.
func (w *world) synced(n *real.Node) {
	w.t.Helper()
	if code, said := w.certswarm(n, "wait", "--for", "synced", "--timeout", "30s"); code != 0 {
		w.t.Fatalf("certswarm wait on %s exits with %d: %s", n.Name, code, said)
	}
}

// certswarm runs a command on a node; it returns the exit status and all that was said.
func (w *world) certswarm(n *real.Node, args ...string) (code int, said string) {
	w.t.Helper()
	output, err := n.Certswarm(w.ctx, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	return code, string(output)
}

// reports is true when every agent knows of that problem of that node (any kind, if code is empty), and the words are in what
// it says.
func reports(code control.Code, n *real.Node, words ...string) real.Condition {
	return func(all []control.Status) (bool, string) {
		for _, s := range all {
			fits := func(p control.Problem) bool {
				said := p.Text + " " + p.Because + " " + p.Next
				lacking := func(word string) bool { return !strings.Contains(said, word) }
				return (p.Code == code || code == "") && p.Node == n.Name && !slices.ContainsFunc(words, lacking)
			}
			if !slices.ContainsFunc(s.Problems, fits) {
				return false, fmt.Sprintf("%s does not say %s %q of %s; its problems are %v", s.Node.Name, code, words, n.Name, s.Problems)
			}
		}
		return true, ""
	}
}

// quiet is true when no agent knows of a problem of these kinds, or of any kind if none is named.
func quiet(codes ...control.Code) real.Condition {
	return silent(func(code control.Code) bool { return len(codes) == 0 || slices.Contains(codes, code) })
}

// quietBut is true when no node tells of a problem, but for one kind.
func quietBut(code control.Code) real.Condition {
	return silent(func(other control.Code) bool { return other != code })
}

func silent(counts func(control.Code) bool) real.Condition {
	return func(all []control.Status) (bool, string) {
		for _, s := range all {
			for _, p := range s.Problems {
				if counts(p.Code) {
					return false, fmt.Sprintf("%s still says %s of %s: %s", s.Node.Name, p.Code, p.Node, p.Text)
				}
			}
		}
		return true, ""
	}
}

// directory is true when the directory stands like that on a node.
func directory(n *real.Node, state control.DirectoryState) real.Condition {
	return func(all []control.Status) (bool, string) {
		for _, s := range all {
			if s.Node.Name == n.Name && s.Directories[0].State != state {
				return false, fmt.Sprintf("the directory on %s is %s, not %s", n.Name, s.Directories[0].State, state)
			}
		}
		return true, ""
	}
}

// tree is what lies below a directory: of each path what it is, its permissions, and its content or target.
func tree(root string) (map[string]string, error) {
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %x", sha256.Sum256(content))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + target
		}
		found[strings.TrimPrefix(path, root+"/")] = text
		return nil
	})
	return found, err
}

// alike waits until the nodes hold the same, every name, mode and byte of it, and nothing that certswarm made for itself.
func (w *world) alike(nodes ...*real.Node) {
	w.t.Helper()
	w.eventually(func() error {
		want, err := tree(nodes[0].Certs)
		if err != nil {
			return err
		}
		for name := range want {
			if strings.Contains(name, ".certswarm-") {
				return fmt.Errorf("%s was left on %s", name, nodes[0].Name)
			}
		}
		for _, n := range nodes[1:] {
			got, err := tree(n.Certs)
			if err != nil {
				return err
			}
			if err := sameTree(want, got); err != nil {
				return fmt.Errorf("%s is not as %s: %w", n.Name, nodes[0].Name, err)
			}
		}
		return nil
	})
}

func sameTree(want, got map[string]string) error {
	var differ []string
	for name := range want {
		if want[name] != got[name] {
			differ = append(differ, fmt.Sprintf("%q is %q, not %q", name, got[name], want[name]))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			differ = append(differ, fmt.Sprintf("%q should not be there", name))
		}
	}
	if len(differ) == 0 {
		return nil
	}
	slices.Sort(differ)
	return errors.New(strings.Join(differ[:min(5, len(differ))], "; "))
}

// archived returns every version of a path that a node's archive has.
func archived(n *real.Node, name string) []string {
	shelf := filepath.Join(n.State, "archive", "certs", name)
	var versions []string
	_ = filepath.WalkDir(shelf, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			content, _ := os.ReadFile(path)
			versions = append(versions, string(content))
		}
		return nil // nothing was ever kept
	})
	return versions
}

// keeps waits until a node's archive has that version of a path.
func (w *world) keeps(n *real.Node, name, content string) {
	w.t.Helper()
	w.eventually(func() error {
		if versions := archived(n, name); !slices.Contains(versions, content) {
			return fmt.Errorf("the archive of %s has %d versions of %s, and not %.40q", n.Name, len(versions), name, content)
		}
		return nil
	})
}

// ballast makes so many files that the few that a story deletes are no mass deletion.
func (w *world) ballast(n *real.Node) {
	w.t.Helper()
	for i := range 60 {
		w.put(n, fmt.Sprintf("ballast/%d", i), fmt.Sprintln("ballast", i))
	}
	w.synced(n)
}

// sealed is a content that tells whether it is whole.
func sealed(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:]) + "\n" + body
}

func whole(content string) bool {
	digest, body, _ := strings.Cut(content, "\n")
	sum := sha256.Sum256([]byte(body))
	return digest == hex.EncodeToString(sum[:])
}

var serials atomic.Int64

// pair makes a private key and a certificate for it, as PEM.
func pair(t testing.TB) (key, chain string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(serials.Add(1)), Subject: pkix.Name{CommonName: "site.example.com"},
		DNSNames: []string{"site.example.com"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("PRIVATE KEY", secret), encode("CERTIFICATE", der)
}

// matches is nil when nginx could serve these two files.
func matches(chain, key string) error {
	_, err := tls.LoadX509KeyPair(chain, key)
	return err
}
