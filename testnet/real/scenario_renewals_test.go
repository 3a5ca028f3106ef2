package real_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"os"
	"sync"
	"testing"

	"certswarm/testnet/real"
)

// A program that knows nothing of certswarm copies a new key and a new certificate over the old ones, file by file, in either order, 200
// times. Elsewhere the two change in the moment of two renames, and whoever waits for the agent to be through with them, as its own reloads
// of nginx do, never finds halves of two pairs.
func TestRenewalsByCopy(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3)})
	w.await(real.Synced)
	from, to := w.Nodes[0], w.Nodes[1:]
	w.pairAt("site/site.key", "site/site.crt", from, to...)
	var readers []*pairReader
	for _, n := range to {
		readers = append(readers, readPair(n, "site", "site.key", "site.crt"))
	}
	for renewal := range 200 {
		key, chain := pair(t)
		files := [2][2]string{{"site/site.key", key}, {"site/site.crt", chain}}
		if renewal%2 == 1 {
			files[0], files[1] = files[1], files[0]
		}
		for _, f := range files {
			w.must(os.WriteFile(in(from, f[0]), []byte(f[1]), 0o644)) // as cp does: truncated, then written
		}
		w.arrives("site/site.key", key, to...)
		w.arrives("site/site.crt", chain, to...)
	}
	for _, r := range readers {
		r.saw(t)
	}
	w.await(quiet())
}

// pairReader reads a pair through a handle of its directory, over and over. What does not go together is read once more when the agent has
// answered: it answers between two batches, never within one.
type pairReader struct {
	node       *real.Node
	dir        *os.Root
	key, chain string
	quit       chan struct{}
	gone       sync.WaitGroup

	reads, moments, apart int
	err                   error
}

func readPair(n *real.Node, dir, key, chain string) *pairReader {
	r := &pairReader{node: n, key: key, chain: chain, quit: make(chan struct{})}
	if r.dir, r.err = os.OpenRoot(in(n, dir)); r.err != nil {
		return r
	}
	r.gone.Go(func() {
		for r.err == nil {
			select {
			case <-r.quit:
				return
			default:
				r.err = r.read()
			}
		}
	})
	return r
}

func (r *pairReader) read() error {
	r.reads++
	chain, key, err := r.both()
	if err != nil || goTogether(chain, key) {
		return err
	}
	r.moments++
	if _, err := r.node.Control().Status(context.Background()); err != nil {
		return err
	}
	chainNow, keyNow, err := r.both()
	if bytes.Equal(chain, chainNow) && bytes.Equal(key, keyNow) {
		r.apart++
	}
	return err
}

// both reads as nginx does: the certificate, then the key.
func (r *pairReader) both() (chain, key []byte, err error) {
	if chain, err = r.dir.ReadFile(r.chain); err == nil {
		key, err = r.dir.ReadFile(r.key)
	}
	return chain, key, err
}

func goTogether(chain, key []byte) bool {
	_, err := tls.X509KeyPair(chain, key)
	return err == nil
}

// saw ends the reading and fails the test if a half was ever missing, or the two stayed apart.
func (r *pairReader) saw(t *testing.T) {
	t.Helper()
	close(r.quit)
	r.gone.Wait()
	t.Logf("%s: %d reads, %d of them in a moment between two renames", r.node.Name, r.reads, r.moments)
	if r.err != nil || r.reads == 0 || r.apart > 0 {
		t.Errorf("on %s, of %d reads %d found two halves that stayed apart (%v)", r.node.Name, r.reads, r.apart, r.err)
	}
}
