package lease_test

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/internal/lease/rules"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// seatOf returns where a machine sits.
func (w *world) seatOf(i int) rules.Seat {
	return rules.Seat{Node: w.machines[i].id, Incarnation: w.machines[i].disk.copy().Incarnation}
}

// stateOf returns what a machine's last snapshot says.
func (w *world) stateOf(i int) rules.State {
	w.t.Helper()
	state, err := rules.DecodeState(w.machines[i].disk.copy().Snapshot.GetData())
	if err != nil {
		w.t.Fatal(err)
	}
	return state
}

// termAt returns a term that is so much later than those in which two machines are.
func (w *world) termAt(a, b int, later uint64) uint64 {
	return max(w.machines[a].disk.copy().Hard.GetTerm(), w.machines[b].disk.copy().Hard.GetTerm()) + later
}

// forge delivers a message of raft that no leader or voter on from's seat would have sent. Its Term is what it adds to the present one.
func (w *world) forge(from, to int, m *raftpb.Message) {
	w.t.Helper()
	m.From, m.To = new(w.seatOf(from).ID()), new(w.seatOf(to).ID())
	m.Term = new(w.termAt(from, to, m.GetTerm()))
	body, err := proto.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	w.deliver(from, to, 1, body)
}

// tell delivers a word that from would not have said.
func (w *world) tell(from, to int, word map[string]any) {
	w.t.Helper()
	body, err := json.Marshal(word)
	if err != nil {
		w.t.Fatal(err)
	}
	w.deliver(from, to, 2, body)
}

func (w *world) deliver(from, to int, kind byte, body []byte) {
	w.t.Helper()
	line := w.stateOf(from).Line
	header := append([]byte{1, kind}, line.Cluster[:]...)
	for _, number := range []uint64{line.Generation, line.Nonce, w.seatOf(from).Incarnation} {
		header = binary.BigEndian.AppendUint64(header, number)
	}
	w.machines[to].raft.Deliver(w.machines[from].id, append(header, body...))
	synctest.Wait()
}

// forged runs a test with three voters that are at rest: what fe1, fe2 and fe3 are to it.
func forged(t *testing.T, name string, test func(t *testing.T, w *world, leader, follower, victim int)) {
	t.Helper()
	bubble(t, name, func(t *testing.T) {
		w := threeIssuers(t)
		leader := w.settled(3)
		rest := w.others(leader)
		test(t, w, leader, rest[0], rest[1])
		if !t.Failed() {
			w.anyHolder(handover)
			w.voters(3, 5*time.Minute)
			w.oneCluster()
		}
	})
}

// keepsSeat fails the test if what is done makes a machine leave its seat.
func (w *world) keepsSeat(i int, done func()) {
	w.t.Helper()
	before := w.seatOf(i)
	done()
	synctest.Wait()
	time.Sleep(time.Second)
	if w.seatOf(i) != before {
		w.t.Errorf("fe%d left its seat", i+1)
	}
}

// impossible are configurations with which raft ends the process.
func impossible(victim uint64) map[string]*raftpb.ConfState {
	return map[string]*raftpb.ConfState{
		"a voter that learns": {Voters: []uint64{victim}, Learners: []uint64{victim}},
		"nobody votes":        {Learners: []uint64{victim}},
		"one votes twice":     {Voters: []uint64{victim, victim}},
		"one is number 0":     {Voters: []uint64{victim, 0}},
		"both halves of nothing": {
			Voters: []uint64{victim}, LearnersNext: []uint64{victim}, AutoLeave: new(true),
		},
	}
}

func TestASnapshotThatCannotBeIsNotTaken(t *testing.T) {
	snapshot := func(state rules.State, conf *raftpb.ConfState) *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgSnap.Enum(), Snapshot: &raftpb.Snapshot{
			Data:     state.Encode(),
			Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(1000)), Term: new(uint64(1)), ConfState: conf},
		}}
	}
	for name := range impossible(1) {
		forged(t, name, func(t *testing.T, w *world, leader, _, victim int) {
			w.keepsSeat(victim, func() {
				w.forge(leader, victim, snapshot(w.stateOf(victim), impossible(w.seatOf(victim).ID())[name]))
			})
		})
	}
	voters := func(w *world) *raftpb.ConfState {
		conf := &raftpb.ConfState{}
		for i := range w.machines {
			conf.Voters = append(conf.Voters, w.seatOf(i).ID())
		}
		return conf
	}
	forged(t, "nobody can read it", func(t *testing.T, w *world, leader, _, victim int) {
		w.keepsSeat(victim, func() {
			m := snapshot(w.stateOf(victim), voters(w))
			m.Snapshot.Data = []byte("{")
			w.forge(leader, victim, m)
		})
		if w.problem(victim, lease.WriteFailed) {
			t.Error("the victim says that its disk does not serve")
		}
	})
	forged(t, "it is another line's", func(t *testing.T, w *world, leader, _, victim int) {
		w.keepsSeat(victim, func() {
			state := w.stateOf(victim)
			state.Line.Nonce++
			w.forge(leader, victim, snapshot(state, voters(w)))
		})
		if strings.Count(w.machines[victim].logs.String(), "messages about the lease are ignored") != 1 {
			t.Error("nothing was said about it")
		}
	})
}

