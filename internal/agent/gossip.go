package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"certswarm/acmeclient"
	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/internal/peer"
	"certswarm/nginx"
	"certswarm/syncer"
)

// What agents ask each other, besides the replication.
const (
	callReport    = "report"    // report -> nothing
	callToken     = "token"     // a challenge's token -> its answer
	callChallenge = "challenge" // challenge -> challengeAnswer
	callVerify    = "verify"    // name or "" -> []control.Result
)

// report is what a node tells every other about itself, whenever it changes and every reportInterval.
type report struct {
	Serves       bool                        `json:"serves"`           // an nginx is in its care
	Holds        fleet.Epoch                 `json:"holds"`            // the epoch under which it holds the lease, or somebody there still acts; zero: neither
	Elected      fleet.NodeID                `json:"elected,omitzero"` // whom the vote has made the holder, as far as this node knows; zero: nobody, or there is none
	ElectedUnder fleet.Epoch                 `json:"elected_under"`
	Leader       fleet.NodeID                `json:"leader,omitzero"` // of the vote; zero: none is known
	Voters       []seat                      `json:"voters"`          // of the vote, for those who take no part; none: this node takes none either
	Obtains      bool                        `json:"obtains"`         // certificates, while it holds the lease
	CutOff       bool                        `json:"cut_off"`         // from the CA, by what it was like when the node held the lease, of late
	Problems     []control.Problem           `json:"problems"`
	Served       map[string][]control.Served `json:"served"`       // by certificate
	Unused       []string                    `json:"unused"`       // certificates that no server of its nginx uses
	Certificates map[string]obtaining        `json:"certificates"` // of the node that holds the lease
	Held         map[string]inForce          `json:"held"`         // by certificate, for those who keep none; null: neither does this node
}

// seat is a voter, or one who is on the way to it.
type seat struct {
	Node    fleet.NodeID `json:"node"`
	Learner bool         `json:"learner"`
}

// obtaining is where a certificate stands with whoever obtains it.
type obtaining struct {
	State       acmeclient.State `json:"state"`
	NextAttempt time.Time        `json:"next_attempt"`
	LastError   string           `json:"last_error"`
	Budget      control.Budget   `json:"budget"`
}

const (
	reportInterval = 10 * time.Second
	reportPause    = 50 * time.Millisecond // changes closer than this travel as one
	callPatience   = 10 * time.Second

	mostGeneration = 1 << 62 // of an epoch that is believed: above it there would soon be no later one
	mostSeats      = 32      // that are believed: five vote, and a few may be on the way
)

// reports is what the others said last.
type reports struct {
	mu   sync.Mutex
	byID map[fleet.NodeID]report // guarded by mu
}

func newReports() *reports { return &reports{byID: map[fleet.NodeID]report{}} }

func (r *reports) put(id fleet.NodeID, rep report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byID[id] = rep
}

func (r *reports) get(id fleet.NodeID) (report, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rep, ok := r.byID[id]
	return rep, ok
}

// answerPeers says how each stream and call of a peer is served.
func (h *house) answerPeers() {
	h.mesh.Handle(peer.PurposeSync, func(ctx context.Context, s *peer.Session, stream peer.Stream) {
		h.converse(ctx, s, stream)
	})
	h.mesh.Handle(peer.PurposeFetch, func(_ context.Context, s *peer.Session, stream peer.Stream) {
		if err := h.syncer.ServeFetch(s.Peer(), stream); err != nil {
			h.log.Debug("a file could not be sent", "peer", h.name(s.Peer()), "error", err)
		}
	})
	h.mesh.OnSession(h.keepTold)
	h.mesh.OnSession(func(ctx context.Context, s *peer.Session) {
		if !s.Dialled() {
			return // whoever dialled opens the conversation
		}
		stream, err := s.Open(ctx, peer.PurposeSync)
		if err != nil {
			s.Close("no conversation: " + err.Error())
			return
		}
		h.converse(ctx, s, stream)
	})
	h.mesh.HandleCall(callReport, func(_ context.Context, from fleet.NodeID, body []byte) ([]byte, error) {
		var rep report
		if err := json.Unmarshal(body, &rep); err != nil {
			return nil, err
		}
		h.takeReport(from, rep)
		return nil, nil
	})
	h.mesh.HandleCall(callToken, func(_ context.Context, _ fleet.NodeID, body []byte) ([]byte, error) {
		var token string
		if err := json.Unmarshal(body, &token); err != nil || !nginx.ValidToken(token) {
			return nil, errors.New("not a token")
		}
		answer, ok := h.localToken(token)
		if !ok {
			return nil, errors.New("not here either")
		}
		return answer, nil
	})
	h.mesh.HandleCall(callChallenge, h.answerChallenge)
	h.mesh.HandleCall(callServed, h.answerServed)
	h.mesh.HandleCall(callHeld, h.answerHeld)
	h.mesh.HandleCall(callRollBack, h.answerRollBack)
	h.attendDesks()
	h.mesh.HandleCall(callVerify, func(ctx context.Context, _ fleet.NodeID, body []byte) ([]byte, error) {
		var name string
		if err := json.Unmarshal(body, &name); err != nil {
			return nil, err
		}
		return json.Marshal(h.verifyHere(ctx, name))
	})
}

