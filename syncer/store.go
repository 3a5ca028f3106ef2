package syncer

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// seqBlock is how many sequence numbers are reserved on disk at once, so that noticing a change never waits for a sync. A crash
// loses at most this many numbers, of 2^64.
const seqBlock = 1 << 16

// store is a replica's memory across restarts: one bbolt file. Every write is synced when it returns.
type store struct {
	db      *bbolt.DB
	ceiling uint64 // numbers up to here are reserved
}

var (
	bucketState   = []byte("state")   // incarnation, ceiling
	bucketEntries = []byte("entries") // path -> origin, sealed entry
	bucketHeld    = []byte("held")    // origin -> seq
	bucketKeys    = []byte("keys")    // node id -> public key

	keyIncarnation = []byte("incarnation")
	keySeeded      = []byte("seeded") // the first scan of the incarnation was saved
	keyCeiling     = []byte("ceiling")
)

// openStore opens the state at path, or begins a new incarnation where there is none.
func openStore(path string) (s *store, err error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 3 * time.Second, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s is in use: does another certswarm run with this state directory?", path)
	}
	if err != nil {
		return nil, fmt.Errorf("the state database %s cannot be opened: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketState, bucketEntries, bucketHeld, bucketKeys} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the state database %s: %w", path, err), db.Close())
	}
	return &store{db: db}, nil
}

func (s *store) close() error { return s.db.Close() }

// memory is what a replica starts from.
type memory struct {
	incarnation uint64
	fresh       bool // what the incarnation found at first sight was never saved
	seq         uint64
	entries     []*index.Entry
	held        index.Summary
	keys        map[fleet.NodeID]ed25519.PublicKey
}

// load reads everything, begins an incarnation if there is none, and reserves the first numbers of this run.
func (s *store) load(scope wire.Scope) (memory, error) {
	m := memory{held: index.Summary{}, keys: map[fleet.NodeID]ed25519.PublicKey{}}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		state := tx.Bucket(bucketState)
		if raw := state.Get(keyIncarnation); len(raw) == 8 {
			m.incarnation = binary.BigEndian.Uint64(raw)
		} else {
			m.incarnation = rand.Uint64()
			if err := state.Put(keyIncarnation, number(m.incarnation)); err != nil {
				return err
			}
		}
		m.fresh = state.Get(keySeeded) == nil
		if raw := state.Get(keyCeiling); len(raw) == 8 {
			m.seq = binary.BigEndian.Uint64(raw)
		}
		s.ceiling = m.seq + seqBlock
		if err := state.Put(keyCeiling, number(s.ceiling)); err != nil {
			return err
		}
		err := tx.Bucket(bucketHeld).ForEach(func(k, v []byte) error {
			o, err := originOf(k)
			if err != nil || len(v) != 8 {
				return errors.Join(errDamaged, err)
			}
			m.held[o] = binary.BigEndian.Uint64(v)
			return nil
		})
		if err != nil {
			return err
		}
		err = tx.Bucket(bucketKeys).ForEach(func(k, v []byte) error {
			if len(k) != len(fleet.NodeID{}) || len(v) != ed25519.PublicKeySize {
				return errDamaged
			}
			m.keys[fleet.NodeID(k)] = append(ed25519.PublicKey(nil), v...)
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketEntries).ForEach(func(k, v []byte) error {
			if len(v) < originSize {
				return errDamaged
			}
			o, err := originOf(v[:originSize])
			if err != nil {
				return err
			}
			e, err := wire.DecodeEntry(o, v[originSize:])
			if err != nil || e.Path.String() != string(k) {
				return errors.Join(errDamaged, err)
			}
			scope.Rehash(e)
			m.entries = append(m.entries, e)
			return nil
		})
	})
	if err != nil {
		return memory{}, fmt.Errorf("the state database %s cannot be read: %w", s.db.Path(), err)
	}
	return m, nil
}

var errDamaged = errors.New("a record is damaged")

// reserve makes numbers up to at least through usable, and one block more.
func (s *store) reserve(through uint64) error {
	ceiling := max(s.ceiling, through) + seqBlock
	err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketState).Put(keyCeiling, number(ceiling)) })
	if err != nil {
		return fmt.Errorf("sequence numbers cannot be reserved in %s: %w", s.db.Path(), err)
	}
	s.ceiling = ceiling
	return nil
}

// save makes a replica's changes durable, all or none of them.
func (s *store) save(u unsaved, keys map[fleet.NodeID]ed25519.PublicKey) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if err := tx.Bucket(bucketState).Put(keySeeded, []byte{1}); err != nil {
			return err
		}
		entries := tx.Bucket(bucketEntries)
		for _, e := range u.put {
			record := append(originKey(e.Origin), wire.EncodeEntry(e)...)
			if err := entries.Put([]byte(e.Path.String()), record); err != nil {
				return err
			}
		}
		for _, p := range u.remove {
			if err := entries.Delete([]byte(p.String())); err != nil {
				return err
			}
		}
		held := tx.Bucket(bucketHeld)
		for o, seq := range u.held {
			if err := held.Put(originKey(o), number(seq)); err != nil {
				return err
			}
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
		return fmt.Errorf("the state database %s cannot be written: %w", s.db.Path(), err)
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
		return index.Origin{}, errDamaged
	}
	return index.Origin{
		Node:        fleet.NodeID(raw[:originSize-8]),
		Incarnation: binary.BigEndian.Uint64(raw[originSize-8:]),
	}, nil
}
