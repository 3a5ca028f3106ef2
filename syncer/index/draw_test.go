package index

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	"certswarm/internal/fleet"

	"pgregory.net/rapid"
)

// The worlds that the properties are tested in are small, so that paths collide, stamps tie and directories get in each
// other's way.

var nodes = [3]fleet.NodeID{{1}, {2}, {3}}

func origin(node int) Origin { return Origin{Node: nodes[node], Incarnation: 7} }

func file(text string) File {
	return File{Digest: sha256.Sum256([]byte(text)), Size: int64(len(text)), Perm: 0o640, Owner: "root", Group: "www"}
}

// entry makes the seq-th write of a node, at that time.
func entry(node int, seq uint64, path string, c Content) *Entry {
	return seal(&Entry{
		Path: MustPath(path), Origin: origin(node), Seq: seq, Batch: seq, Content: c,
		Stamp: Stamp{Written: true, HLC: HLC(seq), Node: nodes[node]},
	})
}

// seal stands in for package wire: it gives each entry a hash of its own.
func seal(e *Entry) *Entry {
	e.Hash = [32]byte{}
	e.Hash = sha256.Sum256(fmt.Appendf(nil, "%+v", *e))
	return e
}

func drawPath(t *rapid.T) string {
	return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 1, 3).Draw(t, "path"), "/")
}

func drawContent(t *rapid.T) Content {
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 0:
		return Tombstone{}
	case 1:
		return Symlink{Target: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "target")}
	case 2:
		return Directory{Perm: rapid.SampledFrom([]Perm{0o755, 0o700}).Draw(t, "perm")}
	default:
		f := file(rapid.SampledFrom([]string{"", "one", "two", "three"}).Draw(t, "content"))
		f.Perm = rapid.SampledFrom([]Perm{0o600, 0o644}).Draw(t, "perm")
		return f
	}
}

func drawStamp(t *rapid.T) Stamp {
	return Stamp{
		Epoch:   fleet.Epoch{Term: rapid.Uint64Range(0, 1).Draw(t, "epoch")},
		Written: rapid.Bool().Draw(t, "written"),
		HLC:     HLC(rapid.Uint64Range(0, 2).Draw(t, "hlc")),
		Node:    rapid.SampledFrom(nodes[:]).Draw(t, "node"),
	}
}

// drawEntries makes what a few nodes may have written: each number of an origin once.
func drawEntries(t *rapid.T) []*Entry {
	var given [len(nodes)]uint64
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *Entry {
		node := rapid.IntRange(0, len(nodes)-1).Draw(t, "origin")
		given[node] += rapid.Uint64Range(1, 2).Draw(t, "step")
		e := &Entry{
			Path: MustPath(drawPath(t)), Origin: origin(node), Seq: given[node], Batch: given[node],
			Stamp: drawStamp(t), Content: drawContent(t),
			Expires: rapid.SampledFrom([]int64{0, 0, 0, 1000, 2000}).Draw(t, "expires"),
		}
		e.Stamp.Node = nodes[node]
		return seal(e)
	}), 0, 30).Draw(t, "entries")
}

func indexOf(entries ...*Entry) *Index {
	x := New()
	for _, e := range entries {
		x.Merge(e)
		x.Hold(e.Origin, e.Seq)
	}
	return x
}

// view is all that an index says, in a form that can be compared and read.
func view(x *Index) string {
	var lines []string
	for e := range x.All {
		lines = append(lines, fmt.Sprintf("%s %x", e.Path, e.Hash[:4]))
	}
	slices.Sort(lines)
	for i := range nodes {
		lines = append(lines, fmt.Sprintf("since %d:", i))
		for _, e := range x.Since(origin(i), 0, ^uint64(0)) {
			lines = append(lines, fmt.Sprintf(" %d %x", e.Seq, e.Hash[:4]))
		}
	}
	places := 0
	for _, below := range x.below {
		places += len(below)
	}
	return fmt.Sprintf("%s\n%d entries %d files %d tombstones %d places, next expiry %d, %x",
		strings.Join(lines, "\n"), x.Len(), x.Files(), x.Tombstones(), places, x.NextExpiry().UnixMilli(), x.Fingerprint())
}

func paths(texts ...string) []Path {
	var out []Path
	for _, text := range texts {
		out = append(out, MustPath(text))
	}
	return out
}

func equal[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s\n got %s\nwant %s", what, g, w)
	}
}
