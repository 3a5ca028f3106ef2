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
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, false, fmt.Errorf("make a node key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, false, fmt.Errorf("encode the node key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: identityPEM, Bytes: der})
	err = writeOnce(stateDir, identityFile, text)
	if errors.Is(err, fs.ErrExist) {
		id, err = LoadIdentity(stateDir)
		return id, false, err
	}
	if err != nil {
		return nil, false, fmt.Errorf("keep the node key in %s: %w", stateDir, err)
	}
	return NewIdentity(key), true, nil
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

// writeOnce gives data the name dir/name, readable by its owner alone, in one step that survives power loss, unless
// that name exists: then the error matches fs.ErrExist and nothing is changed. It links instead of renaming because
// a rename would replace.
func writeOnce(dir, name string, data []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(dir, ".certswarm-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Link(file.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	parent, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}
