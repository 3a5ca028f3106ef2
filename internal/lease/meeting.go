package lease

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// neighbour is a connected member of the electorate, or a connected voter that the list no longer has.
type neighbour struct {
	since time.Time
	rules.Standing
	stamp   int64         // its boot clock, of the last word
	echoed  time.Duration // this node's boot clock, as it came back; 0: it did not
	spoken  uint64        // ticks: when it was last told something
	proven  progress      // how far, by its last word, it heard the consensus of the seat proves come
	proves  uint64        // Seat.ID
	answers bool          // its consensus has been heard since it connected
	faulty  time.Duration // boot clock: when it was last said what is wrong with its messages; 0: it was not
}

// fresh is how young an answer must be to count.
func (s *seat) fresh() time.Duration { return rules.PromiseFor(s.ttl) / 6 }

// neighbours is the peers as the rules see them.
func (s *seat) neighbours() map[fleet.NodeID]rules.Neighbour {
	now := s.clock().Boot
	out := map[fleet.NodeID]rules.Neighbour{}
	for id, n := range s.peers {
		out[id] = rules.Neighbour{Heard: n.echoed != 0 && now-n.echoed <= s.fresh(), Standing: n.Standing}
	}
	return out
}

// see looks who is connected.
func (s *seat) see() {
	connected := map[fleet.NodeID]bool{}
	for _, p := range s.r.config.Network.Peers() {
		if !s.matters(p.ID) {
			continue
		}
		connected[p.ID] = true
		n := s.peers[p.ID]
		if n == nil || !n.since.Equal(p.Since) {
			n = &neighbour{since: p.Since}
			s.peers[p.ID] = n
		}
		n.List = p.List
	}
	maps.DeleteFunc(s.peers, func(id fleet.NodeID, _ *neighbour) bool { return !connected[id] })
}

// meet looks who is connected, talks to whoever should hear something, and draws conclusions from what they said.
func (s *seat) meet() {
	s.see()
	maps.DeleteFunc(s.attests, func(id uint64, _ progress) bool { _, sits := s.state.Seats[id]; return !sits })
	maps.DeleteFunc(s.heeded, func(id fleet.NodeID, _ time.Duration) bool { return !s.matters(id) })
	if !s.candidate() && s.state.Line.IsZero() {
		return // neither votes nor will
	}
	mine := s.standing()
	restless := !s.led()
	now := s.clock().Boot
	all := restless || mine != s.told || now-s.toldAt >= rules.RenewEvery(s.ttl)
	for _, id := range slices.SortedFunc(maps.Keys(s.peers), fleet.NodeID.Compare) {
		if n := s.peers[id]; all || n.stamp == 0 {
			s.tell(id, n, restless)
		}
	}
	if all {
		s.told, s.toldAt = mine, now
	}
	if !s.state.Line.IsZero() && s.forsaken() {
		s.rebirth("most voters of this node's cluster have joined another one")
	}
}

// forsaken reports whether nothing can be committed on this seat's line any more.
func (s *seat) forsaken() bool {
	near, acted := s.neighbours(), !s.state.Epoch.IsZero()
	return rules.Forsaken(s.state.Line, acted, s.seatsOf(s.conf.GetVoters()), near) ||
		rules.Forsaken(s.state.Line, acted, s.seatsOf(s.conf.GetVotersOutgoing()), near)
}

// sits reports whether this seat votes or learns, as far as it knows.
func (s *seat) sits() bool {
	return !s.state.Line.IsZero() && !s.out && slices.Contains(sitting(s.conf), s.id)
}

// led reports whether there is somebody who leads, as far as this seat or, if it has no part in the vote, any neighbour knows: then there
// is nothing to ask around for.
func (s *seat) led() bool {
	if s.sits() {
		return !s.leader().IsZero()
	}
	for _, n := range s.peers {
		if !n.Line.IsZero() && !n.Leader.IsZero() {
			return true
		}
	}
	return false
}

// matters reports whether a node has anything to do with the vote.
func (s *seat) matters(id fleet.NodeID) bool {
	if s.list.votes(id) {
		return true
	}
	for _, seat := range s.state.Seats {
		if seat.Node == id {
			return true
		}
	}
	return false
}

func (s *seat) candidate() bool { return s.list.votes(s.self) }

// standing is where this seat is. What changes with every renewal is left to whoever asks for it.
func (s *seat) standing() rules.Standing {
	st := rules.Standing{Seat: s.me, Line: s.state.Line, Epoch: s.state.Epoch, Seen: s.r.seen(), Candidate: s.promised(), List: s.list.digest}
	st.Leader = s.leader()
	return st
}

