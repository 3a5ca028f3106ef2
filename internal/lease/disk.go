package lease

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Disk keeps one seat's part in the consensus. It is used by one goroutine.
type Disk interface {
	// Load returns what is kept. The error matches ErrDamaged when it is not what was saved.
	Load() (Kept, error)
	// Save keeps the change, all of it or nothing, and returns when it will survive a power cut. After an error
	// nobody knows which: whoever called must Load before going on.
	Save(Change) error
	Close() error
}

// ErrDamaged says that a Disk does not hold what was saved.
var ErrDamaged = errors.New("the state of the lease is damaged")

// Kept is what a Disk holds.
type Kept struct {
	Incarnation uint64       // 0: the disk is new
	Promise     fleet.NodeID // who may found, see rules.Favourite
	Hard        *raftpb.HardState
	Snapshot    *raftpb.Snapshot // nil: this seat has no state
	Entries     []*raftpb.Entry  // what follows the snapshot, without a gap
}

// Change is what Save keeps.
type Change struct {
	Incarnation uint64        // not 0: everything that was kept is forgotten first
	Promise     *fleet.NodeID // nil: as it was
	Hard        *raftpb.HardState
	Snapshot    *raftpb.Snapshot // takes the place of the log up to its index
	Reset       bool             // of a snapshot: and of all that followed
	Entries     []*raftpb.Entry  // take the place of whatever stood at their indexes and after
}

// boltDisk is a Disk in one bbolt file: every Save is one synced transaction.
type boltDisk struct{ db *bbolt.DB }

var (
	bucketSeat = []byte("seat")
	bucketLog  = []byte("log") // index -> entry

	keyIncarnation = []byte("incarnation")
	keyPromise     = []byte("promise")
	keyHard        = []byte("hard")
	keySnapshot    = []byte("snapshot")
)

const (
	diskFile    = "lease.db"
	damagedFile = "lease.db.damaged"
	damagedMax  = 16 << 20 // bytes of a damaged file that are kept for whoever wants to know
)

// DiskIn returns how to open the disk in a state directory, for RaftConfig.
func DiskIn(state *durable.Root) func(anew bool) (Disk, error) {
	return func(anew bool) (Disk, error) {
		if anew {
			if damaged, err := state.ReadFile(diskFile, damagedMax); err == nil {
				_ = state.WriteFile(damagedFile, damaged, 0o600) // a favour, not a duty
			}
			if err := state.Remove(diskFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("the damaged state of the lease cannot be set aside: %w", err)
			}
		}
		return openBolt(filepath.Join(state.Dir(), diskFile))
	}
}

// openBolt opens the file, or makes it.
func openBolt(path string) (disk Disk, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // the file is mapped: a part that was cut off faults
	defer onDamage(path, &err)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 3 * time.Second, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%s is in use: does another certswarm run with this state directory?", path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	case err != nil && tooSmall(path):
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	case err != nil:
		return nil, fmt.Errorf("the lease's state %s cannot be opened: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, bucket := range [][]byte{bucketSeat, bucketLog} {
			if _, err := tx.CreateBucketIfNotExists(bucket); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the lease's state %s: %w", path, err), db.Close())
	}
	return &boltDisk{db}, nil
}

// tooSmall reports whether there is a file without room for the two pages with which every one of bbolt begins, which it
// reports with an error that has no name.
func tooSmall(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() < 2*int64(os.Getpagesize())
}

// onDamage turns what bbolt does about pages that make no sense, or are no longer in the file, into an error. It
// must be deferred before the pages are touched. What bbolt had opened stays open then: after such a panic nobody can tell which of its
// locks are held.
func onDamage(path string, err *error) {
	if fault := recover(); fault != nil {
		*err = fmt.Errorf("%w: %s: %v", ErrDamaged, path, fault)
	}
}

