package syncer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"

	"pgregory.net/rapid"
)

func TestNamesThatBelongTogether(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"x.key", "x.crt", true}, {"x.key", "x.cer", true}, {"x.key", "x.pem", true}, {"ssl/x.key", "ssl/x.crt", true},
		{"x.key", "y.crt", false}, {"x.key", "sub/x.crt", false}, {"lego/x.key", "lego/x.issuer.crt", false},
		{"live/x/privkey.pem", "live/x/fullchain.pem", true}, {"live/x/privkey.pem", "live/x/cert.pem", true},
		{"live/x/chain.pem", "live/x/cert.pem", true}, {"live/x/privkey.pem", "live/y/cert.pem", false},
		{"archive/x/privkey12.pem", "archive/x/fullchain12.pem", true}, {"archive/x/privkey12.pem", "archive/x/fullchain1.pem", false},
		{"x/privkey-1700000000.pem", "x/cert-1700000000.pem", true}, {"x/privkey-1700000000.pem", "x/cert-1700000001.pem", false},
		{"x/privkey-1700000000.pem", "x/privkey.pem", false},
		{"x.org_ecc/x.org.key", "x.org_ecc/fullchain.cer", true}, {"x.org/x.org.key", "x.org/x.org.cer", true},
		{"x.org/x.org.key", "x.org/fullchain.cer", true}, {"x.org/y.org.key", "x.org/fullchain.cer", false}, {"x.org/ca.cer", "x.org/x.org.key", false},
		{"conf/cert.pem", "conf/cert.key", true}, {"key.pem", "cert.pem", true},
		{"x-key.pem", "x.pem", true}, {"x.key.pem", "x.cert.pem", true}, {"x.key", "x-key.crt", false},
	} {
		a, okA := setOf(index.MustPath(c.a))
		b, okB := setOf(index.MustPath(c.b))
		if got := okA && okB && a == b; got != c.want {
			t.Errorf("%s and %s: %v (%+v, %+v)", c.a, c.b, got, a, b)
		}
	}
	for _, name := range []string{"x.json", "x.pem.new", "key", "x"} {
		if _, ok := setOf(index.MustPath(name)); ok {
			t.Errorf("%s is of a set", name)
		}
	}
}

// Whatever is of a set is found when the set is gathered.
func TestASetKnowsItsMembers(t *testing.T) {
	word := rapid.SampledFrom([]string{"privkey", "key", "cert", "fullchain", "chain", "x.org", "a-key", "b.cert", "x.org_ecc", "7"})
	rapid.Check(t, func(t *rapid.T) {
		dir := rapid.SampledFrom([]string{"", "x.org/", "x.org_ecc/", "7/"}).Draw(t, "dir")
		name := dir + word.Draw(t, "word") + rapid.SampledFrom([]string{"", "1", "-1700000000", "-key", ".cert"}).Draw(t, "suffix") +
			rapid.SampledFrom([]string{".pem", ".crt", ".cer", ".key"}).Draw(t, "extension")
		p := index.MustPath(name)
		s, ok := setOf(p)
		if !ok || !slices.Contains(s.members(), p) {
			t.Errorf("%s is of %+v, whose members are %v", name, s, s.members())
		}
	})
}

// halves of the generations 1, 2 ...
func keyOf(generation byte) pemFile { return pemFile{holds: []publicKey{{generation}}} }
func certificateOf(generation byte) pemFile {
	return pemFile{certified: true, certifies: publicKey{generation}}
}

var brokenFile = pemFile{broken: "it is empty"}