// leader returns who leads, and has said so within the longest election timeout: a learner would believe in a dead one for ever.
func (s *seat) leader() fleet.NodeID {
	if s.rn == nil || !s.lead.is && s.clock().Boot-s.ledAt > s.ttl/3 {
		return fleet.NodeID{}
	}
	return s.nodeOf(s.rn.BasicStatus().Lead)
}

// end returns how far this seat's log goes.
func (s *seat) end() progress {
	last, err := s.book.LastIndex()
	if err != nil {
		return progress{}
	}
	term, err := s.book.Term(last)
	if err != nil {
		return progress{}
	}
	return progress{term, last}
}

func (s *seat) nodeOf(id uint64) fleet.NodeID {
	if id == raft.None {
		return fleet.NodeID{}
	}
	if id == s.id {
		return s.self
	}
	if seat, ok := s.state.Seats[id]; ok {
		return seat.Node
	}
	for node, n := range s.peers {
		if !n.Seat.IsZero() && n.Seat.ID() == id {
			return node
		}
	}
	return fleet.NodeID{}
}

// tell sends a neighbour this seat's standing.
func (s *seat) tell(to fleet.NodeID, n *neighbour, ask bool) {
	word := &said{Standing: s.standing(), Stamp: int64(s.clock().Boot), Echo: n.stamp, Ask: ask, Renewed: -1}
	if !n.Seat.IsZero() {
		word.Of = n.Seat.ID()
		word.Attest = s.attests[word.Of]
		_, sits := s.state.Seats[word.Of]
		word.Out = n.Line == s.state.Line && s.sits() && !sits && !s.leader().IsZero()
	}
	end := s.end()
	word.LogTerm, word.LogIndex = end.Term, end.Index
	if !s.renewed.IsZero() {
		word.Renewed = time.Since(s.renewed)
		word.Holder = s.holder
	}
	if word.Candidate == to {
		s.promiseUntil = s.clock().Boot + rules.PromiseFor(s.ttl)
	}
	n.spoken = s.ticks
	s.post(to, envelope{line: s.state.Line, seat: s.me, said: word})
}

func (s *seat) post(to fleet.NodeID, e envelope) {
	if message, err := e.encode(); err == nil && len(message) <= MaxMessage {
		s.r.config.Network.Send(to, message)
	}
}

// receive takes one message.
func (s *seat) receive(l letter) {
	if s.rn == nil || s.r.hold.gateShut() {
		return
	}
	if s.peers[l.from] == nil {
		s.meet() // it connected a moment ago
	}
	n := s.peers[l.from]
	if n == nil {
		return
	}
	e, err := decodeEnvelope(l.from, l.message)
	switch {
	case err != nil:
	case e.said != nil:
		s.hear(n, e.said)
	default:
		err = s.step(e)
		n.answers = true
	}
	if now := s.clock().Boot; err != nil && (n.faulty == 0 || now-n.faulty >= time.Minute) {
		n.faulty = now
		s.log.Warn("messages about the lease are ignored", "peer", s.list.NameOf(l.from), "error", err)
	}
}

// hear takes a neighbour's word.
func (s *seat) hear(n *neighbour, word *said) {
	list := n.List
	n.Standing, n.stamp, n.proven, n.proves = word.Standing, word.Stamp, word.Attest, word.Of
	n.List = list
	if word.Echo > 0 {
		n.echoed = max(n.echoed, time.Duration(word.Echo))
	}
	s.heed(word)
	if word.Renewed >= 0 {
		if at := time.Now().Add(-word.Renewed); at.After(s.renewed) {
			s.renewed, s.holder = at, word.Holder
		}
	}
	end := s.end()
	if word.Out && word.Of == s.id && word.Line == s.state.Line && end.before(progress{word.LogTerm, word.LogIndex}) {
		s.untold = s.untold || !s.out
		s.out = true
	}
	switch {
	case s.forgot():
		s.lost("the lease's state on this disk is older than what this node told others")
	case word.Line.Supersedes(s.state.Line) && !s.state.Line.IsZero():
		s.rebirth("a recovery has superseded its cluster")
	case word.Ask && n.spoken != s.ticks:
		s.tell(word.Seat.Node, n, false)
	}
}

// heed takes in the latest epoch that a neighbour knows of. One above this seat's own ends the tenure of whoever leads, see outdated: a
// neighbour whose number only ever grows must not keep the fleet from its work.
func (s *seat) heed(word *said) {
	if !s.state.Line.IsZero() && word.Seen.Compare(s.state.Epoch) > 0 && word.Seen.Compare(s.r.seen()) > 0 {
		now := s.clock().Boot
		if at, before := s.heeded[word.Seat.Node]; before && now-at < s.ttl {
			return // it says so again
		}
		s.heeded[word.Seat.Node] = now
	}
	s.r.Saw(word.Seen)
}

