package agent

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"certswarm/internal/control"
	"certswarm/syncer"
	"certswarm/syncer/index"
)

// History implements control.Daemon.
func (a *Agent) History(ctx context.Context, directory, file string) (out control.History, err error) {
	err = a.inHouse(ctx, func(h *house) (err error) {
		out, err = h.history(directory, file)
		return err
	})
	return out, err
}

// locate finds the directory that is meant and the path in it; the zero Path where none was given. A file may be named by where it lies.
func (h *house) locate(name, file string) (*syncer.Directory, index.Path, error) {
	var d *syncer.Directory
	var names []string
	for _, candidate := range h.syncer.Directories() {
		if candidate.Name == privateDirectory {
			continue // nobody's business, and nobody's to change
		}
		names = append(names, candidate.Name)
		below, err := filepath.Rel(candidate.Path, file)
		inside := filepath.IsAbs(file) && err == nil && filepath.IsLocal(below)
		if candidate.Name == name || name == "" && inside {
			if d = candidate; inside {
				file = below
			}
			break
		}
	}
	switch {
	case d != nil:
	case name != "":
		return nil, index.Path{}, fmt.Errorf("there is no directory %q: there is %s", name, strings.Join(names, ", "))
	case filepath.IsAbs(file):
		return nil, index.Path{}, fmt.Errorf("%s is in none of the replicated directories: certswarm status", printable(file))
	case len(names) != 1:
		return nil, index.Path{}, fmt.Errorf("there are several directories (%s): say which one with --directory", strings.Join(names, ", "))
	default:
		return h.locate(names[0], file)
	}
	if file = path.Clean(file); file == "." {
		return d, index.Path{}, nil
	}
	p, err := index.ParsePath(file)
	if err != nil {
		return nil, index.Path{}, fmt.Errorf("no path in %s: %w", d.Name, err)
	}
	return d, asShown(d, p), nil
}

// asShown undoes printable: a path that nobody knows and that decodes to what is not UTF-8 was copied from what printable returned.
func asShown(d *syncer.Directory, p index.Path) index.Path {
	text, err := url.PathUnescape(p.String())
	if err != nil || utf8.ValidString(text) || d.Lookup(p) != nil {
		return p
	}
	if kept, err := d.History(p); err != nil || len(kept) > 0 {
		return p
	}
	if meant, err := index.ParsePath(text); err == nil {
		return meant
	}
	return p
}

// keptBelow lists what is kept below a directory, which need not be there any more.
func keptBelow(d *syncer.Directory, dir index.Path) (out control.List[control.KeptPath], err error) {
	paths, err := d.KeptPaths()
	for _, k := range paths {
		if dir.IsZero() || k.Path.Under(dir) {
			out = append(out, control.KeptPath{Path: printable(k.Path.String()), Versions: k.Versions, Replaced: control.At(k.Newest)})
		}
	}
	return out, err
}

func (h *house) history(directory, file string) (control.History, error) {
	d, p, err := h.locate(directory, file)
	if err != nil {
		return control.History{}, err
	}
	out := control.History{Directory: d.Name, Path: printable(p.String())}
	if p.IsZero() {
		out.Paths, err = keptBelow(d, p)
		return out, err
	}
	kept, err := d.History(p)
	if err == nil && len(kept) == 0 { // a directory that was deleted, say: it is what was in it that is kept
		out.Paths, err = keptBelow(d, p)
	}
	if err != nil {
		return control.History{}, fmt.Errorf("the archive of %s cannot be read: %w", d.Name, err)
	}
	for _, k := range kept {
		v := control.Version{Version: k.Version, Replaced: control.At(k.Replaced), File: exactly(k.Place)}
		switch c := k.Content.(type) {
		case index.Symlink:
			v.Link = printable(c.Target)
		case index.File:
			v.Size, v.Digest = c.Size, c.Digest.String()
			v.Mode, v.Owner = fmt.Sprintf("%04o", c.Perm), c.Owner+":"+c.Group
			v.Cert = certificateIn(d, p, k.Version)
		}
		out.Versions = append(out.Versions, v)
	}
	return out, nil
}

// exactly returns a file's place as JSON can carry it: a URI where it is not UTF-8.
func exactly(place string) string {
	if utf8.ValidString(place) {
		return place
	}
	return (&url.URL{Scheme: "file", Path: place}).String()
}

// certificateIn describes the first certificate of a version, nil if there is none in it.
func certificateIn(d *syncer.Directory, p index.Path, version string) *control.KeptCertificate {
	text, err := d.ReadKept(p, version, maxPEM)
	if err != nil {
		return nil
	}
	chain, err := parseChain(text)
	if err != nil {
		return nil
	}
	leaf := chain[0]
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return &control.KeptCertificate{Serial: leaf.SerialNumber.Text(16), NotAfter: control.At(leaf.NotAfter), Names: names}
}