func (h *house) name(id fleet.NodeID) string { return h.roster.Load().NameOf(id) }

// link is a session as the syncer sees it.
type link struct{ *peer.Session }

// OpenFetch implements syncer.Link.
func (l link) OpenFetch(ctx context.Context) (syncer.Stream, error) {
	return l.Open(ctx, peer.PurposeFetch)
}

// converse replicates with one peer until its session ends. A peer that breaks the protocol loses the connection; what is wrong with it is
// in the log, and it may try again.
func (h *house) converse(ctx context.Context, s *peer.Session, stream peer.Stream) {
	err := h.syncer.Converse(ctx, link{s}, stream)
	var broken syncer.Violation
	if errors.As(err, &broken) {
		h.log.Warn("a peer broke the protocol; it is disconnected", "peer", h.name(s.Peer()), "error", err)
	}
	if ctx.Err() == nil {
		s.Close("the conversation ended: " + err.Error())
	}
}

// from is what a report says of the lease that its sender can know: only an issuer holds it, and who votes knows for whom.
func (r report) from(role fleet.Role) report {
	if role != fleet.Issuer || r.Holds.Generation > mostGeneration {
		r.Holds = fleet.Epoch{}
	}
	if role != fleet.Issuer && role != fleet.Witness || r.ElectedUnder.Generation > mostGeneration {
		r.Elected, r.ElectedUnder = fleet.NodeID{}, fleet.Epoch{}
	}
	if role != fleet.Issuer && role != fleet.Witness || len(r.Voters) > mostSeats {
		r.Leader, r.Voters = fleet.NodeID{}, nil
	}
	return r
}

// takeReport keeps a peer's report, and what it says of the lease.
func (h *house) takeReport(from fleet.NodeID, rep report) {
	m, _ := h.roster.Load().ByID(from)
	rep = rep.from(m.Role)
	h.elector.Heard(from, rep.Holds)
	h.elector.Voted(rep.Elected, rep.ElectedUnder)
	h.reports.put(from, rep)
	h.changed.fire()
}

// gossip posts how this node stands: when it changed, and every reportInterval.
func (h *house) gossip(ctx context.Context) {
	beat := time.NewTicker(min(reportInterval, time.Duration(h.cfg.Lease.TTL)/3)) // who holds the lease is believed for its ttl
	defer beat.Stop()
	var last []byte
	for {
		changed := h.changed.wait()
		if now := mustJSON(h.report()); !bytes.Equal(now, last) {
			last = now
			h.bulletin.post(now)
		}
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			last = nil
		case <-changed:
			if !pause(ctx, reportPause) {
				return
			}
		}
	}
}

// bulletin is this node's latest report. Each session's keepTold reads it at its own pace, so that a peer which does not listen keeps no
// news from the others.
type bulletin struct {
	mu     sync.Mutex
	report []byte        // guarded by mu: JSON; nil before the first
	newer  chan struct{} // guarded by mu: closed when report is replaced
}

func (b *bulletin) init() { b.newer = make(chan struct{}) }

func (b *bulletin) post(report []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.report = report
	close(b.newer)
	b.newer = make(chan struct{})
}

func (b *bulletin) read() (report []byte, newer <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.report, b.newer
}

// keepTold sends one peer the bulletin, and every newer one, until its session ends. A failure is no news: the session says so itself when it
// ends, and the next report, which is never long in coming, is whole.
func (h *house) keepTold(ctx context.Context, s *peer.Session) {
	for {
		report, newer := h.bulletin.read()
		if report != nil {
			h.tell(ctx, s.Peer(), report)
		}
		select {
		case <-ctx.Done():
			return
		case <-newer:
		}
	}
}

func (h *house) tell(ctx context.Context, to fleet.NodeID, report []byte) {
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	if _, err := h.mesh.Call(ctx, to, callReport, report); err != nil && ctx.Err() == nil {
		level := slog.LevelDebug
		if len(report) > peer.MaxBody { // it will not take the next one either
			level = slog.LevelWarn
		}
		h.log.Log(ctx, level, "a peer did not take the report: it shows an older one", "peer", h.name(to), "error", err)
	}
}

// ask calls a peer and reads its answer.
func (h *house) ask(ctx context.Context, to fleet.NodeID, method string, question, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	body, err := h.mesh.Call(ctx, to, method, mustJSON(question))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("%s answered something that is no answer: %w", h.name(to), err)
	}
	return nil
}

// pause waits, and reports whether it did to the end.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// mustJSON encodes what this package itself made.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("agent: %T has no JSON: %v", v, err))
	}
	return b
}
