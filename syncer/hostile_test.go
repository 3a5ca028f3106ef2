package syncer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// stranger is a peer by hand: whoever has its key, and says what it likes.
type stranger struct {
	*Syncer
	t    *testing.T
	key  ed25519.PrivateKey
	seq  uint64
	ours Stream
	ends chan error
	told chan wire.Have
}

func (s *stranger) id() fleet.NodeID { return fleet.IDOf(s.key.Public().(ed25519.PublicKey)) }

// meet begins a conversation.
func (s *stranger) meet() {
	ours, theirs := net.Pipe()
	s.ours, s.ends, s.told = ours, make(chan error, 1), make(chan wire.Have, 100)
	go func() { s.ends <- s.Converse(s.t.Context(), line{to: s.id()}, theirs) }()
	go func() {
		for {
			frame, err := readFrame(ours)
			if err != nil {
				return
			}
			if have, ok := frame.(wire.Have); ok {
				s.told <- have
			}
		}
	}()
	s.say(wire.Encode(wire.Hello{Clock: time.Now().UnixMilli(), Directories: []wire.Greeting{{Directory: "certs", Self: index.Origin{Node: s.id(), Incarnation: 1}}}}))
}

// isMet waits until the directory knows it.
func (s *stranger) isMet(d *Directory) {
	for {
		changed := d.Changed()
		d.mu.Lock()
		met := d.r.peers[s.id()] != nil
		d.mu.Unlock()
		if met {
			return
		}
		<-changed
	}
}

func (s *stranger) say(frame []byte) {
	_, _ = s.ours.Write(frame) // the other end may have hung up in the middle of it
}

// offer makes an offer of one entry, sealed after alter, if the content is to be signed, and before it else.
func (s *stranger) offer(name string, c index.Content, alter func(*index.Entry)) wire.Offer {
	s.seq++
	e := &index.Entry{
		Path: index.MustPath(name), Content: c, Seq: s.seq, Batch: s.seq, Origin: index.Origin{Node: s.id(), Incarnation: 1},
		Stamp: index.Stamp{Written: true, HLC: index.HLCOf(time.Now()), Node: s.id()},
	}
	if alter != nil {
		alter(e)
	}
	wire.Scope{Cluster: "test", Directory: "certs"}.Seal([]*index.Entry{e}, func(m []byte) []byte { return ed25519.Sign(s.key, m) })
	return wire.Offer{
		Directory: "certs", Origin: e.Origin, Key: s.key.Public().(ed25519.PublicKey), After: s.seq - 1, Through: s.seq, Entries: []*index.Entry{e},
	}
}

// renamed is the frame of an offer with another path in it, which no Path could be.
func renamed(o wire.Offer, path string) []byte {
	text := func(s string) []byte { return append(binary.AppendUvarint(nil, uint64(len(s))), s...) }
	frame := bytes.Replace(wire.Encode(o), text(o.Entries[0].Path.String()), text(path), 1)
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-wire.HeaderSize))
	return frame
}

// What no honest program says costs its sender the connection, and nobody else anything.
func TestWhatCostsTheConnection(t *testing.T) {
	frames := map[string]func(s *stranger) []byte{
		"an unknown kind":   func(*stranger) []byte { return []byte{0, 0, 0, 0, 9} },
		"a frame too long":  func(*stranger) []byte { return []byte{0xff, 0xff, 0xff, 0xff, 2} },
		"a have too long":   func(*stranger) []byte { return []byte{0, 0x10, 0, 0, 3} },
		"noise":             func(*stranger) []byte { return append([]byte{0, 0, 0x10, 0, 2}, noise(4096)...) },
		"the wrong stream":  func(*stranger) []byte { return wire.Encode(wire.Want{Directory: "certs", Path: index.MustPath("a")}) },
		"an oversize entry": func(s *stranger) []byte { return wire.Encode(s.offer("a", index.File{Size: wire.MaxFile + 1}, nil)) },
		"an escaping link":  func(s *stranger) []byte { return wire.Encode(s.offer("a", index.Symlink{Target: "../etc"}, nil)) },
		"setuid":            func(s *stranger) []byte { return wire.Encode(s.offer("a", index.File{Perm: 0o4755}, nil)) },
		"an entry without a number": func(s *stranger) []byte {
			return wire.Encode(s.offer("a", index.File{}, func(e *index.Entry) { e.Seq, e.Batch = 0, 0 }))
		},
		"an entry that was changed since it was signed": func(s *stranger) []byte {
			o := s.offer("a", index.File{Perm: 0o600}, nil)
			o.Entries[0].Content = index.File{Perm: 0o644}
			return wire.Encode(o)
		},
		"an entry of somebody else": func(s *stranger) []byte {
			o := s.offer("a", index.File{}, nil)
			o.Origin.Node[0]++
			return wire.Encode(o)
		},
		"a batch that is cut off": func(s *stranger) []byte {
			frame := wire.Encode(s.offer("a", index.File{}, nil))
			binary.BigEndian.PutUint32(frame, uint32(len(frame)-wire.HeaderSize-7))
			return frame[:len(frame)-7]
		},
	}
	for name, path := range map[string]string{
		"4,097 bytes": strings.Repeat("x/", 2048) + "x", "over-deep": strings.Repeat("x/", index.MaxDepth) + "x", "above": "../x", "absolute": "/x",
		"in a detour": "a/../../x", "NUL": "a\x00b", "256 bytes": strings.Repeat("x", 256), "nothing": "", "not clean": "a//b", "itself": ".",
	} {
		frames["a path: "+name] = func(s *stranger) []byte { return renamed(s.offer("a path", index.File{}, nil), path) }
	}
	s := openSyncer(t, nil)
	d := s.Directories()[0]
	for name, frame := range frames {
		t.Run(name, func(t *testing.T) {
			hostile := &stranger{Syncer: s, t: t, key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))}
			honest := &stranger{Syncer: s, t: t, key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, ed25519.SeedSize))}
			d.Members = func() []fleet.NodeID { return []fleet.NodeID{s.Self, hostile.id(), honest.id()} }
			honest.meet()
			honest.isMet(d)
			hostile.meet()
			hostile.say(frame(hostile))
			if err := <-hostile.ends; !errors.As(err, new(Violation)) {
				t.Errorf("the conversation ends with %v", err)
			}
			select {
			case err := <-honest.ends:
				t.Errorf("that of somebody else ends, too: %v", err)
			default:
			}
			d.mu.Lock()
			if d.r.x.Len() > 0 || len(d.r.jobs) > 0 || d.r.peers[hostile.id()] != nil || d.r.peers[honest.id()] == nil {
				t.Errorf("%d entries, %d jobs, peers %v", d.r.x.Len(), len(d.r.jobs), d.r.peers)
			}
			d.mu.Unlock()
			_ = honest.ours.Close()
			<-honest.ends
		})
	}
}

