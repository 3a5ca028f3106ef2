package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"

	"pgregory.net/rapid"
)

// read takes a frame apart as a receiver does.
func read(b []byte) (Frame, error) {
	kind, size, err := ParseHeader([HeaderSize]byte(b))
	if err != nil {
		return nil, err
	}
	if size != len(b)-HeaderSize {
		return nil, fmt.Errorf("the header says %d bytes, there are %d", size, len(b)-HeaderSize)
	}
	return Decode(kind, b[HeaderSize:])
}

func TestFramesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sent := drawFrame(t)
		b := Encode(sent)
		got, err := read(b)
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := got.(Have); ok && len(h.Held) == 0 {
			h.Held = index.Summary{}
			got = h
		}
		if !reflect.DeepEqual(got, sent) {
			t.Fatalf("sent\n%+v\ngot\n%+v", sent, got)
		}
		if !bytes.Equal(Encode(got), b) {
			t.Fatal("it encodes to other bytes the second time")
		}
	})
}

func TestEntriesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sent := drawEntry(t, drawOrigin(t))
		got, err := DecodeEntry(sent.Origin, EncodeEntry(sent))
		if err != nil || !reflect.DeepEqual(got, sent) {
			t.Fatalf("sent\n%+v\ngot\n%+v, %v", sent, got, err)
		}
		if _, err := DecodeEntry(sent.Origin, append(EncodeEntry(sent), 0)); err == nil {
			t.Fatal("a byte too many was taken")
		}
	})
}

// One spelling for everything: what a receiver takes is what it would have sent.
func TestWhatIsTakenIsCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Encode(drawFrame(t))
		for range rapid.IntRange(1, 3).Draw(t, "faults") {
			at := rapid.IntRange(HeaderSize, len(b)-1).Draw(t, "at")
			switch rapid.IntRange(0, 2).Draw(t, "fault") {
			case 0:
				b[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			case 1:
				b = append(b[:at], b[min(len(b), at+1):]...)
			case 2:
				b = append(b[:at:at], append([]byte{rapid.Byte().Draw(t, "byte")}, b[at:]...)...)
			}
			if len(b) == HeaderSize {
				return
			}
		}
		checkCanonical(t, b[4], b[HeaderSize:])
	})
}

func checkCanonical(t interface{ Fatalf(string, ...any) }, kind byte, body []byte) {
	f, err := Decode(kind, body)
	if err != nil {
		var wrong *ErrMalformed
		if f != nil || !errors.As(err, &wrong) {
			t.Fatalf("%v, with the error %v", f, err)
		}
		return
	}
	if again := Encode(f); !bytes.Equal(again[HeaderSize:], body) || again[4] != kind {
		t.Fatalf("%x\nwas taken for %+v, which is\n%x", body, f, again[HeaderSize:])
	}
}

func TestTruncatedOrLongerFramesAreRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Encode(drawFrame(t))
		n := rapid.IntRange(HeaderSize, len(b)-1).Draw(t, "length")
		if _, err := Decode(b[4], b[HeaderSize:n]); err == nil {
			t.Fatalf("%d of %d bytes were taken", n, len(b))
		}
		if _, err := Decode(b[4], append(b[HeaderSize:], 0)); err == nil {
			t.Fatal("a byte too many was taken")
		}
	})
}

var (
	anOrigin = index.Origin{Node: fleet.NodeID{1}, Incarnation: 2}
	aKey     = make(ed25519.PublicKey, ed25519.PublicKeySize)
)

func anEntry(c index.Content) *index.Entry {
	return &index.Entry{Path: index.MustPath("a"), Origin: anOrigin, Seq: 1, Batch: 1, Content: c, Stamp: index.Stamp{Node: anOrigin.Node}}
}

func offerOf(entries ...*index.Entry) Offer {
	return Offer{Directory: "certs", Origin: anOrigin, Key: aKey, Entries: entries}
}

func summaryOf(n int) index.Summary {
	s := index.Summary{}
	for i := range n {
		s[index.Origin{Incarnation: uint64(i)}] = 1
	}
	return s
}

