package testnet

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"certswarm/internal/agent"
	"certswarm/internal/agent/config"
	"certswarm/internal/fleet"
	"certswarm/internal/peer"
	"certswarm/syncer"
)

// node is one machine: its disk, which outlives its agents, and the agent that runs on it.
type node struct {
	base    string // of its disk
	id      fleet.NodeID
	address string
	ears    ears
	log     log
	disk    disk

	agent  *agent.Agent        // nil while it is down
	dirs   []*syncer.Directory // of the agent
	cancel context.CancelFunc
	ended  chan error
}

func (n *node) state() string      { return filepath.Join(n.base, "state") }
func (n *node) files() string      { return filepath.Join(n.base, "files") }
func (n *node) configFile() string { return filepath.Join(n.base, "certswarm.yaml") }
func (n *node) running() bool      { return n.agent != nil }

const identityFile = "identity.pem"

// newNode makes a node's disk. Its key follows from its number, for keys decide ties.
func newNode(i int, base string) (*node, error) {
	n := &node{base: base, address: fmt.Sprintf("10.0.%d.%d:7443", i/250, i%250+1)}
	n.disk.of(n)
	for _, dir := range []string{n.state(), n.files()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	seed := make([]byte, ed25519.SeedSize)
	binary.BigEndian.PutUint64(seed, uint64(i)+1)
	key := ed25519.NewKeyFromSeed(seed)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	n.id = peer.NewIdentity(key).ID()
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return n, os.WriteFile(filepath.Join(n.state(), identityFile), text, 0o600)
}

// start runs an agent on the node's disk and returns when it is ready.
func (n *node) start(network *network, adjust func(*agent.Edges)) error {
	if n.running() {
		return errors.New("it is up already")
	}
	ready := make(chan struct{})
	edges := agent.Edges{
		ListenPacket:  func(string) (net.PacketConn, error) { return network.listen(n.address, n.disk.isDead) },
		Watch:         n.ears.watch,
		Disk:          n.disk.interpose,
		Opened:        func(dirs []*syncer.Directory) { n.dirs = dirs },
		ListenControl: newSilent,
		ListenHTTP01:  newSilent,
		Ready:         func() { close(ready) },
	}
	adjust(&edges)
	load := func() (*config.Config, error) { return config.Load([]string{n.configFile()}) }
	a := agent.New(load, "testnet", edges, slog.New(slog.NewTextHandler(&n.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	select {
	case err := <-ended:
		cancel()
		return fmt.Errorf("the agent ended at once: %w", err)
	case <-ready:
	}
	n.agent, n.cancel, n.ended = a, cancel, ended
	return nil
}

// stop ends the agent and returns when it is down.
func (n *node) stop() error {
	if !n.running() {
		return errors.New("it is not up")
	}
	n.cancel()
	err := <-n.ended
	n.agent = nil
	return err
}

// crash ends the agent and puts the disk back to what it was when the crash came.
func (n *node) crash(network *network) error {
	if !n.running() {
		return errors.New("it is not up")
	}
	kept := filepath.Join(n.base, "kept")
	for _, dir := range []string{n.state(), n.files()} {
		if err := copyTree(dir, filepath.Join(kept, filepath.Base(dir))); err != nil {
			return errors.Join(err, n.stop())
		}
	}
	network.plug(n.address, false)
	_ = n.stop() // whatever it says on its way out is not heard
	for _, dir := range []string{n.state(), n.files()} {
		if err := errors.Join(os.RemoveAll(dir), os.Rename(filepath.Join(kept, filepath.Base(dir)), dir)); err != nil {
			return err
		}
	}
	return os.Remove(kept)
}

func (n *node) wipe() error {
	names, err := os.ReadDir(n.state())
	if err != nil {
		return err
	}
	for _, name := range names {
		if name.Name() != identityFile {
			err = errors.Join(err, os.RemoveAll(filepath.Join(n.state(), name.Name())))
		}
	}
	return err
}

// copyTree copies a tree with its modes, owners and modification times; hard links become copies.
func copyTree(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case fs.ModeDir:
		err = copyDirectory(from, to)
	default:
		err = copyFile(from, to)
	}
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	return errors.Join(
		os.Chown(to, int(owner.Uid), int(owner.Gid)),
		os.Chmod(to, info.Mode().Perm()),
		os.Chtimes(to, info.ModTime(), info.ModTime()))
}

func copyDirectory(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	names, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyTree(filepath.Join(from, name.Name()), filepath.Join(to, name.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// log keeps the end of what was written to it.
type log struct {
	mu    sync.Mutex
	lines [][]byte // guarded by mu
}

const logLines = 60

// Write implements io.Writer; slog hands over one line at a time.
func (l *log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, bytes.Clone(line))
	if len(l.lines) > logLines {
		l.lines = l.lines[1:]
	}
	return len(line), nil
}

func (l *log) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(bytes.Join(l.lines, nil))
}
