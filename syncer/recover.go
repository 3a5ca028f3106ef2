package syncer

import (
	"errors"
	"io/fs"
	"slices"

	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// recoverLocked finishes what a crash interrupted, by the same steps that would have followed. What is neither staged any
// more nor on the disk already is left to the peers, who offer it again.
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
		if intent == d.publishing() && len(o.Entries) > 0 {
			l.first = o.Entries[0].Seq
		}
		// What is held was finished; it may have been deleted and forgotten since.
		o.Entries = slices.DeleteFunc(o.Entries, func(e *index.Entry) bool { return e.Seq <= d.r.x.Held()[o.Origin] })
		for _, e := range o.Entries {
			d.r.scope.Rehash(e)
		}
		l.job = &job{entries: o.Entries}
		for _, step := range d.r.plan(l.job) {
			if !d.recoverableLocked(l, step) {
				continue
			}
			if err := d.stepLocked(l, step); err != nil && !errors.Is(err, fs.ErrNotExist) {
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

// recoverableLocked reports whether a step can be taken: what it needs is staged, or it was taken already (then Place finds
// nothing staged, which is fine).
func (d *Directory) recoverableLocked(l *landing, step index.Step) bool {
	e := step.Entry
	if step.Action != index.PutFile && step.Action != index.PutLink {
		return true
	}
	switch c := e.Content.(type) {
	case index.File:
		if stat, err := d.disk.root.Staged(e.Path.String(), l.stagedAs(e)); err == nil && stat.Size == c.Size {
			return true
		}
		s, err := d.disk.look(e.Path)
		f, ok := s.found.Content.(index.File)
		return err == nil && ok && f.Digest == c.Digest
	case index.Symlink:
		if _, err := d.disk.root.Staged(e.Path.String(), l.stagedAs(e)); err == nil {
			return true
		}
		target, err := d.disk.root.Readlink(e.Path.String())
		return err == nil && target == c.Target
	}
	return true
}
