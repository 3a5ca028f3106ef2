package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"certswarm/acmeclient"
	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/nginx"
	"certswarm/syncer"
	"certswarm/syncer/index"
)

// issuerFleet is a house as acmeclient sees it: what one issuance needs from the other nodes.
type issuerFleet house

var _ acmeclient.Fleet = (*issuerFleet)(nil)

// Load implements acmeclient.Fleet.
func (f *issuerFleet) Load(path string) ([]byte, error) {
	p, err := index.ParsePath(path)
	if err != nil {
		return nil, err
	}
	return f.private.ReadFile(p, 1<<20)
}

// epoch is the one under which this node acts; zero when it does not, and then receivers will not let it overwrite.
func (f *issuerFleet) epoch() fleet.Epoch {
	if right := f.glass.grant(); right != nil {
		return right.Epoch()
	}
	view := f.elector.View()
	if !view.HeldHere {
		return fleet.Epoch{}
	}
	return view.Epoch
}

func tokenPath(token string) (index.Path, error) {
	if !nginx.ValidToken(token) {
		return index.Path{}, fmt.Errorf("the CA's token %q is not base64url (RFC 8555 8.3)", token)
	}
	return index.ParsePath(challengeDir + "/" + token)
}

// Present implements acmeclient.Fleet.
func (f *issuerFleet) Present(_ context.Context, tokens []acmeclient.Token) error {
	return f.publishTokens(tokens, false)
}

// Withdraw implements acmeclient.Fleet.
func (f *issuerFleet) Withdraw(_ context.Context, tokens []acmeclient.Token) error {
	return f.publishTokens(tokens, true)
}

func (f *issuerFleet) publishTokens(tokens []acmeclient.Token, remove bool) error {
	var writes []syncer.Write
	for _, t := range tokens {
		p, err := tokenPath(t.Token)
		if err != nil {
			return err
		}
		if remove && f.store.dir.Lookup(p) == nil {
			continue
		}
		writes = append(writes, syncer.Write{
			Path: p, Data: []byte(t.KeyAuthorization), Perm: 0o644, Expires: t.Expires, Delete: remove,
		})
	}
	if len(writes) == 0 {
		return nil
	}
	_, err := f.store.dir.Publish(f.epoch(), writes...)
	return err
}

// Held implements acmeclient.Fleet.
func (f *issuerFleet) Held(name string) (*acmeclient.Held, error) { return f.store.heldFor(name) }

// Install implements acmeclient.Fleet.
func (f *issuerFleet) Install(_ context.Context, b acmeclient.Bundle) (int, error) {
	generation, _, err := f.store.install(b.Epoch, b.Name, b.Key, b.Chain)
	if err == nil {
		(*house)(f).filesChanged([]index.Path{livePath(b.Name)})
	}
	return generation, err
}

// verifyPatience bounds how long an issuance waits for the proof that its certificate is served.
const verifyPatience = 30 * time.Second

