package syncer

import (
	"cmp"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/pairs"
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
	members   func() []fleet.NodeID     // who is to have the directory, this node included
	mayWrite  func(fleet.NodeID) bool   // who may originate changes
	mayLease  func(fleet.NodeID) bool   // who may originate changes under a lease epoch
	nameOf    func(fleet.NodeID) string // for sentences
	reserved  func(index.Path) bool     // paths that somebody else on this node puts in place
	precious  func(index.Path) bool     // paths that nobody but the holder of the lease may take away; nil: none
	same      func(known, found index.Content) bool
	maxFile   int64 // bytes
	maxDelete int   // per cent
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
	raised  bool    // the summary grew since it was last taken to disk
	covers  []cover // numbers that are here but follow on some that are not yet
	peers   map[fleet.NodeID]*view
	jobs    []*job
	keys    map[fleet.NodeID]ed25519.PublicKey

	fresh  bool // nothing was ever scanned in this incarnation: what is found was only found
	seeded bool // the start-up scan is done
	joined bool // held all that some peer announced, at least once
	away   bool // the disk is not there: nothing is taken to it

	forgotten index.Summary // deletions up to here are remembered no more
	outdated  *outdated     // not nil: this node must begin anew
	rejoined  time.Time     // when it last did
	begun     uint64        // numbers of this run are above
	doubt     doubt

	deletes    map[index.Path]time.Time // seen to be gone, since when
	unseen     map[index.Path]bool      // of these, those that were gone when the disk was first looked at: nobody knows since when
	recent     []deletion
	reverts    map[index.Path]bool // local edits to be put back; true: because of a rule, to be reported
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

// loose is an entry whose disk a power cut may still undo: the state on disk must not be ahead of what it is the state of, or what is back then
// would be taken for a change.
type loose struct{ now, before *index.Entry }

// cover says that whoever holds after of the origin now holds through.
type cover struct {
	origin         index.Origin
	after, through uint64
	volatile       bool // all of its entries expire: visible is as good as durable
}

type deletion struct {
	at    time.Time
	files int
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

// job is entries on their way to this node's disk.
type job struct {
	from    fleet.NodeID
	entries []*index.Entry
	inline  map[index.Digest][]byte
	bytes   int // of what is inline
	cover   cover
	reverts map[index.Path]bool // of a job that puts back what the fleet has and merges nothing; see replica.reverts
	flying  bool                // somebody is at it
	fetches bool                // not all of its content came with it
	tries   int

	stuck    index.Path          // could not be replaced at the last try
	unsynced map[index.Path]bool // directories whose names were changed by tries that failed
	landed   []*index.Entry      // and what landed there: the state on disk must not say so before they are synced
	notTill  time.Time
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
		lacks:      map[index.Path]bool{},
		peers:      map[fleet.NodeID]*view{},
		keys:       map[fleet.NodeID]ed25519.PublicKey{r.self.Node: r.key},
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

// tickClock gives the next reading of the hybrid clock: the wall's, or one more than the latest where the wall stands still
// or went back.
func (r *replica) tickClock(now time.Time) index.HLC {
	r.clock = max(r.clock+1, index.HLCOf(now))
	return r.clock
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

// doubtStart halts before anything goes out if too much is gone since the last run: what else changed is part of that decision.
func (r *replica) doubtStart(now time.Time, changes []index.Change) {
	var gone []index.Path
	for _, c := range changes {
		if _, dead := c.Content.(index.Tombstone); dead && !r.reserved(c.Path) && !r.ownedByOthers(c.Path) {
			gone = append(gone, c.Path)
		}
	}
	if index.Suspicious(r.x, gone, 0, r.maxDelete) {
		r.stop(now, fmt.Sprintf("%d of %d files are gone since the last run; max_delete is %d%%", index.Lost(r.x, gone), r.x.Files(), r.maxDelete))
	}
}

// stop halts: this node receives, but sends no change of its own until a person says so.
func (r *replica) stop(now time.Time, why string) {
	if r.halt == "" {
		r.halt, r.haltedAt = why, now
	}
}

// ownedByOthers reports whether a change made here to p must be put back: this node may not write, or the path belongs to
// whoever holds the lease.
func (r *replica) ownedByOthers(p index.Path) bool {
	if !r.mayWrite(r.self.Node) {
		return true
	}
	e := r.x.Live(p)
	return e != nil && !e.Stamp.Epoch.IsZero()
}

// stampFor dates a change. What a new incarnation finds was only found; what changed while the agent was down is dated by
// the kernel's ctime, so that a stale file does not beat what the fleet wrote since. A directory that was not known then was only found too: it
// may be what a crash left of one that was being made here for the fleet, with no mode of anybody's choice.
func (r *replica) stampFor(now time.Time, c index.Change) index.Stamp {
	stamp := index.Stamp{Written: true, Node: r.self.Node}
	_, directory := c.Content.(index.Directory)
	switch {
	case r.seeded:
		stamp.HLC = r.tickClock(now)
	case r.fresh || directory && r.x.Lookup(c.Path) == nil:
		stamp.Written = false
		stamp.HLC = min(index.HLCOf(c.Found.Modified), index.HLCOf(now))
	default:
		stamp.HLC = min(index.HLCOf(c.Found.Changed), index.HLCOf(now))
		if known := r.x.Lookup(c.Path); known != nil {
			stamp.HLC = max(stamp.HLC, known.Stamp.HLC+1)
		}
		r.clock = max(r.clock, stamp.HLC)
	}
	return stamp
}

// author makes entries of changes that this node makes: numbered, signed, in the index, and owed to the fleet. Without
// reserved numbers (a disk that cannot be written) nothing is made; the next scan finds the changes again.
func (r *replica) author(changes []index.Change, stamp func(index.Change) index.Stamp) {
	if !r.room(len(changes)) {
		return
	}
	entries := make([]*index.Entry, len(changes))
	for i, c := range changes {
		entries[i] = &index.Entry{Path: c.Path, Stamp: stamp(c), Origin: r.self, Content: c.Content}
	}
	r.number(entries)
	r.adopt(entries)
}

// room reports whether n more sequence numbers are reserved on disk.
func (r *replica) room(n int) bool { return r.seq+uint64(n) <= r.ceiling }

// number gives entries their sequence numbers, batches and seals. A batch ends where it has MaxBatch entries, or half of
// that at the border of a directory, for what stands in one directory belongs together; and before it would part a key from its certificate.
func (r *replica) number(entries []*index.Entry) {
	if !r.room(len(entries)) {
		panic("syncer: sequence numbers were not reserved")
	}
	start := 0
	var reach []int
	if len(entries) > wire.MaxBatch/2 {
		reach = pairs.Together(entries)
	}
	for i, e := range entries {
		r.seq++
		e.Seq = r.seq
		n := i + 1 - start
		last := i+1 == len(entries)
		border := n >= wire.MaxBatch/2 && !last && reach[i] == i && (n >= wire.MaxBatch*7/8 || entries[i+1].Path.Parent() != e.Path.Parent())
		if last || border || n == wire.MaxBatch {
			for _, member := range entries[start : i+1] {
				member.Batch = r.seq
			}
			start = i + 1
		}
	}
	r.scope.Seal(entries, r.sign)
}

// adopt takes this node's own new entries into the index.
func (r *replica) adopt(entries []*index.Entry) {
	for _, e := range entries {
		r.land(e)
		delete(r.loose, e.Path)
		r.dirty[e.Path] = true
	}
	if len(entries) > 0 {
		r.x.Hold(r.self, r.seq)
		r.raised = true
	}
}

// hello takes a peer's greeting: what it holds, from now on. A peer that is already known starts over.
func (r *replica) hello(now time.Time, from fleet.NodeID, clock time.Time, g wire.Greeting) {
	if r.outdated == nil && r.isOutdated(now, from, g) {
		r.outdated = &outdated{until: g.Held.Clone(), before: r.begun}
	}
	if r.outdated != nil {
		return // nothing is said and nothing learned before
	}
	held := r.believable(g.Held)
	r.peers[from] = &view{
		acked:     held,
		sent:      held.Clone(),
		announced: held.Clone(),
		forgotten: g.Forgotten,
		told:      index.Summary{},
		lagging:   map[index.Origin]time.Time{},
	}
	for _, refusal := range r.untold[from] {
		r.tellRefusal(now, refusal)
	}
	delete(r.untold, from)
	r.seekLost()
	r.hearClock(now, from, clock)
	r.compareFingerprints(now, from, g.Fingerprint)
	r.noteJoined()
}

// part forgets a peer whose connection ended.
func (r *replica) part(from fleet.NodeID) {
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

// expected returns how far an origin will have been heard once all that is under way has landed.
func (r *replica) expected(o index.Origin) uint64 {
	coming := slices.Clone(r.covers)
	for _, j := range r.jobs {
		coming = append(coming, j.cover)
	}
	seq := r.x.Held()[o]
	for progress := true; progress; { // what waits for a job stands before it here
		progress = false
		for _, c := range coming {
			if c.origin == o && c.after <= seq && c.through > seq {
				seq, progress = c.through, true
			}
		}
	}
	return seq
}

// await keeps a cover until what comes before it is here. Those in a row are one: however much follows on what is missing, it takes no room.
func (r *replica) await(c cover) {
	for i, before := range r.covers {
		if before.origin == c.origin && before.through == c.after && before.volatile == c.volatile {
			r.covers[i].through = c.through
			return
		}
	}
	r.covers = append(r.covers, c)
}

// complete notes that everything a cover speaks of is here, and whatever had waited for that.
func (r *replica) complete(now time.Time, c cover) {
	r.await(c)
	for progress := true; progress; {
		progress = false
		for i, c := range r.covers {
			held := r.x.Held()[c.origin]
			if c.after > held {
				continue
			}
			if c.volatile && r.durable[c.origin] >= c.after && c.through > r.durable[c.origin] {
				r.durable[c.origin] = c.through
				r.owe(now, c.origin)
			}
			if c.through > held {
				r.x.Hold(c.origin, c.through)
				r.raised = true
			} else {
				r.owe(now, c.origin) // said again because our answer was not heard
			}
			r.covers = append(r.covers[:i], r.covers[i+1:]...)
			progress = true
			break
		}
	}
	r.noteJoined()
}

// owe has the peers told what is held: an origin at once, for somebody may be waiting there; the others soon.
func (r *replica) owe(now time.Time, origin index.Origin) {
	for id, v := range r.peers {
		at := now.Add(ackDelay)
		if id == origin.Node {
			at = now
		}
		if v.haveAt.IsZero() || at.Before(v.haveAt) {
			v.haveAt = at
		}
	}
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
