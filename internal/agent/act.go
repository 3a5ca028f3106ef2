package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"certswarm/syncer"
)

// act is what the holder of the lease does, whenever this node is it.
func (h *house) act(ctx context.Context) {
	if h.acme == nil {
		h.passOn(ctx)
		return
	}
	if !h.awaitSettled(ctx) || !pause(ctx, adoptTime) {
		return
	}
	for _, d := range h.syncer.Directories() {
		h.elector.Saw(d.LatestEpoch())
	}
	waited := time.Now()
	var relief sync.WaitGroup
	for {
		grant, err := h.elector.Await(ctx)
		if err != nil {
			return
		}
		h.log.Info("this node holds the lease", "epoch", grant.Epoch().String())
		if time.Since(waited) < time.Second || h.await(grant.Context(), h.informed) {
			h.acting.Lock() // an order without the lease ends first
			relief.Go(func() { h.relieve(ctx, grant.Context()) })
			err = h.acme.Run(ctx, grant)
			h.acting.Unlock()
		}
		if err != nil {
			h.log.Error("certificates cannot be obtained", "error", err)
		}
		select {
		case <-grant.Context().Done():
			relief.Wait()
		case <-ctx.Done():
			relief.Wait()
			return
		}
	}
}

// settleTime is for how long a starting issuer waits for what the fleet knows before it acts on what it knows itself:
// long enough for every live peer to connect (see the reconnect bound of internal/peer).
const settleTime = 8 * time.Second

// adoptTime is what others get, once the fleet has met, to publish certificates that were brought to them.
const adoptTime = 500 * time.Millisecond

// awaitSettled waits until every issuer is connected and everything that the peers announced is here, or settleTime has passed.
func (h *house) awaitSettled(ctx context.Context) bool { return h.await(ctx, h.settled) }

// await waits until it is so, or settleTime has passed, and reports whether ctx goes on.
func (h *house) await(ctx context.Context, so func() bool) bool {
	limit := time.NewTimer(settleTime)
	defer limit.Stop()
	for {
		changed := h.changed.wait()
		if so() {
			return ctx.Err() == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-limit.C:
			return true
		case <-changed:
		}
	}
}

func (h *house) settled() bool {
	return h.met() == len(h.roster.Load().Issuers()) && h.caughtUp()
}

// informed reports whether what the holder before this one saved must be here. Where the lease is voted for, most of the issuers had it
// (judgeSave), so that most of them know; it is no use to wait for one that has died.
func (h *house) informed() bool {
	needed := len(h.roster.Load().Issuers())
	if h.elector.View().Engine == "raft" && needed >= fewestVoters {
		needed = needed/2 + 1
	}
	return h.met() >= needed && h.caughtUp()
}

// met returns how many issuers have told what they have, this one included.
func (h *house) met() (n int) {
	for _, m := range h.roster.Load().Issuers() {
		if m.ID == h.self.ID || !slices.ContainsFunc(h.shared(), func(d *syncer.Directory) bool { _, met := d.Status().Peers[m.ID]; return !met }) {
			n++
		}
	}
	return n
}

// caughtUp reports whether everything that the peers announced is here.
func (h *house) caughtUp() bool {
	for _, d := range h.shared() {
		if state := d.Status().State; state == syncer.Behind || state == syncer.Joining {
			return false
		}
	}
	return true
}

// shared is what this node has in common with the issuers.
func (h *house) shared() []*syncer.Directory {
	if h.private == nil {
		return []*syncer.Directory{h.store.dir}
	}
	return []*syncer.Directory{h.store.dir, h.private}
}
