package agent

import (
	"bytes"
	"crypto/x509"
	"sync"

	"certswarm/syncer/index"
)

// chains keeps what the files of certificates say. Each is read again and again, for every report and every status, and parsing it costs more than that.
type chains struct {
	mu sync.Mutex
	of map[index.Path]readChain // guarded by mu
}

type readChain struct {
	text  []byte
	chain []*x509.Certificate
}

// mostChains bounds what is kept, some 10 KiB each.
const mostChains = 1024

// parse returns what a file says, leaf first. The certificates are shared: nobody changes them.
func (c *chains) parse(file index.Path, text []byte) ([]*x509.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.of[file]; ok && bytes.Equal(known.text, text) {
		return known.chain, nil
	}
	delete(c.of, file)
	chain, err := parseChain(text)
	if err == nil {
		if c.of == nil || len(c.of) >= mostChains {
			c.of = map[index.Path]readChain{} // most may be generations of long ago
		}
		c.of[file] = readChain{text, chain}
	}
	return chain, err
}
