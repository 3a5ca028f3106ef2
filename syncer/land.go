package syncer

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
)

// Landing: under the lock, step by step, what was staged becomes visible, and the replica follows.

// land makes the staged files visible, in the moment in which the replica learns of it.
func (d *Directory) land(l *landing) {
	d.mu.Lock()
	defer d.mu.Unlock()
	plan := d.r.plan(l.job)
	if !l.isRevert() {
		touched, err := d.observeTouchedLocked(l, plan)
		if err != nil {
			l.fail(err)
			return
		}
		if touched {
			plan = d.r.plan(l.job) // what was changed here meanwhile may have won
		}
	}
	l.fail(d.stepsLocked(l, stuckFirst(plan, l.stuck)))
}

// stepsLocked takes the steps of a plan, and the replica follows. Where one fails those before it are taken back, for a batch is visible whole or
// not at all.
func (d *Directory) stepsLocked(l *landing, plan index.Plan) error {
	for i, step := range plan {
		err := d.stepLocked(l, step)
		if err == nil {
			continue
		}
		if d.takenLocked(step) { // it was told wrong
			d.rememberSightLocked(step.Entry.Path)
			continue
		}
		l.stuck = step.Entry.Path
		undone := d.undoLocked(l, plan[:i])
		return errors.Join(fmt.Errorf("%s cannot be replaced: %w", step.Entry.Path, err), undone)
	}
	d.followLocked(l, plan)
	return nil
}

// followLocked has the replica follow steps that were taken.
func (d *Directory) followLocked(l *landing, steps []index.Step) {
	for _, step := range steps {
		if !l.isRevert() {
			d.landLocked(step)
		}
		l.done = append(l.done, step.Entry)
	}
}

// undoLocked takes back steps, the latest first. The replica follows those that cannot be: directories stay, and what put back the fleet's own.
func (d *Directory) undoLocked(l *landing, steps []index.Step) error {
	var stay []index.Step
	var errs []error
	for _, step := range slices.Backward(steps) {
		if !l.isRevert() {
			errs = append(errs, d.undoOneLocked(l, step))
		}
		if l.isRevert() || d.takenLocked(step) || step.Action == index.Note || step.Action == index.MakeDirectory || step.Action == index.SetMode {
			stay = append(stay, step)
		}
	}
	slices.Reverse(stay)
	d.followLocked(l, stay)
	return errors.Join(errs...)
}

// undoOneLocked takes back one step if what stood there is in the archive, or was nothing, or an empty directory.
func (d *Directory) undoOneLocked(l *landing, step index.Step) error {
	p, old := step.Entry.Path, step.Old
	put := step.Action == index.PutFile || step.Action == index.PutLink
	switch {
	case !put && step.Action != index.Delete || step.Entry.Expires != 0 || old != nil && old.Expires != 0:
		return nil
	case old == nil && put && l.bare[p]:
		err := d.disk.root.Remove(p.String())
		d.rememberSightLocked(p)
		return err
	case old == nil:
		return nil
	}
	if c, directory := old.Content.(index.Directory); directory && !put {
		_, err := d.disk.root.MkDir(p.String(), uint32(c.Perm), d.disk.owners.wanted(c.Owner, c.Group))
		d.rememberWrittenLocked(old)
		return err
	}
	return d.putBackLocked(old)
}

// stuckFirst moves the file that could not be replaced at the last try to where it is tried first, so that nothing need be taken back again.
func stuckFirst(plan index.Plan, stuck index.Path) index.Plan {
	at := slices.IndexFunc(plan, func(s index.Step) bool { return s.Entry.Path == stuck && s.Action == index.PutFile })
	if at <= 0 || slices.ContainsFunc(plan[:at], func(s index.Step) bool { return s.Entry.Path.Under(stuck) || stuck.Under(s.Entry.Path) }) {
		return plan
	}
	return slices.Insert(slices.Delete(slices.Clone(plan), at, at+1), 0, plan[at])
}

// landLocked has the replica follow a step. Where the disk was not touched, a deletion made here is still to be told; so is
// that of what has no place.
func (d *Directory) landLocked(step index.Step) {
	p := step.Entry.Path
	since, pending := d.r.deletes[p]
	d.r.landLoosely(step.Entry)
	if step.Action != index.Note {
		return
	}
	if !pending && d.r.displaced(step.Entry, nil) && !d.r.ownedByOthers(p) {
		since, pending = time.Now(), true
	}
	if pending {
		d.r.deletes[p] = since
	}
}