// TestAChangeOfTheVotersThatCannotBeMadeIsPassedOver: once it is committed it is in every log, and read again after every restart.
func TestAChangeOfTheVotersThatCannotBeMadeIsPassedOver(t *testing.T) {
	for name, change := range map[string]*raftpb.ConfChangeV2{
		"there is nothing to leave": {},
		"everybody goes": {Changes: []*raftpb.ConfChangeSingle{
			{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: new(uint64(0))},
		}, Transition: raftpb.ConfChangeTransitionJointExplicit.Enum()},
		"a transition that does not exist": {Transition: raftpb.ConfChangeTransition(9).Enum()},
		"a kind that does not exist": {Changes: []*raftpb.ConfChangeSingle{
			{Type: raftpb.ConfChangeType(9).Enum(), NodeId: new(uint64(5))},
		}},
		"its seats cannot be read": {Context: []byte("{"), Changes: []*raftpb.ConfChangeSingle{
			{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(5))},
		}},
	} {
		forged(t, name, func(t *testing.T, w *world, leader, follower, victim int) {
			if name == "everybody goes" {
				change.Changes = nil
				for i := range w.machines {
					change.Changes = append(change.Changes, &raftpb.ConfChangeSingle{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: new(w.seatOf(i).ID())})
				}
			}
			data, err := proto.Marshal(change)
			if err != nil {
				t.Fatal(err)
			}
			before := [2]rules.Seat{w.seatOf(follower), w.seatOf(victim)}
			for _, to := range []int{follower, victim} { // a majority: it is committed
				last, term := w.logEnd(to)
				w.forge(leader, to, &raftpb.Message{
					Type: raftpb.MsgApp.Enum(), Term: new(uint64(5)), LogTerm: new(term), Index: new(last), Commit: new(last + 1),
					Entries: []*raftpb.Entry{{
						Type: raftpb.EntryConfChangeV2.Enum(), Term: new(w.termAt(leader, to, 5)), Index: new(last + 1), Data: data,
					}},
				})
				if !strings.Contains(w.machines[to].logs.String(), "passed over") {
					t.Errorf("fe%d did not pass it over:\n%s", to+1, w.machines[to].logs.String())
				}
			}
			w.anyHolder(handover)
			w.kill(victim)
			w.start(victim) // it reads it again
			time.Sleep(time.Second)
			if now := [2]rules.Seat{w.seatOf(follower), w.seatOf(victim)}; now != before {
				t.Error("a seat was given up for it")
			}
		})
	}
}

// logEnd returns where a machine's log ends.
func (w *world) logEnd(i int) (index, term uint64) {
	kept := w.machines[i].disk.copy()
	if n := len(kept.Entries); n > 0 {
		return kept.Entries[n-1].GetIndex(), kept.Entries[n-1].GetTerm()
	}
	return kept.Snapshot.GetMetadata().GetIndex(), kept.Snapshot.GetMetadata().GetTerm()
}

// TestWhatRaftCannotStandOnItsDisk: a state with which raft panics at every start costs the seat, not the process.
func TestWhatRaftCannotStandOnItsDisk(t *testing.T) {
	forged(t, "once", func(t *testing.T, w *world, _, _, victim int) {
		for range 2 {
			seat := w.seatOf(victim)
			w.kill(victim)
			kept := w.machines[victim].disk.copy()
			kept.Snapshot.Metadata.ConfState = impossible(seat.ID())["a voter that learns"]
			w.machines[victim].disk.restore(kept)
			w.start(victim)
			if w.seatOf(victim) == seat {
				t.Error("it sits where it cannot")
			}
			if log := w.machines[victim].logs.String(); !strings.Contains(log, "stack") || !strings.Contains(log, "newRaft") {
				t.Errorf("the log does not say where:\n%s", log)
			}
			if !w.problem(victim, lease.StateDamaged) {
				t.Errorf("it says nothing\n%s", w.report())
			}
			w.voters(3, 10*time.Minute)
		}
	})
	forged(t, "again and again: the node waits", func(t *testing.T, w *world, leader, _, victim int) {
		seats := map[rules.Seat]bool{}
		for range 40 { // s
			last, term := w.logEnd(victim)
			w.forge(leader, victim, &raftpb.Message{ // a gap in the log
				Type: raftpb.MsgApp.Enum(), LogTerm: new(term), Index: new(last),
				Entries: []*raftpb.Entry{{Term: new(w.termAt(leader, victim, 0)), Index: new(last + 5)}},
			})
			seats[w.seatOf(victim)] = true
			time.Sleep(time.Second)
		}
		if n := len(seats); n != 2 { // one at once, one a ttl later
			t.Errorf("%d seats in 40 s", n)
		}
		if !w.problem(victim, lease.StateDamaged) {
			t.Errorf("it says nothing\n%s", w.report())
		}
	})
}