func TestLimits(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	inline := func(n, size int) Frame {
		o := offerOf()
		o.Inline = map[index.Digest][]byte{}
		for i := range n {
			o.Entries = append(o.Entries, anEntry(index.Tombstone{}))
			o.Inline[index.Digest{byte(i), byte(i >> 8)}] = make([]byte, size)
		}
		return o
	}
	for _, c := range []struct {
		name  string
		limit int
		frame func(n int) Frame
	}{
		{"directories in a hello", MaxDirectories, func(n int) Frame { return Hello{Directories: make([]Greeting, n)} }},
		{"origins in a greeting", MaxOrigins, func(n int) Frame { return Hello{Directories: []Greeting{{Held: summaryOf(n)}}} }},
		{"a directory's name in a greeting", maxName, func(n int) Frame { return Hello{Directories: []Greeting{{Directory: long(n)}}} }},
		{"a directory's name in an offer", maxName, func(n int) Frame { return Offer{Directory: long(n), Key: aKey} }},
		{"a directory's name in a have", maxName, func(n int) Frame { return Have{Directory: long(n)} }},
		{"a directory's name in a want", maxName, func(n int) Frame { return Want{Directory: long(n), Path: index.MustPath("a")} }},
		{"entries in an offer", MaxEntries, func(n int) Frame {
			o := offerOf()
			for range n {
				o.Entries = append(o.Entries, anEntry(index.Tombstone{}))
			}
			return o
		}},
		{"bytes of a content", MaxInline, func(n int) Frame { return inline(1, n) }},
		{"origins in a have", MaxOrigins, func(n int) Frame { return Have{Held: summaryOf(n)} }},
		{"refusals", MaxRefusals, func(n int) Frame {
			h := Have{}
			for range n {
				h.Refused = append(h.Refused, Refusal{Path: index.MustPath("a")})
			}
			return h
		}},
		{"permission bits of a file", 0o777, func(n int) Frame { return offerOf(anEntry(index.File{Perm: index.Perm(n)})) }},
		{"permission bits of a directory", 0o777, func(n int) Frame { return offerOf(anEntry(index.Directory{Perm: index.Perm(n)})) }},
		{"owner of a file", maxName, func(n int) Frame { return offerOf(anEntry(index.File{Owner: long(n)})) }},
		{"group of a directory", maxName, func(n int) Frame { return offerOf(anEntry(index.Directory{Group: long(n)})) }},
		{"target of a link", index.MaxPath, func(n int) Frame { return offerOf(anEntry(index.Symlink{Target: strings.Repeat("./", n)[:n-1] + "x"})) }},
		{"hashes in a seal", maxSealPath, func(n int) Frame {
			e := anEntry(index.Tombstone{})
			e.Seal.Path = make([][32]byte, n)
			return offerOf(e)
		}},
		{"bits of a leaf", 1<<3 - 1, func(n int) Frame {
			e := anEntry(index.Tombstone{})
			e.Seal.Path, e.Seal.Leaf = make([][32]byte, 3), byte(n)
			return offerOf(e)
		}},
	} {
		if _, err := read(Encode(c.frame(c.limit))); err != nil {
			t.Errorf("%s: %d were refused: %v", c.name, c.limit, err)
		}
		var wrong *ErrMalformed
		if _, err := read(Encode(c.frame(c.limit + 1))); !errors.As(err, &wrong) {
			t.Errorf("%s: %d were taken: %v", c.name, c.limit+1, err)
		}
	}
}

