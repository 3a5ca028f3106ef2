package syncer

import (
	"slices"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// What is precious is taken away by a tombstone, and by what is no directory where one was; a later version is none of these.
func TestWhatTakesAwaySomethingPrecious(t *testing.T) {
	w := newWorld("fe1")
	w.do([]string{"start", "fe1"})
	m := w.find("fe1")
	file, dir, gone := w.content("key"), index.Directory{Perm: 0o755}, index.Tombstone{}
	m.dear = map[index.Path]bool{index.MustPath("live"): true, index.MustPath("live/key.pem"): true, index.MustPath("never"): true}
	for p, c := range map[string]index.Content{"live": dir, "live/key.pem": file, "plain": file} {
		m.r.x.Merge(&index.Entry{Path: index.MustPath(p), Origin: m.r.self, Content: c})
	}
	for _, c := range []struct {
		path    string
		content index.Content
		epoch   fleet.Epoch
		taken   bool
	}{
		{"live/key.pem", gone, fleet.Epoch{}, true},
		{"live/key.pem", gone, fleet.Epoch{Term: 1}, false},
		{"live/key.pem", w.content("renewed"), fleet.Epoch{}, false},
		{"live/key.pem", index.Symlink{Target: "other.pem"}, fleet.Epoch{}, false},
		{"live", gone, fleet.Epoch{}, true},
		{"live", file, fleet.Epoch{}, true},
		{"live", index.Directory{Perm: 0o700}, fleet.Epoch{}, false},
		{"plain", gone, fleet.Epoch{}, false},
		{"never", gone, fleet.Epoch{}, false},
	} {
		e := &index.Entry{Path: index.MustPath(c.path), Content: c.content, Stamp: index.Stamp{Epoch: c.epoch}}
		if taken := m.r.takesPrecious(e); taken != c.taken {
			t.Errorf("%s by %T under %v: %v", c.path, c.content, c.epoch, taken)
		}
	}
}

// Whoever refuses something of a batch does not have it, whatever its summary says.
func TestWhoRefusesIsNotAwaited(t *testing.T) {
	d := openAlone(t)
	receipt, err := d.Publish(fleet.Epoch{Term: 1}, Write{Path: index.MustPath("token"), Data: []byte("1"), Perm: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	peer, now := fleet.NodeID{7}, time.Now()
	d.r.hello(now, peer, now, wire.Greeting{Held: index.Summary{receipt.Origin: receipt.Seq}}, nil)
	if have := d.haveLocked(receipt); !slices.Contains(have, peer) {
		t.Fatalf("%v have it", have)
	}
	e := d.r.x.Live(index.MustPath("token"))
	d.r.have(now, peer, wire.Have{Refused: []wire.Refusal{{Origin: e.Origin, Seq: e.Seq, Path: e.Path, Reason: "the clock"}}})
	if have := d.haveLocked(receipt); slices.Contains(have, peer) {
		t.Errorf("%v have it", have)
	}
}
