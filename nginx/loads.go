package nginx

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// errUntold says that only nginx itself could tell whether it can load a file: it may not be read here, or is of a kind that is not known here.
var errUntold = errors.New("it cannot be told from here")

// Loads returns the leaf of the pair in a directory, fullchain.pem and privkey.pem, if nginx can load it, expired or not; links are followed,
// wherever they lead. The error says why nginx cannot. Neither a leaf nor an error: that cannot be told from here.
func Loads(dir string) (*x509.Certificate, error) {
	leaf, err := loadChain(filepath.Join(dir, "fullchain.pem"))
	untold := errors.Is(err, errUntold)
	if err != nil && !untold {
		return nil, err
	}
	key, err := loadKey(filepath.Join(dir, "privkey.pem"))
	if errors.Is(err, errUntold) || err == nil && untold {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return nil, fmt.Errorf("%s: the private key belongs to another certificate than fullchain.pem", filepath.Join(dir, "privkey.pem"))
	}
	return leaf, nil
}

// LeadsNowhere reports whether the pair in a directory lacks a file because a link to it, or the directory itself, leads to nothing: what nobody
// is about to finish.
func LeadsNowhere(dir string) bool {
	for _, name := range []string{dir, filepath.Join(dir, "fullchain.pem"), filepath.Join(dir, "privkey.pem")} {
		at, err := os.Lstat(name)
		if err != nil || at.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// loadChain reads every certificate of a file as nginx does: a broken one behind the leaf keeps it from starting as well.
func loadChain(file string) (leaf *x509.Certificate, err error) {
	data, err := readWhole(file)
	if err != nil {
		return nil, err
	}
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if !strings.HasSuffix(block.Type, "CERTIFICATE") {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, untoldOr(file, block.Bytes, "a certificate")
		}
		if leaf == nil {
			leaf = c
		}
	}
	switch {
	case strings.Contains(string(data), "-----BEGIN CERTIFICATE"):
		return nil, fmt.Errorf("%s: a certificate in it is cut off", file)
	case leaf == nil:
		return nil, fmt.Errorf("%s: there is no certificate in it", file)
	}
	return leaf, nil
}

// loadKey reads the first private key of a file.
func loadKey(file string) (crypto.Signer, error) {
	data, err := readWhole(file)
	if err != nil {
		return nil, err
	}
	for {
		block, rest := pem.Decode(data)
		switch {
		case block == nil:
			return nil, fmt.Errorf("%s: there is no private key in it", file)
		case block.Headers["DEK-Info"] != "":
			return nil, errUntold // encrypted: ssl_password_file (RFC 1421 4.6.1.3)
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			key, err := parseKey(pem.EncodeToMemory(block))
			if err != nil {
				return nil, untoldOr(file, block.Bytes, "the private key")
			}
			return key, nil
		}
		data = rest
	}
}

// untoldOr tells apart what this program cannot read from what nobody can.
func untoldOr(file string, der []byte, what string) error {
	var whole asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &whole); err != nil || len(rest) > 0 || whole.Tag != asn1.TagSequence {
		return fmt.Errorf("%s: %s in it is damaged", file, what)
	}
	return errUntold
}

// readWhole reads a regular file, wherever links lead to it, without waiting for anybody. What is certain not to be there, or not to be a file,
// is an error of its own; whatever else keeps this program from reading it need not keep nginx, which is root.
func readWhole(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	for _, certain := range []error{fs.ErrNotExist, syscall.ENOTDIR, syscall.ELOOP} {
		if errors.Is(err, certain) {
			return nil, err
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUntold, err)
	}
	defer f.Close() // nothing was written: no news in its error
	at, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUntold, err)
	}
	if !at.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", file)
	}
	data, err := io.ReadAll(io.LimitReader(f, certificateLimit+1))
	if err != nil || len(data) > certificateLimit {
		return nil, errUntold
	}
	return data, nil
}
