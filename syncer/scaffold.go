package syncer

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"slices"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
)

// prepareLocked makes the directories in which a job's files are to stand: nothing can be staged there before, and what staging made
// by itself would be taken for a change made here. Those that are part of the job are made as they are to be, others are
// scaffolding. It returns the plan for what is left.
func (d *Directory) prepareLocked(l *landing) (index.Plan, error) {
	d.undoubtLocked(l.job)
	dirs := d.directoriesLocked(l)
	if len(dirs) > 0 && !l.isRevert() {
		if _, err := d.observeTouchedLocked(l, dirs); err != nil {
			return nil, err
		}
		dirs = d.directoriesLocked(l) // what was changed here meanwhile may have won
	}
	err := d.stepsLocked(l, dirs)
	if !l.isRevert() && !l.bulk {
		for _, e := range l.done[len(l.landed):] {
			d.r.firm(e) // whatever becomes of the job
		}
	}
	if err != nil {
		return nil, err
	}
	plan := d.r.plan(l.job)
	for _, step := range plan {
		if step.Action == index.PutFile || step.Action == index.PutLink {
			if err := d.scaffoldLocked(l.disk, step.Entry.Path.Parent()); err != nil {
				return nil, err
			}
		}
	}
	return plan, nil
}

func (d *Directory) directoriesLocked(l *landing) (dirs index.Plan) {
	for _, step := range d.r.plan(l.job) {
		if step.Action == index.MakeDirectory {
			dirs = append(dirs, step)
		}
	}
	return dirs
}

// scaffoldLocked makes a directory whose own entry is still on its way, or lost against a deletion. It says nothing about this node's wishes.
func (d *Directory) scaffoldLocked(root *durable.Root, dir index.Path) error {
	if dir.IsZero() {
		return nil
	}
	if _, err := root.Lstat(dir.String()); !errors.Is(err, fs.ErrNotExist) {
		return nil // if it is no directory, staging will say so
	}
	if err := d.scaffoldLocked(root, dir.Parent()); err != nil {
		return err
	}
	d.scaffold[dir] = true
	_, err := root.MkDir(dir.String(), 0o755, durable.AsItIs)
	return err
}

// tidyScaffoldLocked takes down the scaffolding that no job needs any more. It stays where files without a directory of their own remain.
func (d *Directory) tidyScaffoldLocked() {
	if len(d.scaffold) == 0 || d.r.flying() {
		return
	}
	dirs := slices.SortedFunc(maps.Keys(d.scaffold), func(a, b index.Path) int { return cmp.Compare(b.String(), a.String()) })
	for _, dir := range dirs { // what is below comes first
		if d.r.x.Live(dir) != nil || d.disk.root.Remove(dir.String()) == nil {
			delete(d.scaffold, dir)
		}
	}
}