// forgot reports whether this disk has forgotten what was promised on it, by the word of the seat's leader or of a majority of the voters.
func (s *seat) forgot() bool {
	own, lead, witnesses := progress{s.hard.GetTerm(), s.end().Index}, s.rn.BasicStatus().Lead, 0
	for _, n := range s.peers {
		if n.proves != s.id || !own.before(n.proven) {
			continue
		}
		if n.Seat.ID() == lead {
			return true
		}
		if slices.Contains(s.conf.GetVoters(), n.Seat.ID()) {
			witnesses++
		}
	}
	return witnesses > len(s.conf.GetVoters())/2
}

// lost gives up a seat whose disk does not hold what it should.
func (s *seat) lost(why string) {
	if s.rebirth(why) {
		s.damaged = why
	}
}

// step takes a neighbour's part in the consensus. An error says what no member of the fleet would have sent.
func (s *seat) step(e envelope) error {
	m := e.raft
	if m.GetTo() != s.id || e.line.IsZero() && s.state.Line.IsZero() {
		return nil
	}
	if !e.line.IsZero() && !s.state.Line.IsZero() && e.line != s.state.Line {
		return nil // two clusters, or a superseded one: see strangers and hear
	}
	if m.GetType() == raftpb.MsgSnap {
		if err := checkSnapshot(e.line, m.GetSnapshot()); err != nil {
			return fmt.Errorf("%w: %w", errEnvelope, err)
		}
	}
	if end := s.end().Index; m.GetType() == raftpb.MsgHeartbeat && m.GetCommit() > end {
		// No leader says so of entries of which it has not heard from this seat that they are on its disk.
		switch status := s.rn.BasicStatus(); {
		case m.GetTerm() == status.GetTerm() && status.Lead == m.GetFrom():
			s.lost("the leader knows of entries that this disk once had and has no more")
			return nil
		case m.GetTerm() == status.GetTerm() && status.Lead != raft.None:
			return fmt.Errorf("%w: a heartbeat of a second leader of one term", errEnvelope)
		}
		m.Commit = new(end) // if it leads, its next one is its leader's
	}
	if proven, ok := attested(m); ok && s.attests[m.GetFrom()].before(proven) {
		s.attests[m.GetFrom()] = proven
	}
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		s.ledAt = s.clock().Boot
	}
	s.guard(func() { _ = s.rn.Step(m) }) // an error says only that the message came too late
	return nil
}

// attested returns what a message proves to be on its sender's disk.
func attested(m *raftpb.Message) (progress, bool) {
	switch m.GetType() {
	case raftpb.MsgAppResp:
		if m.GetReject() {
			return progress{m.GetTerm(), 0}, true
		}
		return progress{m.GetTerm(), m.GetIndex()}, true
	case raftpb.MsgApp:
		return progress{m.GetTerm(), m.GetIndex() + uint64(len(m.GetEntries()))}, true
	case raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp:
		return progress{m.GetTerm(), 0}, true
	}
	return progress{}, false // a PreVote speaks of a term that it is not in
}

// send hands the consensus's messages over and returns to whom that was impossible.
func (s *seat) send(messages []*raftpb.Message) (unreachable []uint64) {
	for _, m := range messages {
		node := s.nodeOf(m.GetTo())
		if _, up := s.peers[node]; !up {
			unreachable = append(unreachable, m.GetTo())
			continue
		}
		s.post(node, envelope{line: s.state.Line, seat: s.me, raft: m})
		if m.GetType() == raftpb.MsgSnap {
			defer s.rn.ReportSnapshot(m.GetTo(), raft.SnapshotFinish) // whether it arrived, the next probe finds out
		}
	}
	return unreachable
}

// strangers returns who is connected and belongs to another cluster.
func (s *seat) strangers() []string {
	var out []string
	for id, n := range s.peers {
		if !s.state.Line.IsZero() && !n.Line.IsZero() && n.Line.Cluster != s.state.Line.Cluster {
			out = append(out, s.list.NameOf(id))
		}
	}
	slices.Sort(out)
	return out
}

// promised returns to whom this seat's promise holds: a node with state has none to give.
func (s *seat) promised() fleet.NodeID {
	if !s.state.Line.IsZero() || !s.candidate() {
		return fleet.NodeID{}
	}
	return s.promise
}

