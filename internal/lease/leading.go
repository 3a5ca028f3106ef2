package lease

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// leading is what a seat remembers only while it leads.
type leading struct {
	is       bool
	tenure   rules.Tenure            // zero: the lease was not acquired yet
	earliest time.Duration           // boot clock: when what its predecessors hold has expired
	asked    map[uint64]rules.Moment // by ticket: taken before the proposal was made
	proposed rules.Moment            // when something was proposed last
	pending  uint64                  // the ticket of what was proposed last; 0: it is committed
	handed   time.Duration           // boot clock: when a successor was last asked to take over
	looked   uint64                  // ticks: when the voters were last compared with the list
	step     rules.Step              // what came of it
	confirms [32]byte                // the digest of the list that a person agreed to

	departing bool          // gives the lease away
	quiet     time.Duration // boot clock: until then nobody is told that the right has ended; 0: it has not
	replies   []func(error)
}

// letGo is for how long a holder that gives the lease away waits between the end of its right and telling the others: whoever has just
// asked whether it may act gets to do so. It is a three-hundredth of the ttl.
func letGo(ttl time.Duration) time.Duration { return ttl / 300 }

// stepDown forgets everything that goes with leading.
func (s *seat) stepDown(why error) {
	s.r.hold.finish(why)
	s.r.hold.extend(rules.Tenure{})
	s.untold = true
	s.lead = leading{departing: s.lead.departing, quiet: s.lead.quiet, replies: s.lead.replies, confirms: s.lead.confirms}
}

// duty does the next thing that this seat owes, and reports whether it did something that the consensus must now carry out.
func (s *seat) duty() bool {
	status := s.rn.BasicStatus()
	if status.RaftState != raft.StateLeader {
		if s.lead.is {
			s.stepDown(ErrLost)
		}
		s.departed(nil)
		return s.found()
	}
	if !s.lead.is {
		s.stepDown(ErrLost)
		s.lead.is = true
		s.lead.asked = map[uint64]rules.Moment{}
	}
	now := s.clock()
	if s.lead.pending != 0 && now.Boot-s.lead.proposed.Boot < s.ttl/6 {
		return false // the last word is on its way
	}
	s.lead.pending = 0
	switch holds, goes := s.lead.tenure.TTL != 0, s.lead.departing || !s.mayHold(); {
	case goes && holds:
		return s.release(now)
	case goes:
		return s.handOver(now)
	case !holds:
		return s.propose(rules.Command{Verb: rules.Acquire})
	case s.outdated():
		s.r.hold.finish(fmt.Errorf("%w: something was written under a later epoch", ErrLost))
		s.lead.tenure = rules.Tenure{}
		s.r.hold.extend(s.lead.tenure)
		return s.propose(rules.Command{Verb: rules.Raise, Generation: rules.NextGeneration(s.state, s.r.seen()), Nonce: random()})
	default:
		return s.keepLease(now)
	}
}

// keepLease renews in time, grants the right when it may, and looks after the voters.
func (s *seat) keepLease(now rules.Moment) bool {
	settled := s.settled(now)
	if s.r.hold.spent(s.state.Epoch) || settled && !s.lead.tenure.MayAct(now) {
		s.r.hold.finish(ErrExpired)    // nobody may have asked, or watched, since it ended
		s.lead.tenure = rules.Tenure{} // the right ended, whatever was renewed since: another tenure, another epoch
		s.r.hold.extend(s.lead.tenure)
		return true
	}
	if settled {
		s.r.hold.begin(s.ctx, s.state.Epoch)
	}
	if settled && !s.state.Settled || now.Boot-s.lead.proposed.Boot >= rules.RenewEvery(s.ttl) {
		return s.propose(rules.Command{Verb: rules.Renew, Epoch: s.state.Epoch, Settled: settled})
	}
	return s.reseat()
}

// propose asks the voters to commit c. The moment from which the right counts is taken first.
func (s *seat) propose(c rules.Command) bool {
	c.By, c.Ticket = s.id, random()|1
	moment := s.clock()
	if err := s.rn.Propose(c.Encode()); err != nil {
		return false // no leader any more, or handing over: the next turn knows
	}
	s.lead.asked[c.Ticket], s.lead.proposed, s.lead.pending = moment, moment, c.Ticket
	return true
}

// committed takes in that something this seat proposed, maybe before it was restarted, was committed.
func (s *seat) committed(c rules.Command) {
	moment, known := s.lead.asked[c.Ticket]
	if !known {
		return
	}
	delete(s.lead.asked, c.Ticket)
	if s.lead.pending == c.Ticket {
		s.lead.pending = 0
	}
	mine := s.state.Holder == s.id
	switch {
	case c.Verb == rules.Acquire && mine:
		s.lead.tenure, s.lead.quiet = rules.Tenure{From: moment, TTL: s.ttl}, 0
		s.lead.earliest = s.clock().Boot
		if !s.state.Settled {
			s.lead.earliest += s.ttl
		}
		s.r.hold.extend(s.lead.tenure)
	case c.Verb == rules.Renew && mine && c.Epoch == s.state.Epoch && s.lead.tenure.TTL != 0:
		s.lead.tenure.From = moment
		s.r.hold.extend(s.lead.tenure)
	case c.Verb == rules.Release:
		s.lead.tenure = rules.Tenure{}
		s.r.hold.extend(s.lead.tenure)
	}
}

