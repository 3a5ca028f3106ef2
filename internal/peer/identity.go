package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
)

const (
	identityFile = "identity.pem"
	identityPEM  = "PRIVATE KEY" // PKCS #8, RFC 7468 10
	identityMax  = 16 << 10      // bytes; a real one has about 120
)

// Identity is a node's Ed25519 key: holding it is what being that node means. It never leaves this package; others
// get the id, the public half and signatures.
type Identity struct {
	key ed25519.PrivateKey
	id  fleet.NodeID
}

// NewIdentity returns the identity that key gives.
func NewIdentity(key ed25519.PrivateKey) *Identity {
	id := &Identity{key: key}
	id.id = fleet.IDOf(id.PublicKey())
	return id
}

// ID returns the id that others pin.
func (i *Identity) ID() fleet.NodeID { return i.id }

// PublicKey returns the key that verifies what Sign signs.
func (i *Identity) PublicKey() ed25519.PublicKey { return i.key.Public().(ed25519.PublicKey) }

// Sign returns the Ed25519 signature (RFC 8032) of message.
func (i *Identity) Sign(message []byte) []byte { return ed25519.Sign(i.key, message) }

// CreateIdentity returns the identity kept in stateDir, making the directory (0700) and the key (0600) if there is
// none. created tells which. A key that is there is never replaced, not even a damaged one: that is an error which
// says what to do. Of two processes that race, one creates and both return the same key.
func CreateIdentity(stateDir string) (id *Identity, created bool, err error) {
	id, err = LoadIdentity(stateDir)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, false, err
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, false, fmt.Errorf("make the state directory: %w", err)
	}
	unlock, err := lockDirectory(stateDir)
	if err != nil {
		return nil, false, fmt.Errorf("keep the node key in %s: %w", stateDir, err)
	}
	defer unlock()
	id, err = LoadIdentity(stateDir) // somebody may have been faster
	if !errors.Is(err, fs.ErrNotExist) {
		return id, false, err
	}
	if id, err = generateIdentity(stateDir); err != nil {
		return nil, false, fmt.Errorf("keep the node key in %s: %w", stateDir, err)
	}
	return id, true, nil
}

// generateIdentity needs the lock on stateDir and no key in it: the write replaces.
func generateIdentity(stateDir string) (*Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	root, err := durable.OpenRoot(stateDir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	parent, err := durable.OpenRoot(filepath.Dir(filepath.Clean(stateDir)))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	text := pem.EncodeToMemory(&pem.Block{Type: identityPEM, Bytes: der})
	if err := root.WriteFile(identityFile, text, 0o600); err != nil {
		return nil, err
	}
	if err := parent.SyncDir("."); err != nil { // stateDir may be new
		return nil, err
	}
	return NewIdentity(key), nil
}

// lockDirectory waits until no other process holds the lock on dir. The kernel drops it when the process ends.
func lockDirectory(dir string) (unlock func(), err error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock: %w", err), file.Close())
	}
	return func() { file.Close() }, nil
}

// LoadIdentity returns the identity kept in stateDir. The error matches fs.ErrNotExist when there is none. A key that
// the group or others may read, or that is damaged, is refused.
func LoadIdentity(stateDir string) (*Identity, error) {
	name := filepath.Join(stateDir, identityFile)
	generate := "certswarm identity generate --state-dir " + stateDir
	file, err := os.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("this node has no key yet; make it with: %s: %w", generate, err)
	case err != nil:
		return nil, fmt.Errorf("read the node key: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the node key: %w", err)
	}
	if mode := info.Mode(); !mode.IsRegular() {
		return nil, fmt.Errorf("the node key %s is not a regular file", name)
	} else if mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the node key %s has mode %04o, so others than its owner can use it; if nobody did: chmod 0600 %[1]s", name, mode.Perm())
	}
	text, err := io.ReadAll(io.LimitReader(file, identityMax))
	if err != nil {
		return nil, fmt.Errorf("read the node key %s: %w", name, err)
	}
	key, err := parseIdentity(text)
	if err != nil {
		return nil, fmt.Errorf("the node key %s is damaged (%w); restore it from a backup, or move it away, run: %s, "+
			"and put the new id into every node's peer list", name, err, generate)
	}
	return NewIdentity(key), nil
}

func parseIdentity(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != identityPEM {
		return nil, fmt.Errorf("no PEM block %q", identityPEM)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	node, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("holds a %T, not an Ed25519 key", key)
	}
	return node, nil
}
