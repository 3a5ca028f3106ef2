package durable

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// The bytes of an intent: magic, length of the payload (uint32, big endian), SHA-256 of magic, length and payload,
// payload. What follows is the end of a longer, older record.
const (
	intentMagic  = "csintnt1"
	intentHead   = len(intentMagic) + 4 + sha256.Size
	intentLimit  = 64 << 20 // bytes of payload
	intentPrefix = len(intentMagic) + 4
)

// Intent is one small record of what is about to be done, in a file that is opened once and overwritten in place: no
// rename, no directory to sync, and no metadata once the file has grown to its usual size.
//
// A record whose Write returned survives the death of the process, and power loss if it was synced. One that was being
// written when either came may read as nothing: the intent before it must be done with, or void, by then. After power
// loss an older synced record may come back in place of a newer one that was not synced, so whoever reads must be able
// to do again what was done already.
//
// An Intent is for one goroutine at a time, and its file for one Intent.
type Intent struct {
	f    *os.File
	root *Root
	name string
}

// OpenIntent opens the intent at name, or makes an empty one that only this user can read.
func OpenIntent(root *Root, name string) (*Intent, error) {
	parent, base, err := root.parent(name)
	if err != nil {
		return nil, err
	}
	defer parent.close()
	var fd int
	err = root.effect(Effect{Act: ActOpen, Name: name, Synced: true}, func() (err error) {
		fd, err = parent.openat(base, unix.O_RDWR|unix.O_CREAT, 0o600)
		return err
	})
	if errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w: a symbolic link, which is not followed", ErrKind)
	}
	if err != nil {
		return nil, failure("open", root.full(name), err)
	}
	i := &Intent{f: os.NewFile(uintptr(fd), root.full(name)), root: root, name: name}
	if err := parent.sync(); err != nil {
		return nil, errors.Join(failure("sync", root.full(dirOf(name)), err), i.Close())
	}
	return i, nil
}

// Write replaces the record; an empty payload is no intent. With sync it is durable on return.
func (i *Intent) Write(payload []byte, sync bool) error {
	if len(payload) > intentLimit {
		return fmt.Errorf("cannot record an intent in %s: it has %d bytes, the limit is %d", i.f.Name(), len(payload), intentLimit)
	}
	record := make([]byte, intentHead, intentHead+len(payload))
	copy(record, intentMagic)
	binary.BigEndian.PutUint32(record[len(intentMagic):], uint32(len(payload)))
	sum := intentSum(record[:intentPrefix], payload)
	copy(record[intentPrefix:], sum[:])
	return i.root.effect(Effect{Act: ActWriteIntent, Name: i.name, Synced: sync}, func() error {
		return i.write(append(record, payload...), sync)
	})
}

func (i *Intent) write(record []byte, sync bool) error {
	if _, err := i.f.WriteAt(record, 0); err != nil {
		return fmt.Errorf("cannot record an intent: %w", err)
	}
	if !sync {
		return nil
	}
	// The size is all of the metadata that matters, and fdatasync writes that when it changed.
	err := retrying(func() error { return unix.Fdatasync(int(i.f.Fd())) })
	return failure("sync", i.f.Name(), err)
}

// Read returns the payload, or nil if there is no intent or only a torn one.
func (i *Intent) Read() ([]byte, error) {
	head := make([]byte, intentHead)
	if _, err := i.f.ReadAt(head, 0); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("cannot read an intent: %w", err)
	}
	length := binary.BigEndian.Uint32(head[len(intentMagic):])
	if string(head[:len(intentMagic)]) != intentMagic || length == 0 || length > intentLimit {
		return nil, nil
	}
	payload, err := io.ReadAll(io.NewSectionReader(i.f, int64(intentHead), int64(length)))
	if err != nil {
		return nil, fmt.Errorf("cannot read an intent: %w", err)
	}
	sum := intentSum(head[:intentPrefix], payload)
	if !bytes.Equal(sum[:], head[intentPrefix:]) {
		return nil, nil
	}
	return payload, nil
}

func intentSum(prefix, payload []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(prefix)
	h.Write(payload)
	return [sha256.Size]byte(h.Sum(nil))
}

// Close closes the file; the record stays.
func (i *Intent) Close() error { return i.f.Close() }
