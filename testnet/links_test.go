package testnet_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"certswarm/testnet"
)

// certbot is what its renewal does to archive/x and live/x, with pauses.
func certbot(s *site, generation int, p pair, reuse bool, pause time.Duration) {
	for _, kind := range []string{"privkey", "cert", "chain", "fullchain"} {
		content := p.chain
		if kind == "privkey" {
			content = p.key
		}
		s.Write(0, fmt.Sprintf("archive/x/%s%d.pem", kind, generation), content)
		s.Advance(time.Millisecond)
	}
	for _, kind := range []string{"cert", "privkey", "chain", "fullchain"} {
		if kind == "privkey" && reuse {
			continue
		}
		s.Mkdir(0, "live/x")
		s.Symlink(0, fmt.Sprintf("../../archive/x/%s%d.pem", kind, generation), "live/x/"+kind+".pem")
		for range pause / time.Millisecond {
			s.pass(time.Millisecond)
			s.oneGeneration()
		}
	}
	for range 80 {
		s.pass(time.Millisecond)
		s.oneGeneration()
	}
}

// oneGeneration fails unless the certificates of live/x on the second node are all of one generation.
func (s *site) oneGeneration() {
	s.t.Helper()
	var of string
	for _, kind := range []string{"cert", "chain", "fullchain"} {
		target, err := os.Readlink(s.Path(1, "live/x/"+kind+".pem"))
		if err != nil {
			s.t.Fatal(err)
		}
		generation := strings.TrimPrefix(target, "../../archive/x/"+kind)
		if of != "" && of != generation {
			s.t.Fatalf("%s leads to %s", kind, target)
		}
		of = generation
	}
}

func TestCertbotRenews(t *testing.T) {
	for name, reuse := range map[string]bool{"with a new key": false, "with the old key": true} {
		t.Run(name, func(t *testing.T) {
			story(t, three, func(t *testing.T, f *testnet.Fleet) {
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				p := pairWith(t, key)
				for _, kind := range []string{"privkey", "cert", "chain", "fullchain"} {
					content := p.chain
					if kind == "privkey" {
						content = p.key
					}
					f.Write(0, "archive/x/"+kind+"1.pem", content)
					f.Mkdir(0, "live/x")
					f.Symlink(0, "../../archive/x/"+kind+"1.pem", "live/x/"+kind+".pem")
				}
				f.Settle()
				s := &site{f, t, "live/x/privkey.pem", "live/x/fullchain.pem"}
				for generation := 2; generation < 5; generation++ {
					if p = newPair(t); reuse {
						p = pairWith(t, key)
					}
					certbot(s, generation, p, reuse, 10*time.Millisecond)
					s.expect(p)
				}
				f.Settle()
				f.AssertSame()
			})
		})
	}
}

// certbot removes a link before it makes the next one. Were it stopped in between, the others would wait for the link: none of them sees it missing,
// nor the chains of two generations.
func TestALinkIsRemovedAndMadeAnew(t *testing.T) {
	for _, pause := range []time.Duration{30 * time.Millisecond, 300 * time.Millisecond, 1800 * time.Millisecond} {
		t.Run(pause.String(), func(t *testing.T) {
			story(t, three, func(t *testing.T, f *testnet.Fleet) {
				s := &site{f, t, "live/x/privkey.pem", "live/x/fullchain.pem"}
				kinds := []string{"privkey", "cert", "chain", "fullchain"}
				link := func(kind string, generation int) {
					f.Symlink(0, fmt.Sprintf("../../archive/x/%s%d.pem", kind, generation), "live/x/"+kind+".pem")
				}
				f.Mkdir(0, "live/x")
				for generation := 1; generation <= 2; generation++ {
					p := newPair(t)
					f.Write(0, fmt.Sprintf("archive/x/privkey%d.pem", generation), p.key)
					for _, kind := range kinds[1:] {
						f.Write(0, fmt.Sprintf("archive/x/%s%d.pem", kind, generation), p.chain)
					}
					if generation == 1 {
						for _, kind := range kinds {
							link(kind, 1)
						}
					}
					f.Settle()
				}
				for _, kind := range kinds {
					f.Remove(0, "live/x/"+kind+".pem")
					if kind == "fullchain" {
						for range pause / (10 * time.Millisecond) {
							s.pass(10 * time.Millisecond)
							s.oneGeneration()
						}
					}
					link(kind, 2)
				}
				for range 80 {
					s.pass(time.Millisecond)
					s.oneGeneration()
				}
				f.Settle()
				f.AssertSame()
				if target, err := os.Readlink(f.Path(1, "live/x/fullchain.pem")); err != nil || target != "../../archive/x/fullchain2.pem" {
					t.Error(target, err)
				}
			})
		})
	}
}

