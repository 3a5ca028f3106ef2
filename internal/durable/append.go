package durable

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Append adds a line, which ends in one, to the file at name, or makes one that only this user can read. A line that
// would make it longer than limit begins a new file: the one before is name.1 then, in place of whatever that was.
//
// On return the line is durable. One that was being written when the power went may be there in part; the next one
// stands on a line of its own all the same.
func (r *Root) Append(name string, line []byte, limit int64) error {
	parent, base, err := r.parent(name)
	if err != nil {
		return err
	}
	defer parent.close()
	err = r.effect(Effect{Act: ActAppend, Name: name, Synced: true}, func() error { return parent.append(base, line, limit) })
	if errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w: a symbolic link, which is not followed", ErrKind)
	}
	return failure("append to", r.full(name), err)
}

func (d directory) append(base string, line []byte, limit int64) error {
	before, err := d.lstat(base)
	made := false
	switch {
	case errors.Is(err, unix.ENOENT):
		made = true
	case err != nil:
		return err
	case before.Kind != File: // what else it is might wait for a reader, for ever
		return fmt.Errorf("%w: a %s, not a file", ErrKind, before.Kind)
	case before.Size > 0 && before.Size+int64(len(line)) > limit:
		if err := unix.Renameat(int(d), base, int(d), base+".1"); err != nil {
			return err
		}
		before, made = Stat{}, true
	}
	fd, err := d.openat(base, unix.O_RDWR|unix.O_APPEND|unix.O_CREAT, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	if before.Size > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, before.Size-1); err != nil {
			return errors.Join(err, f.Close())
		}
		if last[0] != '\n' {
			line = append([]byte("\n"), line...)
		}
	}
	if _, err := f.Write(line); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := retrying(func() error { return unix.Fdatasync(fd) }); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil || !made {
		return err
	}
	return d.sync() // its name
}
