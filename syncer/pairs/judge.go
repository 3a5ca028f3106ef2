package pairs

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"certswarm/syncer/index"
)

// Patience is how long something may be held before that is a fault, and before what would be as well without it goes ahead: the rest is
// usually on its way.
const Patience = 2 * time.Second

const (
	settleDelay = 50 * time.Millisecond // a new half waits that long for the other, and links for more links
	settleMost  = time.Second           // but links that long at most, however many more come
)

// What people are told to do.
const (
	writeAgain = "; the other nodes keep what they have until it is whole: write it again"
	writeOther = "; the other nodes keep the pair that they have: write the half that is missing, or rename one if the two are no pair"
)

// Member is one file of a set, or a link with what it leads to, as it is on the disk.
type Member struct {
	Path    index.Path
	File    File
	Busy    bool      // somebody writes it, so nothing can be said of it
	Changed bool      // it is not what the fleet has
	New     bool      // the fleet has nothing there
	Since   time.Time // of what changed: when that was first seen
}

// partial reports whether a member cannot be told yet, whatever the others are.
func (m Member) partial() bool { return m.Busy || m.Changed && m.File.Broken != "" }

// chained reports whether a member is the upper part of a chain, be it by its name alone: a CA may have issued its certificate to itself.
func (m Member) chained() bool {
	return m.File.chain || m.word() == "chain"
}

// spare reports whether others serve a pair without this member, going by its name: fullchain.pem and privkey.pem, or x.crt and x.key, are what
// a server is given; cert.pem, chain.pem, and x.pem beside those are for other programs.
func (m Member) spare() bool {
	switch word := m.word(); word {
	case "chain", "cert":
		return true
	case "fullchain", "privkey", "key":
		return false
	default:
		return path.Ext(m.Path.Base()) == ".pem" && !strings.HasSuffix(word, "-key") && !strings.HasSuffix(m.Path.Base(), ".key.pem")
	}
}

// word is the name up to its first dot, without the number of a generation.
func (m Member) word() string {
	word, _, _ := strings.Cut(m.Path.Base(), ".")
	return strings.TrimRight(word, "-0123456789")
}

// Snapshot is a set at one moment.
type Snapshot struct {
	Members []Member
	Started bool // the start-up scan is over: what is new was written just now
	Absent  bool // the fleet has a file of the set that this disk does not have

	// Where a link of the set changed: since when some link in the directory is another than the fleet's, and when one was last moved. Links without a
	// key among them may show no mismatch, so that all of the directory's are waited for.
	LinksSince, LinksMoved time.Time
}

// quiet returns when the links in the directory will have been left alone long enough; the zero time if there is none to wait for.
func (s Snapshot) quiet() time.Time {
	if !s.Started || s.LinksMoved.IsZero() {
		return time.Time{}
	}
	quiet := s.LinksMoved.Add(settleDelay)
	if most := s.LinksSince.Add(settleMost); most.Before(quiet) {
		return most
	}
	return quiet
}

// Hold is why a change is not told to the fleet yet.
type Hold struct {
	Why   string    // for people; "" if it only waits for a moment
	Until time.Time // when to look again; zero: when something changes
}

