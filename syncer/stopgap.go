package syncer

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
)

// A file or directory whose owner this node does not know, or may not give it to, stands here as somebody else's, and so does one whose owner the
// policy decides. As whose, is remembered across restarts: it was nobody's wish, and is no change when the owner can be given after all. Then it is
// given. Either may be durable before the other: what belongs to whom it names needs no memory, and what does not is given again.

// ownership is what is known of whose a file or directory is.
type ownership struct {
	is      durable.Owner  // on the disk
	named   durable.Owner  // by the fleet; -1 where the name means nobody here
	wanted  durable.Owner  // named, or the policy's
	stopgap *durable.Owner // as whose this node let it stand; nil: it was never another's than named
	policy  bool           // decides here, but for what people made on this node themselves
	local   bool           // people on this node made it
	root    bool           // this process may give files away
	before  bool           // the state is that of a version that remembered nothing of this
}

// judge says whether the owner on the disk is nobody's wish, so that it is no change, and whether the file is to be given to whom it belongs.
func (o ownership) judge() (excused, give bool) {
	switch {
	case o.is == o.named:
		excused = true
	case o.policy, !o.root:
		excused = true
	case o.stopgap != nil:
		excused = o.is == *o.stopgap
	default:
		excused = o.before || !whole(o.named) // it was let stand before anything was remembered
	}
	give = excused && whole(o.wanted) && o.is != o.wanted && (o.root || o.policy) && !(o.policy && o.local)
	return excused, give
}

// whole reports whether both names mean somebody.
func whole(o durable.Owner) bool { return o.UID >= 0 && o.GID >= 0 }

// standIn remembers as whose something stands in place of whom it names, or that it does not.
func (r *replica) standIn(p index.Path, is durable.Owner, stands bool) {
	was, stood := r.stopgaps[p]
	if stood == stands && (!stands || was == is) {
		return
	}
	delete(r.stopgaps, p)
	if stands {
		r.stopgaps[p] = is
	}
	r.dirty[p] = true
}

// knownAt returns what the fleet has at p, or perhaps has; nil if nothing is known. local says that people on this node made it.
func (r *replica) knownAt(p index.Path) (c index.Content, local bool) {
	if e := r.x.Live(p); e != nil {
		return e.Content, e.Origin == r.self && e.Stamp.Epoch.IsZero()
	}
	return r.doubt.content[p], false
}

// ownershipLocked says whose a file or directory at p is that belongs to somebody on the disk; false where nobody has named an owner.
func (d *Directory) ownershipLocked(p index.Path, is durable.Owner) (o ownership, ok bool) {
	known, local := d.r.knownAt(p)
	owner, group, ok := namesOf(known)
	if !ok || d.Reserved(p) {
		return ownership{}, false
	}
	o = ownership{
		is: is, named: d.disk.owners.named(owner, group), wanted: d.disk.owners.wanted(owner, group),
		policy: d.disk.owners.policy != nil, local: local, root: d.disk.owners.privileged,
		before: d.forgetful && !d.r.seeded,
	}
	if stopgap, stands := d.r.stopgaps[p]; stands {
		o.stopgap = &stopgap
	}
	return o, true
}

// excuseLocked has a survey say of an owner that is nobody's wish what the fleet says, and notes what is owed where everything was looked at.
func (d *Directory) excuseLocked(s *survey, p index.Path, got sight) {
	o, ok := d.ownershipLocked(p, ownerOf(got.stat))
	excused, give := o.judge()
	known, _ := d.r.knownAt(p)
	content, alike := ownedAs(got.found.Content, known)
	if !ok || !excused || !alike {
		return
	}
	found := s.Found[p]
	found.Content = content
	s.Found[p] = found
	if o.is != o.named || !d.owed[p] { // else it is not durable yet; see giveOwed
		d.r.standIn(p, o.is, o.is != o.named)
	}
	if !s.whole {
		return // hints tell of what is done here as well: to answer them would never end
	}
	if give {
		d.owed[p] = true
	}
	if err := d.disk.owners.unknown(known); err != nil {
		d.faultLocked(OwnershipFailed, p, err)
	}
}

