package testnet_test

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/durable"
	"certswarm/syncer"
	"certswarm/syncer/index"
	"certswarm/testnet"
)

// acknowledged reports whether the first node has told of all that is new and believes that the second has it.
func (s *stage) acknowledged() bool {
	for p, old := range s.script.old {
		if is, there := s.script.new[p]; is != old && !s.knows(p, there) {
			return false
		}
	}
	for p := range s.script.new {
		if _, old := s.script.old[p]; !old && !s.knows(p, true) {
			return false
		}
	}
	for _, p := range s.Status(0).Peers {
		if p.Name == "fe2" {
			return p.Connected && p.Behind == 0
		}
	}
	return false
}

// knows reports whether the first node's index has what its disk has at a path.
func (s *stage) knows(p string, there bool) bool {
	e := s.Directory(0).Lookup(index.MustPath(p))
	if e == nil || !there {
		return e == nil && !there
	}
	switch c := e.Content.(type) {
	case index.File:
		text, err := os.ReadFile(s.Path(0, p))
		return err == nil && c.Digest == sha256.Sum256(text)
	case index.Symlink:
		target, err := os.Readlink(s.Path(0, p))
		return err == nil && c.Target == target
	}
	return true
}

// sample notes who gave which number to what.
func (s *stage) sample() {
	for i := range 2 {
		if s.Live(i) {
			s.sampleBelow(s.Directory(i), index.Path{})
		}
	}
}

// authors returns all that gave numbers.
func (s *stage) authors() map[index.Origin]bool {
	out := map[index.Origin]bool{}
	for n := range s.numbers {
		out[n.origin] = true
	}
	return out
}

func (s *stage) sampleBelow(d *syncer.Directory, dir index.Path) {
	for _, e := range d.Find(dir) {
		n := number{e.Origin, e.Seq}
		if known, given := s.numbers[n]; given && known != e.Hash {
			s.t.Errorf("number %d of %s was given twice, the second time to %s", e.Seq, e.Origin.Node.Short(), e.Path)
		}
		s.numbers[n] = e.Hash
		if _, directory := e.Content.(index.Directory); directory {
			s.sampleBelow(d, e.Path)
		}
	}
}

// look is what an observer of the second node sees after an effect.
func (s *stage) look(e durable.Effect) {
	see := func(format string, args ...any) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.seen) < 5 {
			s.seen = append(s.seen, fmt.Sprintf("after %s %s: ", e.Act, e.Name)+fmt.Sprintf(format, args...))
		}
	}
	old, new := s.script.old, s.script.new
	now, err := glance(s.Path(1, "."))
	if err != nil {
		see("%v", err)
	}
	for p, is := range now {
		if hidden := strings.HasPrefix(path.Base(p), "."); !hidden && is != old[p] && is != new[p] && !strings.HasPrefix(is, "d") && !s.trial.joins && !s.passing(is) {
			see("%s is %.80q", p, is)
		}
	}
	for p, was := range old {
		is := new[p]
		if _, there := now[p]; !there && is != "" && is[0] == was[0] && !s.trial.joins {
			see("%s is not there", p)
		}
	}
	if s.trial.link != "" {
		if _, err := tls.LoadX509KeyPair(s.Path(1, s.trial.link+"/fullchain.pem"), s.Path(1, s.trial.link+"/privkey.pem")); err != nil {
			see("%v", err)
		}
	}
}

func (s *stage) passing(is string) bool {
	if s.trial.slow && (strings.HasSuffix(is, s.script.passing.key) || strings.HasSuffix(is, s.script.passing.chain)) {
		return true
	}
	return slices.ContainsFunc(s.trial.passes, func(content string) bool { return strings.HasSuffix(is, " "+content) })
}

