package syncer

import (
	"testing"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
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
