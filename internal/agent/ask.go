package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"certswarm/acmeclient"
	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/internal/peer"
)

// A desk is something that only whoever holds the lease can do, and that people may ask for on any node: by what name it is asked for over the
// mesh, and how it is done where the lease is.
type desk[Q, A any] struct {
	method string
	serve  func(h *house, ctx context.Context, from fleet.NodeID, q Q) (A, error)
}

// reply is the answer of a desk to another node.
type reply[A any] struct {
	NotActing bool         `json:"not_acting"` // ask whoever holds the lease now
	Answer    signedOff[A] `json:"answer"`
}

// signedOff is an answer and who gave it.
type signedOff[A any] struct {
	Answer A      `json:"answer"`
	Node   string `json:"node"`
	Tenure string `json:"tenure"`
}

// tenure is the same for as long as what this node has promised as the holder is known here, journalled or not.
func (h *house) tenure() string {
	return fmt.Sprintf("%s %d", h.elector.View().Epoch, h.built.UnixNano())
}

// attend answers the other nodes that come to a desk. Who they are is proven; what they may ask for is the desk's to say.
func attend[Q, A any](h *house, d desk[Q, A]) {
	h.mesh.HandleCall(d.method, func(ctx context.Context, from fleet.NodeID, body []byte) ([]byte, error) {
		var q Q
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, err
		}
		answer, err := serveHere(ctx, h, d, from, q)
		if errors.Is(err, acmeclient.ErrNotActing) {
			return json.Marshal(reply[A]{NotActing: true})
		}
		if err != nil {
			return nil, err
		}
		return json.Marshal(reply[A]{Answer: answer})
	})
}

// serveHere does what is asked for on this node, or fails with acmeclient.ErrNotActing.
func serveHere[Q, A any](ctx context.Context, h *house, d desk[Q, A], from fleet.NodeID, q Q) (signedOff[A], error) {
	if !h.elector.View().HeldHere || h.acme == nil {
		return signedOff[A]{}, acmeclient.ErrNotActing
	}
	tenure := h.tenure()
	answer, err := d.serve(h, ctx, from, q)
	return signedOff[A]{answer, h.self.Name, tenure}, err
}

// askAgain is how soon somebody who did not answer, or does not act yet, is asked again.
const askAgain = 500 * time.Millisecond

// errLeft ends what is asked in a house that another configuration takes the place of; it is asked again in the next one.
var errLeft = errors.New("this node is taking another configuration")

// errNobody says that there is no holder to ask.
var errNobody = errors.New("nobody holds the lease, so that nobody may ask the CA: certswarm lease show")

// nextIsDue reports whether there was a holder a moment ago, so that there will be another one soon: a takeover takes about the ttl.
func (h *house) nextIsDue(view lease.View) bool {
	last := view.Renewed
	if last.IsZero() {
		last = h.built
	}
	return time.Since(last) < 2*time.Duration(h.cfg.Lease.TTL)
}

// askHolder asks whoever holds the lease, and if that ends or moves in the middle, whoever holds it next. Where nobody holds it that is an
// error, unless the next holder is about to be found, or something is under way already that it will go on with.
func askHolder[Q, A any](ctx context.Context, h *house, d desk[Q, A], q Q, underWay bool, tell func(control.Progress)) (signedOff[A], error) {
	for {
		view := h.elector.View()
		var why string
		switch {
		case h.left.Load():
			return signedOff[A]{}, errLeft
		case view.Holder.IsZero() && !view.HeldHere && !underWay && !h.nextIsDue(view):
			return signedOff[A]{}, errNobody
		case view.Holder.IsZero() && !view.HeldHere:
			why = "nobody holds the lease: waiting for the next holder"
		default:
			answer, err := askAt(ctx, h, d, view.Holder, view.HeldHere, q)
			var refused *peer.RemoteError
			switch {
			case err == nil:
				return answer, nil
			case ctx.Err() != nil:
				return signedOff[A]{}, context.Cause(ctx)
			case errors.Is(err, acmeclient.ErrNotActing):
				why = h.name(view.Holder) + " holds the lease and does not act yet"
			case view.HeldHere, errors.As(err, &refused):
				return signedOff[A]{}, fmt.Errorf("%s: %w", h.name(view.Holder), err)
			default:
				h.log.Debug("the holder of the lease does not answer", "peer", h.name(view.Holder), "error", err)
				why = h.name(view.Holder) + ", which held the lease, does not answer: waiting for it, or for the next holder"
			}
		}
		tell(control.Progress{Node: h.self.Name, Text: why})
		if !pause(ctx, askAgain) {
			return signedOff[A]{}, context.Cause(ctx)
		}
	}
}

func askAt[Q, A any](ctx context.Context, h *house, d desk[Q, A], holder fleet.NodeID, here bool, q Q) (signedOff[A], error) {
	if here {
		return serveHere(ctx, h, d, h.self.ID, q)
	}
	body, err := h.mesh.Call(ctx, holder, d.method, mustJSON(q))
	if err != nil {
		return signedOff[A]{}, err
	}
	var r reply[A]
	if err := json.Unmarshal(body, &r); err != nil {
		return signedOff[A]{}, fmt.Errorf("%s answered something that is no answer: %w", h.name(holder), err)
	}
	if r.NotActing {
		return signedOff[A]{}, acmeclient.ErrNotActing
	}
	return r.Answer, nil
}

// declared returns a declared certificate, or says which there are.
func (h *house) declared(name string) (config.Certificate, error) {
	if h.store == nil && len(h.cfg.Certificates) > 0 {
		return config.Certificate{}, fmt.Errorf("%s keeps no certificates; on another node: %s", h.self.Name, h.issuers())
	}
	if h.store == nil || len(h.store.declared) == 0 {
		return config.Certificate{}, fmt.Errorf("%w: this node's configuration has no certificates", control.ErrUnknownCertificate)
	}
	if c, ok := h.store.find(name); ok {
		return c, nil
	}
	return config.Certificate{}, fmt.Errorf("%w: %s; %s", control.ErrUnknownCertificate, name, whichAreDeclared(name, h.store.declared))
}

// whichAreDeclared names them, or as many as fit on a line, and the one that was probably meant.
func whichAreDeclared(name string, declared []config.Certificate) string {
	const enough = 10
	var names []string
	meant := ""
	for _, c := range declared {
		names = append(names, c.Name)
		for _, host := range c.Names {
			if strings.EqualFold(host, name) && meant == "" {
				meant = c.Name
			}
		}
	}
	if meant == "" {
		meant = config.Nearest(strings.ToLower(name), names)
	}
	text := "declared: " + strings.Join(names[:min(len(names), enough)], ", ")
	if more := len(names) - enough; more > 0 {
		text += fmt.Sprintf(" and %d more (certswarm certs)", more)
	}
	if meant != "" {
		text += "; did you mean " + meant + "?"
	}
	return text
}