// Load implements Disk.
func (d *boltDisk) Load() (kept Kept, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer onDamage(d.db.Path(), &err)
	err = d.db.View(func(tx *bbolt.Tx) error {
		seat := tx.Bucket(bucketSeat)
		if raw, err := unseal(seat.Get(keyIncarnation)); err != nil {
			return err
		} else if len(raw) == 8 {
			kept.Incarnation = binary.BigEndian.Uint64(raw)
		}
		if raw, err := unseal(seat.Get(keyPromise)); err != nil {
			return err
		} else if len(raw) == len(kept.Promise) {
			kept.Promise = fleet.NodeID(raw)
		}
		if raw := seat.Get(keyHard); raw != nil {
			kept.Hard = &raftpb.HardState{}
			if err := unsealInto(raw, kept.Hard); err != nil {
				return err
			}
		}
		if raw := seat.Get(keySnapshot); raw != nil {
			kept.Snapshot = &raftpb.Snapshot{}
			if err := unsealInto(raw, kept.Snapshot); err != nil {
				return err
			}
		}
		next := kept.Snapshot.GetMetadata().GetIndex() + 1
		return tx.Bucket(bucketLog).ForEach(func(k, v []byte) error {
			entry := &raftpb.Entry{}
			if err := unsealInto(v, entry); err != nil {
				return err
			}
			if entry.GetIndex() != next || string(k) != string(number(next)) {
				return fmt.Errorf("%w: entry %d stands where %d should", ErrDamaged, entry.GetIndex(), next)
			}
			next++
			kept.Entries = append(kept.Entries, entry)
			return nil
		})
	})
	if err != nil {
		return Kept{}, fmt.Errorf("%s: %w", d.db.Path(), err)
	}
	return kept, nil
}

// Save implements Disk.
func (d *boltDisk) Save(c Change) error {
	err := d.db.Update(func(tx *bbolt.Tx) error {
		if c.Incarnation != 0 {
			for _, bucket := range [][]byte{bucketSeat, bucketLog} {
				if err := tx.DeleteBucket(bucket); err != nil {
					return err
				}
				if _, err := tx.CreateBucket(bucket); err != nil {
					return err
				}
			}
		}
		seat, log := tx.Bucket(bucketSeat), tx.Bucket(bucketLog)
		var errs []error
		put := func(key, value []byte) { errs = append(errs, seat.Put(key, seal(value))) }
		if c.Incarnation != 0 {
			put(keyIncarnation, number(c.Incarnation))
		}
		if c.Promise != nil {
			put(keyPromise, c.Promise[:])
		}
		if c.Hard != nil {
			put(keyHard, mustProto(c.Hard))
		}
		if c.Snapshot != nil {
			put(keySnapshot, mustProto(c.Snapshot))
			through := number(c.Snapshot.GetMetadata().GetIndex())
			errs = append(errs, cut(log, func(k []byte) bool { return c.Reset || string(k) <= string(through) }))
		}
		if len(c.Entries) > 0 {
			from := number(c.Entries[0].GetIndex())
			errs = append(errs, cut(log, func(k []byte) bool { return string(k) >= string(from) }))
		}
		for _, entry := range c.Entries {
			errs = append(errs, log.Put(number(entry.GetIndex()), seal(mustProto(entry))))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("the lease's state %s cannot be written: %w", d.db.Path(), err)
	}
	return nil
}

// Close implements Disk.
func (d *boltDisk) Close() error { return d.db.Close() }

// cut deletes the entries that unwanted names. It collects first: a cursor must not delete while it walks.
func cut(log *bbolt.Bucket, unwanted func(key []byte) bool) error {
	var keys [][]byte
	cursor := log.Cursor()
	for k, _ := cursor.First(); k != nil; k, _ = cursor.Next() {
		if unwanted(k) {
			keys = append(keys, k)
		}
	}
	for _, k := range keys {
		if err := log.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal puts a checksum before value: bbolt has none for its pages.
func seal(value []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(value, castagnoli)), value...)
}

func unseal(sealed []byte) ([]byte, error) {
	if sealed == nil {
		return nil, nil
	}
	if len(sealed) < 4 || binary.BigEndian.Uint32(sealed) != crc32.Checksum(sealed[4:], castagnoli) {
		return nil, fmt.Errorf("%w: a checksum does not match", ErrDamaged)
	}
	return sealed[4:], nil
}

func unsealInto(sealed []byte, into proto.Message) error {
	raw, err := unseal(sealed)
	if err == nil && proto.Unmarshal(raw, into) != nil {
		err = ErrDamaged
	}
	return err
}

// mustProto encodes what raft made, which has no required fields and no text.
func mustProto(m proto.Message) []byte {
	raw, err := proto.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("lease: %T cannot be encoded: %v", m, err))
	}
	return raw
}
