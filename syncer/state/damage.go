package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"certswarm/internal/durable"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// A file that cannot be read, or not written, is no reason to end. At the start it is set aside and the node begins a new incarnation:
// what it finds on its disk ranks below all that the fleet has. While it runs it knows everything by heart, and writes it down anew.

// Damage is what is wrong with a file that cannot be used.
type Damage struct {
	Why  error
	Kept string // where it was set aside, below the root; "": it was not
}

// Error implements error.
func (d *Damage) Error() string { return fmt.Sprintf("the state database is damaged: %v", d.Why) }

// Unwrap returns Why.
func (d *Damage) Unwrap() error { return d.Why }

// panicked is what was thrown by bbolt, or by the kernel at it.
type panicked struct{ cause any }

// Error implements error.
func (p panicked) Error() string { return fmt.Sprint(p.cause) }

// guarded runs f, which reads pages that are mapped into memory: one that is damaged makes bbolt panic, and one that was cut off the file makes
// the kernel send SIGBUS; neither may end the agent. What f had locked stays locked then, and the database must not be used again.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			err = panicked{cause}
		}
	}()
	return f()
}

// isDamage tells what is wrong with a database from what is wrong around it.
func isDamage(err error) bool {
	var errno syscall.Errno
	if errors.As(err, new(panicked)) {
		return true
	}
	if errors.As(err, &errno) {
		return slices.Contains([]syscall.Errno{unix.EIO, unix.EUCLEAN, unix.EBADMSG, unix.EINVAL}, errno)
	}
	return !errors.Is(err, bolterrors.ErrTimeout)
}

// IsFull reports whether there was no room.
func IsFull(err error) bool {
	return slices.ContainsFunc([]error{unix.ENOSPC, unix.EDQUOT}, func(full error) bool { return errors.Is(err, full) })
}

// intact reads a database whole. It walks every bucket before it has bbolt check what the pages say of each other (2 ms for 10,000 entries): that
// check runs in a goroutine of its own, where a fault cannot be caught, and so must not be the first to follow a pointer.
func intact(db *bbolt.DB) error {
	return db.View(func(tx *bbolt.Tx) error {
		err := tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(_, v []byte) error {
				if v == nil {
					return errRecord // a bucket where there is none
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
		var errs []error
		for err := range tx.Check() { // to the end, or its goroutine would wait for ever
			errs = append(errs, err)
		}
		if len(errs) > 0 {
			return fmt.Errorf("%d of its pages contradict each other: %w", len(errs), errs[0])
		}
		return nil
	})
}

// write is update, and notes the damage.
func (s *Store) write(do func(*bbolt.Tx) error) error {
	if damage := s.damage.Load(); damage != nil {
		return damage
	}
	err := s.update(do)
	if err != nil && isDamage(err) && !errors.As(err, new(syscall.Errno)) { // what the disk refuses now it may take the next time
		s.damage.Store(&Damage{Why: err})
		return s.damage.Load()
	}
	return err
}

// InPlace reports whether the file that is open is still where the next start will look for it. Where the disk does not say, it may be.
func (s *Store) InPlace() bool {
	is, err := os.Stat(s.Path())
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR)
	}
	return os.SameFile(is, s.is)
}

// A disk that damages whatever is written to it is not to be filled with what it damaged.
const (
	damagedKept  = 8                // so many files are set aside
	remakeFirst  = 10 * time.Second // after the first, the next is made so much later, and each after twice as long
	remakeLast   = 10 * time.Minute
	remakeMemory = time.Hour // since the last one: that was another trouble
)

// Usable reports whether the file can be written: it is whole as far as is known, and where the next start will look for it.
func (s *Store) Usable() bool { return s.damage.Load() == nil && s.InPlace() }

// remakeAt returns when the next file may be made in place of one that is damaged.
func (s *Store) remakeAt() time.Time {
	if s.remade == 0 {
		return time.Time{}
	}
	return s.remadeAt.Add(min(remakeFirst<<min(s.remade-1, 10), remakeLast))
}

// Replace begins another file for the same incarnation, which is to be told everything. Numbers up to through were given.
func (s *Store) Replace(now time.Time, incarnation, through uint64) (*Damage, error) {
	damage := s.damage.Load()
	if damage == nil {
		damage = &Damage{Why: errors.New("it was removed or replaced while it was in use")}
	}
	if now.Sub(s.remadeAt) > remakeMemory {
		s.remade = 0
	}
	if at := s.remakeAt(); now.Before(at) {
		s.damage.Store(damage)
		return nil, fmt.Errorf("%w; another one is made at %s", damage, at.UTC().Format(time.RFC3339))
	}
	own := s.remade > 0 && s.InPlace() // it says what this node knows by heart, and the disk is known to be bad
	s.remade, s.remadeAt = s.remade+1, now
	_ = s.Close() // it is nobody's any more; the second time it fails
	if err := s.clear(damage, own); err != nil {
		s.damage.Store(damage)
		return nil, err
	}
	fresh := Store{root: s.root, name: s.name, ceiling: max(s.ceiling, through)}
	err := guarded(fresh.openFile)
	if err == nil {
		err = fresh.begin(incarnation)
	}
	if err != nil {
		fresh.letGo(err)
		s.damage.Store(damage)
		return nil, errors.Join(fmt.Errorf("the state database %s cannot be made anew: %w", s.Path(), err), s.root.Remove(s.name))
	}
	s.db, s.file, s.is, s.update, s.ceiling = fresh.db, fresh.file, fresh.is, fresh.update, fresh.ceiling
	s.damage.Store(nil)
	return damage, nil
}

// clear makes room for another file. What stands there is set aside, unless nobody would learn anything from it.
func (s *Store) clear(damage *Damage, worthless bool) error {
	kept := 0
	names, err := s.root.ReadDir(path.Dir(s.name))
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, path.Base(s.name)+damagedMark) {
			kept++
		}
	}
	if worthless || kept >= damagedKept {
		return s.root.Remove(s.name)
	}
	aside, err := s.root.SetAside(s.name, damagedSuffix(time.Now()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	damage.Kept = aside
	return err
}

const damagedMark = ".damaged-"

const damagedTime = "20060102T150405.000000000Z"

func damagedSuffix(now time.Time) string { return damagedMark + now.UTC().Format(damagedTime) }

// Aside is a file that was set aside, and when.
type Aside struct {
	Name string // below the root
	At   time.Time
}

// SetAside returns what of a directory's state was set aside and is still there, the oldest first.
func SetAside(root *durable.Root, directory string) ([]Aside, error) {
	names, err := root.ReadDir(Dir)
	var out []Aside
	for _, name := range names { // they sort as their times do
		text, is := strings.CutPrefix(Dir+"/"+name, fileOf(directory)+damagedMark)
		if at, err := time.Parse(damagedTime, text); is && err == nil {
			out = append(out, Aside{Dir + "/" + name, at})
		}
	}
	return out, err
}
