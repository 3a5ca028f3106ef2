package testnet

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
)

const (
	// pending is for how long a change may rest on a node before it shows in any status: deletions wait a second, names of
	// unfinished files a tenth, reports of what is held a fifth.
	pending = 2 * time.Second
	// patience is for how long Settle waits: reconnecting and the retries of a lossy line have long been through.
	patience = 3 * time.Minute
	glance   = 100 * time.Millisecond
)

// Settle waits, in virtual time, until all nodes that run and can reach each other have the same: connected, in sync, with
// nothing unacknowledged. It fails the test, naming what is missing, when that takes minutes.
func (f *Fleet) Settle() {
	f.t.Helper()
	f.Advance(pending)
	for begin := time.Now(); ; f.Advance(glance) {
		missing := f.unsettled()
		if len(missing) == 0 {
			return
		}
		if time.Since(begin) > patience {
			f.t.Fatalf("not settled after %s:\n%s", patience, strings.Join(missing, "\n"))
		}
	}
}

// unsettled lists what keeps the fleet from being settled.
func (f *Fleet) unsettled() (missing []string) {
	synctest.Wait()
	note := func(format string, args ...any) { missing = append(missing, fmt.Sprintf(format, args...)) }
	fingerprints := map[int]string{}
	for i := range f.nodes {
		if !f.Live(i) {
			continue
		}
		s := f.Status(i)
		for _, d := range s.Directories {
			if d.State != control.InSync {
				note("%s: %s is %s %s", name(i), d.Name, d.State, d.Reason)
			}
			fingerprints[i] += d.Fingerprint
		}
		for _, p := range s.Peers {
			j := slices.IndexFunc(f.nodes, func(n *node) bool { return n.id == p.ID })
			switch {
			case !f.Live(j) || f.net.isCut(f.nodes[i].address, f.nodes[j].address):
			case !p.Connected:
				note("%s: %s is not connected", name(i), p.Name)
			case p.Behind > 0:
				note("%s: %s lacks %d: %s", name(i), p.Name, p.Behind, strings.Join(p.Missing, ", "))
			}
		}
	}
	for i, print := range fingerprints {
		for j, other := range fingerprints {
			if i < j && print != other && !f.net.isCut(f.nodes[i].address, f.nodes[j].address) {
				note("%s and %s have different fingerprints", name(i), name(j))
			}
		}
	}
	slices.Sort(missing)
	return missing
}

// AssertSame fails the test unless all nodes that run have the very same files, links and directories, modes and owners
// included, and none of ours beside them, and say so.
func (f *Fleet) AssertSame() {
	f.t.Helper()
	first := -1
	var tree map[string]string
	for i := range f.nodes {
		if !f.Live(i) {
			continue
		}
		if first < 0 {
			first, tree = i, f.Tree(i)
			for p := range tree {
				if strings.Contains(p, ".certswarm-") {
					f.t.Errorf("%s has left %s", name(i), p)
				}
			}
			continue
		}
		for _, difference := range Differences(tree, f.Tree(i)) {
			f.t.Errorf("%s and %s differ: %s", name(first), name(i), difference)
		}
		for k, d := range f.Status(i).Directories {
			if of := f.Status(first).Directories[k]; d.Fingerprint != of.Fingerprint || d.Files != of.Files {
				f.t.Errorf("%s has %d files in %s and fingerprint %s, %s has %d and %s", name(first), of.Files, of.Name, of.Fingerprint, name(i), d.Files, d.Fingerprint)
			}
		}
	}
}

func Differences(a, b map[string]string) (out []string) {
	for p := range a {
		switch is, ok := b[p]; {
		case !ok:
			out = append(out, fmt.Sprintf("only the first has %s: %.80q", p, a[p]))
		case is != a[p]:
			out = append(out, fmt.Sprintf("%s is %.80q and %.80q", p, a[p], is))
		}
	}
	for p := range b {
		if _, ok := a[p]; !ok {
			out = append(out, fmt.Sprintf("only the second has %s: %.80q", p, b[p]))
		}
	}
	slices.Sort(out)
	return out
}

func ownerOf(info fs.FileInfo) string {
	stat := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", stat.Uid, stat.Gid)
}
