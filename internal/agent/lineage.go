package agent

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"certswarm/acmeclient"
	"certswarm/internal/agent/config"
	"certswarm/internal/fleet"
	"certswarm/nginx"
	"certswarm/syncer"
	"certswarm/syncer/index"
)

// Where things lie in the store. live/NAME of a declared certificate is this node's own link: the fleet's wish for it is
// in the index, and nginx.Apply alone follows it, when nginx can.
const (
	liveDir      = "live"
	archiveDir   = "archive"
	acmeDir      = "acme"
	challengeDir = acmeDir + "/.well-known/acme-challenge"

	generationsKept = 5
	maxPEM          = 1 << 20 // bytes of a file with keys or certificates
)

// lineages is the store directory seen as certificates: each declared name with its numbered generations.
type lineages struct {
	dir      *syncer.Directory
	declared []config.Certificate
	keyPerm  index.Perm
	read     chains
}

// reservedPaths reports whether a path belongs to the live link of one of the declared names.
func reservedPaths(declared []config.Certificate) func(index.Path) bool {
	links := make([]index.Path, len(declared))
	for i, c := range declared {
		links[i] = index.MustPath(liveDir + "/" + c.Name)
	}
	return func(p index.Path) bool {
		return slices.ContainsFunc(links, p.Under)
	}
}

func livePath(name string) index.Path { return index.MustPath(liveDir + "/" + name) }

func archivePath(name string, generation int, file string) index.Path {
	return index.MustPath(fmt.Sprintf("%s/%s/%d/%s", archiveDir, name, generation, file))
}

func (l *lineages) find(name string) (config.Certificate, bool) {
	for _, c := range l.declared {
		if c.Name == name {
			return c, true
		}
	}
	return config.Certificate{}, false
}

// wished returns the generation that the fleet wants in force, 0 for none.
func (l *lineages) wished(name string) int {
	e := l.dir.Lookup(livePath(name))
	if e == nil {
		return 0
	}
	link, ok := e.Content.(index.Symlink)
	if !ok {
		return 0
	}
	return generationOf(name, link.Target)
}

// installed returns the generation that this node's live link leads to, 0 for a placeholder or anything else.
func (l *lineages) installed(name string) int {
	target, err := l.dir.Root().Readlink(liveDir + "/" + name)
	if err != nil {
		return 0
	}
	return generationOf(name, target)
}

// chain reads a generation's certificates, leaf first.
func (l *lineages) chain(name string, generation int) ([]*x509.Certificate, error) {
	file := archivePath(name, generation, "fullchain.pem")
	text, err := l.dir.ReadFile(file, maxPEM)
	if err != nil {
		return nil, err
	}
	return l.read.parse(file, text)
}

func parseChain(text []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return chain, nil
}

// held returns the certificate that the fleet has in force for a name, nil if there is none.
func (l *lineages) held(name string) (*acmeclient.Held, error) {
	generation := l.wished(name)
	if generation == 0 {
		return nil, nil
	}
	chain, err := l.chain(name, generation)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // wished for, but lost by everybody: as good as none
	}
	if err != nil {
		return nil, fmt.Errorf("generation %d of %s cannot be read: %w", generation, name, err)
	}
	return &acmeclient.Held{Leaf: chain[0], Chain: chain[1:], Generation: generation}, nil
}