func TestWhatIsHeld(t *testing.T) {
	const old, written, added = 0, 1, 2 // as the fleet has it; another than the fleet has; new to the fleet
	file := func(name string, pem pemFile, how int) member {
		return member{path: index.MustPath(name), pem: pem, changed: how != old, fresh: how == added}
	}
	busy := func(m member) member { m.busy, m.changed = true, false; return m }
	const moment, long = 10 * time.Millisecond, 5 * time.Second
	for name, c := range map[string]struct {
		members       []member
		absent, start bool
		after         time.Duration // since all this was first seen
		quiet         time.Duration // until the links are
		held          string        // "": nothing
		blamed        string
		until         time.Duration
	}{
		"a certificate for the key that is there":      {members: []member{file("x.key", keyOf(1), old), file("x.crt", certificateOf(1), written)}},
		"a whole new pair":                             {members: []member{file("x.key", keyOf(2), written), file("x.crt", certificateOf(2), written)}},
		"the key alone is new":                         {members: []member{file("x.key", keyOf(2), written), file("x.crt", certificateOf(1), old)}, after: long, held: "x.key", blamed: "x.key"},
		"the certificate alone is new":                 {members: []member{file("x.key", keyOf(1), old), file("x.crt", certificateOf(2), written)}, after: long, held: "x.crt", blamed: "x.crt"},
		"two generations":                              {members: []member{file("x.key", keyOf(2), written), file("x.crt", certificateOf(3), written)}, after: long, held: "x.key x.crt", blamed: "x.key"},
		"at start as well":                             {members: []member{file("x.key", keyOf(2), added), file("x.crt", certificateOf(3), added)}, start: true, held: "x.key x.crt", blamed: "x.key"},
		"a new key waits a moment":                     {members: []member{file("x.key", keyOf(1), added)}, after: moment, held: "x.key", until: settleDelay},
		"and goes":                                     {members: []member{file("x.key", keyOf(1), added)}, after: settleDelay},
		"what lay there at the start does not":         {members: []member{file("x.key", keyOf(1), added)}, start: true},
		"a changed key without a certificate anywhere": {members: []member{file("x.key", keyOf(2), written)}},
		"the other half is being replaced":             {members: []member{file("x.key", keyOf(2), written)}, absent: true, after: time.Second, held: "x.key", until: time.Second + settleDelay},
		"the other half is gone for good":              {members: []member{file("x.key", keyOf(2), written)}, absent: true, after: heldPatience},
		"chains wait for nobody":                       {members: []member{file("chain.pem", certificateOf(7), added)}},
		"a file with both":                             {members: []member{file("x.pem", pemFile{certified: true, certifies: publicKey{1}, holds: []publicKey{{1}}}, added)}},
		"a broken file":                                {members: []member{file("x.key", brokenFile, written)}, after: long, held: "x.key", blamed: "x.key"},
		"a broken file that the fleet has as it is":    {members: []member{file("x.key", keyOf(2), written), file("x.crt", brokenFile, old)}},
		"a broken half keeps the other": {
			members: []member{file("x.key", keyOf(2), written), file("x.crt", brokenFile, written)}, after: long, held: "x.key x.crt", blamed: "x.crt"},
		"junk that the fleet never had does not for long": {
			members: []member{file("x.key", keyOf(2), written), file("x.crt", certificateOf(2), written), file("x.pem", brokenFile, added)}, after: long, held: "x.pem", blamed: "x.pem"},
		"but for a while": {
			members: []member{file("x.key", keyOf(2), written), file("x.crt", certificateOf(2), written), file("x.pem", brokenFile, added)}, after: moment, held: "x.key x.crt x.pem", blamed: "x.pem"},
		"a half that is being written keeps the other": {
			members: []member{file("x.key", keyOf(2), written), busy(file("x.crt", pemFile{}, written))}, after: long, held: "x.key"},
		"a stale third file waits for its turn": {
			members: []member{file("privkey.pem", keyOf(2), written), file("fullchain.pem", certificateOf(2), written), file("cert.pem", certificateOf(1), old)},
			after:   moment, held: "privkey.pem fullchain.pem", until: heldPatience},
		"and is left behind": {
			members: []member{file("privkey.pem", keyOf(2), written), file("fullchain.pem", certificateOf(2), written), file("cert.pem", certificateOf(1), old)}, after: heldPatience},
		"one that the fleet never had is held alone": {
			members: []member{file("privkey.pem", keyOf(2), added), file("fullchain.pem", certificateOf(2), added), file("cert.pem", certificateOf(1), added)},
			start:   true, held: "cert.pem", blamed: "cert.pem"},
		"of all the files of a set not one comes late": {
			members: []member{file("privkey.pem", keyOf(2), written), file("cert.pem", certificateOf(1), written), file("fullchain.pem", certificateOf(2), written), file("chain.pem", pemFile{}, written)},
			after:   long, held: "privkey.pem cert.pem fullchain.pem chain.pem", blamed: "cert.pem"},
		"a key that cannot be told fits everywhere": {members: []member{file("x.key", pemFile{unknown: true}, written), file("x.crt", certificateOf(1), old)}},
		"what never matched is no reason":           {members: []member{file("x.key", keyOf(1), old), file("x.crt", certificateOf(9), old), file("x.cer", pemFile{}, written)}, after: long},
		"a CA's certificate beside a server's is not the key's": {
			members: []member{file("x.key", keyOf(2), written), file("x.crt", certificateOf(2), written), file("x.pem", pemFile{certified: true, certifies: publicKey{9}, authority: true}, old)}},
		"a CA's own is": {
			members: []member{file("ca.key", keyOf(2), written), file("ca.crt", pemFile{certified: true, certifies: publicKey{1}, authority: true}, old)},
			after:   long, held: "ca.key", blamed: "ca.key"},
		"links that still move": {
			members: []member{file("privkey.pem", keyOf(1), old), file("cert.pem", certificateOf(1), written)}, after: moment, quiet: settleDelay, held: "cert.pem", until: moment + settleDelay},
	} {
		t.Run(name, func(t *testing.T) {
			begun := time.Unix(1000, 0)
			now := begun.Add(c.after)
			s := scene{members: c.members, started: !c.start, absent: c.absent}
			if c.quiet > 0 {
				s.quiet = now.Add(c.quiet)
			}
			for i := range s.members {
				s.members[i].since = begun
			}
			held := s.judge(now)
			var paths, blamed []string
			until := time.Duration(0)
			for _, m := range c.members {
				h, ok := held[m.path]
				if !ok {
					continue
				}
				paths = append(paths, m.path.String())
				if h.why != "" {
					blamed = append(blamed, m.path.String())
				}
				if !h.until.IsZero() {
					until = h.until.Sub(begun)
				}
			}
			if got := strings.Join(paths, " "); got != c.held {
				t.Errorf("held: %q, not %q", got, c.held)
			}
			if got := strings.Join(blamed, " "); got != c.blamed {
				t.Errorf("blamed: %q, not %q", got, c.blamed)
			}
			if until != c.until {
				t.Errorf("until %v, not %v", until, c.until)
			}
		})
	}
}

