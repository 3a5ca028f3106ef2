package syncer

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"certswarm/syncer/index"
)

// What belongs together goes out together. A key and its certificate are two files, written one after the other by programs that
// know nothing of each other's readers; whoever gets the one without the other serves neither. So a change that is not whole, or whose other half
// does not go with it yet, is held: to the fleet it has not happened. See decisions/0015.

const (
	settleDelay = 50 * time.Millisecond // a new half waits that long for the other, and links for more links
	settleMost  = time.Second           // but links that long at most, however many more come
	// heldPatience is how long something may be held before that is a fault, and before what would be as well without it goes ahead: the
	// rest is usually on its way.
	heldPatience = 2 * time.Second
)

// set names files of one directory that belong together, going by their names: a key and the certificates for it.
type set struct {
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

// setOf returns the set that a file of a PEM-like name is of.
func setOf(p index.Path) (s set, ok bool) {
	base := p.Base()
	if !pemLike(base) {
		return set{}, false
	}
	s.dir = p.Parent()
	ext := path.Ext(base)
	stem := strings.TrimSuffix(base, ext)
	word := strings.TrimRight(stem, "0123456789")
	if word != stem {
		word = strings.TrimSuffix(word, "-")
	}
	if slices.Contains(roleNames, [2]string{word, ext}) {
		return set{s.dir, stem[len(word):], true}, true
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

// members returns every path that setOf says is of the set, but for spellings that nobody uses.
func (s set) members() []index.Path {
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
			if of, ok := setOf(p); ok && of == s {
				out = append(out, p)
			}
		}
	}
	return out
}

// together returns, for each of the entries, up to which of them the sets reach that it or one before it is of: a batch may end there.
func together(entries []*index.Entry) []int {
	last := map[set]int{}
	for i, e := range entries {
		if s, ok := setOf(e.Path); ok {
			last[s] = i
		}
	}
	reach := make([]int, len(entries))
	furthest := 0
	for i, e := range entries {
		furthest = max(furthest, i)
		if s, ok := setOf(e.Path); ok {
			furthest = max(furthest, last[s])
		}
		reach[i] = furthest
	}
	return reach
}

// What people are told to do.
const (
	writeAgain = "; the other nodes keep what they have until it is whole: write it again"
	writeOther = "; the other nodes keep the pair that they have: write the half that is missing, or rename one if the two are no pair"
)

// member is one file of a set, or a link with what it leads to, as it is on the disk.
type member struct {
	path    index.Path
	pem     pemFile
	busy    bool      // somebody writes it, so nothing can be said of it
	changed bool      // it is not what the fleet has
	fresh   bool      // the fleet has nothing there
	since   time.Time // of what changed: when that was first seen
}

// partial reports whether a member cannot be told yet, whatever the others are.
func (m member) partial() bool { return m.busy || m.changed && m.pem.broken != "" }

// chained reports whether a member is the upper part of a chain, be it by its name alone: a CA may have issued its certificate to itself.
func (m member) chained() bool {
	word, _, _ := strings.Cut(m.path.Base(), ".")
	return m.pem.chain || strings.TrimRight(word, "-0123456789") == "chain"
}

// scene is a set at one moment.
type scene struct {
	members []member
	started bool      // the start-up scan is over: what is new was written just now
	absent  bool      // the fleet has a file of the set that this disk does not have
	quiet   time.Time // when the links in the directory will have been left alone long enough
}

// hold is why a change is not told yet.
type hold struct {
	why   string    // for people; "" if it only waits for something else that is held, or for a moment
	until time.Time // when to look again; zero: when something changes
}

// judge says which of the changes in a set are held. What is not whole is; the others go all together or not at all, but for what only a
// whole pair beside it shows not to belong there.
func (s scene) judge(now time.Time) map[index.Path]hold {
	held := map[index.Path]hold{}
	first := now
	for _, m := range s.members {
		if m.changed && m.since.Before(first) {
			first = m.since
		}
		if m.changed && !m.busy && m.pem.broken != "" {
			held[m.path] = hold{why: m.pem.broken + writeAgain}
		}
	}
	holdAll := func(why string, blamed index.Path, until time.Time) {
		for _, m := range s.members {
			if m.changed && !m.partial() {
				held[m.path] = hold{until: until}
			}
		}
		if why != "" {
			held[blamed] = hold{why, until}
		}
	}
	patience := first.Add(heldPatience)
	if !s.started {
		patience = now // nobody is at it: it lay there before
	}
	keys, certificates := s.halves()
	bad, whole := mismatches(keys, certificates)
	switch {
	case s.blocked(now.Before(patience)):
		holdAll("", index.Path{}, time.Time{})
	case now.Before(s.quiet):
		holdAll("", index.Path{}, s.quiet)
	case len(bad) > 0 && !aside(bad, whole):
		holdAll(bad[0].why, bad[0].path, time.Time{})
	case len(bad) > 0 && now.Before(patience):
		holdAll("", index.Path{}, patience)
	case len(bad) > 0:
		for _, m := range bad {
			if m.changed {
				held[m.path] = hold{why: m.why}
			}
		}
	case !s.started || len(keys)+len(certificates) == 0 || len(keys) > 0 && len(certificates) > 0:
	case s.absent && now.Before(patience): // it is being replaced, or its deletion is on its way
		holdAll("", index.Path{}, now.Add(settleDelay))
	case slices.ContainsFunc(append(keys, certificates...), member.isNew) && now.Before(first.Add(settleDelay)):
		holdAll("", index.Path{}, first.Add(settleDelay))
	}
	return held
}

// blocked reports whether a file that cannot be told yet keeps the others back: the fleet's version of it need not go with what they are
// now. What the fleet never had is in nobody's way for long.
func (s scene) blocked(early bool) bool {
	return slices.ContainsFunc(s.members, func(m member) bool { return m.partial() && (early || !m.fresh) })
}

// halves returns the members that hold a key and those that hold its owner's certificate; none if one of them cannot be told.
func (s scene) halves() (keys, certificates []member) {
	var authorities []member
	for _, m := range s.members {
		switch {
		case m.partial():
			continue
		case m.pem.unknown:
			return nil, nil
		case len(m.pem.holds) > 0:
			keys = append(keys, m)
		}
		switch {
		case !m.pem.certified || m.chained():
		case m.pem.authority:
			authorities = append(authorities, m)
		default:
			certificates = append(certificates, m)
		}
	}
	if len(certificates) == 0 { // a CA's own, or a self-signed one as openssl makes it
		certificates = authorities
	}
	return keys, certificates
}

// misfit is a member that goes with no other, and why.
type misfit struct {
	member
	why string
}

// mismatches returns the certificates without their key and the changed keys without a certificate, what changed first; whole is true if some key
// and some certificate do go together. A key that is as it was is no misfit by itself: it may be one too many.
func mismatches(keys, certificates []member) (bad []misfit, whole bool) {
	if len(keys) == 0 || len(certificates) == 0 {
		return nil, false
	}
	likely := func(members []member) index.Path { // the other half of a misfit
		i := slices.IndexFunc(members, func(m member) bool { return m.changed })
		return members[max(i, 0)].path
	}
	goes := func(k, c member) bool { return slices.Contains(k.pem.holds, c.pem.certifies) }
	for _, k := range keys {
		if k.changed && !slices.ContainsFunc(certificates, func(c member) bool { return goes(k, c) }) {
			bad = append(bad, misfit{k, fmt.Sprintf("it is not the key of the certificate in %s", likely(certificates)) + writeOther})
		}
	}
	for _, c := range certificates {
		if slices.ContainsFunc(keys, func(k member) bool { return goes(k, c) }) {
			whole = true
		} else {
			bad = append(bad, misfit{c, fmt.Sprintf("its certificate is not for the key in %s", likely(keys)) + writeOther})
		}
	}
	slices.SortStableFunc(bad, func(a, b misfit) int { return compareChanged(a.member, b.member) })
	return bad, whole
}

func compareChanged(a, b member) int {
	switch {
	case a.changed == b.changed:
		return 0
	case a.changed:
		return -1
	}
	return 1
}

// aside reports whether the misfits are beside the point: the fleet has them as they are, or nothing in their place while a whole pair stands there.
func aside(bad []misfit, whole bool) bool {
	return !slices.ContainsFunc(bad, func(m misfit) bool { return m.changed && !(m.fresh && whole) })
}

func (m member) isNew() bool { return m.changed && m.fresh }