// isContentLocked reports whether what was seen at p is what is known, but for an owner that is nobody's wish.
func (d *Directory) isContentLocked(p index.Path, known index.Content, s sight) bool {
	o, _ := d.ownershipLocked(p, ownerOf(s.stat))
	found, alike := ownedAs(s.found.Content, known)
	excused, _ := o.judge()
	return known == s.found.Content || alike && excused && known == found
}

// rememberWrittenLocked notes how an entry looks right after it was put on the disk, and as whose it stands.
func (d *Directory) rememberWrittenLocked(e *index.Entry) {
	d.rememberSightLocked(e.Path)
	stat, there := d.seen[e.Path]
	owner, group, owned := namesOf(e.Content)
	is := ownerOf(stat)
	d.r.standIn(e.Path, is, there && owned && is != d.disk.owners.named(owner, group))
}

// giveOwed gives things to whom they belong. As whose they stood is forgotten when the disk keeps it. It belongs to open, and then to notice.
func (d *Directory) giveOwed() {
	d.mu.Lock()
	owed := slices.SortedFunc(maps.Keys(d.owed), func(a, b index.Path) int { return cmp.Compare(a.String(), b.String()) })
	d.mu.Unlock()
	if len(owed) == 0 || d.absent != nil {
		return
	}
	root := d.disk.root
	if len(owed) >= bulk {
		root = root.Loose()
	}
	var places []string
	for _, p := range owed { // one at a time, so that nobody waits for all of them
		d.mu.Lock()
		d.giveLocked(root, p)
		d.mu.Unlock()
		places = append(places, rootOr(p.Parent()))
	}
	if len(owed) >= bulk {
		if err := root.SyncAll(places...); err != nil { // they stay owed, and are synced the next time
			d.log.Warn("what was given to its owner is not synced", "error", err)
			return
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range owed {
		delete(d.owed, p)
		stat, there := d.seen[p]
		o, ok := d.ownershipLocked(p, ownerOf(stat))
		if excused, _ := o.judge(); there && ok && excused {
			d.r.standIn(p, o.is, o.is != o.named)
		}
	}
	d.stirLocked()
}

// giveLocked gives one thing to whom it belongs, unless it is not what it was when that was found owed.
func (d *Directory) giveLocked(root *durable.Root, p index.Path) {
	stat, err := root.Lstat(p.String())
	o, ok := d.ownershipLocked(p, ownerOf(stat))
	if _, give := o.judge(); err != nil || !ok || !give || stat != d.seen[p] {
		return
	}
	warn, err := root.SetMode(p.String(), stat.Perm, o.wanted)
	d.noteOwnershipLocked(p, cmp.Or(err, warn))
	d.rememberSightLocked(p)
	if delete(d.refused, p); err != nil || warn != nil {
		d.refused[p] = o.wanted
	}
}

// giveInterval is how often it is asked whether an owner can be given that could not be before.
const giveInterval = 30 * time.Second

// canGive reports whether something can be given now to whom it belongs that could not be before: its owner has an account here by now. What the disk
// has refused is tried again whenever everything is looked at.
func (d *Directory) canGive(now time.Time) bool {
	if now.Sub(d.asked) < giveInterval {
		return false
	}
	d.asked = now
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.r.stopgaps) == 0 {
		return false
	}
	d.disk.owners.forget()
	for p, stopgap := range d.r.stopgaps {
		o, ok := d.ownershipLocked(p, stopgap)
		if _, give := o.judge(); ok && give && d.refused[p] != o.wanted {
			return true
		}
	}
	return false
}

func ownerOf(stat durable.Stat) durable.Owner { return durable.Owner{UID: stat.UID, GID: stat.GID} }

// namesOf returns whom a file or directory names as its owner; nothing else has one.
func namesOf(c index.Content) (owner, group string, ok bool) {
	switch c := c.(type) {
	case index.File:
		return c.Owner, c.Group, true
	case index.Directory:
		return c.Owner, c.Group, true
	}
	return "", "", false
}

// ownedAs returns what was found as it would be if it belonged to whom something known names; false if that is not of its kind.
func ownedAs(found, known index.Content) (index.Content, bool) {
	switch f := found.(type) {
	case index.File:
		k, alike := known.(index.File)
		f.Owner, f.Group = k.Owner, k.Group
		return f, alike
	case index.Directory:
		k, alike := known.(index.Directory)
		f.Owner, f.Group = k.Owner, k.Group
		return f, alike
	}
	return found, false
}