func TestAMismatchNamesBothFiles(t *testing.T) {
	key := member{path: index.MustPath("live/x/privkey.pem"), pem: keyOf(2), changed: true}
	chain := member{path: index.MustPath("live/x/fullchain.pem"), pem: certificateOf(1)}
	held := scene{members: []member{key, chain}, started: true}.judge(time.Unix(1000, 0))
	if want := "it is not the key of the certificate in live/x/fullchain.pem" + writeOther; held[key.path].why != want {
		t.Errorf("%q", held[key.path].why)
	}
	key.changed, chain.changed = false, true
	held = scene{members: []member{key, chain}, started: true}.judge(time.Unix(1000, 0))
	if want := "its certificate is not for the key in live/x/privkey.pem" + writeOther; held[chain.path].why != want {
		t.Errorf("%q", held[chain.path].why)
	}
}

// What the fleet has was judged where it was written, if anywhere: here it is as it is.
func TestWhatTheFleetHasIsNotJudged(t *testing.T) {
	d := openAlone(t)
	var writes []Write
	for _, name := range []string{"cut.pem", "x.key", "x.crt"} {
		content := "-----BEGIN CERTIFICATE-----\n"
		if name != "cut.pem" {
			pair := issue(t, newKey(t))
			content = map[string]string{"x.key": pair.key, "x.crt": pair.leaf}[name] // of two pairs
		}
		writes = append(writes, Write{Path: index.MustPath(name), Data: []byte(content), Perm: 0o600})
	}
	if _, err := d.Publish(fleet.Epoch{}, writes...); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(d.Path, "x.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := newScan()
	d.walkInto(s, index.Path{})
	touched := d.takeScanLocked(s)
	if len(d.holds) > 0 || !slices.Equal(touched, []index.Path{index.MustPath("x.key")}) {
		t.Errorf("held: %v; changed: %v, where only a mode did", d.holds, touched)
	}
}

// However many files change at once, a key and its certificate travel in one batch.
func TestNoBatchPartsAPair(t *testing.T) {
	m := newWorld("fe1").machines[0]
	m.start()
	var changes []index.Change
	for i := range 1500 {
		for _, ext := range []string{"crt", "issuer.crt", "key"} {
			changes = append(changes, index.Change{Path: index.MustPath(fmt.Sprintf("flat/site%04d.%s", i, ext)), Content: m.content("x")})
		}
	}
	for i := range 300 { // a directory between the two halves
		p := fmt.Sprintf("mixed/site%04d.", i)
		changes = append(changes, index.Change{Path: index.MustPath(p + "crt"), Content: m.content("x")},
			index.Change{Path: index.MustPath(p + "d/file"), Content: m.content("x")}, index.Change{Path: index.MustPath(p + "key"), Content: m.content("x")})
	}
	m.r.author(changes, func(c index.Change) index.Stamp { return m.r.stampFor(m.clock(), c) })
	batches, sizes := map[set]uint64{}, map[uint64]int{}
	for _, c := range changes {
		e := m.r.x.Live(c.Path)
		sizes[e.Batch]++
		if s, ok := setOf(c.Path); ok {
			if batch, seen := batches[s]; seen && batch != e.Batch {
				t.Fatalf("%s is in batch %d, its other half in %d", c.Path, e.Batch, batch)
			}
			batches[s] = e.Batch
		}
	}
	for batch, n := range sizes {
		if n > wire.MaxBatch {
			t.Errorf("batch %d has %d entries", batch, n)
		}
	}
	if len(sizes) < len(changes)/wire.MaxBatch {
		t.Errorf("%d batches", len(sizes))
	}
}

func BenchmarkSettle(b *testing.B) {
	b.Run("name-of-no-interest", func(b *testing.B) {
		p := index.MustPath("acme/.well-known/acme-challenge/token")
		for b.Loop() {
			setOf(p)
		}
	})
	b.Run("judge-a-pair", func(b *testing.B) {
		s := scene{started: true, members: []member{
			{path: index.MustPath("x.key"), pem: keyOf(1)}, {path: index.MustPath("x.crt"), pem: certificateOf(1), changed: true}}}
		for b.Loop() {
			s.judge(time.Unix(1000, 0))
		}
	})
}

// BenchmarkSettleAtStart judges 5,000 pairs that a node finds when it starts for the first time, and again when it knows them.
func BenchmarkSettleAtStart(b *testing.B) {
	const pairs = 5000
	d := openAlone(b)
	pair := issue(b, newKey(b))
	for i := range pairs {
		dir := filepath.Join(d.Path, fmt.Sprintf("site%04d", i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			b.Fatal(err)
		}
		for name, content := range map[string]string{"privkey.pem": pair.key, "fullchain.pem": pair.fullchain} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				b.Fatal(err)
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	look := func() *survey {
		s := newScan()
		d.walkInto(s, index.Path{})
		d.verifyScanLocked(s)
		return s
	}
	run := func(b *testing.B) {
		s := look()
		for b.Loop() {
			d.settleLocked(s)
		}
		if len(d.holds) > 0 {
			b.Errorf("%d are held", len(d.holds))
		}
	}
	d.r.seeded = false
	b.Run("all-new", run)
	d.r.seeded = true
	d.takeScanLocked(look())
	b.Run("all-known", run)
	b.Run("the-look-itself", func(b *testing.B) {
		for b.Loop() {
			look()
		}
	})
}
