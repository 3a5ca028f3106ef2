package real_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"certswarm/testnet/real"
)

// Agents are killed while files are written on two nodes as fast as they can be. At no time is there a file on any node that is
// not whole; and when the agents are back, so is the order, without help.
func TestKilledWhileWriting(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3)})
	w.await(real.Synced)

	writing, stop := context.WithCancel(w.ctx)
	defer stop()
	var busy sync.WaitGroup
	written := make(chan struct{})
	for i, n := range w.Nodes[:2] {
		busy.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for writing.Err() == nil {
				if err := writeChecked(n, random); err != nil {
					t.Error(err)
					return
				}
				select {
				case written <- struct{}{}:
				case <-writing.Done():
				}
			}
		})
	}
	busy.Go(func() {
		for writing.Err() == nil {
			for _, n := range w.Nodes {
				allWhole(t, n)
			}
		}
	})
	const rounds = 6
	for round := range rounds {
		for range 5 + 7*round { // another moment each time
			<-written
		}
		victim := w.Nodes[round%len(w.Nodes)]
		victim.Kill()
		allWhole(t, victim)
		for range 10 {
			<-written
		}
		w.must(victim.Start(w.ctx))
	}
	stop()
	busy.Wait()
	w.await(real.Synced)
	for _, n := range w.Nodes {
		allWhole(t, n)
		sameFiles(t, w.Nodes[0], n)
	}
}

// writeChecked writes one file, new or not, whose first line is the digest of the rest. The temporary file lies beside it, as with most programs.
func writeChecked(n *real.Node, random *rand.Rand) error {
	body := make([]byte, random.IntN(200_000))
	for i := range body {
		body[i] = byte(random.Uint32())
	}
	sum := sha256.Sum256(body)
	content := append([]byte(hex.EncodeToString(sum[:])+"\n"), body...)
	name := filepath.Join(n.Certs, fmt.Sprintf("file-%d", random.IntN(30)))
	temporary := fmt.Sprintf("%s.%s.tmp", name, n.Name)
	if err := os.WriteFile(temporary, content, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, name)
}

// allWhole fails the test if a file under a name of its own is not whole.
func allWhole(t *testing.T, n *real.Node) {
	entries, err := os.ReadDir(n.Certs)
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "file-") || strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(n.Certs, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		digest, body, _ := bytes.Cut(content, []byte("\n"))
		sum := sha256.Sum256(body)
		if err != nil || hex.EncodeToString(sum[:]) != string(digest) {
			t.Errorf("%s on %s is not whole: %d bytes, %v", e.Name(), n.Name, len(content), err)
		}
	}
}

// sameFiles fails the test unless b holds what a holds, and nothing else under any name.
func sameFiles(t *testing.T, a, b *real.Node) {
	t.Helper()
	want, got := files(t, a), files(t, b)
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s is not the same on %s and %s", name, a.Name, b.Name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is on %s, and not on %s", name, b.Name, a.Name)
		}
		if strings.HasPrefix(name, ".") {
			t.Errorf("%s was left on %s", name, b.Name)
		}
	}
}

func files(t *testing.T, n *real.Node) map[string][sha256.Size]byte {
	t.Helper()
	found := map[string][sha256.Size]byte{}
	entries, err := os.ReadDir(n.Certs)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(n.Certs, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		found[e.Name()] = sha256.Sum256(content)
	}
	return found
}