func TestLimitsOfAFramesLength(t *testing.T) {
	for kind, limit := range map[byte]int{1: MaxFrame, 2: MaxFrame, 3: maxHave, 4: maxWant, 5: maxBlob} {
		var header [HeaderSize]byte
		header[4] = kind
		binary.BigEndian.PutUint32(header[:], uint32(limit))
		if got, size, err := ParseHeader(header); got != kind || size != limit || err != nil {
			t.Errorf("%d bytes of kind %d are %d of %d, %v", limit, kind, size, got, err)
		}
		for _, more := range []uint32{uint32(limit) + 1, 1 << 31, ^uint32(0)} {
			binary.BigEndian.PutUint32(header[:], more)
			if _, _, err := ParseHeader(header); err == nil {
				t.Errorf("%d bytes of kind %d were taken", more, kind)
			}
		}
	}
	for _, kind := range []byte{0, 6, 255} {
		if _, _, err := ParseHeader([HeaderSize]byte{4: kind}); err == nil {
			t.Errorf("kind %d was taken", kind)
		}
		if _, err := Decode(kind, nil); err == nil {
			t.Errorf("kind %d was read", kind)
		}
	}
}

// The longest frames of their kinds must fit what a header may say, or an honest node would cost itself the connection.
func TestTheLongestFramesFit(t *testing.T) {
	path := index.MustPath(strings.Repeat(strings.Repeat("x", 127)+"/", 8)[:index.MaxPath-1])
	name, reason := strings.Repeat("x", maxName), strings.Repeat("x", 2*maxReason)
	widest := ^uint64(0)

	offer := Offer{Directory: name, Origin: anOrigin, Key: aKey, After: widest, Through: widest, Inline: map[index.Digest][]byte{}}
	for i := range MaxEntries {
		e := &index.Entry{Path: path, Origin: anOrigin, Seq: widest, Batch: widest, Expires: 1<<63 - 1,
			Stamp:   index.Stamp{Node: anOrigin.Node, Epoch: fleet.Epoch{Generation: widest, Nonce: widest, Term: widest, Index: widest}},
			Content: index.Symlink{Target: strings.Repeat("./", index.MaxPath/2-1) + "x"}}
		e.Seal.Path = make([][32]byte, maxSealPath)
		offer.Entries = append(offer.Entries, e)
		if i < InlineBudget/MaxInline {
			offer.Inline[index.Digest{byte(i)}] = make([]byte, MaxInline)
		}
	}
	have := Have{Directory: name, Held: summaryOf(MaxOrigins)}
	for o := range have.Held {
		have.Held[o] = widest
	}
	for range MaxRefusals {
		have.Refused = append(have.Refused, Refusal{Origin: anOrigin, Seq: widest, Path: path, Reason: reason})
	}
	for _, f := range []Frame{offer, have, Want{Directory: name, Path: path}, Blob{Size: -1 << 63, Missing: reason}} {
		if _, err := read(Encode(f)); err != nil {
			t.Errorf("the longest %T: %v", f, err)
		}
	}
}