// mayHold reports whether this node is one that acts: a witness that was elected passes the lead on.
func (s *seat) mayHold() bool {
	m, listed := s.list.ByID(s.self)
	return listed && m.Role == fleet.Issuer
}

// outdated reports whether something was written under an epoch that this tenure is not above. It comes from a state of the lease that was lost
// or put back to an older one; or from another cluster, and then no number is high enough.
func (s *seat) outdated() bool {
	return s.r.seen().Compare(s.state.Epoch) > 0 && len(s.strangers()) == 0
}

// release ends the tenure for everybody: the successor will know that it need not wait for this node. That is said when nobody acts here any more; or
// never, if that takes too long, and then the successor waits.
func (s *seat) release(now rules.Moment) bool {
	if s.lead.quiet == 0 {
		s.endRight()
	}
	acting := s.r.hold.acting.anybody()
	if now.Boot < s.lead.quiet || acting && now.Boot < s.lead.quiet+lingering {
		return false
	}
	s.lead.quiet = now.Boot
	if acting {
		s.log.Warn("something that ran under the lease does not end: the next holder waits for a ttl")
		s.lead.tenure = rules.Tenure{}
		s.r.hold.extend(s.lead.tenure)
		return true
	}
	return s.propose(rules.Command{Verb: rules.Release, Epoch: s.state.Epoch, Settled: s.settled(now)})
}

// endRight begins to give the lease away: first of all nobody here may act any more.
func (s *seat) endRight() {
	s.r.hold.finish(ErrResigned)
	quiet := letGo(s.ttl)
	s.lead.quiet = s.clock().Boot + quiet
	time.AfterFunc(quiet, s.r.wake)
	time.AfterFunc(quiet+lingering, s.r.wake)
}

// settled reports whether nobody but this holder can have a right that is still good.
func (s *seat) settled(now rules.Moment) bool { return s.state.Settled || now.Boot >= s.lead.earliest }

// handOver asks the best successor to lead. Where there is none a departing node just goes, and a witness leads on.
func (s *seat) handOver(now rules.Moment) bool {
	if s.lead.departing && now.Boot-s.lead.quiet > s.ttl/2 {
		s.departed(errNobodyTook)
		return false
	}
	if now.Boot-s.lead.handed < s.ttl/6 && s.lead.handed != 0 {
		return false
	}
	to, ok := s.successor()
	if !ok {
		s.departed(errNoSuccessor)
		return !s.mayHold() && s.reseat()
	}
	s.lead.handed = max(now.Boot, 1)
	s.rn.TransferLeader(to.ID())
	return true
}

var (
	errNoSuccessor = errors.New("no other voter that may hold the lease is connected")
	errNobodyTook  = errors.New("no other voter took the lease over in time; this node goes on")
)

// successor returns the voter that shall take over: an issuer that is connected, the one with whom the lease is of use before the one that can do so
// soonest, which answers and has most of the log.
func (s *seat) successor() (best rules.Seat, ok bool) {
	var most uint64
	var answers, preferred bool
	s.rn.WithProgress(func(id uint64, kind raft.ProgressType, pr tracker.Progress) {
		seat := s.state.Seats[id]
		member, listed := s.list.ByID(seat.Node)
		if id == s.id || kind == raft.ProgressTypeLearner || !listed || member.Role != fleet.Issuer {
			return
		}
		if s.peers[seat.Node] == nil {
			return
		}
		prefers := s.r.config.Prefers(seat.Node)
		better := !ok || prefers && !preferred
		if prefers == preferred {
			better = better || pr.RecentActive && !answers || pr.RecentActive == answers && pr.Match > most
		}
		if better {
			best, most, answers, preferred, ok = seat, pr.Match, pr.RecentActive, prefers, true
		}
	})
	return best, ok
}

// resign gives the lease away on a person's word.
func (s *seat) resign(reply func(error)) {
	switch _, held := s.r.hold.current(); {
	case !held && !s.lead.is:
		reply(fmt.Errorf("this node does not hold the lease: ask %s", s.holderName()))
	default:
		if _, ok := s.successor(); !ok {
			reply(errNoSuccessor)
			return
		}
		s.leave(reply)
	}
}

