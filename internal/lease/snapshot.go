package lease

import (
	"certswarm/internal/lease/rules"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// compactAfter is how many entries are kept before a snapshot takes their place: at a renewal every 10 s, those of an hour.
const compactAfter = 360

// compact lets a snapshot take the place of the log. A follower that lacks some of it gets the snapshot, which is no larger than a few entries.
func (s *seat) compact() {
	first, err := s.book.FirstIndex()
	if err != nil || s.applied < first+compactAfter {
		return
	}
	snapshot, err := s.book.CreateSnapshot(s.applied, s.conf, s.state.Encode())
	if err != nil {
		panic(violation(err.Error()))
	}
	if err := s.disk.Save(Change{Hard: s.hard, Snapshot: snapshot}); err != nil {
		s.fail(err)
		return
	}
	s.unsaved = false
	if err := s.book.Compact(s.applied); err != nil {
		panic(violation(err.Error()))
	}
}

// snapshotsNow is the log as raft reads it. A snapshot that it asks for is of now, so that a learner finds itself in it.
type snapshotsNow struct {
	*raft.MemoryStorage
	seat *seat
}

// Snapshot implements raft.Storage.
func (b snapshotsNow) Snapshot() (*raftpb.Snapshot, error) {
	term, err := b.Term(b.seat.applied)
	if err != nil {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return snapshotOf(b.seat.state, b.seat.conf, term, b.seat.applied), nil
}

func snapshotOf(state rules.State, conf *raftpb.ConfState, term, index uint64) *raftpb.Snapshot {
	return &raftpb.Snapshot{
		Data:     state.Encode(),
		Metadata: &raftpb.SnapshotMetadata{ConfState: proto.Clone(conf).(*raftpb.ConfState), Index: new(index), Term: new(term)},
	}
}
