package lease_test

import (
	"bytes"
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/lease/rules"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

const header = 2 + 16 + 3*8 // of a message; see envelope

// inLaterWords is a message as a later version might send it: what it says of itself, and what it has the log say, has fields that are not known yet.
func inLaterWords(t *testing.T, message []byte) []byte {
	more := func(object []byte) []byte {
		return bytes.Replace(object, []byte("{"), []byte(`{"later":{"version":[2]},`), 1)
	}
	out := bytes.Clone(message[:header])
	if message[1] == 2 {
		return append(out, more(message[header:])...)
	}
	var m raftpb.Message
	if err := proto.Unmarshal(message[header:], &m); err != nil {
		t.Error(err)
		return message
	}
	for _, e := range m.GetEntries() {
		if e.GetType() == raftpb.EntryNormal && len(e.GetData()) > 0 {
			e.Data = more(e.GetData())
		}
	}
	if s := m.GetSnapshot(); len(s.GetData()) > 0 {
		s.Data = more(s.GetData())
	}
	body, err := proto.Marshal(&m)
	if err != nil {
		t.Error(err)
	}
	return append(out, body...)
}

// Nodes are upgraded one after the other. Whoever leads, old and new vote with each other, follow each other, and hand the lease over; a snapshot of
// the one serves the other.
func TestMixedVersions(t *testing.T) {
	for name, later := range map[string][]int{"one is later": {0}, "two are later": {0, 1}} {
		bubble(t, name, func(t *testing.T) {
			w := threeIssuers(t)
			for _, i := range later {
				w.machines[i].later = true
			}
			holder := w.settled(3)
			held := map[int]bool{}
			for range 20 {
				held[holder] = true
				w.stop(holder)
				next := w.anyHolder(ttl, holder)
				w.start(holder)
				time.Sleep(time.Minute)
				holder = next
			}
			if len(held) < 2 {
				t.Errorf("only %v held the lease", held)
			}
			follower := w.others(holder)[0]
			w.kill(follower)
			time.Sleep(150 * time.Minute) // what it lacks is in a snapshot only
			w.start(follower)
			time.Sleep(time.Minute)
			w.kill(holder)
			w.anyHolder(handover, holder)
			w.oneCluster()
		})
	}
}

// What this version does not know changes nothing: a verb in the log, a kind of message, a format.
func TestWhatIsNotKnownYetIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeIssuers(t)
		holder := w.settled(3)
		epoch := w.machines[holder].raft.View().Epoch
		for _, from := range w.others(holder) {
			w.deliver(from, holder, 9, []byte("a kind of later"))
			message := make([]byte, header)
			message[0] = 2 // the format
			binary.BigEndian.PutUint64(message[18:], 1)
			w.machines[holder].raft.Deliver(w.machines[from].id, message)
		}
		time.Sleep(10 * time.Minute)
		if v := w.machines[holder].raft.View(); !v.HeldHere || v.Epoch != epoch {
			t.Errorf("it was %v, and is %+v", epoch, v)
		}
	})
	c, err := rules.DecodeCommand([]byte(`{"verb":"lend","by":12,"epoch":"1-0000000000000002.3.4","to":13}`))
	if err != nil {
		t.Fatal(err)
	}
	before := rules.Found(rules.Line{Generation: 1, Nonce: 2}, nil).Apply(3, 4, rules.Command{Verb: rules.Acquire, By: 12})
	if after := before.Apply(3, 5, c); after.Holder != before.Holder || after.Epoch != before.Epoch || after.Settled != before.Settled {
		t.Errorf("%+v becomes %+v", before, after)
	}
}
