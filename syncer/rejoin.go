package syncer

import (
	"errors"
	"maps"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// Tombstones are forgotten once every member has them. So whoever was no member for a while, or whose disk is that of last week, would bring back what was
// deleted meanwhile: it cannot be told any more. Each node therefore remembers, of each origin, up to where it has forgotten deletions; whoever holds less than
// that, or less of its own writes than others hold of them, begins anew. Its files are merely found then, but for those of which it knows that
// the others had them: these are in doubt until it has all that the others have, and go to the archive if that does not tell of them.

// ErrRejoin is why Run ends when a directory has begun a new incarnation: the Syncer is to be opened again.
var ErrRejoin = errors.New("what this node knew of a directory is older than what the fleet still remembers: it joins anew")

// rejoinInterval is how soon a node does so again. A peer that lies about what it holds costs no more than that, and only one that may delete
// everything anyway is believed.
const rejoinInterval = time.Hour

// outdated is what a node finds out about itself.
type outdated struct {
	until  index.Summary // what the peer holds that told of it: until this is held, nothing is known
	before uint64        // numbers of this node's own above this were given since the start, and are nobody's but its
	older  bool          // it has given numbers of which it does not know: its state is that of an earlier day. Else it may as well have been away
}

// doubt is files that are in doubt.
type doubt struct {
	content map[index.Path]index.Content
	until   index.Summary
}

// isOutdated reports whether a greeting shows that this node missed deletions of which nobody can tell it, or has given numbers of
// which it does not know. Whoever has just joined has nothing that it could bring back.
func (r *replica) isOutdated(now time.Time, from fleet.NodeID, g wire.Greeting) bool {
	if r.fresh && !r.joined || !r.mayWrite(from) || now.Sub(r.rejoined).Abs() < rejoinInterval {
		return false
	}
	for o, seq := range g.Forgotten {
		if r.durable[o] < min(seq, g.Held[o]) {
			return true
		}
	}
	return g.Held[r.self] > r.seq
}

// isOlder reports whether what a peer holds of this node is what this node does not know that it wrote: its state was put back to an earlier day. Numbers
// that it has given in this run the peer can have only if it, or somebody else, was met before.
func (r *replica) isOlder(held uint64) bool {
	return held > r.seq || held > r.begun && len(r.peers)+len(r.gone) == 0
}

// inDoubt returns the entries of which the others knew. What was written since the start under numbers that may have been given before is not
// among them.
func (r *replica) inDoubt(o outdated) (entries []*index.Entry) {
	for e := range r.x.All {
		own := e.Origin == r.self && e.Seq > o.before
		if !e.Deleted() && e.Expires == 0 && o.until[e.Origin] >= e.Seq && !own && !r.reserved(e.Path) {
			entries = append(entries, e)
		}
	}
	return entries
}

// isInDoubt reports whether what was found is something that the others had, and perhaps have no more.
func (r *replica) isInDoubt(c index.Change) bool {
	content, is := r.doubt.content[c.Path]
	if is && !r.same(content, c.Content) {
		delete(r.doubt.content, c.Path) // somebody has changed it: it is somebody's wish
		is = false
	}
	return is
}

// undoubtLocked looks whether the disk still has what is in doubt and the fleet turns out to have.
func (d *Directory) undoubtLocked(j *job) {
	for _, e := range j.entries {
		doubted, is := d.r.doubt.content[e.Path]
		if !is || e.Deleted() {
			continue
		}
		if s, err := d.disk.look(e.Path); err != nil || !d.isContentLocked(e.Path, doubted, s) {
			delete(d.r.doubt.content, e.Path)
		}
	}
}

// noteUndoubted makes of the steps to what is in doubt, and turns out to be what the fleet has, no more than it takes: it stays as it is, and there is
// nothing to be kept. See undoubtLocked.
func (r *replica) noteUndoubted(plan index.Plan) {
	for i, s := range plan {
		is, doubted := r.doubt.content[s.Entry.Path]
		if !doubted || s.Old != nil {
			continue
		}
		have, _ := is.(index.File)
		want, file := s.Entry.Content.(index.File)
		switch {
		case s.Action == index.PutFile && file && is == s.Entry.Content, s.Action == index.PutLink && is == s.Entry.Content:
			plan[i].Action = index.Note
		case s.Action == index.PutFile && have.Digest == want.Digest && is == index.Content(have):
			plan[i].Action = index.SetMode
		}
	}
}

// endDoubt judges what was in doubt, once this node holds all that it had to learn: what the fleet does not have, it has deleted.
func (r *replica) endDoubt() {
	if len(r.doubt.content) == 0 || !r.x.Held().Covers(r.doubt.until) || len(r.jobs) > 0 {
		return
	}
	for p := range r.doubt.content {
		if r.x.Live(p) == nil {
			r.reverts[p] = false
		}
	}
	r.doubt = doubt{}
	r.joined, r.raised = true, true
}

// forgot notes that deletions are remembered no more.
func (r *replica) forgot(entries []*index.Entry) {
	for _, e := range entries {
		r.dirty[e.Path] = true
		if e.Expires == 0 && r.forgotten[e.Origin] < e.Seq {
			r.forgotten[e.Origin] = e.Seq
			r.raised = true
		}
	}
}

// adoptForgotten takes over what a peer has forgotten, once this node holds it: it cannot tell anybody of that either.
func (r *replica) adoptForgotten() {
	for _, v := range r.peers {
		if v.forgotten == nil || !r.durable.Covers(v.forgotten) {
			continue
		}
		before := maps.Clone(r.forgotten)
		r.forgotten.Raise(v.forgotten)
		r.raised = r.raised || !before.Equal(r.forgotten)
		v.forgotten = nil
	}
}

// rejoin has the state begin a new incarnation.
func (d *Directory) rejoin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	entries := d.r.inDoubt(*d.r.outdated)
	d.log.Warn("this node begins anew: what it knew is older than what the fleet still remembers", "in_doubt", len(entries))
	return errors.Join(ErrRejoin, d.store.Rejoin(entries, d.r.outdated.until, d.r.outdated.older, time.Now()))
}
