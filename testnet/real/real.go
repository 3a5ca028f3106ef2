// Package real runs a fleet of real processes on one machine: certswarm agents with their certs directories, a front-end
// for each, and a certificate authority, all on addresses of the loopback network. It needs neither root nor
// preparation.
//
// It observes the fleet only as its operators could: by the control sockets, the logs, the files and the network. It does
// not judge: that is for the demo and the tests. A fleet in one process and in virtual time is something else.
package real

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"certswarm/testnet/ca"
	"certswarm/testnet/frontend"
)

// Config is what a fleet is made of.
type Config struct {
	Binary    string   // the certswarm program; see Build
	Addresses []string // one node each, named fe1, fe2, ...; the first is the first issuer, hence the holder of the lease

	// Names are those of the one certificate; the first is also its name under live/. Without names there is neither CA nor
	// front-end: the fleet only replicates.
	Names      []string
	FrontEnd   string       // nginx; "" and frontend.Standin as in frontend.Config
	Broken     map[int]bool // which front-ends answer 404 where the CA looks
	Middleware func(http.Handler) http.Handler
}

// Fleet is a running fleet. Its owner calls Stop. It belongs to one goroutine.
type Fleet struct {
	Dir     string // everything that the fleet writes is in it
	Cluster string
	Nodes   []*Node
	CA      *ca.CA // nil without certificates

	config     Config
	roots      string         // file with the roots of the CA's own TLS
	strangers  map[int]string // further peers of the roster, by their place in it
	peerPort   int
	httpPort   int
	httpsPort  int
	openCA     func() // lets requests through to the CA
	stopAgents []func() error
}

// Loopback returns the addresses 127.0.0.2, 127.0.0.3 and so on.
func Loopback(n int) []string {
	var addresses []string
	for i := range n {
		addresses = append(addresses, fmt.Sprintf("127.0.0.%d", i+2))
	}
	return addresses
}

// Build compiles the certswarm program of this module into dir and returns its path.
func Build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "certswarm")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", binary, "certswarm/cmd/certswarm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build certswarm/cmd/certswarm: %w\n%s", err, output)
	}
	return binary, nil
}
