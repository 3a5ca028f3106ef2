package real_test

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"certswarm/testnet/real"
)

// Somebody reads as fast as possible on every receiver while a certificate is renewed a thousand times. The file is never missing,
// never torn, never of another mode. And whoever goes through live/NAME, as nginx does at a reload, finds a key and a
// certificate that belong together.
func TestTightReader(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3)})
	w.await(real.Synced)
	const renewals, generations = 1000, 100
	from, to := w.Nodes[0], w.Nodes[1:]
	w.putKey(from, "bundle", sealed("0"))
	w.generation(from, 0)
	w.arrives("bundle", sealed("0"), to...)
	w.synced(from)
	var seen []*sights
	for _, n := range to {
		seen = append(seen, fileSights(in(n, "bundle"), 0o600), pairSights(in(n, "live/site")))
	}
	stop := readTightly(seen...)
	for i := 1; i <= renewals; i++ {
		content := sealed(strings.Repeat(fmt.Sprintln("renewal", i), 100))
		w.putKey(from, "bundle", content)
		if i%(renewals/generations) == 0 {
			w.generation(from, i)
			w.arrives("bundle", content, to...)
		}
	}
	w.synced(from)
	stop(t)
	scene(t, w, "in the end all is well", allIsWell)
}

// putKey is put for what nobody but its owner may read.
func (w *world) putKey(n *real.Node, name, content string) {
	w.t.Helper()
	temporary := filepath.Join(n.Dir, "temporary")
	w.must(os.WriteFile(temporary, []byte(content), 0o600))
	w.must(os.Rename(temporary, in(n, name)))
}

// generation writes a new pair into a directory of its own, and has live/site lead there.
func (w *world) generation(n *real.Node, number int) {
	w.t.Helper()
	key, chain := pair(w.t)
	name := fmt.Sprintf("archive/site/%d", number)
	w.must(os.MkdirAll(in(n, name), 0o755))
	w.must(os.MkdirAll(in(n, "live"), 0o755))
	w.putKey(n, name+"/privkey.pem", key)
	w.putKey(n, name+"/fullchain.pem", chain)
	link := filepath.Join(n.Dir, "link")
	w.must(os.Symlink("../"+name, link))
	w.must(os.Rename(link, in(n, "live/site")))
}

// A hundred challenge tokens are written, a few for each order. The moment wait returns they are on every node.
func TestHundredTokens(t *testing.T) {
	t.Parallel()
	const orders, each = 20, 5
	w := start(t, real.Config{Addresses: addresses(3)})
	w.await(real.Synced)
	for order := range orders {
		tokens := map[string]string{}
		for i := range each {
			tokens[fmt.Sprintf("acme/.well-known/acme-challenge/token-%d-%d", order, i)] = fmt.Sprint(order, ".thumbprint.", i)
		}
		for name, content := range tokens {
			w.put(w.Nodes[0], name, content)
		}
		w.synced(w.Nodes[0])
		for _, n := range w.Nodes {
			for name, content := range tokens {
				w.has(n, name, content)
			}
		}
	}
}

// sights counts what a reader of one thing must never see.
type sights struct {
	what   string
	look   func() error
	reads  int
	wrong  int
	reason error // of the last that was wrong
}

// fileSights are those of a sealed file, which is there from the beginning.
func fileSights(path string, mode fs.FileMode) *sights {
	return &sights{what: path, look: func() error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Mode() != mode {
			return fmt.Errorf("its mode is %v", info.Mode())
		}
		content, err := os.ReadFile(path)
		if err == nil && !whole(string(content)) {
			err = fmt.Errorf("it is torn: %d bytes", len(content))
		}
		return err
	}}
}

// pairSights are those of a key and its certificate in a directory that a link leads to.
func pairSights(link string) *sights {
	return &sights{what: link, look: func() error {
		dir, err := os.OpenRoot(link) // whatever it leads to now
		if err != nil {
			return err
		}
		defer dir.Close()
		chain, err := dir.ReadFile("fullchain.pem")
		if err != nil {
			return err
		}
		key, err := dir.ReadFile("privkey.pem")
		if err != nil {
			return err
		}
		_, err = tls.X509KeyPair(chain, key)
		return err
	}}
}

// readTightly reads all of them, over and over, until stop, which fails the test if anything wrong was seen.
func readTightly(all ...*sights) (stop func(testing.TB)) {
	quit := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			for _, s := range all {
				s.reads++
				if err := s.look(); err != nil {
					s.wrong++
					s.reason = err
				}
			}
			select {
			case <-quit:
				return
			default:
			}
		}
	})
	return func(t testing.TB) {
		t.Helper()
		close(quit)
		reading.Wait()
		for _, s := range all {
			if s.wrong > 0 {
				t.Errorf("%s was read %d times, and %d times it was wrong; the last time: %v", s.what, s.reads, s.wrong, s.reason)
			}
		}
	}
}
