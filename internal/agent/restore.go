package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"certswarm/internal/control"
	"certswarm/syncer"
	"certswarm/syncer/index"
	"certswarm/syncer/pairs"
)

// Restore implements control.Daemon.
func (a *Agent) Restore(ctx context.Context, r control.Restoration) (done control.Restored, err error) {
	err = a.inHouse(ctx, func(h *house) (err error) {
		done, err = h.restore(r)
		return err
	})
	return done, err
}

// restore puts a version back, with the other half of its pair where it has one.
func (h *house) restore(r control.Restoration) (control.Restored, error) {
	d, p, err := h.locate(r.Directory, r.Path)
	switch {
	case err != nil:
		return control.Restored{}, err
	case p.IsZero():
		return control.Restored{}, errors.New("which file? one is restored at a time: certswarm history lists those that have versions")
	case !d.MayWrite(h.self.ID):
		return control.Restored{}, h.explainRestore(d, p, syncer.ErrNotWriter)
	}
	kept, err := d.History(p)
	if err != nil {
		return control.Restored{}, fmt.Errorf("the archive of %s cannot be read: %w", d.Name, err)
	}
	wanted, err := h.choose(d, p, kept, r.Version)
	if err != nil {
		return control.Restored{}, err
	}
	batch, err := pairUp(d, p, wanted, r.Force)
	if err != nil {
		return control.Restored{}, err
	}
	picks := make([]syncer.Pick, len(batch))
	for i, k := range batch {
		picks[i] = syncer.Pick{Path: k.path, Version: k.version}
	}
	written, err := d.Restore(picks...)
	if err != nil {
		return control.Restored{}, h.explainRestore(d, p, err)
	}
	done := control.Restored{Directory: d.Name}
	for _, k := range batch {
		e := control.RestoredEntry{Path: printable(k.path.String()), Version: k.version, Replaced: control.At(k.replaced)}
		if slices.Contains(written, k.path) {
			done.Restored = append(done.Restored, e)
			h.log.Info("an earlier version is restored", "directory", d.Name, "path", e.Path, "version", e.Version)
		} else {
			done.Unchanged = append(done.Unchanged, e)
		}
	}
	return done, nil
}

// choose finds the version that is meant; "" is the newest.
func (h *house) choose(d *syncer.Directory, p index.Path, kept []syncer.Kept, version string) (syncer.Kept, error) {
	what := d.Name + "/" + printable(p.String())
	if len(kept) == 0 {
		return syncer.Kept{}, fmt.Errorf("%s has no version of %s; a node keeps what others replaced or deleted on it, so look on another one: certswarm history there, and --to FILE if it may not restore it", h.self.Name, what)
	}
	if version == "" {
		return kept[0], nil
	}
	for _, k := range kept {
		if k.Version == version {
			return k, nil
		}
	}
	return syncer.Kept{}, fmt.Errorf("%s has no version %s of %s: certswarm history --directory %s %s", h.self.Name, version, what, d.Name, printable(p.String()))
}

// explainRestore says who may do what this node may not, or what to do instead.
func (h *house) explainRestore(d *syncer.Directory, p index.Path, err error) error {
	what := d.Name + "/" + printable(p.String())
	instead := "to serve an earlier certificate: certswarm cert rollback NAME; to look at the version: --to FILE"
	switch {
	case errors.Is(err, syncer.ErrNotWriter):
		var writers []string
		for _, m := range h.roster.Load().Members() {
			if d.MayWrite(m.ID) {
				writers = append(writers, m.Name)
			}
		}
		return fmt.Errorf("%s may not change %s, so that what it restored would be put back; restore it on a writer (%s), or copy it out with --to FILE and write it there",
			h.self.Name, what, orNobody(writers))
	case errors.Is(err, syncer.ErrLeased):
		holder := "the holder of the lease"
		if name := h.leaseStatus().Holder; name != "" {
			holder += ", " + name + ","
		}
		return fmt.Errorf("%s was written under the lease: only %s replaces it; %s", what, holder, instead)
	case errors.Is(err, syncer.ErrReserved):
		return fmt.Errorf("%s is each node's own link and follows what the fleet wants in force; %s", what, instead)
	case errors.Is(err, syncer.ErrHalted):
		return fmt.Errorf("%s is halted on %s, and nothing goes out; first: certswarm resume %s --restore (or --accept)", d.Name, h.self.Name, d.Name)
	}
	return fmt.Errorf("nothing was restored: %w", err)
}

