// Package state is what a replicated directory remembers across restarts: one bbolt file, which is set aside when it is damaged, and written anew while
// it is in use. It decides nothing: what is to be remembered, and what follows from what was, is the replica's business.
package state

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// seqBlock is how many sequence numbers are reserved on disk at once, so that noticing a change never waits for a sync. A crash
// loses at most this many numbers, of 2^64.
const seqBlock = 1 << 16

// Store is the file. Every write is synced when it returns. One goroutine at a time writes; Usable and InPlace may be asked by any.
type Store struct {
	root    *durable.Root // the file lies in it, by this name
	name    string
	db      *bbolt.DB
	file    *os.File                             // db's; to be closed where db cannot be
	is      os.FileInfo                          // of the file, to know it again
	update  func(func(tx *bbolt.Tx) error) error // db's, guarded
	ceiling uint64                               // numbers up to here are reserved
	damage  atomic.Pointer[Damage]               // the file can be used no more; see Replace

	remade   int // files made anew one after the other, because those before them were damaged
	remadeAt time.Time
}

var (
	bucketState     = []byte("state")     // incarnation, ceiling
	bucketEntries   = []byte("entries")   // path -> origin, sealed entry
	bucketHeld      = []byte("held")      // origin -> seq
	bucketForgotten = []byte("forgotten") // origin -> seq
	bucketDoubted   = []byte("doubted")   // as entries, of a life before
	bucketUntil     = []byte("until")     // origin -> seq; see doubt
	bucketKeys      = []byte("keys")      // node id -> public key
	bucketStopgaps  = []byte("stopgaps")  // path -> uid, gid

	keyIncarnation = []byte("incarnation")
	keySeeded      = []byte("seeded") // the first scan of the incarnation was saved
	keyCeiling     = []byte("ceiling")
	keyRejoined    = []byte("rejoined") // Unix seconds
	keyOlder       = []byte("older")    // there at all: see Memory.Older
)

// Open opens the state of a directory, below root, and reads all of it, or begins a new incarnation where there is none. One that is damaged is set
// aside for whoever wants to know why, and is none; the damage is told then.
func Open(root *durable.Root, directory string, scope wire.Scope) (s *Store, m Memory, damage *Damage, err error) {
	s = &Store{root: root, name: fileOf(directory)}
	m, err = s.open(scope)
	if !errors.As(err, &damage) {
		return s, m, nil, err
	}
	if err := s.clear(damage, false); err != nil {
		return nil, Memory{}, nil, errors.Join(fmt.Errorf("%w; and it cannot be set aside", damage), err)
	}
	m, err = s.open(scope)
	return s, m, damage, err
}

// Dir is where the states lie, below the root.
const Dir = "sync"

func fileOf(directory string) string { return Dir + "/" + directory + ".db" }

// Path is where the file is.
func (s *Store) Path() string { return filepath.Join(s.root.Dir(), s.name) }

// Ceiling is up to where numbers may be given.
func (s *Store) Ceiling() uint64 { return s.ceiling }

// open opens the file and reads it.
func (s *Store) open(scope wire.Scope) (m Memory, err error) {
	err = guarded(func() error {
		if err := s.openFile(); err != nil {
			return err
		}
		m, err = s.load(scope)
		return err
	})
	if err == nil {
		return m, nil
	}
	s.letGo(err)
	if isDamage(err) {
		return Memory{}, &Damage{Why: err}
	}
	return Memory{}, fmt.Errorf("the state database %s cannot be opened: %w", s.Path(), err)
}