// generations returns the numbers that are in the archive, ascending.
func (l *lineages) generations(name string) []int {
	var out []int
	for _, e := range l.dir.Find(index.MustPath(archiveDir + "/" + name)) {
		if n, err := strconv.Atoi(e.Path.Base()); err == nil && n > 0 {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// install publishes a bundle as the next generation and wishes it in force, in one batch.
func (l *lineages) install(epoch fleet.Epoch, name string, key, chain []byte) (int, syncer.Receipt, error) {
	parsed, err := parseChain(chain)
	if err != nil {
		return 0, syncer.Receipt{}, fmt.Errorf("the chain for %s: %w", name, err)
	}
	numbers := l.generations(name)
	for _, n := range numbers {
		if have, err := l.chain(name, n); err == nil && have[0].Equal(parsed[0]) && l.wished(name) == n {
			return n, syncer.ReceiptFor(l.dir.Lookup(livePath(name))), nil
		}
	}
	next := 1
	if len(numbers) > 0 {
		next = numbers[len(numbers)-1] + 1
	}
	leaf, rest := splitChain(chain)
	writes := []syncer.Write{
		{Path: archivePath(name, next, "privkey.pem"), Data: key, Perm: l.keyPerm},
		{Path: archivePath(name, next, "fullchain.pem"), Data: chain, Perm: 0o644},
		{Path: archivePath(name, next, "cert.pem"), Data: leaf, Perm: 0o644},
		{Path: archivePath(name, next, "chain.pem"), Data: rest, Perm: 0o644},
		{Path: livePath(name), Link: generationLink(name, next)},
	}
	if len(numbers) >= generationsKept {
		old := slices.Clone(numbers[:len(numbers)-generationsKept+1])
		// What is in force until now stays: a node whose nginx refuses the new one goes on with it.
		old = slices.DeleteFunc(old, func(n int) bool { return n == l.wished(name) })
		writes = append(writes, l.prune(name, old)...)
	}
	receipt, err := l.dir.Publish(epoch, writes...)
	return next, receipt, err
}

// prune deletes old generations, what they hold first.
func (l *lineages) prune(name string, old []int) []syncer.Write {
	var out []syncer.Write
	for _, n := range old {
		dir := index.MustPath(fmt.Sprintf("%s/%s/%d", archiveDir, name, n))
		for _, e := range l.dir.Find(dir) {
			out = append(out, syncer.Write{Path: e.Path, Delete: true})
		}
		out = append(out, syncer.Write{Path: dir, Delete: true})
	}
	return out
}

// splitChain separates the leaf from what follows it, in PEM.
func splitChain(chain []byte) (leaf, rest []byte) {
	block, rest := pem.Decode(chain)
	if block == nil {
		return chain, nil
	}
	return pem.EncodeToMemory(block), bytes.TrimLeft(rest, "\r\n")
}

// found returns a valid pair that lies in live/NAME on this node without the fleet knowing of it: somebody brought it there. A placeholder, which may
// be the copy of another certificate, is none.
func (l *lineages) found(c config.Certificate, now time.Time) (key, chain []byte, ok bool) {
	if l.standsIn(c.Name) {
		return nil, nil, false
	}
	dir := filepath.Join(l.dir.Root().Dir(), liveDir, c.Name)
	chain, err := os.ReadFile(filepath.Join(dir, "fullchain.pem"))
	if err != nil {
		return nil, nil, false
	}
	if key, err = os.ReadFile(filepath.Join(dir, "privkey.pem")); err != nil {
		return nil, nil, false
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil || nginx.IsPlaceholder(pair.Leaf) || now.Before(pair.Leaf.NotBefore) || now.After(pair.Leaf.NotAfter) {
		return nil, nil, false
	}
	for _, name := range c.Names {
		if pair.Leaf.VerifyHostname(name) != nil {
			return nil, nil, false
		}
	}
	return key, chain, true
}

// makeWay brings the link to the wished generation to where a real directory stands.
func (l *lineages) makeWay(name string, generation int) error {
	return l.dir.Displace(livePath(name), generationLink(name, generation))
}

// generationLink is where live/NAME leads for a generation.
func generationLink(name string, generation int) string {
	return fmt.Sprintf("../%s/%s/%d", archiveDir, name, generation)
}

// generationOf reads what generationLink wrote, 0 for anything else.
func generationOf(name, target string) int {
	number, found := strings.CutPrefix(target, "../"+archiveDir+"/"+name+"/")
	generation, err := strconv.Atoi(number)
	if !found || err != nil || generation < 1 {
		return 0
	}
	return generation
}