func TestRefusedByTheirMeaning(t *testing.T) {
	with := func(change func(*index.Entry)) Frame {
		e := anEntry(index.File{})
		change(e)
		return offerOf(e)
	}
	unsorted := func(f Frame, first, second []byte) []byte {
		b := Encode(f)
		i, j := bytes.Index(b, first), bytes.Index(b, second)
		copy(b[i:], second)
		copy(b[j:], first)
		return b
	}
	low, high := bytes.Repeat([]byte{0x55}, 32), bytes.Repeat([]byte{0x66}, 32)
	twoOrigins := Have{Held: index.Summary{{Node: fleet.NodeID(low)}: 1, {Node: fleet.NodeID(high)}: 1}}
	twoContents := offerOf(anEntry(index.Tombstone{}), anEntry(index.Tombstone{}))
	twoContents.Inline = map[index.Digest][]byte{index.Digest(low): nil, index.Digest(high): nil}
	withEpoch := with(func(e *index.Entry) { e.Stamp.Epoch.Nonce = 0x0909090909090909 })
	noEntry := offerOf()
	noEntry.Inline = map[index.Digest][]byte{{}: nil}

	for name, b := range map[string][]byte{
		"an epoch that is none":       bytes.Replace(Encode(withEpoch), []byte{9, 9, 9, 9, 9, 9, 9, 9}, make([]byte, 8), 1),
		"number zero":                 Encode(with(func(e *index.Entry) { e.Seq, e.Batch = 0, 5 })),
		"a batch before its entry":    Encode(with(func(e *index.Entry) { e.Seq, e.Batch = 9, 8 })),
		"an end before all time":      Encode(with(func(e *index.Entry) { e.Expires = -1 })),
		"a negative size":             Encode(with(func(e *index.Entry) { e.Content = index.File{Size: -1} })),
		"a link out of the directory": Encode(with(func(e *index.Entry) { e.Content = index.Symlink{Target: "../x"} })),
		"an absolute link":            Encode(with(func(e *index.Entry) { e.Content = index.Symlink{Target: "/etc/passwd"} })),
		"a link to nothing":           Encode(with(func(e *index.Entry) { e.Content = index.Symlink{} })),
		"a link with NUL":             Encode(with(func(e *index.Entry) { e.Content = index.Symlink{Target: "a\x00"} })),
		"a path out of the directory": bytes.Replace(Encode(Want{Path: index.MustPath("aaaa")}), []byte("aaaa"), []byte("../a"), 1),
		"an absolute path":            bytes.Replace(Encode(Want{Path: index.MustPath("aaaa")}), []byte("aaaa"), []byte("/aaa"), 1),
		"a path with NUL":             bytes.Replace(Encode(Want{Path: index.MustPath("aaaa")}), []byte("aaaa"), []byte("a\x00aa"), 1),
		"an unknown content":          bytes.Replace(Encode(with(func(e *index.Entry) { e.Content = index.Symlink{Target: "ttt"} })), []byte("\x02\x03ttt"), []byte("\x04\x03ttt"), 1),
		"an unknown flag":             bytes.Replace(Encode(with(func(e *index.Entry) { e.Path = index.MustPath("ppp") })), []byte("ppp\x00"), []byte("ppp\x08"), 1),
		"a yes that is two":           append(Encode(Have{})[:HeaderSize+1+1+32], 2, 0),
		"origins out of order":        unsorted(twoOrigins, low, high),
		"contents out of order":       unsorted(twoContents, low, high),
		"an origin twice":             bytes.Replace(Encode(twoOrigins), high, low, 1),
		"a content twice":             bytes.Replace(Encode(twoContents), high, low, 1),
		"a content of no entry":       Encode(noEntry),
		"a number spelled at length":  {0, 0, 0, 4, 5, 0x80, 0x00, 0x00},
	} {
		if f, err := Decode(b[4], b[HeaderSize:]); err == nil {
			t.Errorf("%s was taken: %+v", name, f)
		}
	}
	for name, f := range map[string]Frame{"two origins": twoOrigins, "two contents": twoContents} {
		if _, err := read(Encode(f)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A few bytes that promise millions must not be believed before the millions have come.
func TestPromisesCostNothing(t *testing.T) {
	most := binary.AppendUvarint(nil, 4096)
	greeting := append(append([]byte{0, 1, 0}, make([]byte, 40)...), most...)
	offer := append(append([]byte{0}, make([]byte, 40+32)...), 0, 0)
	for name, c := range map[string]struct {
		kind byte
		body []byte
	}{
		"origins in a greeting": {1, greeting},
		"entries":               {2, append(offer, 0x80, 0x10)},
		"contents":              {2, append(offer, 0, 0x80, 0x10)},
		"origins in a have":     {3, append([]byte{0}, most...)},
		"bytes of a path":       {4, []byte{0, 0x80, 0x08}},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 100 {
			if _, err := Decode(c.kind, c.body); err == nil {
				t.Fatalf("%s: taken", name)
			}
		}
		runtime.ReadMemStats(&after)
		if each := (after.TotalAlloc - before.TotalAlloc) / 100; each > 4<<10 {
			t.Errorf("%s: %d bytes are allocated for %d", name, each, len(c.body))
		}
	}
}

func TestAKeyDoesNotKeepItsFrame(t *testing.T) {
	sent := offerOf()
	sent.Key = bytes.Repeat([]byte{7}, ed25519.PublicKeySize)
	b := Encode(sent)
	f, err := read(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if o := f.(Offer); !bytes.Equal(o.Key, sent.Key) {
		t.Error("the key is a part of the frame it came in, which it outlives")
	}
}
