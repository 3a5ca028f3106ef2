// Package pairs knows which files belong together: a private key and the certificates for it. A key and its certificate are two files, written one after
// the other by programs that know nothing of each other's readers; whoever gets the one without the other serves neither. The package says by their
// names which files are to be looked at together (Set), by their content what they are (Read), and by both which changes must wait for which
// (Snapshot.Judge). See decisions/0015.
//
// It is pure: bytes, dates and whether something changed are handed to it. It does not prove that a certificate may be served (dates, names and
// signatures are package nginx's), it keeps nothing back itself, and it knows nothing of peers: what to do with a Hold is package syncer's.
package pairs

import (
	"path"
	"slices"
	"strings"

	"certswarm/syncer/index"
)

// Set names files of one directory that belong together, going by their names: a key and the certificates for it. Sets are equal if they are of the
// same files.
type Set struct {
	dir  index.Path
	of   string // what the names have in common
	role bool   // the names say what the files are, and of is the generation
}

// roleNames are those that ACME clients and manuals give to keys and certificates, around the number of a generation (certbot's privkey12.pem, dehydrated's
// privkey-1700000000.pem).
var roleNames = [][2]string{
	{"privkey", ".pem"}, {"key", ".pem"}, {"cert", ".pem"}, {"fullchain", ".pem"}, {"chain", ".pem"},
	{"privkey", ".key"}, {"cert", ".key"}, {"cert", ".crt"}, {"cert", ".cer"}, {"fullchain", ".crt"}, {"fullchain", ".cer"},
}

// siteNames are what is added to a site's name: x.key beside x.crt (lego), x.cer (acme.sh) or x.pem; x-key.pem (mkcert); x.key.pem.
var siteNames = []string{".key", ".crt", ".cer", ".pem", "-key.pem", "-cert.pem", ".key.pem", ".cert.pem"}

// SetOf returns the set that a file is of; ok is false for one whose name is no PEM name.
func SetOf(p index.Path) (s Set, ok bool) {
	base := p.Base()
	if !IsPEMName(base) {
		return Set{}, false
	}
	s.dir = p.Parent()
	ext := path.Ext(base)
	stem := strings.TrimSuffix(base, ext)
	word := strings.TrimRight(stem, "0123456789")
	if word != stem {
		word = strings.TrimSuffix(word, "-")
	}
	if slices.Contains(roleNames, [2]string{word, ext}) {
		return Set{s.dir, stem[len(word):], true}, true
	}
	s.of = stem
	if ext == ".pem" {
		for _, suffix := range []string{"-key", "-cert", ".key", ".cert"} {
			if site, cut := strings.CutSuffix(stem, suffix); cut && site != "" {
				s.of = site
				break
			}
		}
	}
	if s.of != "" && s.of == siteOf(s.dir) {
		s.of, s.role = "", true
	}
	return s, true
}

// siteOf returns the site whose files alone are in a directory, going by its name: acme.sh has example.com_ecc/example.com.key beside
// fullchain.cer.
func siteOf(dir index.Path) string { return strings.TrimSuffix(dir.Base(), "_ecc") }

// Dir returns the directory in which the set's files are; the zero Path is the root.
func (s Set) Dir() index.Path { return s.dir }

// Members returns every path that SetOf says is of the set, but for spellings that nobody uses.
func (s Set) Members() []index.Path {
	var names []string
	if s.role {
		for _, n := range roleNames {
			names = append(names, n[0]+s.of+n[1])
		}
	}
	if site := siteOf(s.dir); !s.role {
		for _, suffix := range siteNames {
			names = append(names, s.of+suffix)
		}
	} else if s.of == "" && site != "" {
		for _, suffix := range siteNames {
			names = append(names, site+suffix)
		}
	}
	var out []index.Path
	for _, name := range names {
		if p, err := s.dir.Join(name); err == nil {
			if of, ok := SetOf(p); ok && of == s {
				out = append(out, p)
			}
		}
	}
	return out
}

// Companions returns the paths that p can make a pair with, going by their names: a key and its certificates. A file with the upper part of a
// chain is no half of one.
func Companions(p index.Path) []index.Path {
	upper := func(p index.Path) bool { return strings.HasPrefix(p.Base(), "chain") }
	s, ok := SetOf(p)
	if !ok || upper(p) {
		return nil
	}
	return slices.DeleteFunc(s.Members(), func(member index.Path) bool { return member == p || upper(member) })
}

// Together returns, for each of the entries, up to which of them the sets reach that it or one before it is of: a batch may end there.
func Together(entries []*index.Entry) []int {
	last := map[Set]int{}
	for i, e := range entries {
		if s, ok := SetOf(e.Path); ok {
			last[s] = i
		}
	}
	reach := make([]int, len(entries))
	furthest := 0
	for i, e := range entries {
		furthest = max(furthest, i)
		if s, ok := SetOf(e.Path); ok {
			furthest = max(furthest, last[s])
		}
		reach[i] = furthest
	}
	return reach
}