// What an honest node may say whose configuration is another, or whose clock is wrong, is refused with the reason, and costs nothing else.
func TestWhatIsRefusedCostsNothingElse(t *testing.T) {
	for name, c := range map[string]struct {
		content index.Content
		alter   func(*index.Entry)
		reason  string
	}{
		"above max_file_size": {content: index.File{Size: 1<<20 + 1}, reason: "max_file_size is 1048576"},
		"from the future":     {content: index.File{}, alter: func(e *index.Entry) { e.Stamp.HLC = index.HLCOf(time.Now().Add(time.Hour)) }, reason: "ahead"},
		"from the year 10,000": {content: index.File{}, reason: "ahead",
			alter: func(e *index.Entry) {
				e.Stamp.HLC = index.HLCOf(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))
			}},
		"not a writer": {content: index.Tombstone{}, alter: func(e *index.Entry) { e.Stamp.Epoch = fleet.Epoch{Term: 1} }, reason: "may not hold the lease"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openSyncer(t, nil)
			d := s.Directories()[0]
			peer := &stranger{Syncer: s, t: t, key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))}
			d.Members = func() []fleet.NodeID { return []fleet.NodeID{s.Self, peer.id()} }
			d.r.mayLease = func(id fleet.NodeID) bool { return id == s.Self }
			d.r.members = d.Members
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			running := make(chan struct{})
			go func() {
				defer close(running)
				for {
					select {
					case <-ctx.Done():
						return
					case <-d.stirSave:
						_ = d.persist()
					case <-d.stirWork:
						d.mu.Lock()
						j := d.r.work(time.Now())
						d.mu.Unlock()
						if j != nil {
							d.apply(ctx, d.intents[0], j)
						}
					}
				}
			}()
			peer.meet()
			o := peer.offer("a", c.content, c.alter)
			o.Inline = map[index.Digest][]byte{}
			peer.say(wire.Encode(o))
			var refused []wire.Refusal
			for len(refused) == 0 {
				select {
				case have := <-peer.told:
					refused = have.Refused
				case err := <-peer.ends:
					t.Fatalf("the conversation ends: %v", err)
				}
			}
			if !strings.Contains(refused[0].Reason, c.reason) {
				t.Errorf("refused: %q", refused[0].Reason)
			}
			peer.say(wire.Encode(peer.offer("b", index.Directory{Perm: 0o755}, nil)))
			for held := uint64(0); held < peer.seq; {
				select {
				case have := <-peer.told:
					held = have.Held[o.Origin]
				case err := <-peer.ends:
					t.Fatalf("the conversation ends: %v", err)
				}
			}
			if d.Lookup(index.MustPath("a")) != nil || d.Lookup(index.MustPath("b")) == nil {
				t.Error("what is wrong was taken, or what is right was not")
			}
			_ = peer.ours.Close()
			<-peer.ends
			stop()
			<-running
		})
	}
}

func noise(n int) []byte {
	out := make([]byte, n)
	chance := rand.NewChaCha8([32]byte{1})
	_, _ = chance.Read(out) // never fails
	return out
}
