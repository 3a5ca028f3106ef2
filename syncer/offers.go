package syncer

import (
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// Offers: what a peer is told next. It depends only on what the peer was told before and on the index as it is now.

// next returns the next frame for a peer, nil if there is nothing to say now. What a peer is offered depends only on what it
// was offered before and on the index as it is now: a slow peer skips what has lost meanwhile, and no queue grows.
func (r *replica) next(now time.Time, to fleet.NodeID) wire.Frame {
	v := r.peers[to]
	if v == nil {
		return nil
	}
	if !v.haveAt.IsZero() && !now.Before(v.haveAt) {
		return r.sayHave(v)
	}
	if len(v.repair) > 0 {
		return r.offerRepair(v)
	}
	if o := r.offer(now, to, v, r.self); o != nil {
		return *o
	}
	for _, origin := range r.x.Held().Origins() {
		if origin == r.self {
			continue
		}
		if o := r.offer(now, to, v, origin); o != nil {
			return *o
		}
	}
	return nil
}

func (r *replica) sayHave(v *view) wire.Frame {
	h := wire.Have{Directory: r.scope.Directory, Held: index.Summary{}, Again: v.again, Refused: v.refusals}
	for o, seq := range r.durable {
		if v.told[o] < seq {
			h.Held[o] = seq
			v.told[o] = seq
		}
	}
	if r.settled() {
		h.Fingerprint = r.x.Fingerprint()
	}
	v.haveAt, v.again, v.refusals = time.Time{}, false, nil
	return h
}

// offer returns what the peer lacks of one origin, as much as one frame holds; nil if nothing, or if somebody else should
// be quicker.
func (r *replica) offer(now time.Time, to fleet.NodeID, v *view, origin index.Origin) *wire.Offer {
	after, held := v.sent[origin], r.x.Held()[origin]
	key, known := r.keys[origin.Node]
	if after >= held || !known {
		delete(v.lagging, origin)
		return nil
	}
	// A relay: the origin had better do it, if it is there to do it. To the origin itself nobody else can give back
	// what it lost.
	if origin != r.self && origin.Node != to && r.peers[origin.Node] != nil {
		if v.acked[origin] >= held {
			v.sent[origin] = held
			return nil
		}
		since, lagging := v.lagging[origin]
		if !lagging {
			since = now
			v.lagging[origin] = now
		}
		if now.Before(since.Add(relayDelay)) {
			return nil
		}
	}
	o := &wire.Offer{Directory: r.scope.Directory, Origin: origin, Key: key, After: after, Through: held}
	entries := r.x.Since(origin, after, held)
	n := frameful(entries)
	o.Entries = entries[:n]
	if n < len(entries) { // a batch's number may be a lie; this frame must not vouch for the next, nor for nothing
		o.Through = max(entries[n-1].Seq, min(entries[n-1].Batch, entries[n].Seq-1))
	}
	v.sent[origin] = o.Through
	delete(v.lagging, origin)
	return o
}

// frameful returns how many of the entries fit one offer: never a part of a batch, unless there is no border.
func frameful(entries []*index.Entry) int {
	var inline int64
	fits := 0
	for i, e := range entries {
		if f, ok := e.Content.(index.File); ok && f.Size <= wire.MaxInline {
			inline += f.Size
		}
		if i == wire.MaxEntries && fits == 0 {
			return i
		}
		if i == wire.MaxEntries || inline > wire.InlineBudget && fits > 0 {
			return fits
		}
		if i+1 == len(entries) || entries[i+1].Batch != e.Batch {
			fits = i + 1
		}
	}
	return fits
}

func (r *replica) offerRepair(v *view) wire.Frame {
	origin := v.repair[0].Origin
	o := wire.Offer{Directory: r.scope.Directory, Origin: origin, Key: r.keys[origin.Node]}
	var rest []*index.Entry
	for _, e := range v.repair {
		if e.Origin == origin && len(o.Entries) < wire.MaxBatch {
			o.Entries = append(o.Entries, e)
		} else {
			rest = append(rest, e)
		}
	}
	v.repair = rest
	return o
}
