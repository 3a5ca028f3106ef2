package agent

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"certswarm/syncer/index"
)

// precious is what no replicated delete takes away: the generations that are in force of certificates that are declared and still valid. It is
// asked under the lock of a directory, and so knows by heart what it was told.
type precious struct {
	dirs  atomic.Pointer[[]index.Path]
	known map[string]valued // by name; belongs to whoever appraises
}

// valued is a generation that was looked at.
type valued struct {
	generation int
	until      time.Time // the end of its certificate
}

// holds reports whether a path is one of them, or stands in one, or above one.
func (p *precious) holds(path index.Path) bool {
	dirs := p.dirs.Load()
	return dirs != nil && slices.ContainsFunc(*dirs, func(dir index.Path) bool { return path.Under(dir) || dir.Under(path) })
}

// appraise finds out what is precious by now. A generation is read once: that it cannot be read any more makes it none the less precious.
func (p *precious) appraise(store *lineages, now time.Time) {
	if p.known == nil {
		p.known = map[string]valued{}
	}
	var dirs []index.Path
	for _, c := range store.declared {
		generation := store.wished(c.Name)
		if generation == 0 {
			continue
		}
		v := p.known[c.Name]
		if v.generation != generation {
			chain, err := store.chain(c.Name, generation)
			if err != nil {
				continue // it is on its way
			}
			v = valued{generation, chain[0].NotAfter}
			p.known[c.Name] = v
		}
		if now.Before(v.until) {
			dirs = append(dirs, index.MustPath(fmt.Sprintf("%s/%s/%d", archiveDir, c.Name, generation)))
		}
	}
	p.dirs.Store(&dirs)
}