// Judge says which of the changes in a set are held at a moment; what it does not name goes out. What is not whole is held; the others go all
// together or not at all, but for what only a whole pair beside it shows not to belong there.
func (s Snapshot) Judge(now time.Time) map[index.Path]Hold {
	held := map[index.Path]Hold{}
	first := now
	for _, m := range s.Members {
		if m.Changed && m.Since.Before(first) {
			first = m.Since
		}
		if m.Changed && !m.Busy && m.File.Broken != "" {
			held[m.Path] = Hold{Why: m.File.Broken + writeAgain}
		}
	}
	holdAll := func(until time.Time, cause misfit) {
		for _, m := range s.Members {
			switch {
			case !m.Changed || m.partial():
			case cause.why == "":
				held[m.Path] = Hold{Until: until}
			case m.Path == cause.Path:
				held[m.Path] = Hold{cause.why + writeOther, until}
			default:
				held[m.Path] = Hold{fmt.Sprintf("it waits for %s, which is held: %s", cause.Path, cause.why), until}
			}
		}
	}
	patience := first.Add(Patience)
	if !s.Started {
		patience = now // nobody is at it: it lay there before
	}
	early := now.Before(patience)
	keys, certificates := s.halves()
	bad, whole := mismatches(keys, certificates)
	whole = whole && aside(bad, whole)
	blocking := s.blocking(early, whole)
	switch {
	case blocking.why != "" && early && whole && blocking.spare():
		holdAll(patience, blocking)
	case blocking.why != "":
		holdAll(time.Time{}, blocking)
	case s.Started && s.Absent && early && len(keys)+len(certificates) > 0: // it is being replaced, or its deletion is on its way
		holdAll(now.Add(settleDelay), misfit{})
	case now.Before(s.quiet()):
		holdAll(s.quiet(), misfit{})
	case len(bad) > 0 && !aside(bad, whole):
		holdAll(time.Time{}, bad[0])
	case len(bad) > 0 && early:
		holdAll(patience, misfit{})
	case len(bad) > 0:
		for _, m := range bad {
			if m.Changed {
				held[m.Path] = Hold{Why: m.why + writeOther}
			}
		}
	case !s.Started || len(keys)+len(certificates) == 0 || len(keys) > 0 && len(certificates) > 0:
	case slices.ContainsFunc(append(keys, certificates...), Member.isNew) && now.Before(first.Add(settleDelay)):
		holdAll(first.Add(settleDelay), misfit{})
	}
	return held
}

// blocking returns a member that cannot be told yet and keeps the others back, with the reason; none if nothing does. The fleet's version of it
// need not go with what the others are now. What the fleet never had, and what a whole pair is served without, is in nobody's way for long.
func (s Snapshot) blocking(early, whole bool) misfit {
	for _, m := range s.Members {
		if !m.partial() || !early && (m.New || whole && m.spare()) {
			continue
		}
		if m.Busy {
			return misfit{m, "it is being written"}
		}
		return misfit{m, m.File.Broken}
	}
	return misfit{}
}

// halves returns the members that hold a key and those that hold its owner's certificate; none if one of them cannot be told. What is broken is
// neither.
func (s Snapshot) halves() (keys, certificates []Member) {
	var authorities []Member
	for _, m := range s.Members {
		switch {
		case m.Busy || m.File.Broken != "":
			continue
		case m.File.opaque:
			return nil, nil
		case len(m.File.keys) > 0:
			keys = append(keys, m)
		}
		switch {
		case !m.File.certified || m.chained():
		case m.File.authority:
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

// misfit is a member that goes with no other, or is not whole, and why.
type misfit struct {
	Member
	why string
}

// mismatches returns the certificates without their key and the changed keys without a certificate, what changed first; whole is true if some key
// and some certificate do go together. A key that is as it was is no misfit by itself: it may be one too many.
func mismatches(keys, certificates []Member) (bad []misfit, whole bool) {
	if len(keys) == 0 || len(certificates) == 0 {
		return nil, false
	}
	likely := func(members []Member) index.Path { // the other half of a misfit
		i := slices.IndexFunc(members, func(m Member) bool { return m.Changed })
		return members[max(i, 0)].Path
	}
	goes := func(k, c Member) bool { return slices.Contains(k.File.keys, c.File.certifies) }
	for _, k := range keys {
		if k.Changed && !slices.ContainsFunc(certificates, func(c Member) bool { return goes(k, c) }) {
			bad = append(bad, misfit{k, fmt.Sprintf("it is not the key of the certificate in %s", likely(certificates))})
		}
	}
	for _, c := range certificates {
		if slices.ContainsFunc(keys, func(k Member) bool { return goes(k, c) }) {
			whole = true
		} else {
			bad = append(bad, misfit{c, fmt.Sprintf("its certificate is not for the key in %s", likely(keys))})
		}
	}
	slices.SortStableFunc(bad, func(a, b misfit) int { return compareChanged(a.Member, b.Member) })
	return bad, whole
}

func compareChanged(a, b Member) int {
	switch {
	case a.Changed == b.Changed:
		return 0
	case a.Changed:
		return -1
	}
	return 1
}

// aside reports whether the misfits are beside the point: the fleet has them as they are, or nothing in their place while a whole pair stands there.
func aside(bad []misfit, whole bool) bool {
	return !slices.ContainsFunc(bad, func(m misfit) bool { return m.Changed && !(m.New && whole) })
}

func (m Member) isNew() bool { return m.Changed && m.New }
