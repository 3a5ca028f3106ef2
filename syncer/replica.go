package syncer

import (
	"cmp"
	"crypto/ed25519"
	"slices"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// The bounds of patience and trust.
const (
	deleteDelay  = time.Second      // deletions wait this long and are judged together
	deleteWindow = 10 * time.Second // deletions this close together count as one
	relayDelay   = time.Second      // an origin has this long to offer its own entries before others do
	ackDelay     = 200 * time.Millisecond
	futureLimit  = 10 * time.Minute // a stamp further in the future is refused
	maxJobs      = 64               // offers waiting for the disk, or for one that does
	maxWaiting   = 64 << 20         // bytes of content that wait with them
	maxEntries   = 1_000_000
	maxOrigins   = wire.MaxOrigins / 4 // so that no greeting outgrows its frame
)

// rules is what a replica obeys; all of it is pure.
type rules struct {
	self      index.Origin
	key       ed25519.PublicKey
	sign      func(message []byte) []byte
	scope     wire.Scope
	members   func() []fleet.NodeID                 // who is to have the directory, this node included
	mayWrite  func(fleet.NodeID) bool               // who may originate changes
	mayLease  func(fleet.NodeID) bool               // who may originate changes under a lease epoch
	nameOf    func(fleet.NodeID) string             // for sentences
	reserved  func(index.Path) bool                 // paths that somebody else on this node puts in place
	precious  func(index.Path) bool                 // paths that nobody but the holder of the lease may take away; nil: none
	same      func(known, found index.Content) bool // owners that are nobody's wish are as they are known by then
	maxFile   int64                                 // bytes
	maxDelete int                                   // per cent
}

// replica is one node's part in the replication of one directory, as a state machine without effects: what it is told comes
// in by observe, receive, hello, part, finish, persisted and tick, each with the time; what it wants done is asked of it by next,
// work, takeDirty and wake. It belongs to whoever holds the Directory's lock.
type replica struct {
	rules
	x       *index.Index
	clock   index.HLC   // the latest reading given or seen
	epoch   fleet.Epoch // the latest lease epoch that anything was written under
	seq     uint64      // the latest number given
	ceiling uint64      // numbers up to here may be given: they are reserved on disk
	durable index.Summary
	dirty   map[index.Path]bool // entries that the disk does not have as the index has them
	loose   map[index.Path]loose
	// As whose things stand here in place of whom they name; see standIn.
	stopgaps map[index.Path]durable.Owner
	raised   bool    // the summary grew since it was last taken to disk
	covers   []cover // numbers that are here but follow on some that are not yet
	peers    map[fleet.NodeID]*view
	gone     map[fleet.NodeID]index.Summary // what peers that are not connected any more held when they were; for status alone
	jobs     []*job
	keys     map[fleet.NodeID]ed25519.PublicKey

	fresh  bool // nothing was ever scanned in this incarnation: what is found was only found
	seeded bool // the start-up scan is done
	joined bool // held all that some peer announced, at least once
	away   bool // the disk is not there: nothing is taken to it

	forgotten index.Summary // deletions up to here are remembered no more
	outdated  *outdated     // not nil: this node must begin anew
	rejoined  time.Time     // when it last did
	older     bool          // then its state was that of an earlier day
	begun     uint64        // numbers of this run are above
	doubt     doubt

	deletes    map[index.Path]time.Time // seen to be gone, since when
	unseen     map[index.Path]bool      // of these, those that were gone when the disk was first looked at: nobody knows since when
	recent     []deletion
	diverted   map[index.Path]time.Time // gone, since when, and put back: what went with them is to be judged with them
	reverts    map[index.Path]bool      // local edits to be put back; true: because of a rule, to be reported
	reverted   map[index.Path]time.Time
	agreed     bool                     // somebody has said that what waits in reverts may go
	contacted  bool                     // reverts were made since the first contact, or could have been
	lost       map[index.Path]time.Time // could not be put back, since when: nobody has it
	halt       string                   // why nothing goes out, "" when it does
	haltedAt   time.Time
	lacks      map[index.Path]bool             // where this node refused what others may have
	untold     map[fleet.NodeID][]wire.Refusal // what an origin that is not connected will have to hear
	tooEarly   map[premature]index.HLC         // refused for being written in the future, and not replaced since
	refusedBy  map[fleet.NodeID][]objection    // who does not take what this node wrote
	clocks     map[fleet.NodeID]time.Duration  // by how much the clocks of connected peers are ahead of this node's
	heardSince map[fleet.NodeID]bool           // of these, those that were heard since this node's clock stands before stamps that it has given
	skews      map[fleet.NodeID]skew           // which clocks are wrong, this node's perhaps
}

// view is what a replica knows about one connected peer that has the directory too.
type view struct {
	acked     index.Summary // the peer holds this durably
	sent      index.Summary // and this has been offered to it
	announced index.Summary // and this it has told of
	told      index.Summary // and this it has been told that we hold durably
	forgotten index.Summary // the peer remembers deletions up to here no more; nil: known
	lagging   map[index.Origin]time.Time
	haveAt    time.Time // when to tell what we hold; zero: nothing new
	again     bool      // ask it to start again from what we told
	refusals  []wire.Refusal
	repair    []*index.Entry // to be offered out of order
	mended    index.Fingerprint
}

func newReplica(r rules) *replica {
	if r.precious == nil {
		r.precious = func(index.Path) bool { return false }
	}
	return &replica{
		rules:      r,
		x:          index.New(),
		durable:    index.Summary{},
		forgotten:  index.Summary{},
		dirty:      map[index.Path]bool{},
		loose:      map[index.Path]loose{},
		stopgaps:   map[index.Path]durable.Owner{},
		lacks:      map[index.Path]bool{},
		peers:      map[fleet.NodeID]*view{},
		gone:       map[fleet.NodeID]index.Summary{},
		keys:       map[fleet.NodeID]ed25519.PublicKey{r.self.Node: r.key},
		diverted:   map[index.Path]time.Time{},
		deletes:    map[index.Path]time.Time{},
		unseen:     map[index.Path]bool{},
		reverts:    map[index.Path]bool{},
		reverted:   map[index.Path]time.Time{},
		lost:       map[index.Path]time.Time{},
		untold:     map[fleet.NodeID][]wire.Refusal{},
		refusedBy:  map[fleet.NodeID][]objection{},
		tooEarly:   map[premature]index.HLC{},
		clocks:     map[fleet.NodeID]time.Duration{},
		heardSince: map[fleet.NodeID]bool{},
		skews:      map[fleet.NodeID]skew{},
	}
}

// observe takes what was seen on the disk into the index: changes at once, deletions after they had time to turn out to be
// something else. It returns the paths that are not as they were.
func (r *replica) observe(now time.Time, scan index.Scan) (touched []index.Path) {
	changes := index.Observe(r.x, scan, r.same)
	if !r.seeded {
		r.doubtStart(now, changes)
	}
	gone := map[index.Path]bool{}
	var mine []index.Change
	for _, c := range changes {
		_, dead := c.Content.(index.Tombstone)
		gone[c.Path] = dead
		touched = append(touched, c.Path)
		switch {
		case r.reserved(c.Path) || r.halt != "" || r.isInDoubt(c):
		case r.ownedByOthers(c.Path):
			if _, directory := c.Content.(index.Directory); !directory || r.x.Live(c.Path) != nil {
				r.reverts[c.Path] = true // a directory of this node's alone is nobody's edit
			}
			if dead && r.mayWrite(r.self.Node) {
				r.diverted[c.Path] = now
			}
		case !dead:
			mine = append(mine, c)
		case r.deletes[c.Path].IsZero():
			r.deletes[c.Path] = now
			if delete(r.unseen, c.Path); !r.seeded {
				r.unseen[c.Path] = true
			}
		}
	}
	for p := range scan.Found {
		if !gone[p] {
			delete(r.deletes, p)
		}
		if _, changed := gone[p]; !changed {
			delete(r.lost, p)
		}
	}
	r.author(mine, func(c index.Change) index.Stamp { return r.stampFor(now, c) })
	return touched
}

// greeting is how a conversation is opened.
func (r *replica) greeting() wire.Greeting {
	g := wire.Greeting{Directory: r.scope.Directory, Self: r.self, Held: r.durable.Clone(), Forgotten: r.forgotten.Clone()}
	if r.settled() {
		g.Fingerprint = r.x.Fingerprint()
	}
	return g
}

// hello takes a peer's greeting: what it holds, from now on. A peer that is already known starts over. told is what this node's own greeting said
// to it: what has become durable since, while nobody was there to hear it, is owed.
func (r *replica) hello(now time.Time, from fleet.NodeID, clock time.Time, g wire.Greeting, told index.Summary) {
	if r.outdated == nil && r.isOutdated(now, from, g) {
		r.outdated = &outdated{until: g.Held.Clone(), before: r.begun, older: r.isOlder(g.Held[r.self])}
	}
	if r.outdated != nil {
		return // nothing is said and nothing learned before
	}
	held := r.believable(g.Held)
	v := &view{
		acked:     held,
		sent:      held.Clone(),
		announced: held.Clone(),
		forgotten: g.Forgotten,
		told:      index.Summary{}, // the first word repeats the greeting: what the peer could not believe then it may now
		lagging:   map[index.Origin]time.Time{},
	}
	if !told.Covers(r.durable) {
		v.haveAt = now
	}
	r.peers[from] = v
	delete(r.gone, from)
	for _, refusal := range r.untold[from] {
		r.tellRefusal(now, refusal)
	}
	delete(r.untold, from)
	r.seekLost(now)
	r.hearClock(now, from, clock)
	r.compareFingerprints(now, from, g.Fingerprint)
	r.noteJoined()
}

// part forgets a peer whose connection ended.
func (r *replica) part(from fleet.NodeID) {
	if v := r.peers[from]; v != nil {
		r.gone[from] = v.acked
	}
	delete(r.peers, from)
	delete(r.clocks, from)
	delete(r.heardSince, from)
	delete(r.skews, from)
}

// receive takes an offer whose signatures have been verified.
func (r *replica) receive(now time.Time, from fleet.NodeID, o wire.Offer) {
	v := r.peers[from]
	if v == nil {
		return
	}
	if _, known := r.x.Held()[o.Origin]; !known && max(len(r.x.Held()), len(r.keys)) >= maxOrigins {
		return
	}
	r.keys[o.Origin.Node] = o.Key
	o = r.believableOffer(from, o)
	v.announced.Raise(index.Summary{o.Origin: o.Through})
	v.sent.Raise(index.Summary{o.Origin: o.Through}) // what it offers it need not be offered
	c := cover{origin: o.Origin, after: o.After, through: o.Through, volatile: true}
	if r.full() || o.After > r.expected(o.Origin) {
		v.again, v.haveAt = true, now.Add(ackDelay)
		return
	}
	j := &job{from: from, inline: o.Inline}
	for _, e := range o.Entries {
		c.volatile = c.volatile && e.Expires != 0
		if !isEarly(now, e) {
			delete(r.tooEarly, premature{e.Origin.Node, e.Path})
		}
		if e.Expired(now) || !e.Beats(r.x.Lookup(e.Path)) {
			continue
		}
		if reason := r.refuse(now, from, e); reason != "" {
			r.noteRefused(now, e, reason)
			continue
		}
		j.entries = append(j.entries, e)
	}
	j.cover = c
	for _, content := range o.Inline {
		j.bytes += len(content)
	}
	if len(j.entries) == 0 {
		r.complete(now, c)
		return
	}
	j.fetches = j.needsFetch()
	r.jobs = append(r.jobs, j)
}

// have takes a peer's word of what it holds and of what it refuses.
func (r *replica) have(now time.Time, from fleet.NodeID, h wire.Have) {
	v := r.peers[from]
	if v == nil {
		return
	}
	held := r.believable(h.Held)
	v.acked.Raise(held)
	v.sent.Raise(held)
	v.announced.Raise(held)
	if h.Again {
		v.sent = v.acked.Clone()
	}
	for _, refusal := range h.Refused {
		r.hearRefusal(now, from, refusal)
	}
	r.compareFingerprints(now, from, h.Fingerprint)
	r.forget()
	r.noteJoined()
}

// compareFingerprints starts a repair where two nodes hold the same writes and yet not the same entries: one of them was damaged.
// Each offers the other everything, once for each such finding.
func (r *replica) compareFingerprints(now time.Time, from fleet.NodeID, theirs index.Fingerprint) {
	v := r.peers[from]
	if theirs == (index.Fingerprint{}) {
		return
	}
	if theirs == r.x.Fingerprint() {
		delete(r.refusedBy, from) // it has all that stands here
		return
	}
	if theirs == v.mended || !r.settled() || !v.acked.Equal(r.x.Held()) {
		return
	}
	v.mended = theirs
	v.haveAt = now // it may have looked when this node was not settled yet
	for e := range r.x.All {
		v.repair = append(v.repair, e)
	}
	slices.SortFunc(v.repair, func(a, b *index.Entry) int {
		return cmp.Or(a.Origin.Compare(b.Origin), cmp.Compare(a.Seq, b.Seq))
	})
}

// settled reports whether the fingerprint speaks of exactly what is durably held.
func (r *replica) settled() bool {
	return len(r.lacks) == 0 && len(r.tooEarly) == 0 && len(r.jobs) == 0 && r.durable.Covers(r.x.Held())
}

// forget drops tombstones once every member is known to have them. A job may hold what a tombstone is there to beat: it must
// land, or lose, first.
//
// Whoever refuses one has it as little as before, whatever its summary says.
func (r *replica) forget() {
	if r.x.Tombstones() == 0 || len(r.jobs) > 0 {
		return
	}
	all := []index.Summary{r.durable}
	for _, id := range r.members() {
		if id == r.self.Node {
			continue
		}
		v := r.peers[id]
		if v == nil {
			return
		}
		all = append(all, v.acked)
	}
	floor := index.Floor(all...)
	for _, objections := range r.refusedBy {
		for _, o := range objections {
			floor[o.Origin] = min(floor[o.Origin], o.Seq-1)
		}
	}
	r.forgot(r.x.Forget(floor))
}

func (r *replica) noteJoined() {
	if len(r.peers) > 0 && r.state() == InSync {
		r.joined = true
	}
	r.endDoubt()
	r.adoptForgotten()
}