func orNobody(names []string) string {
	if len(names) == 0 {
		return "there is none"
	}
	return strings.Join(names, ", ")
}

// keptHalf is an earlier version of one half of a pair.
type keptHalf struct {
	public   pairs.PublicKey
	version  string
	replaced time.Time
}

// matching returns the version that fits wanted and was replaced nearest to a moment: with a key that is used again and again several fit.
func matching(wanted pairs.PublicKey, at time.Time, versions []keptHalf) (nearest keptHalf, found bool) {
	for _, v := range versions {
		if v.public.Fits(wanted) && (!found || v.replaced.Sub(at).Abs() < nearest.replaced.Sub(at).Abs()) {
			nearest, found = v, true
		}
	}
	return nearest, found
}

// chosen is one version in a batch to restore.
type chosen struct {
	path index.Path
	keptHalf
}

// pairUp returns what must be restored together with a version of p: whatever stands beside p now, makes a pair with it by its name, and
// would not match it. With force what has no match in the archive stays.
func pairUp(d *syncer.Directory, p index.Path, wanted syncer.Kept, force bool) ([]chosen, error) {
	first := chosen{p, keptHalf{version: wanted.Version, replaced: wanted.Replaced}}
	batch := []chosen{first}
	text, err := readKept(d, p, wanted)
	restored, ok := pairs.Read(p.Base(), text).Half()
	if err != nil || !ok {
		return batch, nil // too large for a pair, a link to nowhere, or no PEM
	}
	for _, beside := range pairs.Companions(p) {
		standing, ok := pairs.Read(beside.Base(), readLive(d, beside)).Half()
		if !ok || standing.Fits(restored) {
			continue
		}
		versions, err := keptHalves(d, beside)
		if err != nil {
			return nil, err
		}
		switch other, found := matching(restored, wanted.Replaced, versions); {
		case found:
			batch = append(batch, chosen{beside, other})
		case !force:
			return nil, mismatch(p, beside, restored)
		}
	}
	return batch, nil
}

func mismatch(p, beside index.Path, restored pairs.PublicKey) error {
	why := "belongs to another key, and the archive of this node has no version of it that fits"
	if restored == (pairs.PublicKey{}) {
		why = "may belong to another key: the one to restore is encrypted, or of a kind that certswarm does not know, so that nobody can tell"
	}
	return fmt.Errorf("%s would stand beside %s, which %s: nginx refuses a pair that does not match; look for both on another node (certswarm history), copy it out with --to FILE, or restore it alone with --force",
		printable(p.String()), printable(beside.Base()), why)
}

// keptHalves reads the versions of p that are halves of a pair.
func keptHalves(d *syncer.Directory, p index.Path) ([]keptHalf, error) {
	kept, err := d.History(p)
	if err != nil {
		return nil, err
	}
	var out []keptHalf
	for _, k := range kept {
		text, err := readKept(d, p, k)
		if err != nil {
			continue // a link whose target is gone, or too large for a pair
		}
		if public, ok := pairs.Read(p.Base(), text).Half(); ok {
			out = append(out, keptHalf{public, k.Version, k.Replaced})
		}
	}
	return out, nil
}

// readKept reads a version; of a link, what it would lead to now.
func readKept(d *syncer.Directory, p index.Path, k syncer.Kept) ([]byte, error) {
	if link, ok := k.Content.(index.Symlink); ok {
		return d.ReadTarget(p, link.Target, maxPEM)
	}
	return d.ReadKept(p, k.Version, maxPEM)
}

// readLive reads what the fleet has at p, nil if that is no file.
func readLive(d *syncer.Directory, p index.Path) []byte {
	e := d.Lookup(p)
	if e == nil {
		return nil
	}
	var text []byte
	var err error
	if link, ok := e.Content.(index.Symlink); ok {
		text, err = d.ReadTarget(p, link.Target, maxPEM)
	} else {
		text, err = d.ReadFile(p, maxPEM)
	}
	if err != nil {
		return nil
	}
	return text
}