// glance is Tree while things move.
func glance(root string) (map[string]string, error) {
	tree := map[string]string{}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err == nil && p != root {
			var is string
			if is, err = testnet.Describe(p); err == nil {
				tree[strings.TrimPrefix(p, root+"/")] = is
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return tree, err
}

// atRest checks the victim's tree while nobody can help it: nothing of ours lies about, and what changes together is the old or the new. What
// was vouched for is the new.
func (s *stage) atRest(when string, vouched bool) {
	s.t.Helper()
	now, old, new := s.Tree(s.victim), s.script.old, s.script.new
	for p, is := range now {
		if strings.Contains(p, ".certswarm-") {
			s.t.Errorf("%s fe%d has left %s", when, s.victim+1, p)
		}
		if is != old[p] && is != new[p] && is[0] != 'd' && !s.trial.joins && !s.passing(is) {
			s.t.Errorf("%s fe%d has %s as %.80q", when, s.victim+1, p, is)
		}
	}
	for p, hash := range s.promised {
		if e := s.Directory(s.victim).Lookup(index.MustPath(p)); e == nil || e.Hash != hash {
			s.t.Errorf("%s fe%d does not know of %s what it acknowledged", when, s.victim+1, p)
		}
	}
	if s.victim == 0 && s.trial.publish == nil {
		return // what people wrote there is theirs
	}
	for _, prefix := range s.trial.whole {
		s.wholeAtRest(when, prefix, now, vouched)
	}
	if vouched && len(s.trial.whole) == 0 {
		s.wholeAtRest(when, "", now, true)
	}
}

// wholeAtRest checks what is below a prefix; directories are of no account.
func (s *stage) wholeAtRest(when, prefix string, now map[string]string, vouched bool) {
	s.t.Helper()
	var news, olds []string
	for p := range union(s.script.old, s.script.new) {
		was, is := s.script.old[p], s.script.new[p]
		if was == is || !strings.HasPrefix(p, prefix) || strings.HasPrefix(was+is, "d") {
			continue
		}
		switch now[p] {
		case is:
			news = append(news, p)
		case was:
			olds = append(olds, p)
		}
	}
	slices.Sort(news)
	slices.Sort(olds)
	switch {
	case len(news) > 0 && len(olds) > 0:
		s.t.Errorf("%s fe%d has the new %.300q, the old %.300q", when, s.victim+1, news, olds)
	case vouched && len(olds) > 0:
		s.t.Errorf("%s fe%d does not have %.300q, although that was promised", when, s.victim+1, olds)
	}
}

func union(a, b map[string]string) map[string]bool {
	all := map[string]bool{}
	for _, m := range []map[string]string{a, b} {
		for p := range m {
			all[p] = true
		}
	}
	return all
}

// finish ends all trouble and checks what comes of it.
func (s *stage) finish() {
	s.t.Helper()
	for i := range 2 {
		if !s.Live(i) {
			s.Start(i)
		}
		s.SlowDisk(i, 0)
	}
	if s.Struck(s.victim) != nil {
		s.Advance(6 * time.Second) // what failed is tried again
	}
	s.Settle()
	if s.trial.publish != nil && !maps.Equal(s.Tree(0), s.script.new) {
		s.wholeAtRest("in the end", "", s.Tree(0), s.written && !s.trial.expires)
		s.trial.publish(s) // as whoever was interrupted does
		s.Settle()
	}
	s.sample()
	s.AssertSame()
	if s.origins != nil && !maps.Equal(s.origins, s.authors()) {
		s.t.Errorf("fe%d began a new incarnation: what it acknowledged it does not know", s.victim+1)
	}
	for _, difference := range testnet.Differences(s.script.new, s.Tree(0)) {
		s.t.Errorf("there should be, and is: %s", difference)
	}
	if s.trial.expires {
		s.Advance(time.Until(s.expiry) + time.Second)
		s.Settle()
		s.AssertSame()
		for p, is := range s.Tree(0) {
			if s.script.old[p] == "" && is[0] != 'd' {
				s.t.Errorf("%s has not expired", p)
			}
		}
	}
	for _, file := range s.trial.kept {
		if len(s.Archived(1, file)) == 0 {
			s.t.Errorf("%s was replaced on fe2 and is nowhere kept", file)
		}
	}
	for i := range 2 {
		for _, p := range s.Status(i).Problems {
			if p.Node == fmt.Sprintf("fe%d", i+1) && p.Code != control.StateDamaged {
				s.t.Errorf("fe%d has a problem: %s %s", i+1, p.Code, p.Text)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seen := range s.seen {
		s.t.Errorf("fe2 %s", seen)
	}
}
