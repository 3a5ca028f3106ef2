package lease

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"certswarm/internal/lease/rules"

	"go.etcd.io/raft/v3"
)

// publish hands over what View tells, if it changed.
func (s *seat) publish() {
	f := facts{}
	if s.rn != nil {
		f.leader = s.leader()
		if slices.Contains(s.conf.GetVoters(), s.id) {
			s.damaged = "" // it votes again
		}
	}
	if s.rn != nil && s.sits() {
		f.voters = s.voters()
		if seat, ok := s.state.Seats[s.state.Holder]; ok {
			f.holder, f.epoch = seat.Node, s.state.Epoch
		}
	}
	f.renewed, f.problems = s.renewed, s.problems()
	if f.holder.IsZero() {
		f.holder = s.holder
		for _, n := range s.peers {
			if n.Epoch.Compare(f.epoch) > 0 {
				f.epoch = n.Epoch
			}
		}
	}
	s.r.mu.Lock()
	same := s.r.facts.equal(f)
	s.r.facts = f
	s.r.mu.Unlock()
	if !same {
		s.r.announce()
	}
}

func (s *seat) voters() []Voter {
	var out []Voter
	add := func(ids []uint64, learner bool) {
		for _, seat := range s.seatsOf(ids) {
			_, up := s.peers[seat.Node]
			out = append(out, Voter{
				Node: seat.Node, Learner: learner, Connected: up || seat.Node == s.self,
				Listed: s.list.votes(seat.Node),
			})
		}
	}
	add(s.conf.GetVoters(), false)
	add(s.conf.GetLearners(), true)
	slices.SortFunc(out, func(a, b Voter) int { return a.Node.Compare(b.Node) })
	return out
}

func (s *seat) leaderName() string {
	if lead := s.leader(); !lead.IsZero() {
		return s.list.NameOf(lead)
	}
	return "whoever leads; nobody is known to"
}

// problems says what is not as it should be.
func (s *seat) problems() []Problem {
	var out []Problem
	if s.broken != nil {
		out = append(out, Problem{WriteFailed, "the lease's state cannot be kept, so this node does not vote: " + s.broken.Error(), "free or repair the disk under state_dir; no restart is needed"})
	}
	if s.damaged != "" {
		out = append(out, Problem{StateDamaged, "this node joined the vote again as a new one: " + s.damaged, ""})
	}
	if strangers := s.strangers(); len(strangers) > 0 {
		out = append(out, Problem{TwoClusters,
			fmt.Sprintf("%s: a lease was founded twice, and this node does not share that of %s", s.state.Line.Cluster, strings.Join(strangers, ", ")),
			"on the nodes of the cluster that shall end: stop certswarm, remove state_dir/" + diskFile + ", start it"})
	}
	if s.lead.step.Refused {
		out = append(out, Problem{ListRefused, s.lead.step.Why + "; who votes stays as it is", "correct the peer list, or agree: certswarm lease recover"})
	}
	if s.rn != nil && s.candidate() && time.Since(s.renewed) >= 2*s.ttl && s.clock().Boot-s.started >= 2*s.ttl {
		out = append(out, s.nobodyHolds())
	}
	return out
}

func (s *seat) nobodyHolds() Problem {
	p := Problem{Code: NoHolder, Next: "certswarm lease show"}
	if s.state.Line.IsZero() {
		p.Text = "nobody holds the lease: " + rules.MayFound(s.self, s.promise, s.list.Roster, s.neighbours(), true)
		return p
	}
	var missing, anew []string
	voters := s.seatsOf(s.conf.GetVoters())
	for _, seat := range voters {
		n, up := s.peers[seat.Node]
		switch {
		case seat == s.me:
		case !up && seat.Node != s.self:
			missing = append(missing, s.list.NameOf(seat.Node))
		case seat.Node == s.self || !n.Seat.IsZero() && n.Seat != seat: // whoever sits there now has lost what the voter promised
			anew = append(anew, s.list.NameOf(seat.Node))
		}
	}
	var why []string
	if len(missing) > 0 {
		why = append(why, "not connected are "+strings.Join(missing, ", "))
	}
	if len(anew) > 0 {
		why = append(why, "without the state that they voted with are "+strings.Join(anew, ", "))
	}
	p.Text = fmt.Sprintf("nobody holds the lease: %s, of %d voters", strings.Join(why, "; "), len(voters))
	if len(why) == 0 {
		p.Text = "nobody holds the lease although all voters are connected; a vote is under way"
	}
	if left := len(voters) - len(missing) - len(anew); left <= len(voters)/2 {
		p.Next = "start the missing nodes; if they are gone for good: certswarm lease recover"
		if len(missing) == 0 {
			p.Next = "certswarm lease recover"
		}
	}
	return p
}

// raftLog is raft's talk. What it says often is for debugging; where it gives up, the seat is.
type raftLog struct{ to *slog.Logger }

var _ raft.Logger = raftLog{}

func (l raftLog) say(text string) { l.to.Debug("raft: " + text) }

func (l raftLog) Debug(v ...any)                 {}
func (l raftLog) Debugf(format string, v ...any) {}
func (l raftLog) Info(v ...any)                  { l.say(fmt.Sprint(v...)) }
func (l raftLog) Infof(format string, v ...any)  { l.say(fmt.Sprintf(format, v...)) }
func (l raftLog) Warning(v ...any)               { l.say(fmt.Sprint(v...)) }
func (l raftLog) Warningf(format string, v ...any) {
	l.say(fmt.Sprintf(format, v...))
}
func (l raftLog) Error(v ...any)                 { l.say(fmt.Sprint(v...)) }
func (l raftLog) Errorf(format string, v ...any) { l.say(fmt.Sprintf(format, v...)) }
func (l raftLog) Fatal(v ...any)                 { panic(violation(fmt.Sprint(v...))) }
func (l raftLog) Fatalf(format string, v ...any) { panic(violation(fmt.Sprintf(format, v...))) }
func (l raftLog) Panic(v ...any)                 { panic(violation(fmt.Sprint(v...))) }
func (l raftLog) Panicf(format string, v ...any) { panic(violation(fmt.Sprintf(format, v...))) }
