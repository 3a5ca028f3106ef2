package syncer

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// Stream is a two-way stream to one peer.
type Stream interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Link is a live connection to a peer that has proven who it is.
type Link interface {
	Peer() fleet.NodeID
	// OpenFetch opens a stream that the peer will give to ServeFetch; the context bounds the opening alone.
	OpenFetch(ctx context.Context) (Stream, error)
}

const (
	writePatience = 15 * time.Second // a peer that takes nothing for this long is gone
	fetchPatience = 30 * time.Second // likewise for a file's content
	clockInterval = time.Minute      // between two words of what time it is
	morsel        = 16 << 10         // bytes that even a bad line carries in that time
)

// patient is a stream whose deadlines bound the time without progress; until, if it is not zero, bounds the time that it takes in all.
type patient struct {
	Stream
	read, write time.Duration
	until       time.Time
}

func (p patient) deadline(patience time.Duration) time.Time {
	at := time.Now().Add(patience)
	if !p.until.IsZero() && p.until.Before(at) {
		return p.until
	}
	return at
}

// Read implements io.Reader.
func (p patient) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(p.deadline(p.read)); err != nil {
		return 0, err
	}
	return p.Stream.Read(b)
}

// Write implements io.Writer.
func (p patient) Write(b []byte) (n int, err error) {
	for part := range slices.Chunk(b, morsel) {
		if err := p.SetWriteDeadline(p.deadline(p.write)); err != nil {
			return n, err
		}
		m, err := p.Stream.Write(part)
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// conversation is one peer's stream of frames, for all directories that both have.
type conversation struct {
	Link
	stream Stream
	stir   signal
	told   map[string]index.Summary // what the peer was greeted with, by directory
}

// Violation is the error of a conversation in which the peer broke the protocol; every other error is the end of a stream.
type Violation struct{ error }

// Unwrap returns what was wrong.
func (v Violation) Unwrap() error { return v.error }

// Converse exchanges frames with a peer until the stream or ctx ends; each side opens by saying Hello. The error says why it ended and is never
// nil: whoever owns the connection should end it with the conversation.
func (s *Syncer) Converse(ctx context.Context, link Link, stream Stream) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &conversation{Link: link, stream: stream, stir: newSignal()}
	c.stir.wake()
	greeting := s.hello(c)
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	defer stop()

	written := make(chan struct{})
	go func() {
		defer close(written)
		cancel(s.speak(ctx, c, greeting))
	}()
	cancel(s.listen(c))
	_ = stream.Close() // unblocks the speaker; what it was saying is said again in the next conversation
	<-written
	for _, d := range s.directories {
		d.leave(c)
	}
	return context.Cause(ctx)
}

// speak writes whatever the directories have to say to the peer.
func (s *Syncer) speak(ctx context.Context, c *conversation, greeting wire.Hello) error {
	if err := c.write(greeting); err != nil {
		return err
	}
	clock := time.NewTicker(clockInterval)
	defer clock.Stop()
	for {
		spoke := false
		for _, d := range s.directories {
			frame := d.nextFor(c)
			if frame == nil {
				continue
			}
			spoke = true
			if err := c.write(frame); err != nil {
				return err
			}
		}
		if spoke {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.stir:
		case <-clock.C:
			if err := c.write(wire.Hello{Clock: time.Now().UnixMilli()}); err != nil {
				return err
			}
		}
	}
}

func (c *conversation) write(f wire.Frame) error {
	_, err := patient{Stream: c.stream, write: writePatience}.Write(wire.Encode(f))
	return err
}

// hello greets with every directory that the peer is to have, and has the conversation keep what was said.
func (s *Syncer) hello(c *conversation) wire.Hello {
	h := wire.Hello{Clock: time.Now().UnixMilli()}
	c.told = map[string]index.Summary{}
	for _, d := range s.directories {
		if d.isFor(c.Peer()) {
			g := d.greeting()
			c.told[d.Name] = g.Held
			h.Directories = append(h.Directories, g)
		}
	}
	return h
}

// isFor reports whether a node is to have the directory.
func (d *Directory) isFor(node fleet.NodeID) bool {
	for _, id := range d.Members() {
		if id == node {
			return true
		}
	}
	return false
}

func (d *Directory) greeting() wire.Greeting {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.greeting()
}

// listen takes frames until the stream ends or the peer breaks the protocol.
func (s *Syncer) listen(c *conversation) error {
	for {
		frame, err := readFrame(c.stream)
		if err != nil {
			return err
		}
		switch f := frame.(type) {
		case wire.Hello:
			for _, d := range s.directories {
				d.hearClock(c, time.UnixMilli(f.Clock))
			}
			for _, g := range f.Directories {
				if d := s.directoryFor(g.Directory, c.Peer()); d != nil {
					d.meet(c, time.UnixMilli(f.Clock), g)
				}
			}
		case wire.Offer:
			d := s.directoryFor(f.Directory, c.Peer())
			if d == nil {
				continue
			}
			if err := d.takeOffer(c, f); err != nil {
				return err
			}
		case wire.Have:
			if d := s.directoryFor(f.Directory, c.Peer()); d != nil {
				d.takeHave(c, f)
			}
		default:
			return Violation{fmt.Errorf("%s sent a %T into the conversation", c.Peer().Short(), frame)}
		}
	}
}

func (s *Syncer) directoryFor(name string, peer fleet.NodeID) *Directory {
	for _, d := range s.directories {
		if d.Name == name && d.isFor(peer) {
			return d
		}
	}
	return nil
}

// readFrame reads one frame. It allocates no more than the frame's length, and that is bounded.
func readFrame(from io.Reader) (wire.Frame, error) {
	var header [wire.HeaderSize]byte
	if _, err := io.ReadFull(from, header[:]); err != nil {
		return nil, err
	}
	kind, size, err := wire.ParseHeader(header)
	if err != nil {
		return nil, Violation{err}
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(from, body); err != nil {
		return nil, err
	}
	frame, err := wire.Decode(kind, body)
	if err != nil {
		return nil, Violation{err}
	}
	return frame, nil
}

func (d *Directory) meet(c *conversation, clock time.Time, g wire.Greeting) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.links[c.Peer()] = c
	d.r.hello(time.Now(), c.Peer(), clock, g, c.told[d.Name])
	if d.r.outdated != nil {
		d.again.wake()
	}
	d.stirLocked()
}

// hearClock takes what time it is for a peer that was met before.
func (d *Directory) hearClock(c *conversation, clock time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.links[c.Peer()] == c {
		d.r.hearClock(time.Now(), c.Peer(), clock)
	}
}

func (d *Directory) leave(c *conversation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.links[c.Peer()] == c {
		delete(d.links, c.Peer())
		d.r.part(c.Peer())
		d.stirLocked()
	}
}

// takeOffer verifies an offer and hands it to the replica. An error costs the peer its connection.
func (d *Directory) takeOffer(c *conversation, o wire.Offer) error {
	if len(o.Entries) >= bulk {
		d.busy()
	}
	if err := d.r.scope.Verify(o.Origin.Node, o.Key, o.Entries); err != nil {
		return Violation{fmt.Errorf("an offer from %s cannot be believed: %w", d.r.nameOf(c.Peer()), err)}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	jobs := len(d.r.jobs)
	d.r.receive(time.Now(), c.Peer(), o)
	if len(d.r.jobs) > jobs { // all there is to do now; the rest follows it
		d.stirWork.wake()
		d.announceLocked()
	} else {
		d.stirLocked()
	}
	return nil
}

func (d *Directory) takeHave(c *conversation, h wire.Have) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.r.have(time.Now(), c.Peer(), h)
	d.stirLocked()
}

// nextFor returns the next frame for a peer, small files' content included.
func (d *Directory) nextFor(c *conversation) wire.Frame {
	d.mu.Lock()
	if d.links[c.Peer()] != c {
		d.mu.Unlock()
		return nil
	}
	frame := d.r.next(time.Now(), c.Peer())
	o, offers := frame.(wire.Offer)
	if !offers {
		d.mu.Unlock()
		return frame
	}
	o.Inline = map[index.Digest][]byte{}
	var unknown []*index.Entry
	for _, e := range o.Entries {
		f, ok := e.Content.(index.File)
		if !ok || f.Size > wire.MaxInline {
			continue
		}
		if content, cached := d.cache.content[f.Digest]; cached {
			o.Inline[f.Digest] = content
		} else {
			unknown = append(unknown, e)
		}
	}
	d.mu.Unlock()
	if len(o.Entries) >= bulk {
		d.busy()
	}
	d.inline(&o, unknown)
	return o
}

// inline adds the content of small files to an offer as far as its budget goes; what changed since is left out, for the
// peer can ask, and is about to be told of the change anyway.
func (d *Directory) inline(o *wire.Offer, entries []*index.Entry) {
	budget := wire.InlineBudget
	for _, content := range o.Inline {
		budget -= len(content)
	}
	for _, e := range entries {
		f := e.Content.(index.File)
		if budget -= int(f.Size); budget < 0 {
			return
		}
		if s, err := d.disk.look(e.Path); err == nil && s.data != nil {
			if got := s.found.Content.(index.File); got.Digest == f.Digest {
				o.Inline[f.Digest] = s.data
			}
		}
	}
}
