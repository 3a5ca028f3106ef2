package syncer

import "certswarm/syncer/index"

// noteDisplaced makes notes of the steps to what has no place any more: above it, something that is no directory was written later. Landing
// it lets whoever may delete it do so. What was written after the file above it is another matter: the directory for it is on its way.
func (r *replica) noteDisplaced(plan index.Plan) {
	coming := make(map[index.Path]*index.Entry, len(plan))
	for _, s := range plan {
		coming[s.Entry.Path] = s.Entry
	}
	for i, s := range plan {
		if r.displaced(s.Entry, coming) {
			plan[i].Action = index.Note
		}
	}
}

// displaced reports whether a file or a link above an entry, once the coming ones are there too, is later than the entry.
func (r *replica) displaced(e *index.Entry, coming map[index.Path]*index.Entry) bool {
	if e.Deleted() {
		return false
	}
	for dir := e.Path.Parent(); !dir.IsZero(); dir = dir.Parent() {
		above := coming[dir]
		if above == nil {
			above = r.x.Live(dir)
		}
		if above != nil && !above.Deleted() {
			_, directory := above.Content.(index.Directory)
			return !directory && above.Stamp.Compare(e.Stamp) > 0
		}
	}
	return false
}