// TestOneMessageDoesNotUnseat: what makes a voter give up its seat is believed from those who can know it, and not every moment.
func TestOneMessageDoesNotUnseat(t *testing.T) {
	attest := func(w *world, victim int) map[string]any {
		return map[string]any{"of": w.seatOf(victim).ID(), "attest": map[string]uint64{"term": math.MaxUint32, "index": 1}, "renewed": -1}
	}
	forged(t, "a follower's word", func(t *testing.T, w *world, _, follower, victim int) {
		w.keepsSeat(victim, func() { w.tell(follower, victim, attest(w, victim)) })
	})
	forged(t, "a heartbeat of who does not lead", func(t *testing.T, w *world, _, follower, victim int) {
		w.keepsSeat(victim, func() {
			for range 2 {
				w.forge(follower, victim, &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), Commit: new(uint64(1 << 40))})
			}
		})
	})
	forged(t, "a heartbeat of who does", func(t *testing.T, w *world, leader, _, victim int) {
		seat := w.seatOf(victim)
		w.forge(leader, victim, &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), Commit: new(uint64(1 << 40))})
		if w.seatOf(victim) == seat {
			t.Error("the leader was not believed")
		}
	})
	forged(t, "a heartbeat of an earlier leader", func(t *testing.T, w *world, leader, _, victim int) {
		w.keepsSeat(victim, func() {
			w.forge(leader, victim, &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), Term: new(uint64(math.MaxUint64)), Commit: new(uint64(1 << 40))})
		})
	})
	forged(t, "a heartbeat of a later one", func(t *testing.T, w *world, _, follower, victim int) {
		w.keepsSeat(victim, func() {
			w.forge(follower, victim, &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), Term: new(uint64(1)), Commit: new(uint64(1 << 40))})
		})
	})
	forged(t, "the leader's word is believed, once per ttl", func(t *testing.T, w *world, leader, _, victim int) {
		seat := w.seatOf(victim)
		w.tell(leader, victim, attest(w, victim))
		first := w.seatOf(victim)
		if first == seat {
			t.Fatal("the leader was not believed")
		}
		time.Sleep(rules.Tick(ttl) * 4)
		w.until(ttl/2, "it learns", func() bool { return w.machines[victim].disk.copy().Snapshot != nil })
		w.keepsSeat(victim, func() { w.tell(leader, victim, attest(w, victim)) })
		time.Sleep(ttl)
		w.tell(leader, victim, attest(w, victim))
		if w.seatOf(victim) == first {
			t.Error("a ttl later it is not believed")
		}
	})
	forged(t, "two of three are believed", func(t *testing.T, w *world, leader, follower, victim int) {
		seat := w.seatOf(leader)
		w.keepsSeat(leader, func() { w.tell(follower, leader, attest(w, leader)) })
		w.tell(follower, leader, attest(w, leader))
		w.tell(victim, leader, attest(w, leader))
		if w.seatOf(leader) == seat {
			t.Error("they were not")
		}
	})
}

// TestANeighbourCannotRaiseEpochsAtWill: each rise ends the tenure, so one neighbour can cause one per ttl.
func TestANeighbourCannotRaiseEpochsAtWill(t *testing.T) {
	forged(t, "ten in ten seconds", func(t *testing.T, w *world, leader, follower, _ int) {
		epochs := map[fleet.Epoch]bool{}
		begin := w.machines[leader].raft.View().Epoch
		for i := range 10 {
			w.tell(follower, leader, map[string]any{"renewed": -1, "seen": fleet.Epoch{Generation: begin.Generation + uint64(10*i) + 1}})
			time.Sleep(time.Second)
			epochs[w.machines[w.anyHolder(ttl)].raft.View().Epoch] = true
		}
		if len(epochs) != 1 || epochs[begin] {
			t.Errorf("%d tenures in ten seconds; the first rise must count, and no other", len(epochs))
		}
		time.Sleep(ttl)
		before := w.machines[leader].raft.View().Epoch
		w.tell(follower, leader, map[string]any{"renewed": -1, "seen": fleet.Epoch{Generation: before.Generation + 1}})
		time.Sleep(time.Second)
		if after := w.machines[w.anyHolder(ttl)].raft.View().Epoch; after.Generation <= before.Generation {
			t.Error("a ttl later it is not heeded")
		}
	})
}

// TestGarbageIsSaidOnceAMinute: of what kind it is makes no difference.
func TestGarbageIsSaidOnceAMinute(t *testing.T) {
	forged(t, "sizes that alternate", func(t *testing.T, w *world, leader, follower, _ int) {
		warned := func() int {
			return strings.Count(w.machines[leader].logs.String(), "messages about the lease are ignored")
		}
		for i := range 50 {
			w.machines[leader].raft.Deliver(w.machines[follower].id, slices.Repeat([]byte{1}, 3+i%2))
			synctest.Wait()
		}
		if n := warned(); n != 1 {
			t.Errorf("said %d times", n)
		}
		time.Sleep(time.Minute)
		w.machines[leader].raft.Deliver(w.machines[follower].id, []byte{1})
		synctest.Wait()
		if n := warned(); n != 2 {
			t.Errorf("a minute later: said %d times", n)
		}
	})
}