// AwaitVerified implements acmeclient.Fleet.
func (f *issuerFleet) AwaitVerified(ctx context.Context, name string, _ int, _ *x509.Certificate) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyPatience)
	defer cancel()
	for {
		changed := f.changed.wait()
		status := (*house)(f).whoServes(name)
		if servedEverywhere(status, name) || ctx.Err() != nil {
			return statesOf(status, name), nil
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// whoServes is as much of a status as tells who serves one certificate: hundreds may be waited for at once, and each waits by itself.
func (h *house) whoServes(name string) control.Status {
	s := control.Status{Node: h.nodeStatus()}
	for _, p := range h.mesh.Peers() {
		m, ok := h.roster.Load().ByID(p.ID)
		if !ok {
			continue
		}
		rep, _ := h.reports.get(p.ID)
		s.Peers = append(s.Peers, control.Peer{Name: m.Name, ID: p.ID, Connected: p.Connected, Serves: rep.Serves})
	}
	serial := ""
	if held, err := h.store.held(name); err == nil && held != nil {
		serial = held.Leaf.SerialNumber.Text(16)
	}
	s.Certificates = control.List[control.Certificate]{{
		Name: name, State: control.Issued, Served: h.servedStatus(name, serial, s.Peers), Unused: h.unusedBy(name, s.Peers),
	}}
	return s
}

func servedEverywhere(status control.Status, name string) bool {
	for _, c := range status.Certificates {
		if c.Name != name {
			continue
		}
		for _, node := range status.Serving() {
			if !c.ServedBy(node) && !c.UnusedBy(node) {
				return false
			}
		}
	}
	return true
}

// statesOf returns the worst state of each node's listeners.
func statesOf(status control.Status, name string) map[string]string {
	rank := []control.ServedState{control.Current, control.Unverified, control.Stale, control.Unreachable}
	out := map[string]string{}
	for _, c := range status.Certificates {
		if c.Name != name {
			continue
		}
		for _, s := range c.Served {
			if worst, ok := out[s.Node]; !ok || slices.Index(rank, s.State) > slices.Index(rank, control.ServedState(worst)) {
				out[s.Node] = string(s.State)
			}
		}
	}
	return out
}

// challenge asks a node to fetch a token through its own nginx.
type challenge struct {
	Token            string `json:"token"`
	Host             string `json:"host"`
	KeyAuthorization string `json:"key_authorization"`
}

// challengeAnswer is what came of it. Absent says that the node has no front-end which a CA could reach.
type challengeAnswer struct {
	Served  bool   `json:"served"`
	Absent  bool   `json:"absent"`
	Reason  string `json:"reason"`
	Address string `json:"address"` // that was asked: every node has its own
}

func (h *house) answerChallenge(ctx context.Context, _ fleet.NodeID, body []byte) ([]byte, error) {
	var c challenge
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, err
	}
	return json.Marshal(h.tryChallenge(ctx, c))
}

// tryChallenge asks this node's own nginx, as the CA will.
func (h *house) tryChallenge(ctx context.Context, c challenge) challengeAnswer {
	if h.cfg.ACME == nil {
		return challengeAnswer{Absent: true}
	}
	address := h.cfg.ACME.HTTP01Address
	fetcher := nginx.Fetcher{Dial: h.edges.Dial, UserAgent: "certswarm/" + h.version}
	body, err := fetcher.Token(ctx, address, c.Host, c.Token)
	switch {
	case err != nil && !h.cfg.Nginx.Enabled && errors.Is(err, syscall.ECONNREFUSED):
		return challengeAnswer{Absent: true} // no nginx in its care, and nobody there
	case err != nil:
		return challengeAnswer{Reason: err.Error(), Address: address}
	case !bytes.Equal(bytes.TrimSpace(body), []byte(c.KeyAuthorization)):
		return challengeAnswer{Reason: fmt.Sprintf("http://%s/.well-known/acme-challenge/%s at %s answers something else", c.Host, c.Token, address), Address: address}
	}
	return challengeAnswer{Served: true}
}

// blocked is what the barrier waits for, for the status.
type blocked struct {
	mu    sync.Mutex
	nodes map[string]blockage // guarded by mu, by host and node
}

type blockage struct {
	host, node, reason string
	token, address     string // what was asked for, and where; no address: the node could not be asked
	since              time.Time
}

// barrierPause is how long after a failed round the front-ends are asked again: healing is noticed within 10 s.
const barrierPause = 2 * time.Second

// AwaitServed implements acmeclient.Fleet: the barrier. A node that is connected is never left behind; one that is not is waited for
// as long as challenge_wait, and then named.
func (f *issuerFleet) AwaitServed(ctx context.Context, tokens []acmeclient.Token) (leftBehind []string, err error) {
	h := (*house)(f)
	start := time.Now()
	defer h.unblock(tokens)
	if err := h.awaitTokens(ctx, tokens); err != nil {
		return nil, err
	}
	for {
		changed := h.mesh.Changed()
		waiting, unreachable := h.challengeRound(ctx, tokens)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		patience := time.Until(start.Add(time.Duration(h.cfg.ACME.ChallengeWait)))
		if waiting == 0 && (len(unreachable) == 0 || patience <= 0) {
			for _, node := range unreachable {
				h.log.Warn("a front-end was left behind: it could not be reached before the CA was told", "node", node)
			}
			return unreachable, nil
		}
		wait := barrierPause
		if waiting == 0 {
			wait = min(wait, patience)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		case <-changed:
		}
	}
}

// awaitTokens gives the replication time to deliver, so that the first round does not fail for being quick.
func (h *house) awaitTokens(ctx context.Context, tokens []acmeclient.Token) error {
	limited, cancel := context.WithTimeout(ctx, barrierPause)
	defer cancel()
	for _, t := range tokens {
		p, err := tokenPath(t.Token)
		if err != nil {
			return err
		}
		e := h.store.dir.Lookup(p)
		if e == nil {
			return fmt.Errorf("the token for %s is not published: %w", t.Host, fs.ErrNotExist)
		}
		err = h.store.dir.Await(limited, syncer.ReceiptFor(e), func(have []fleet.NodeID) bool {
			return len(have) > len(h.store.dir.Status().Peers)
		})
		if err != nil && limited.Err() == nil {
			return err
		}
	}
	return ctx.Err()
}

// challengeRound asks every front-end for every token, all at once. It returns how many connected nodes do not serve, and the
// names of those that are not connected.
func (h *house) challengeRound(ctx context.Context, tokens []acmeclient.Token) (waiting int, unreachable []string) {
	type outcome struct {
		member    fleet.Member
		answer    challengeAnswer
		connected bool
		host      string
		token     string
		took      time.Duration
	}
	var asked []fleet.Member
	for _, m := range h.roster.Load().Members() {
		if m.Role != fleet.Witness {
			asked = append(asked, m)
		}
	}
	results := make(chan outcome, len(asked))
	for _, m := range asked {
		go func() {
			begun := time.Now()
			o := outcome{member: m, connected: true}
			for _, t := range tokens {
				c := challenge{Token: t.Token, Host: t.Host, KeyAuthorization: t.KeyAuthorization}
				o.host, o.token = t.Host, t.Token
				if m.ID == h.self.ID {
					o.answer = h.tryChallenge(ctx, c)
				} else if err := h.ask(ctx, m.ID, callChallenge, c, &o.answer); err != nil {
					_, o.connected = h.mesh.Session(m.ID)
					o.answer = challengeAnswer{Reason: err.Error()}
				}
				if !o.answer.Served && !o.answer.Absent {
					break
				}
			}
			o.took = time.Since(begun)
			results <- o
		}()
	}
	for range asked {
		o := <-results
		switch {
		case o.answer.Served:
			h.log.Info("a front-end serves the challenge", "node", o.member.Name, "took", o.took)
			h.setBlocked(blockage{host: o.host, node: o.member.Name})
		case o.answer.Absent:
			h.setBlocked(blockage{host: o.host, node: o.member.Name})
		case !o.connected:
			unreachable = append(unreachable, o.member.Name)
			h.setBlocked(blockage{host: o.host, node: o.member.Name})
		default:
			waiting++
			h.setBlocked(blockage{host: o.host, node: o.member.Name, reason: o.answer.Reason, token: o.token, address: o.answer.Address})
		}
	}
	slices.Sort(unreachable)
	return waiting, unreachable
}

// setBlocked keeps what holds a barrier up; without a reason nothing does any more.
func (h *house) setBlocked(b blockage) {
	h.blocked.mu.Lock()
	key := b.host + " " + b.node
	old, known := h.blocked.nodes[key]
	switch b.since = old.since; {
	case b.reason == "":
		delete(h.blocked.nodes, key)
	case known:
		h.blocked.nodes[key] = b
	default:
		if h.blocked.nodes == nil {
			h.blocked.nodes = map[string]blockage{}
		}
		b.since = time.Now()
		h.blocked.nodes[key] = b
		h.log.Warn("a front-end does not serve the challenge; the CA is not told before it does", "node", b.node, "host", b.host, "reason", b.reason)
	}
	h.blocked.mu.Unlock()
	if known != (b.reason != "") {
		h.changed.fire()
	}
}

// unblock forgets what a barrier that ended was waiting for.
func (h *house) unblock(tokens []acmeclient.Token) {
	h.blocked.mu.Lock()
	for key := range h.blocked.nodes {
		for _, t := range tokens {
			if strings.HasPrefix(key, t.Host+" ") {
				delete(h.blocked.nodes, key)
			}
		}
	}
	h.blocked.mu.Unlock()
	h.changed.fire()
}