// What a link leads to was open for so long that it is looked at seldom: the links beside it wait for it, too.
func TestLinksWaitForOneThatLeadsToSomethingHeld(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		s := &site{f, t, "live/x/privkey.pem", "live/x/fullchain.pem"}
		f.Mkdir(0, "live/x")
		f.Mkdir(0, "archive/x")
		var p pair
		for generation := 1; generation <= 2; generation++ {
			p = newPair(t)
			f.Write(0, fmt.Sprintf("archive/x/privkey%d.pem", generation), p.key)
			f.Write(0, fmt.Sprintf("archive/x/cert%d.pem", generation), p.chain)
			chain := f.Path(0, fmt.Sprintf("archive/x/fullchain%d.pem", generation))
			file, err := os.Create(chain)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteString(p.chain); err != nil {
				t.Fatal(err)
			}
			f.Advance(11*time.Second + 900*time.Millisecond)
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
			for _, kind := range []string{"privkey", "cert", "fullchain"} {
				f.Symlink(0, fmt.Sprintf("../../archive/x/%s%d.pem", kind, generation), "live/x/"+kind+".pem")
			}
			for range 300 {
				if f.Advance(10 * time.Millisecond); generation == 2 {
					s.pass(time.Millisecond)
				}
			}
			f.Settle()
		}
		f.AssertSame()
		s.expect(p)
	})
}

// Links of one directory that are moved shortly after each other arrive together, whatever they are called; and not too late either.
func TestLinksMoveTogether(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		p := newPair(t)
		f.Write(0, "archive/a.pem", p.chain)
		f.Mkdir(0, "live")
		f.Settle()
		there := func(name string) bool { _, ok := f.Read(1, name); return ok }
		f.Symlink(0, "../archive/a.pem", "live/one.crt")
		f.Advance(30 * time.Millisecond)
		f.Symlink(0, "../archive/a.pem", "live/two.crt")
		for range 100 {
			f.Advance(time.Millisecond)
			if there("live/one.crt") != there("live/two.crt") {
				t.Fatalf("one: %v, two: %v", there("live/one.crt"), there("live/two.crt"))
			}
		}
		if !there("live/one.crt") {
			t.Error("fe2 has neither")
		}
		for i := range 60 { // one that never rests
			if i == 51 && !there("live/restless-0.crt") {
				t.Error("after more than a second fe2 has none of the links")
			}
			f.Symlink(0, "../archive/a.pem", fmt.Sprintf("live/restless-%d.crt", i))
			f.Advance(20 * time.Millisecond)
		}
	})
}

// A link goes after what it leads to, also where that is a directory.
func TestALinkWaitsForWhatItLeadsTo(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		p := newPair(t)
		f.Write(0, "gen/2/privkey.pem", p.key[:50])
		f.Symlink(0, "gen/2", "current")
		f.Advance(3 * time.Second)
		if _, err := os.Lstat(f.Path(1, "current")); err == nil {
			t.Error("fe2 has the link")
		}
		f.Write(0, "gen/2/privkey.pem", p.key)
		f.Settle()
		f.AssertSame()
		expect(t, f, 1, "current/privkey.pem", p.key)
	})
}