// observeTouchedLocked looks at the paths that a plan is about to change, and observes those that are not on the disk as the
// replica thinks: a change made here is a change, not something to overwrite.
// Where somebody is writing at this moment the error is errBusy, and the plan must wait.
func (d *Directory) observeTouchedLocked(l *landing, plan index.Plan) (touched bool, err error) {
	scan := newScan()
	for _, step := range plan {
		p := step.Entry.Path
		_, doubted := d.r.doubt.content[p]
		if step.Action == index.Note && !doubted {
			continue
		}
		stat, err := d.disk.root.Lstat(p.String())
		if known, ok := d.seen[p]; err == nil && (!ok || known != stat) || err != nil && ok {
			d.lookInto(scan, p)
		}
		if l.bare[p] = errors.Is(err, fs.ErrNotExist); l.bare[p] && doubted {
			delete(d.r.doubt.content, p)
			touched = true
		}
	}
	if len(scan.Looked) == 0 {
		return touched, nil
	}
	d.takeScanLocked(scan)
	if len(scan.busy) > 0 {
		return true, fmt.Errorf("%s: %w", scan.busy[0], errBusy)
	}
	return true, nil
}

// stepLocked does one step to the disk. What it replaces is in the archive first.
func (d *Directory) stepLocked(l *landing, step index.Step) error {
	e, root := step.Entry, l.disk
	name := e.Path.String()
	if step.Action == index.Note {
		return nil
	}
	if _, err := root.Lstat(name); step.Action == index.Delete && errors.Is(err, durable.ErrKind) {
		return nil // the directory above made way for something else, and it went with it
	}
	l.dirs[e.Path.Parent()] = true
	keep := e.Expires == 0 && (step.Old == nil || step.Old.Expires == 0)
	if keep && step.Action != index.SetMode && !l.bare[e.Path] {
		if err := d.archive.Keep(root, name); err != nil {
			return fmt.Errorf("its old version cannot be kept: %w", err)
		}
	}
	var err, warn error
	switch step.Action {
	case index.Delete:
		err = root.Remove(name)
		if errors.Is(err, durable.ErrNotEmpty) { // somebody put something into it, which is about to be noticed
			d.rescan.wake()
			err = nil
		}
	case index.MakeDirectory:
		c := e.Content.(index.Directory)
		owner := d.disk.owners.wanted(c.Owner, c.Group)
		warn, err = root.MkDir(name, uint32(c.Perm), owner)
		if errors.Is(err, durable.ErrKind) {
			if err = root.Remove(name); err == nil {
				warn, err = root.MkDir(name, uint32(c.Perm), owner)
			}
		}
		l.dirs[e.Path] = true
	case index.SetMode:
		c := e.Content.(index.File)
		warn, err = root.SetMode(name, uint32(c.Perm), d.disk.owners.wanted(c.Owner, c.Group))
	case index.PutFile, index.PutLink:
		warn = l.warns[e]
		err = root.Place(name, l.stagedAs(e))
		if errors.Is(err, durable.ErrNotEmpty) {
			if err = d.clearLocked(e.Path); err == nil {
				err = root.Place(name, l.stagedAs(e))
			}
		}
		l.placed[e] = err == nil
	}
	if err != nil {
		return err
	}
	d.noteOwnershipLocked(e.Path, cmp.Or(warn, d.disk.owners.unknown(e.Content)))
	d.rememberWrittenLocked(e)
	return nil
}

// clearLocked empties a directory that must make way, by way of the archive.
func (d *Directory) clearLocked(dir index.Path) error {
	names, err := d.disk.root.ReadDir(dir.String())
	if err != nil {
		return err
	}
	for _, name := range names {
		p, err := dir.Join(name)
		if err != nil {
			return err
		}
		stat, err := d.disk.root.Lstat(p.String())
		if err == nil && stat.Kind == durable.Directory {
			err = d.clearLocked(p)
		}
		if err == nil {
			err = d.archive.Keep(d.disk.root, p.String())
		}
		if err == nil {
			err = d.disk.root.Remove(p.String())
		}
		if err != nil {
			return err
		}
		delete(d.seen, p)
	}
	return nil
}

// rememberSightLocked notes how a path looks right after it was changed.
func (d *Directory) rememberSightLocked(p index.Path) {
	if stat, err := d.disk.root.Lstat(p.String()); err == nil {
		d.seen[p] = stat
	} else {
		delete(d.seen, p)
	}
}

// removeLocked deletes from the disk what has expired. A failure is no harm: an expired challenge is worth nothing, and
// the next scan reports it as a file.
func (d *Directory) removeLocked(expired []*index.Entry) {
	for _, e := range expired {
		if d.Reserved(e.Path) {
			continue
		}
		if err := d.disk.root.Remove(e.Path.String()); err != nil {
			d.faultLocked(WriteFailed, e.Path, err)
		}
		delete(d.seen, e.Path)
	}
}
