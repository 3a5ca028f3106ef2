package index

import (
	"cmp"
	"slices"
)

// Action is what one step does to the disk.
type Action uint8

// The actions. Note touches no disk: the content there is right already, or is put there by somebody else.
const (
	Note Action = iota
	Delete
	MakeDirectory
	PutFile // from a verified copy of File.Digest
	PutLink
	SetMode // mode and owner only, the content stands
)

// Step brings one path from what the index holds (Old, nil for nothing) to what it shall hold.
type Step struct {
	Action Action
	Entry  *Entry
	Old    *Entry
}

// Plan is what to do for a set of entries, in an order that a disk can follow: what must go goes deepest first, what comes
// comes parents first.
type Plan []Step

// Fetch returns the files whose content must be at hand before the plan can be carried out.
func (plan Plan) Fetch() []*Entry {
	var out []*Entry
	for _, s := range plan {
		if s.Action == PutFile {
			out = append(out, s.Entry)
		}
	}
	return out
}

// MakePlan says what to do so that the disk, which holds what the index says, follows those of the entries that beat it.
// Entries that lose are not in the plan. reserved names the paths that somebody else on this node puts in place.
func MakePlan(x *Index, entries []*Entry, reserved func(Path) bool) Plan {
	winners := map[Path]*Entry{}
	for _, e := range entries {
		if e.Beats(x.entries[e.Path]) && e.Beats(winners[e.Path]) {
			winners[e.Path] = e
		}
	}
	plan := make(Plan, 0, len(winners))
	for p, e := range winners {
		old := x.Live(p)
		plan = append(plan, Step{Action: actionFor(e, old, reserved(p)), Entry: e, Old: old})
	}
	slices.SortFunc(plan, compareSteps)
	return plan
}

func actionFor(e, old *Entry, reserved bool) Action {
	if reserved {
		return Note
	}
	switch want := e.Content.(type) {
	case Tombstone:
		if old == nil {
			return Note
		}
		return Delete
	case File:
		if old != nil {
			if is, ok := old.Content.(File); ok && is.Digest == want.Digest {
				if is == want {
					return Note
				}
				return SetMode
			}
		}
		return PutFile
	case Symlink:
		if old != nil && old.Content == e.Content {
			return Note
		}
		return PutLink
	case Directory:
		if old != nil && old.Content == e.Content {
			return Note
		}
		return MakeDirectory
	}
	panic("index: an entry without content")
}

func compareSteps(a, b Step) int {
	aDead, bDead := a.Action == Delete, b.Action == Delete
	if aDead != bDead {
		return compareBool(bDead, aDead) // deletes first
	}
	if aDead {
		return compareDeepestFirst(a.Entry.Path, b.Entry.Path)
	}
	// A link last within its batch: whoever follows it finds everything behind it.
	_, aLink := a.Entry.Content.(Symlink)
	_, bLink := b.Entry.Content.(Symlink)
	return cmp.Or(compareBool(aLink, bLink), cmp.Compare(a.Entry.Path.text, b.Entry.Path.text))
}

// MakeRevert says how to put back what the index holds at these paths, whatever stands there on the disk now. An entry that is a
// tombstone stands for a path of which the index knows nothing live.
func MakeRevert(entries []*Entry) Plan {
	plan := make(Plan, 0, len(entries))
	for _, e := range entries {
		step := Step{Entry: e}
		switch e.Content.(type) {
		case Tombstone:
			step.Action = Delete
		case File:
			step.Action = PutFile
		case Symlink:
			step.Action = PutLink
		case Directory:
			step.Action = MakeDirectory
		}
		plan = append(plan, step)
	}
	slices.SortFunc(plan, compareSteps)
	return plan
}
