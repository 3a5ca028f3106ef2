package pairs

import (
	"strings"
	"testing"
	"time"

	"certswarm/syncer/index"
)

// halves of the generations 1, 2 ...
func keyOf(generation byte) File { return File{keys: []PublicKey{{generation}}} }
func certificateOf(generation byte) File {
	return File{certified: true, certifies: PublicKey{generation}}
}

var brokenFile = File{Broken: "it is empty"}

func TestWhatIsHeld(t *testing.T) {
	const old, written, added = 0, 1, 2 // as the fleet has it; another than the fleet has; new to the fleet
	file := func(name string, pem File, how int) Member {
		return Member{Path: index.MustPath(name), File: pem, Changed: how != old, New: how == added}
	}
	busy := func(m Member) Member { m.Busy, m.Changed = true, false; return m }
	const moment, long = 10 * time.Millisecond, 5 * time.Second
	for name, c := range map[string]struct {
		members       []Member
		absent, start bool
		after         time.Duration // since all this was first seen
		moving        bool          // the links were moved just now
		held          string        // "": nothing
		blamed        string
		until         time.Duration
	}{
		"a certificate for the key that is there":      {members: []Member{file("x.key", keyOf(1), old), file("x.crt", certificateOf(1), written)}},
		"a whole new pair":                             {members: []Member{file("x.key", keyOf(2), written), file("x.crt", certificateOf(2), written)}},
		"the key alone is new":                         {members: []Member{file("x.key", keyOf(2), written), file("x.crt", certificateOf(1), old)}, after: long, held: "x.key", blamed: "x.key"},
		"the certificate alone is new":                 {members: []Member{file("x.key", keyOf(1), old), file("x.crt", certificateOf(2), written)}, after: long, held: "x.crt", blamed: "x.crt"},
		"two generations":                              {members: []Member{file("x.key", keyOf(2), written), file("x.crt", certificateOf(3), written)}, after: long, held: "x.key x.crt", blamed: "x.key x.crt"},
		"at start as well":                             {members: []Member{file("x.key", keyOf(2), added), file("x.crt", certificateOf(3), added)}, start: true, held: "x.key x.crt", blamed: "x.key x.crt"},
		"a new key waits a moment":                     {members: []Member{file("x.key", keyOf(1), added)}, after: moment, held: "x.key", until: settleDelay},
		"and goes":                                     {members: []Member{file("x.key", keyOf(1), added)}, after: settleDelay},
		"what lay there at the start does not":         {members: []Member{file("x.key", keyOf(1), added)}, start: true},
		"a changed key without a certificate anywhere": {members: []Member{file("x.key", keyOf(2), written)}},
		"the other half is being replaced":             {members: []Member{file("x.key", keyOf(2), written)}, absent: true, after: time.Second, held: "x.key", until: time.Second + settleDelay},
		"one of the chains is being replaced": {
			members: []Member{file("privkey.pem", keyOf(2), written), file("cert.pem", certificateOf(2), written)}, absent: true, after: time.Second,
			held: "privkey.pem cert.pem", until: time.Second + settleDelay},
		"or given up": {
			members: []Member{file("privkey.pem", keyOf(2), written), file("cert.pem", certificateOf(2), written)}, absent: true, after: Patience},
		"the other half is gone for good":           {members: []Member{file("x.key", keyOf(2), written)}, absent: true, after: Patience},
		"chains wait for nobody":                    {members: []Member{file("chain.pem", certificateOf(7), added)}},
		"a file with both":                          {members: []Member{file("x.pem", File{certified: true, certifies: PublicKey{1}, keys: []PublicKey{{1}}}, added)}},
		"a broken file":                             {members: []Member{file("x.key", brokenFile, written)}, after: long, held: "x.key", blamed: "x.key"},
		"a broken file that the fleet has as it is": {members: []Member{file("x.key", keyOf(2), written), file("x.crt", brokenFile, old)}},
		"were its first block sound":                {members: []Member{file("x.key", keyOf(2), written), file("x.crt", File{Broken: "the second PEM block has no END line", certified: true, certifies: PublicKey{1}}, old)}},
		"a broken half keeps the other": {
			members: []Member{file("x.key", keyOf(2), written), file("x.crt", brokenFile, written)}, after: long, held: "x.key x.crt", blamed: "x.key x.crt"},
		"junk that the fleet never had does not for long": {
			members: []Member{file("x.key", keyOf(2), written), file("x.crt", certificateOf(2), written), file("x.pem", brokenFile, added)}, after: long, held: "x.pem", blamed: "x.pem"},
		"but for a while": {
			members: []Member{file("x.key", keyOf(2), written), file("x.crt", certificateOf(2), written), file("x.pem", brokenFile, added)}, after: moment, held: "x.key x.crt x.pem", blamed: "x.key x.crt x.pem", until: Patience},
		"a half that is being written keeps the other": {
			members: []Member{file("x.key", keyOf(2), written), busy(file("x.crt", File{}, written))}, after: long, held: "x.key", blamed: "x.key"},
		"a whole pair waits for a third file to become whole": {
			members: []Member{file("privkey.pem", keyOf(2), written), file("fullchain.pem", certificateOf(2), written), file("chain.pem", brokenFile, written)},
			after:   moment, held: "privkey.pem fullchain.pem chain.pem", blamed: "privkey.pem fullchain.pem chain.pem", until: Patience},
		"and no longer": {
			members: []Member{file("privkey.pem", keyOf(2), written), file("fullchain.pem", certificateOf(2), written), file("chain.pem", brokenFile, written)},
			after:   Patience, held: "chain.pem", blamed: "chain.pem"},
		"whatever the third is called": {
			members: []Member{file("privkey.pem", keyOf(2), written), file("fullchain.pem", certificateOf(2), written), file("cert.pem", brokenFile, written)},
			after:   Patience, held: "cert.pem", blamed: "cert.pem"},
		"or whoever writes it": {
			members: []Member{file("x.key", keyOf(2), written), file("x.crt", certificateOf(2), written), busy(file("x.pem", File{}, written))}, after: Patience},
		"a renewal with the old key does not wait for ever either": {
			members: []Member{file("privkey.pem", keyOf(1), old), file("fullchain.pem", certificateOf(1), written), file("chain.pem", brokenFile, written)},
			after:   Patience, held: "chain.pem", blamed: "chain.pem"},
		"but for the chain that is served": {
			members: []Member{file("privkey.pem", keyOf(2), written), file("cert.pem", certificateOf(2), written), file("fullchain.pem", brokenFile, written)},
			after:   long, held: "privkey.pem cert.pem fullchain.pem", blamed: "privkey.pem cert.pem fullchain.pem"},
		"and for a pair that is none without it": {
			members: []Member{file("privkey.pem", keyOf(2), written), file("cert.pem", certificateOf(1), written), file("chain.pem", brokenFile, written)},
			after:   long, held: "privkey.pem cert.pem chain.pem", blamed: "privkey.pem cert.pem chain.pem"},
		"at the start it waits for nobody": {
			members: []Member{file("privkey.pem", keyOf(2), written), file("fullchain.pem", certificateOf(2), written), file("chain.pem", brokenFile, written)},
			start:   true, held: "chain.pem", blamed: "chain.pem"},
		"a stale third file waits for its turn": {
			members: []Member{file("privkey.pem", keyOf(2), written), file("fullchain.pem", certificateOf(2), written), file("cert.pem", certificateOf(1), old)},
			after:   moment, held: "privkey.pem fullchain.pem", until: Patience},
		"and is left behind": {
			members: []Member{file("privkey.pem", keyOf(2), written), file("fullchain.pem", certificateOf(2), written), file("cert.pem", certificateOf(1), old)}, after: Patience},
		"one that the fleet never had is held alone": {
			members: []Member{file("privkey.pem", keyOf(2), added), file("fullchain.pem", certificateOf(2), added), file("cert.pem", certificateOf(1), added)},
			start:   true, held: "cert.pem", blamed: "cert.pem"},
		"of all the files of a set not one comes late": {
			members: []Member{file("privkey.pem", keyOf(2), written), file("cert.pem", certificateOf(1), written), file("fullchain.pem", certificateOf(2), written), file("chain.pem", File{}, written)},
			after:   long, held: "privkey.pem cert.pem fullchain.pem chain.pem", blamed: "privkey.pem cert.pem fullchain.pem chain.pem"},
		"a key that cannot be told fits everywhere": {members: []Member{file("x.key", File{opaque: true}, written), file("x.crt", certificateOf(1), old)}},
		"what never matched is no reason":           {members: []Member{file("x.key", keyOf(1), old), file("x.crt", certificateOf(9), old), file("x.cer", File{}, written)}, after: long},
		"a CA's certificate beside a server's is not the key's": {
			members: []Member{file("x.key", keyOf(2), written), file("x.crt", certificateOf(2), written), file("x.pem", File{certified: true, certifies: PublicKey{9}, authority: true}, old)}},
		"a CA's own is": {
			members: []Member{file("ca.key", keyOf(2), written), file("ca.crt", File{certified: true, certifies: PublicKey{1}, authority: true}, old)},
			after:   long, held: "ca.key", blamed: "ca.key"},
		"links that still move": {
			members: []Member{file("privkey.pem", keyOf(1), old), file("cert.pem", certificateOf(1), written)}, after: moment, moving: true, held: "cert.pem", until: moment + settleDelay},
		"links that move for ever": {
			members: []Member{file("privkey.pem", keyOf(1), old), file("cert.pem", certificateOf(1), written)}, after: settleMost, moving: true},
	} {
		t.Run(name, func(t *testing.T) {
			begun := time.Unix(1000, 0)
			now := begun.Add(c.after)
			s := Snapshot{Members: c.members, Started: !c.start, Absent: c.absent}
			if c.moving {
				s.LinksSince, s.LinksMoved = begun, now
			}
			for i := range s.Members {
				s.Members[i].Since = begun
			}
			held := s.Judge(now)
			var paths, blamed []string
			until := time.Duration(0)
			for _, m := range c.members {
				h, ok := held[m.Path]
				if !ok {
					continue
				}
				paths = append(paths, m.Path.String())
				if h.Why != "" {
					blamed = append(blamed, m.Path.String())
				}
				if !h.Until.IsZero() {
					until = h.Until.Sub(begun)
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
	key := Member{Path: index.MustPath("live/x/privkey.pem"), File: keyOf(2), Changed: true}
	chain := Member{Path: index.MustPath("live/x/fullchain.pem"), File: certificateOf(1)}
	held := Snapshot{Members: []Member{key, chain}, Started: true}.Judge(time.Unix(1000, 0))
	if want := "it is not the key of the certificate in live/x/fullchain.pem" + writeOther; held[key.Path].Why != want {
		t.Errorf("%q", held[key.Path].Why)
	}
	key.Changed, chain.Changed = false, true
	held = Snapshot{Members: []Member{key, chain}, Started: true}.Judge(time.Unix(1000, 0))
	if want := "its certificate is not for the key in live/x/privkey.pem" + writeOther; held[chain.Path].Why != want {
		t.Errorf("%q", held[chain.Path].Why)
	}
}

func BenchmarkJudgeAPair(b *testing.B) {
	s := Snapshot{Started: true, Members: []Member{
		{Path: index.MustPath("x.key"), File: keyOf(1)}, {Path: index.MustPath("x.crt"), File: certificateOf(1), Changed: true}}}
	for b.Loop() {
		s.Judge(time.Unix(1000, 0))
	}
}