func (s *Store) openFile() error {
	is, err := os.Stat(s.Path())
	if err == nil && is.Size() == 0 {
		return io.ErrUnexpectedEOF // bbolt would make a new one of it without a word
	}
	made := errors.Is(err, fs.ErrNotExist)
	var db *bbolt.DB
	err = s.root.Do(durable.Effect{Act: durable.ActOpen, Name: s.name}, func() (err error) {
		db, err = bbolt.Open(s.Path(), 0o600, &bbolt.Options{Timeout: 3 * time.Second, FreelistType: bbolt.FreelistMapType, OpenFile: s.keepFile})
		return err
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("%w: does another certswarm run with this state directory?", err)
	}
	if err != nil {
		return err
	}
	s.db = db
	if made {
		if err := s.root.SyncDir(Dir); err != nil {
			return err
		}
	}
	s.update = func(do func(*bbolt.Tx) error) error {
		commit := durable.Effect{Act: durable.ActCommit, Name: s.name, Synced: true}
		return s.root.Do(commit, func() error { return guarded(func() error { return db.Update(do) }) })
	}
	if s.is, err = os.Stat(s.Path()); err != nil {
		return err
	}
	return intact(db)
}

func (s *Store) keepFile(name string, flag int, perm os.FileMode) (file *os.File, err error) {
	s.file, err = os.OpenFile(name, flag, perm)
	return s.file, err
}

// Close lets go of the file.
func (s *Store) Close() error {
	if s.damage.Load() != nil {
		return s.leave()
	}
	return s.db.Close()
}

// leave is Close without bbolt, which may have been thrown out of the middle of something and hold its own locks for ever. What it has mapped stays
// mapped, and would keep the lock of the file.
func (s *Store) leave() error {
	return errors.Join(unix.Flock(int(s.file.Fd()), unix.LOCK_UN), s.file.Close())
}

// letGo is Close after the error of an open. What comes of it is no news.
func (s *Store) letGo(why error) {
	switch {
	case errors.As(why, new(panicked)) && s.file != nil:
		_ = s.leave()
	case s.db != nil:
		_ = s.db.Close()
	}
	s.db = nil
}

// Memory is what a replica starts from.
type Memory struct {
	Incarnation uint64
	Fresh       bool   // what the incarnation found at first sight was never saved
	Seq         uint64 // numbers up to here may have been given
	Entries     []*index.Entry
	Held        index.Summary
	Forgotten   index.Summary                // deletions up to here are remembered no more
	Doubted     map[index.Path]index.Content // what a life before had; see Rejoin
	Until       index.Summary                // it is in doubt before this is held
	Rejoined    time.Time                    // when that life ended; zero: it was the first
	Older       bool                         // it had ended before, and the file was that of an earlier day
	Keys        map[fleet.NodeID]ed25519.PublicKey
	Stopgaps    map[index.Path]durable.Owner // as whose something stands that does not belong to whom it names; nil: that was not remembered yet
}

// Changes are what the file lacks.
type Changes struct {
	Put    []*index.Entry
	Remove []index.Path
	Held   index.Summary // nil: as it was, and so is the rest

	Forgotten index.Summary
	Doubtless bool // nothing is in doubt any more

	Stopgaps map[index.Path]durable.Owner // of the paths that are put or removed: others of them have none
}

// Empty reports whether there are none.
func (c Changes) Empty() bool { return len(c.Put) == 0 && len(c.Remove) == 0 && c.Held == nil }

// load reads everything, begins an incarnation if there is none, and reserves the first numbers of this run. Where an old state cannot be
// written (a full disk), there are none for now.
func (s *Store) load(scope wire.Scope) (Memory, error) {
	m := Memory{Held: index.Summary{}, Forgotten: index.Summary{}, Keys: map[fleet.NodeID]ed25519.PublicKey{}, Incarnation: rand.Uint64(), Fresh: true}
	known := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		state := tx.Bucket(bucketState)
		if state == nil {
			return nil
		}
		if raw := state.Get(keyIncarnation); len(raw) == 8 {
			m.Incarnation, known = binary.BigEndian.Uint64(raw), true
		}
		m.Fresh = state.Get(keySeeded) == nil
		if raw := state.Get(keyCeiling); len(raw) == 8 {
			m.Seq = binary.BigEndian.Uint64(raw)
		}
		if raw := state.Get(keyRejoined); len(raw) == 8 {
			m.Rejoined = time.Unix(int64(binary.BigEndian.Uint64(raw)), 0)
		}
		m.Older = state.Get(keyOlder) != nil
		return m.read(tx, scope)
	})
	if err != nil {
		return Memory{}, err
	}
	s.ceiling = m.Seq
	if err := s.begin(m.Incarnation); err != nil && !(known && IsFull(err)) {
		return Memory{}, err
	}
	return m, nil
}

