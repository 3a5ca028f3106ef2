package syncer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// Fetching: a file's content from whoever has it, and giving it to whoever asks.

// A peer that sends fewer bytes of a file in a second than fetchRate gives up its place to others. It may be the line: each try has twice the time
// of the one before, down to fetchRateLast, which is also what a peer must take.
const (
	fetchRate     = 1 << 10
	fetchRateLast = 256
)

// fetchEnd is when a fetch of so many bytes that begins now must have ended.
func fetchEnd(size int64, rate int) time.Time {
	return time.Now().Add(fetchPatience + time.Duration(size)*time.Second/time.Duration(rate))
}

// errNowhere is the error of content that is not to be had as it was promised; errSlow of content that did not come in time.
var (
	errNowhere = errors.New("no peer has the content any more")
	errSlow    = errors.New("it does not come in time, and is asked for again")
)

// nowhere is the error of one entry's content.
type nowhere struct {
	entry *index.Entry
	error
}

// Unwrap returns why.
func (n nowhere) Unwrap() error { return n.error }

// nowhereToBeHad returns the entry whose content is missing.
func nowhereToBeHad(err error) *index.Entry {
	var n nowhere
	errors.As(err, &n)
	return n.entry
}

// content returns the bytes of an entry's file: from the offer, from what was seen lately, or from a peer that has it.
func (d *Directory) content(ctx context.Context, j *job, e *index.Entry) (io.ReadCloser, error) {
	f := e.Content.(index.File)
	d.mu.Lock()
	data, ok := j.inline[f.Digest]
	if ok {
		d.cache.put(f.Digest, bytes.Clone(data)) // data keeps its whole frame in memory
	} else {
		data, ok = d.cache.content[f.Digest]
	}
	links := d.sourcesLocked(j.from)
	d.mu.Unlock()
	if ok || f.Size == 0 {
		return atHand{bytes.NewReader(data)}, nil
	}
	for _, link := range links {
		if stream, err := d.fetch(ctx, link, e.Path, f, j.tries); err == nil {
			return stream, nil
		}
	}
	return nil, errNowhere
}

// sourcesLocked returns whom to ask for content: whoever offered it first, but those that were slow lately last.
func (d *Directory) sourcesLocked(offered fleet.NodeID) []*conversation {
	links := slices.Collect(maps.Values(d.links))
	rank := func(c *conversation) int {
		switch {
		case time.Since(d.slow[c.Peer()]) < slowMemory:
			return 2
		case c.Peer() == offered:
			return 0
		}
		return 1
	}
	slices.SortFunc(links, func(a, b *conversation) int { return cmp.Compare(rank(a), rank(b)) })
	return links
}

// slowMemory is for how long a peer that was slow is asked last.
const slowMemory = 10 * time.Minute

// fetched is content on its way from a peer.
type fetched struct {
	patient
	of   *Directory
	from fleet.NodeID
}

// atHand is content that needs no fetching.
type atHand struct{ *bytes.Reader }

// Close implements io.Closer.
func (atHand) Close() error { return nil }

// Read implements io.Reader.
func (f fetched) Read(b []byte) (int, error) {
	n, err := f.patient.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		f.of.mu.Lock()
		defer f.of.mu.Unlock()
		f.of.slow[f.from] = time.Now()
		return n, fmt.Errorf("from %s: %w", f.of.r.nameOf(f.from), errSlow)
	}
	return n, err
}

// fetch asks one peer for a file's content.
func (d *Directory) fetch(ctx context.Context, from Link, p index.Path, f index.File, tries int) (io.ReadCloser, error) {
	opening, stop := context.WithTimeout(ctx, fetchPatience)
	opened, err := from.OpenFetch(opening)
	stop()
	if err != nil {
		return nil, err
	}
	stream := fetched{patient{opened, fetchPatience, fetchPatience, fetchEnd(f.Size, max(fetchRate>>min(tries, 10), fetchRateLast))}, d, from.Peer()}
	_, err = stream.Write(wire.Encode(wire.Want{Directory: d.Name, Path: p, Digest: f.Digest}))
	var frame wire.Frame
	if err == nil {
		frame, err = readFrame(stream)
	}
	blob, ok := frame.(wire.Blob)
	if err == nil && (!ok || blob.Missing != "" || blob.Size != f.Size) {
		err = errNowhere
	}
	if err != nil {
		return nil, errors.Join(err, stream.Close())
	}
	return stream, nil
}

// ServeFetch answers one Want on a stream that a peer opened, and closes it.
func (s *Syncer) ServeFetch(from fleet.NodeID, opened Stream) (err error) {
	stream := patient{opened, fetchPatience, fetchPatience, fetchEnd(0, fetchRateLast)}
	defer func() { err = errors.Join(err, stream.Close()) }()
	frame, err := readFrame(stream)
	if err != nil {
		return err
	}
	want, ok := frame.(wire.Want)
	d := s.directoryFor(want.Directory, from)
	if !ok || d == nil {
		return fmt.Errorf("%s asked for what it is not to have", from.Short())
	}
	file, err := d.openLive(want)
	if err != nil {
		_, err = stream.Write(wire.Encode(wire.Blob{Missing: err.Error()}))
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	stream.until = fetchEnd(info.Size(), fetchRateLast)
	if _, err := stream.Write(wire.Encode(wire.Blob{Size: info.Size()})); err != nil {
		return err
	}
	_, err = io.Copy(stream, io.LimitReader(file, info.Size()))
	return err
}

// openLive opens the file that a peer wants, if it is what the fleet has there.
func (d *Directory) openLive(want wire.Want) (*os.File, error) {
	e := d.Lookup(want.Path)
	if e == nil {
		return nil, errNowhere
	}
	if f, ok := e.Content.(index.File); !ok || f.Digest != want.Digest {
		return nil, errNowhere
	}
	return d.disk.root.Open(want.Path.String())
}
