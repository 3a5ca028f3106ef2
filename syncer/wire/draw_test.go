package wire

import (
	"crypto/ed25519"
	"strings"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"

	"pgregory.net/rapid"
)

// What the properties are tested with: every frame that this node might send.

func drawBytes(t *rapid.T, n int) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "bytes") }

func drawDigest(t *rapid.T) index.Digest { return index.Digest(drawBytes(t, 32)) }

func drawOrigin(t *rapid.T) index.Origin {
	return index.Origin{Node: fleet.NodeID(drawBytes(t, 32)), Incarnation: rapid.Uint64().Draw(t, "incarnation")}
}

func drawPath(t *rapid.T) index.Path {
	name := rapid.SampledFrom([]string{"a", "live", "www.example.com", "\xff\xfe", "-", "é", strings.Repeat("x", 255)})
	return index.MustPath(strings.Join(rapid.SliceOfN(name, 1, 3).Draw(t, "path"), "/"))
}

func drawName(t *rapid.T) string { return rapid.StringN(0, 40, maxName).Draw(t, "name") }

func drawPerm(t *rapid.T) index.Perm { return index.Perm(rapid.Uint16Range(0, 0o777).Draw(t, "perm")) }

func drawContent(t *rapid.T) index.Content {
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return index.Tombstone{}
	case 1:
		return index.Symlink{Target: drawPath(t).String()}
	case 2:
		return index.Directory{Perm: drawPerm(t), Owner: drawName(t), Group: drawName(t)}
	default:
		return index.File{
			Digest: drawDigest(t), Size: rapid.Int64Range(0, MaxFile).Draw(t, "size"), Perm: drawPerm(t), Owner: drawName(t), Group: drawName(t),
		}
	}
}

func drawEpoch(t *rapid.T) fleet.Epoch {
	if rapid.Bool().Draw(t, "no epoch") {
		return fleet.Epoch{}
	}
	number := rapid.Uint64()
	return fleet.Epoch{Generation: number.Draw(t, "generation"), Nonce: number.Draw(t, "nonce"), Term: number.Draw(t, "term"), Index: number.Draw(t, "index")}
}

func drawEntry(t *rapid.T, o index.Origin) *index.Entry {
	e := &index.Entry{
		Path: drawPath(t), Origin: o, Seq: rapid.Uint64Range(1, 1<<63).Draw(t, "seq"), Content: drawContent(t),
		Stamp: index.Stamp{
			Epoch: drawEpoch(t), Written: rapid.Bool().Draw(t, "written"), HLC: index.HLC(rapid.Uint64().Draw(t, "hlc")), Node: o.Node,
		},
		Expires: max(0, rapid.Int64().Draw(t, "expires")),
		Seal:    index.Seal{Signature: [64]byte(drawBytes(t, 64))},
	}
	e.Batch = e.Seq + rapid.Uint64Range(0, 1<<62).Draw(t, "batch")
	for range rapid.IntRange(0, maxSealPath).Draw(t, "siblings") {
		e.Seal.Path = append(e.Seal.Path, drawDigest(t))
	}
	e.Seal.Leaf = rapid.Uint8Range(0, 1<<len(e.Seal.Path)-1).Draw(t, "leaf")
	return e
}

func drawSummary(t *rapid.T) index.Summary {
	return rapid.MapOfN(rapid.Custom(drawOrigin), rapid.Uint64(), 0, 4).Draw(t, "summary")
}

func drawFrame(t *rapid.T) Frame {
	switch rapid.IntRange(1, 5).Draw(t, "frame") {
	case 1:
		h := Hello{Clock: rapid.Int64().Draw(t, "clock")}
		for range rapid.IntRange(0, 3).Draw(t, "directories") {
			h.Directories = append(h.Directories, Greeting{
				Directory: drawName(t), Self: drawOrigin(t), Held: drawSummary(t), Forgotten: drawSummary(t), Fingerprint: index.Fingerprint(drawDigest(t)),
			})
		}
		return h
	case 2:
		o := Offer{
			Directory: drawName(t), Origin: drawOrigin(t), Key: ed25519.PublicKey(drawBytes(t, 32)),
			After: rapid.Uint64().Draw(t, "after"), Through: rapid.Uint64().Draw(t, "through"),
		}
		for range rapid.IntRange(0, 4).Draw(t, "entries") {
			o.Entries = append(o.Entries, drawEntry(t, o.Origin))
		}
		for range rapid.IntRange(0, len(o.Entries)).Draw(t, "contents") {
			if o.Inline == nil {
				o.Inline = map[index.Digest][]byte{}
			}
			o.Inline[drawDigest(t)] = rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "content")
		}
		return o
	case 3:
		h := Have{
			Directory: drawName(t), Held: drawSummary(t), Fingerprint: index.Fingerprint(drawDigest(t)), Again: rapid.Bool().Draw(t, "again"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "refusals") {
			h.Refused = append(h.Refused, Refusal{
				Origin: drawOrigin(t), Seq: rapid.Uint64().Draw(t, "seq"), Path: drawPath(t), Reason: drawName(t),
			})
		}
		return h
	case 4:
		return Want{Directory: drawName(t), Path: drawPath(t), Digest: drawDigest(t)}
	default:
		return Blob{Size: rapid.Int64().Draw(t, "size"), Missing: drawName(t)}
	}
}