// begin makes the database that of an incarnation and reserves numbers for it.
func (s *Store) begin(incarnation uint64) error {
	ceiling := s.ceiling + seqBlock
	err := s.update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketState, bucketEntries, bucketHeld, bucketForgotten, bucketDoubted, bucketUntil, bucketKeys, bucketStopgaps} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		state := tx.Bucket(bucketState)
		return errors.Join(state.Put(keyIncarnation, number(incarnation)), state.Put(keyCeiling, number(ceiling)))
	})
	if err == nil {
		s.ceiling = ceiling
	}
	return err
}

func (m *Memory) read(tx *bbolt.Tx, scope wire.Scope) error {
	m.Doubted, m.Until = map[index.Path]index.Content{}, index.Summary{}
	for _, name := range [][]byte{bucketEntries, bucketHeld, bucketKeys} {
		if tx.Bucket(name) == nil {
			return errRecord
		}
	}
	err := errors.Join(readSummary(tx.Bucket(bucketHeld), m.Held), m.readStopgaps(tx.Bucket(bucketStopgaps)))
	if err == nil && tx.Bucket(bucketDoubted) != nil { // else it was made before there was such a thing
		err = errors.Join(readSummary(tx.Bucket(bucketForgotten), m.Forgotten), readSummary(tx.Bucket(bucketUntil), m.Until),
			tx.Bucket(bucketDoubted).ForEach(func(k, v []byte) error {
				e, err := readEntry(k, v)
				if err == nil {
					m.Doubted[e.Path] = e.Content
				}
				return err
			}))
	}
	if err != nil {
		return err
	}
	err = tx.Bucket(bucketKeys).ForEach(func(k, v []byte) error {
		if len(k) != len(fleet.NodeID{}) || len(v) != ed25519.PublicKeySize {
			return errRecord
		}
		m.Keys[fleet.NodeID(k)] = append(ed25519.PublicKey(nil), v...)
		return nil
	})
	if err != nil {
		return err
	}
	return tx.Bucket(bucketEntries).ForEach(func(k, v []byte) error {
		e, err := readEntry(k, v)
		if err == nil {
			scope.Rehash(e)
			m.Entries = append(m.Entries, e)
		}
		return err
	})
}

func readSummary(from *bbolt.Bucket, into index.Summary) error {
	return from.ForEach(func(k, v []byte) error {
		o, err := originOf(k)
		if err != nil || len(v) != 8 {
			return errors.Join(errRecord, err)
		}
		into[o] = binary.BigEndian.Uint64(v)
		return nil
	})
}

func readEntry(k, v []byte) (*index.Entry, error) {
	if len(v) < originSize {
		return nil, errRecord
	}
	o, err := originOf(v[:originSize])
	if err != nil {
		return nil, err
	}
	e, err := wire.DecodeEntry(o, v[originSize:])
	if err != nil || e.Path.String() != string(k) {
		return nil, errors.Join(errRecord, err)
	}
	return e, nil
}

var errRecord = errors.New("a record cannot be read")

// Reserve makes numbers up to at least through usable, and one block more.
func (s *Store) Reserve(through uint64) error {
	ceiling := max(s.ceiling, through) + seqBlock
	err := s.write(func(tx *bbolt.Tx) error { return tx.Bucket(bucketState).Put(keyCeiling, number(ceiling)) })
	if err != nil {
		return fmt.Errorf("sequence numbers cannot be reserved in %s: %w", s.Path(), err)
	}
	s.ceiling = ceiling
	return nil
}

