package syncer

import (
	"errors"
	"io/fs"
	"slices"

	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// recoverLocked finishes what a crash interrupted, by the same steps that would have followed. Where something is neither staged any more nor on
// the disk already, no step is taken: the power went before the first of them was durable (names are made durable in order, and an intent
// perhaps before them), or it failed and was taken back. The peers offer it again.
func (d *Directory) recoverLocked() error {
	if d.r.fresh {
		return nil // what the intents speak of is not known any more, and may have been overwritten and deleted since
	}
	for _, intent := range d.intents {
		payload, err := intent.Read()
		if err != nil {
			return err
		}
		if len(payload) < 16+wire.HeaderSize {
			continue
		}
		frame, err := wire.Decode(payload[16+4], payload[16+wire.HeaderSize:])
		o, ok := frame.(wire.Offer)
		if err != nil || !ok {
			d.log.Warn("an intent cannot be read; the peers will offer again what it was about", "error", err)
			continue
		}
		l := newLandingOn(d.disk.root, nil, string(payload[:16]))
		// What is held was finished; it may have been deleted and forgotten since.
		o.Entries = slices.DeleteFunc(o.Entries, func(e *index.Entry) bool { return e.Seq <= d.r.x.Held()[o.Origin] })
		for _, e := range o.Entries {
			d.r.scope.Rehash(e)
		}
		l.job = &job{entries: o.Entries}
		plan := d.r.planAnew(l.job)
		whole := !slices.ContainsFunc(plan, func(step index.Step) bool { return !d.stagedLocked(l, step) && !d.takenLocked(step) })
		for _, step := range plan {
			if taken := d.takenLocked(step); taken {
				l.dirs[step.Entry.Path.Parent()] = true
				d.rememberWrittenLocked(step.Entry) // not given to its owner yet, perhaps
			} else if !whole {
				continue
			} else if err := d.stepLocked(l, step); err != nil {
				d.faultLocked(WriteFailed, step.Entry.Path, err) // left to the peers as well
				continue
			}
			d.r.land(step.Entry)
			d.r.dirty[step.Entry.Path] = true
			if step.Entry.Origin == d.r.self {
				d.r.x.Hold(d.r.self, d.r.seq) // nobody but this node can offer it
				d.r.raised = true
			}
		}
		for dir := range l.dirs {
			if err := d.syncDir(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// stagedLocked reports whether what a step needs is there.
func (d *Directory) stagedLocked(l *landing, step index.Step) bool {
	if step.Action != index.PutFile && step.Action != index.PutLink {
		return true
	}
	stat, err := d.disk.root.Staged(step.Entry.Path.String(), l.stagedAs(step.Entry))
	f, file := step.Entry.Content.(index.File)
	return err == nil && (!file || stat.Size == f.Size)
}

// takenLocked reports whether a step was taken already.
func (d *Directory) takenLocked(step index.Step) bool {
	p := step.Entry.Path
	switch c := step.Entry.Content.(type) {
	case index.File:
		s, err := d.disk.look(p)
		f, ok := s.found.Content.(index.File)
		return err == nil && ok && f.Digest == c.Digest && f.Perm == c.Perm
	case index.Symlink:
		target, err := d.disk.root.Readlink(p.String())
		return err == nil && target == c.Target
	case index.Tombstone:
		_, err := d.disk.root.Lstat(p.String())
		return errors.Is(err, fs.ErrNotExist)
	}
	return false
}