// found begins a cluster where there is none, and reports whether it did. A node that may not found helps the one that may.
func (s *seat) found() bool {
	if !s.state.Line.IsZero() || !s.candidate() {
		return false
	}
	now := s.clock().Boot
	near := s.neighbours()
	bound := !s.promise.IsZero() && now < s.promiseUntil && !rules.Freed(s.self, s.promise, near)
	if favourite := rules.Favourite(s.self, s.list.Roster, near); favourite != s.promise && !favourite.IsZero() && !bound {
		if err := s.disk.Save(Change{Promise: &favourite}); err != nil {
			s.fail(err)
			return false
		}
		s.promise, s.promiseUntil = favourite, now+rules.PromiseFor(s.ttl)
	}
	if why := rules.MayFound(s.self, s.promise, s.list.Roster, near, now-s.started >= s.ttl); why != "" {
		return false
	}
	s.begin(rules.Founders(s.me, s.list.Roster, near))
	return s.rn != nil
}

// begin founds a cluster. It begins in the middle of a change of the voters, from the whole electorate to those who will vote: until a majority
// of both has taken it up, nothing is committed, and nobody acts.
func (s *seat) begin(voters, electorate []rules.Seat) {
	var cluster rules.Cluster
	binary.BigEndian.PutUint64(cluster[:8], random())
	binary.BigEndian.PutUint64(cluster[8:], random())
	line := rules.Line{Cluster: cluster, Generation: rules.NextGeneration(s.state, s.r.seen()), Nonce: random()}
	s.log.Info("no node has the lease's state: this one begins it", "cluster", cluster.String(), "generation", line.Generation)
	conf := &raftpb.ConfState{Voters: ids(voters)}
	if len(electorate) > len(voters) {
		conf.VotersOutgoing, conf.AutoLeave = ids(electorate), new(true)
	}
	// The term is one in which this seat has given no vote, and above what others know that it said on the way here.
	s.replace(rules.Found(line, electorate), conf, s.hard.GetTerm()+1, 1)
	if s.rn != nil && len(electorate) > 1 {
		s.guard(func() { _ = s.rn.Campaign() }) // those who promised are there, and wait for it; an error says only that it is not the time
	}
}

func ids(seats []rules.Seat) (out []uint64) {
	for _, seat := range seats {
		out = append(out, seat.ID())
	}
	return out
}

// replace begins anew with a state that others do not have yet, at (term, index).
func (s *seat) replace(state rules.State, conf *raftpb.ConfState, term, index uint64) {
	snapshot := snapshotOf(state, conf, term, index)
	hard := &raftpb.HardState{Term: new(term), Commit: new(index)}
	// COMMIT: a crash before this line leaves what was, one after it the new line.
	if err := s.disk.Save(Change{Hard: hard, Snapshot: snapshot, Reset: true}); err != nil {
		s.fail(err)
		return
	}
	s.boot()
}

// standings is where everybody is who could rebuild the lease.
func (s *seat) standings() []Standing {
	own := s.standing()
	end := progress{}
	if s.rn != nil {
		end = s.end()
	}
	out := []Standing{{
		Node: s.self, State: !own.Line.IsZero(), Epoch: own.Epoch, Term: end.Term, Index: end.Index, Leader: own.Leader, Heard: true,
	}}
	for id, n := range s.neighbours() {
		out = append(out, Standing{
			Node: id, State: !n.Line.IsZero(), Epoch: n.Epoch, Term: n.LogTerm, Index: n.LogIndex, Leader: n.Leader, Heard: n.Heard,
		})
	}
	slices.SortFunc(out[1:], func(a, b Standing) int { return a.Node.Compare(b.Node) })
	return out
}

// mayRecover says why recover would do nothing.
func (s *seat) mayRecover() error {
	switch {
	case s.broken != nil:
		return fmt.Errorf("this node's disk does not serve: %w", s.broken)
	case s.rn == nil:
		return fmt.Errorf("this node has no part in the vote for the moment (%s); ask again in %s", s.damaged, s.ttl)
	}
	if !s.candidate() {
		return errors.New("this node neither issues nor votes; recover on one that does")
	}
	own := s.standing()
	end := s.end()
	own.LogTerm, own.LogIndex = end.Term, end.Index
	if why := rules.MayRecover(own, s.list.Roster, s.neighbours()); why != "" {
		return errors.New(why)
	}
	return nil
}

// recover goes on alone under a new line, on a person's word.
func (s *seat) recover() error {
	if err := s.mayRecover(); err != nil {
		return err
	}
	if s.state.Line.IsZero() {
		alone := []rules.Seat{s.me}
		s.begin(alone, alone)
		return s.broken
	}
	line := rules.Line{Cluster: s.state.Line.Cluster, Generation: rules.NextGeneration(s.state, s.r.seen()), Nonce: random()}
	s.log.Warn("the lease is rebuilt from this node alone", "generation", line.Generation)
	s.replace(s.state.Recover(line, s.me), &raftpb.ConfState{Voters: []uint64{s.id}}, s.hard.GetTerm()+1, s.end().Index+1)
	return s.broken
}