// Save makes a replica's changes durable, all or none of them.
func (s *Store) Save(c Changes, keys map[fleet.NodeID]ed25519.PublicKey) error {
	err := s.write(func(tx *bbolt.Tx) error {
		if err := tx.Bucket(bucketState).Put(keySeeded, []byte{1}); err != nil {
			return err
		}
		entries := tx.Bucket(bucketEntries)
		for _, e := range c.Put {
			record := append(originKey(e.Origin), wire.EncodeEntry(e)...)
			if err := entries.Put([]byte(e.Path.String()), record); err != nil {
				return err
			}
		}
		for _, p := range c.Remove {
			if err := entries.Delete([]byte(p.String())); err != nil {
				return err
			}
		}
		if err := c.putStopgaps(tx); err != nil {
			return err
		}
		err := errors.Join(putSummary(tx.Bucket(bucketHeld), c.Held), putSummary(tx.Bucket(bucketForgotten), c.Forgotten))
		if err == nil && c.Doubtless {
			err = empty(tx, bucketDoubted, bucketUntil)
		}
		if err != nil {
			return err
		}
		known := tx.Bucket(bucketKeys)
		for id, key := range keys {
			if err := known.Put(id[:], key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("the state database %s cannot be written: %w", s.Path(), err)
	}
	return nil
}

// putStopgaps makes those of the changed paths what they are now.
func (c Changes) putStopgaps(tx *bbolt.Tx) error {
	stopgaps, err := tx.CreateBucketIfNotExists(bucketStopgaps) // where begin found no room
	if err != nil {
		return err
	}
	paths := slices.Clone(c.Remove)
	for _, e := range c.Put {
		paths = append(paths, e.Path)
	}
	for _, p := range paths {
		if o, stands := c.Stopgaps[p]; stands {
			err = stopgaps.Put([]byte(p.String()), binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(o.UID)), uint32(o.GID)))
		} else {
			err = stopgaps.Delete([]byte(p.String()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Memory) readStopgaps(from *bbolt.Bucket) error {
	if from == nil {
		return nil
	}
	m.Stopgaps = map[index.Path]durable.Owner{}
	return from.ForEach(func(k, v []byte) error {
		p, err := index.ParsePath(string(k))
		if err != nil || len(v) != 8 {
			return errors.Join(errRecord, err)
		}
		m.Stopgaps[p] = durable.Owner{UID: int(binary.BigEndian.Uint32(v)), GID: int(binary.BigEndian.Uint32(v[4:]))}
		return nil
	})
}

// Rejoin begins a new incarnation, which knows nothing but what is in doubt until it holds enough.
func (s *Store) Rejoin(doubted []*index.Entry, until index.Summary, older bool, now time.Time) error {
	err := s.write(func(tx *bbolt.Tx) error {
		state := tx.Bucket(bucketState)
		err := errors.Join(empty(tx, bucketEntries, bucketHeld, bucketForgotten, bucketDoubted, bucketUntil),
			state.Delete(keySeeded), state.Delete(keyCeiling), state.Put(keyIncarnation, number(rand.Uint64())),
			state.Put(keyRejoined, number(uint64(now.Unix()))), state.Delete(keyOlder), putSummary(tx.Bucket(bucketUntil), until))
		if older {
			err = errors.Join(err, state.Put(keyOlder, []byte{1}))
		}
		for _, e := range doubted {
			err = errors.Join(err, tx.Bucket(bucketDoubted).Put([]byte(e.Path.String()), append(originKey(e.Origin), wire.EncodeEntry(e)...)))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("the state database %s cannot begin anew: %w", s.Path(), err)
	}
	return nil
}

// empty takes everything out of buckets. One that is empty is left as it is, for to make another costs pages.
func empty(tx *bbolt.Tx, names ...[]byte) error {
	for _, name := range names {
		if first, _ := tx.Bucket(name).Cursor().First(); first == nil {
			continue
		}
		if err := tx.DeleteBucket(name); err != nil {
			return err
		}
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return nil
}

func putSummary(into *bbolt.Bucket, s index.Summary) error {
	for o, seq := range s {
		if err := into.Put(originKey(o), number(seq)); err != nil {
			return err
		}
	}
	return nil
}

func number(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

const originSize = len(fleet.NodeID{}) + 8

func originKey(o index.Origin) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(nil), o.Node[:]...), o.Incarnation)
}

func originOf(raw []byte) (index.Origin, error) {
	if len(raw) != originSize {
		return index.Origin{}, errRecord
	}
	return index.Origin{
		Node:        fleet.NodeID(raw[:originSize-8]),
		Incarnation: binary.BigEndian.Uint64(raw[originSize-8:]),
	}, nil
}
