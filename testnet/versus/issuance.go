package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"certswarm/testnet/ca"
	"certswarm/testnet/real"
)

// ordered is how many certificates are obtained, of one name each.
const ordered = 100

// issuance: a hundred names, from empty disks. certswarm obtains their certificates for three nodes, whose nginx all serve them in
// the end. lego then obtains as many for one node, one after the other, as a script would have it, and serves nothing. The CA is the same.
func issuance(ctx context.Context, b *bench) (err error) {
	dir, err := b.fresh()
	if err != nil {
		return err
	}
	names := make([]string, ordered)
	var more [][]string
	for i := range names {
		names[i] = fmt.Sprintf("name%03d.example.com", i+1)
		more = append(more, names[i:i+1])
	}
	fmt.Fprintf(os.Stderr, "versus:   %s\n", certswarmName)
	begin := time.Now()
	fleet, err := real.Start(ctx, real.Config{Binary: b.certswarm, Dir: dir, Addresses: real.Loopback(3), Names: more[0], More: more[1:]})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Stop()) }()
	first := fleet.Nodes[0]
	if output, err := first.Certswarm(ctx, "wait", "--for", "served", "--timeout", patience.String()).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", certswarmName, err, output)
	}
	b.table.set(obtained, certswarmName, time.Since(begin).Seconds())
	if err := counted(fleet.CA, 1, ordered); err != nil {
		return err
	}

	for _, n := range fleet.Nodes { // lego answers the CA itself, where the first front-end did
		n.FrontEnd.Stop()
		if err := n.Stop(); err != nil {
			return err
		}
	}
	if err := fleet.CA.Point(first.Address); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "versus:   %s\n", legoName)
	took, err := byLego(ctx, filepath.Join(dir, "lego"), fleet.CA, first.HTTP(), names)
	if err != nil {
		return fmt.Errorf("%s: %w", legoName, err)
	}
	b.table.set(obtained, legoName, took.Seconds())
	return counted(fleet.CA, 2, 2*ordered)
}

// counted says whether the CA counted that many accounts and certificates.
func counted(authority *ca.CA, accounts, certificates int) error {
	if a, c := authority.Count(ca.Account), len(authority.Issued()); a != accounts || c != certificates {
		return fmt.Errorf("the CA counted %d accounts and %d certificates, not %d and %d", a, c, accounts, certificates)
	}
	return nil
}

// byLego returns how long lego takes for the names, one after the other.
func byLego(ctx context.Context, dir string, authority *ca.CA, listen string, names []string) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done after %v", patience))
	defer cancel()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	roots := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(roots, authority.Root(), 0o600); err != nil {
		return 0, err
	}
	begin := time.Now()
	for _, name := range names {
		one := exec.CommandContext(ctx, "lego", "--server", authority.DirectoryURL(), "--path", dir, "--email", "ops@example.com", "--accept-tos",
			"--http", "--http.port", listen, "--domains", name, "run")
		one.Env = append(os.Environ(), "LEGO_CA_CERTIFICATES="+roots)
		if output, err := one.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%s: %w\n%s", name, err, bytes.TrimSpace(output))
		}
	}
	return time.Since(begin), nil
}
