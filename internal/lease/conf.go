package lease

import (
	"errors"
	"fmt"

	"certswarm/internal/lease/rules"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

// A configuration that contradicts itself, and a change that does not fit the one that holds, are panics in raft. So they are found out here
// before it sees them. What is decided depends on the log alone: it is the same on every node.

// changer returns what a change of conf begins from, or why there is no such configuration.
func changer(conf *raftpb.ConfState) (confchange.Changer, error) {
	track := tracker.MakeProgressTracker(1, 0)
	var err error
	if track.Config, track.Progress, err = confchange.Restore(confchange.Changer{Tracker: track}, conf); err != nil {
		return confchange.Changer{}, err
	}
	if track.ConfState().Equivalent(conf) != nil {
		return confchange.Changer{}, errors.New("it names a node twice, or nobody")
	}
	return confchange.Changer{Tracker: track}, nil
}

// decodeChange reads a committed change of the voters, with the seats of those that it adds, and makes sure that it can be made.
func decodeChange(e *raftpb.Entry, from confchange.Changer) (change *raftpb.ConfChangeV2, seats []rules.Seat, err error) {
	change = &raftpb.ConfChangeV2{}
	if e.GetType() == raftpb.EntryConfChange {
		single := &raftpb.ConfChange{}
		err = proto.Unmarshal(e.GetData(), single)
		change = single.AsV2()
	} else {
		err = proto.Unmarshal(e.GetData(), change)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("a change of the voters cannot be read: %w", err)
	}
	if seats, err = decodeSeats(change.GetContext()); err != nil {
		return nil, nil, err
	}
	switch _, known := raftpb.ConfChangeTransition_name[int32(change.GetTransition())]; {
	case !known:
		err = fmt.Errorf("transition %d", change.GetTransition())
	case change.LeaveJoint():
		_, _, err = from.LeaveJoint()
	default:
		if autoLeave, joint := change.EnterJoint(); joint {
			_, _, err = from.EnterJoint(autoLeave, change.GetChanges()...)
		} else {
			_, _, err = from.Simple(change.GetChanges()...)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("a change of the voters that cannot be made: %w", err)
	}
	return change, seats, nil
}

// checkSnapshot says why a snapshot that came with a message of a line cannot be that line's.
func checkSnapshot(line rules.Line, snapshot *raftpb.Snapshot) error {
	state, err := rules.DecodeState(snapshot.GetData())
	if err != nil {
		return err
	}
	if state.Line != line {
		return errors.New("a snapshot of another line than the message is of")
	}
	if _, err := changer(raftpb.EnsureConfState(snapshot.GetMetadata().GetConfState())); err != nil {
		return fmt.Errorf("a snapshot with voters that cannot be: %w", err)
	}
	return nil
}
