package syncer

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// line is a Link to a peer whose end of every fetch is served by answer.
type line struct {
	to     fleet.NodeID
	answer func(Stream)
}

func (l line) Peer() fleet.NodeID { return l.to }

func (l line) OpenFetch(context.Context) (Stream, error) {
	near, far := net.Pipe()
	go l.answer(far)
	return near, nil
}

// A peer that sends a byte now and then makes progress for ever. It has the time that a bad line would need, and is asked last from then on.
func TestAFetchHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 160 << 10
		id := fleet.NodeID{1}
		d := &Directory{DirectoryConfig: DirectoryConfig{Name: "certs"}, slow: map[fleet.NodeID]time.Time{}, links: map[fleet.NodeID]*conversation{}}
		d.r = &replica{rules: rules{nameOf: fleet.NodeID.Short}}
		trickle := line{id, func(s Stream) {
			defer s.Close()
			if _, err := readFrame(s); err != nil {
				return
			}
			_, err := s.Write(wire.Encode(wire.Blob{Size: size}))
			for err == nil {
				time.Sleep(20 * time.Second)
				_, err = s.Write([]byte{'x'})
			}
		}}
		for tries, want := range map[int]time.Duration{0: 190 * time.Second, 1: 350 * time.Second, 100: 670 * time.Second} {
			begun := time.Now()
			stream, err := d.fetch(t.Context(), trickle, index.MustPath("large"), index.File{Size: size}, tries)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, stream)
			if took := time.Since(begun); !errors.Is(err, errSlow) || took != want {
				t.Errorf("after %d tries: %d bytes and %v after %v", tries, n, err, took)
			}
			if err := stream.Close(); err != nil {
				t.Error(err)
			}
		}
		other := fleet.NodeID{2}
		d.links[id], d.links[other] = &conversation{Link: trickle}, &conversation{Link: line{to: other}}
		if first := d.sourcesLocked(id)[0].Peer(); first != other {
			t.Errorf("%s is asked first", first.Short())
		}
		time.Sleep(slowMemory)
		if first := d.sourcesLocked(id)[0].Peer(); first != id {
			t.Errorf("after a while %s is asked first", first.Short())
		}
	})
}

// A peer that never lets a stream be opened costs no more.
func TestAFetchThatIsNotOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		d := &Directory{DirectoryConfig: DirectoryConfig{Name: "certs"}}
		_, err := d.fetch(t.Context(), shut{}, index.MustPath("large"), index.File{Size: 1}, 0)
		if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took != fetchPatience {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// shut is a Link whose peer allows no streams.
type shut struct{}

func (shut) Peer() fleet.NodeID { return fleet.NodeID{1} }

func (shut) OpenFetch(ctx context.Context) (Stream, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// What must be fetched never has all the places, nor what one peer sends all but one.
func TestFetchesLeavePlaces(t *testing.T) {
	w := newWorld("fe1", "fe2", "fe3")
	w.do([]string{"start", "fe1", "fe2", "fe3"})
	m := w.find("fe1")
	hostile, honest := w.find("fe2").id(), w.find("fe3").id()
	offer := func(from fleet.NodeID, name string, fetches bool) *job {
		j := &job{from: from, fetches: fetches, tries: 1} // not to be absorbed
		j.entries = []*index.Entry{{Path: index.MustPath(name), Content: m.content(name), Batch: 1}}
		m.r.jobs = append(m.r.jobs, j)
		return j
	}
	for _, name := range []string{"1", "2", "3", "4", "5"} {
		offer(hostile, name, true)
	}
	large := offer(honest, "large", true)
	offer(honest, "large too", true)
	small := offer(honest, "small", false)
	begun := map[*job]bool{}
	for range appliers {
		if j := m.r.work(m.clock()); j != nil {
			begun[j] = true
		}
	}
	if !begun[large] || !begun[small] || len(begun) != appliers {
		t.Errorf("%d begun; the large one: %v, the small one: %v", len(begun), begun[large], begun[small])
	}
	m.r.finish(m.clock(), large, nil, false)
	if j := m.r.work(m.clock()); j == nil || j.from != honest {
		t.Errorf("then %+v", j)
	}
}

// What came with an offer, and what is empty, needs no fetching.
func TestWhatMustBeFetched(t *testing.T) {
	m := newWorld("fe1").machines[0]
	file := m.content("here")
	entries := []*index.Entry{{Content: file}, {Content: index.File{}}, {Content: index.Tombstone{}}, {Content: index.Symlink{Target: "a"}}}
	j := job{entries: entries, inline: map[index.Digest][]byte{file.Digest: []byte("here")}}
	if j.needsFetch() {
		t.Error("it is here")
	}
	j.entries = append(j.entries, &index.Entry{Content: m.content("elsewhere")})
	if !j.needsFetch() {
		t.Error("it is not here")
	}
}