// leave begins to give the lease away; reply is called when that is done, or when there is nothing to give.
func (s *seat) leave(reply func(error)) {
	s.lead.replies = append(s.lead.replies, reply)
	if !s.lead.departing {
		s.lead.departing = true
		s.endRight()
	}
	if s.rn == nil || !s.lead.is {
		s.departed(nil)
	}
}

// hurry has those who have just connected told what they lack: a holder that gives the lease away may be gone before the next heartbeat, and where
// all are reloaded at once, so are they for a moment.
func (s *seat) hurry() {
	if s.see(); s.rn == nil || !s.lead.is {
		return
	}
	unheard := func(voter uint64) bool {
		n := s.peers[s.nodeOf(voter)]
		return n != nil && !n.answers
	}
	if slices.ContainsFunc(s.conf.GetVoters(), unheard) {
		for range rules.HeartbeatTicks {
			s.rn.Tick()
		}
	}
}

// departed tells those who wait that the lease is given away, or why it is not.
func (s *seat) departed(err error) {
	if !s.lead.departing {
		return
	}
	replies := s.lead.replies
	s.lead.departing, s.lead.replies = false, nil
	for _, reply := range replies {
		reply(err)
	}
}

func (s *seat) holderName() string {
	if seat, ok := s.state.Seats[s.state.Holder]; ok {
		return s.list.NameOf(seat.Node)
	}
	return "whoever holds it; nobody is known to"
}

// lookEvery is how often a leader compares the voters with the list, in ticks.
const lookEvery = 4

// reseat takes the next step from who votes to who should.
func (s *seat) reseat() bool {
	if s.ticks < s.lead.looked+lookEvery {
		return false
	}
	s.lead.looked = s.ticks
	s.lead.step = rules.NextStep(s.membership())
	s.untold = true
	step := s.lead.step
	if step.Hand {
		return s.handOver(s.clock())
	}
	if step.IsZero() {
		return false
	}
	change := &raftpb.ConfChangeV2{Context: mustJSON(slices.Concat(step.Learn, step.Promote))}
	add := func(kind raftpb.ConfChangeType, seats []rules.Seat) {
		for _, seat := range seats {
			change.Changes = append(change.Changes, &raftpb.ConfChangeSingle{Type: kind.Enum(), NodeId: new(seat.ID())})
		}
	}
	add(raftpb.ConfChangeAddLearnerNode, step.Learn)
	add(raftpb.ConfChangeAddNode, step.Promote)
	add(raftpb.ConfChangeRemoveNode, step.Remove)
	return s.rn.ProposeConfChange(change) == nil
}

// membership is what the next step is decided from.
func (s *seat) membership() rules.Membership {
	m := rules.Membership{
		Self: s.me, Steady: rules.Steady(s.ttl), Wish: s.list.Roster, Voters: s.seatsOf(s.conf.GetVoters()), Learners: s.seatsOf(s.conf.GetLearners()),
		Joint: len(s.conf.GetVotersOutgoing()) > 0, Reports: map[fleet.NodeID]rules.Report{}, Confirmed: s.lead.confirms,
	}
	caughtUp := map[fleet.NodeID]bool{}
	commit := s.rn.BasicStatus().GetCommit()
	s.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		caughtUp[s.state.Seats[id].Node] = pr.Match >= commit && pr.State == tracker.StateReplicate
	})
	for node, n := range s.peers {
		m.Reports[node] = rules.Report{Seat: n.Seat, For: time.Since(n.since), List: n.List, CaughtUp: caughtUp[node]}
	}
	return m
}

// confirm takes a person's word that the list is meant as it stands.
func (s *seat) confirm() error {
	switch {
	case !s.lead.is:
		return fmt.Errorf("only the node that leads the vote can be told so: ask %s", s.leaderName())
	case !s.lead.step.Refused:
		return errors.New("the peer list asks for nothing that must be confirmed")
	}
	s.lead.confirms = s.list.digest
	return nil
}

func (s *seat) seatsOf(ids []uint64) []rules.Seat {
	var out []rules.Seat
	for _, id := range ids {
		out = append(out, s.state.Seats[id])
	}
	return out
}

func (s *seat) names(ids []uint64) []string {
	var out []string
	for _, seat := range s.seatsOf(ids) {
		out = append(out, s.list.NameOf(seat.Node))
	}
	slices.Sort(out)
	return out
}

// sitting returns all ids of a configuration, both of them while it is joint.
func sitting(c *raftpb.ConfState) []uint64 {
	return slices.Concat(c.GetVoters(), c.GetLearners(), c.GetVotersOutgoing(), c.GetLearnersNext())
}

// decodeSeats reads what came along with a change of the voters.
func decodeSeats(context []byte) (seats []rules.Seat, err error) {
	if len(context) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(context, &seats); err != nil {
		return nil, fmt.Errorf("the seats of a change of the voters cannot be read: %w", err)
	}
	return seats, nil
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("lease: %T has no JSON: %v", v, err))
	}
	return b
}
