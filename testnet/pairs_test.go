package testnet_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
	"certswarm/syncer/index"
	"certswarm/testnet"
)

// pair is a key and its certificate, in PEM.
type pair struct{ key, chain string }

func newPair(t testing.TB) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pairWith(t, key)
}

func pairWith(t testing.TB, key *ecdsa.PrivateKey) pair {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "site"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		key:   string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})),
		chain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
	}
}

// site is a pair in a fleet, by its names.
type site struct {
	*testnet.Fleet
	t          *testing.T
	key, chain string
}

// tell starts a fleet that has a pair already.
func tell(t *testing.T, play func(s *site)) {
	t.Helper()
	for _, names := range [][2]string{{"x.key", "x.crt"}, {"live/x/privkey.pem", "live/x/fullchain.pem"}} {
		t.Run(names[0], func(t *testing.T) {
			story(t, three, func(t *testing.T, f *testnet.Fleet) {
				s := &site{f, t, names[0], names[1]}
				s.put(0, newPair(t))
				f.Settle()
				play(s)
				f.Settle()
				f.AssertSame()
				s.expectProblem(0, "")
			})
		})
	}
}

func (s *site) put(node int, p pair) {
	s.t.Helper()
	s.Write(node, s.key, p.key)
	s.Write(node, s.chain, p.chain)
}

// pass lets time pass while nobody but the first node may have two halves that do not go together.
func (s *site) pass(d time.Duration) {
	s.t.Helper()
	for ; d > 0; d -= time.Millisecond {
		s.Advance(time.Millisecond)
		for i := 1; i < 3; i++ {
			if _, err := tls.LoadX509KeyPair(s.Path(i, s.chain), s.Path(i, s.key)); err != nil {
				s.t.Fatalf("fe%d: %v", i+1, err)
			}
		}
	}
}

func (s *site) expect(p pair) {
	s.t.Helper()
	for i := range 3 {
		expect(s.t, s.Fleet, i, s.key, p.key)
		expect(s.t, s.Fleet, i, s.chain, p.chain)
	}
}

// expectProblem fails unless a node says that a file is held, with these words; "" if none is.
func (s *site) expectProblem(node int, words string) {
	s.t.Helper()
	var told []string
	for _, p := range s.Status(node).Problems {
		if p.Code == "held-file" {
			told = append(told, p.Text)
		}
	}
	switch {
	case words == "" && len(told) > 0:
		s.t.Errorf("fe%d tells %q, and nothing is held", node+1, told)
	case words != "" && !slices.ContainsFunc(told, func(text string) bool { return strings.Contains(text, words) }):
		s.t.Errorf("fe%d tells %q, not %q", node+1, told, words)
	}
}

func TestHalvesArriveTogether(t *testing.T) {
	for name, keyFirst := range map[string]bool{"the key first": true, "the certificate first": false} {
		t.Run(name, func(t *testing.T) {
			tell(t, func(s *site) {
				p := newPair(s.t)
				first, second := [2]string{s.key, p.key}, [2]string{s.chain, p.chain}
				if !keyFirst {
					first, second = second, first
				}
				s.Write(0, first[0], first[1])
				s.pass(10 * time.Millisecond)
				s.Write(0, second[0], second[1])
				s.pass(7 * time.Millisecond) // one delay of the line
				s.expect(p)
			})
		})
	}
}

// Some programs remove the old file before they write the new one. The half that is missing for a moment is no reason to let the other go.
func TestAHalfIsRemovedAndWrittenAnew(t *testing.T) {
	tell(t, func(s *site) {
		p := newPair(s.t)
		s.Write(0, s.chain, p.chain)
		s.pass(5 * time.Millisecond)
		s.Remove(0, s.key)
		s.pass(20 * time.Millisecond)
		s.Write(0, s.key, p.key)
		s.pass(7 * time.Millisecond)
		s.expect(p)
	})
}

func TestANewPairArrivesTogether(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		p := newPair(t)
		f.Write(0, "x.key", p.key)
		f.Advance(10 * time.Millisecond)
		f.Write(0, "x.crt", p.chain)
		for range 100 {
			f.Advance(time.Millisecond)
			_, key := f.Read(1, "x.key")
			_, chain := f.Read(1, "x.crt")
			if key != chain {
				t.Fatalf("fe2 has the key: %v, the certificate: %v", key, chain)
			}
		}
		expect(t, f, 2, "x.crt", p.chain)
		f.Write(0, "lone.key", p.key)
		f.Advance(40 * time.Millisecond)
		expectNone(t, f, 1, "lone.key")
		f.Advance(30 * time.Millisecond)
		expect(t, f, 1, "lone.key", p.key)
	})
}

// Whoever writes a pair and asks for everything to be read again may count on its being on its way then, although a new half waits a moment for the
// other. What is not whole is waited for only until it is reported.
func TestARescanWaitsForWhatIsHeldForAMoment(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		p := newPair(t)
		read := func(limit time.Duration, file string, goesOut bool) {
			t.Helper()
			begun := time.Now()
			if err := f.Directory(0).Rescan(t.Context()); err != nil {
				t.Fatal(err)
			}
			path, err := index.ParsePath(file)
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); took > limit {
				t.Errorf("%s: the rescan takes %v", file, took)
			}
			if known := f.Directory(0).Lookup(path) != nil; known != goesOut {
				t.Errorf("%s is known: %v", file, known)
			}
		}
		put(t, f, "lone.key", p.key)
		read(100*time.Millisecond, "lone.key", true)
		put(t, f, "half.key", p.key[:len(p.key)/2])
		read(2*time.Second, "half.key", false)
		read(0, "half.key", false)
		f.Settle()
	})
}

// put writes a file without a word to the watcher.
func put(t *testing.T, f *testnet.Fleet, file, content string) {
	t.Helper()
	if err := os.WriteFile(f.Path(0, file), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAMismatchIsReportedAndMended(t *testing.T) {
	for after, reported := range map[time.Duration]bool{1900 * time.Millisecond: false, 5 * time.Second: true} {
		t.Run(after.String(), func(t *testing.T) {
			tell(t, func(s *site) {
				p := newPair(s.t)
				s.Write(0, s.key, p.key)
				s.Advance(time.Second)
				s.expectProblem(0, "")
				s.pass(after - time.Second)
				want := ""
				if reported {
					want = "certs/" + s.key + ": it is not the key of the certificate in " + s.chain
				}
				s.expectProblem(0, want)
				s.expectProblem(1, want)
				s.Write(0, s.chain, p.chain)
				s.pass(10 * time.Millisecond)
				s.expect(p)
				s.expectProblem(0, "")
			})
		})
	}
}

func TestASlowWriterOfOneHalf(t *testing.T) {
	tell(t, func(s *site) {
		p := newPair(s.t)
		s.Write(0, s.key, p.key)
		file, err := os.Create(s.Path(0, s.chain))
		if err != nil {
			s.t.Fatal(err)
		}
		for half := range 2 {
			if _, err := file.WriteString(p.chain[half*len(p.chain)/2 : (half+1)*len(p.chain)/2]); err != nil {
				s.t.Fatal(err)
			}
			s.pass(3 * time.Second)
			s.expectProblem(0, "certs/"+s.chain+": it is being written")
		}
		if err := file.Close(); err != nil {
			s.t.Fatal(err)
		}
		s.pass(100 * time.Millisecond)
		s.expect(p)
	})
}

func TestATruncatedFileStaysHome(t *testing.T) {
	tell(t, func(s *site) {
		p := newPair(s.t)
		s.Write(0, s.key, p.key)
		s.Write(0, s.chain, p.chain[:len(p.chain)/2])
		s.pass(3 * time.Second)
		s.expectProblem(0, "certs/"+s.chain+": the first PEM block has no END line")
		s.Overflow(0)
		s.pass(time.Second)
		s.Write(0, s.chain, p.chain)
		s.pass(10 * time.Millisecond)
		s.expect(p)
	})
}

// A third file that does not become whole is told of, and does not keep a renewal from the others.
func TestAThirdFileThatIsNotWhole(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		s := &site{f, t, "live/x/privkey.pem", "live/x/fullchain.pem"}
		const third = "live/x/chain.pem"
		before := newPair(t)
		s.put(0, before)
		s.Write(0, third, before.chain)
		s.Settle()
		p := newPair(t)
		s.Write(0, third, "")
		s.put(0, p)
		s.pass(1900 * time.Millisecond)
		expect(t, f, 1, s.key, before.key)
		s.pass(200 * time.Millisecond)
		s.expect(p)
		expect(t, f, 1, third, before.chain)
		for i := range 3 {
			s.expectProblem(i, "certs/"+third+": it is empty")
		}
		s.Write(0, third, p.chain)
		s.Settle()
		f.AssertSame()
		s.expectProblem(0, "")
	})
}

// Whoever looks at the half that is whole is told what it waits for.
func TestBothHalvesThatAreHeldAreToldOf(t *testing.T) {
	tell(t, func(s *site) {
		p := newPair(s.t)
		s.Write(0, s.key, p.key)
		s.Write(0, s.chain, "")
		s.pass(3 * time.Second)
		for _, want := range []string{"certs/" + s.chain + ": it is empty", "certs/" + s.key + ": it waits for " + s.chain + ", which is held: it is empty"} {
			if !slices.ContainsFunc(s.Status(0).Problems, func(p control.Problem) bool { return strings.HasPrefix(p.Text, want) }) {
				s.t.Errorf("nobody tells %q: %+v", want, s.Status(0).Problems)
			}
		}
		s.Write(0, s.chain, p.chain)
	})
}

// What is found at the start is judged like what is written later; and a restart does not forget that something is held.
func TestStartWithATruncatedFile(t *testing.T) {
	tell(t, func(s *site) {
		p := newPair(s.t)
		s.Stop(0)
		s.put(0, pair{p.key[:100], p.chain})
		s.Write(0, "new/cut.pem", p.chain[:100])
		s.Start(0)
		s.pass(5 * time.Second)
		expectNone(s.t, s.Fleet, 1, "new/cut.pem")
		s.expectProblem(0, "has no END line")
		s.Remove(0, "new/cut.pem")
		s.Write(0, s.key, p.key)
		s.pass(10 * time.Millisecond)
		s.expect(p)
	})
}

// Nothing that is held, nor anything of PEM-like names, makes others wait.
func TestOthersDoNotWait(t *testing.T) {
	tell(t, func(s *site) {
		p := newPair(s.t)
		s.Write(0, s.key, p.key)
		s.Advance(time.Second)
		old, _ := s.Read(0, s.key)
		for i, content := range []string{"token", "another"} {
			name := fmt.Sprintf("token-%d", i)
			s.Write(0, name, content)
			s.Advance(6 * time.Millisecond)
			expect(s.t, s.Fleet, 1, name, content)
		}
		s.Write(0, s.chain, p.chain)
		s.Advance(6 * time.Millisecond)
		expect(s.t, s.Fleet, 1, s.key, old)
	})
}

// A certificate for the key that is there goes at once, and so does a key that nothing stands beside.
func TestARenewalWithTheOldKeyDoesNotWait(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			p := pairWith(t, key)
			f.Write(0, "x.key", p.key)
			f.Write(0, "x.crt", p.chain)
			f.Advance(6 * time.Millisecond)
			expect(t, f, 1, "x.crt", p.chain)
		}
	})
}

func TestDeletionsAreNotHeld(t *testing.T) {
	tell(t, func(s *site) {
		p := newPair(s.t)
		old, _ := s.Read(1, s.chain)
		s.Write(0, s.key, p.key)
		s.Advance(3 * time.Second)
		s.Remove(0, s.key) // the held half: what is told is that it is gone
		s.Advance(2 * time.Second)
		expectNone(s.t, s.Fleet, 1, s.key)
		expect(s.t, s.Fleet, 1, s.chain, old)
		s.expectProblem(0, "")
		s.put(0, p)
		s.Settle()
		s.Write(0, s.key, newPair(s.t).key)
		s.Advance(3 * time.Second)
		s.expectProblem(0, s.chain)
		s.Remove(0, s.chain) // the other half: the key goes with nothing now
		s.Advance(3 * time.Second)
		expectNone(s.t, s.Fleet, 1, s.chain)
	})
}

// What must be put back need not be whole for that.
func TestGarbageOfAMemberIsReverted(t *testing.T) {
	options := three
	options.Roles = []string{"issuer", "issuer", "member"}
	options.Writers = []string{"issuers"}
	story(t, options, func(t *testing.T, f *testnet.Fleet) {
		p := newPair(t)
		f.Write(0, "x.key", p.key)
		f.Write(0, "x.crt", p.chain)
		f.Settle()
		f.Write(2, "x.key", "")
		f.Write(2, "x.crt", newPair(t).chain)
		f.Advance(100 * time.Millisecond)
		expect(t, f, 2, "x.key", p.key)
		expect(t, f, 2, "x.crt", p.chain)
		expectArchived(t, f, 2, "x.key", "")
		if h := problem(f, 2, "held-file"); h != nil {
			t.Error(h.Text)
		}
	})
}

// A half that is held does not stand in the way of a pair that another node writes.
func TestAPairFromElsewhereEndsAHold(t *testing.T) {
	tell(t, func(s *site) {
		s.Write(0, s.key, newPair(s.t).key)
		s.Advance(3 * time.Second)
		s.expectProblem(0, s.chain)
		p := newPair(s.t)
		s.put(1, p)
		s.Settle()
		s.expect(p)
	})
}

// Two nodes that meet with different pairs agree on one of them, not on halves of both.
func TestPairsMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.NewDown(t, three)
		pairs := []pair{newPair(t), newPair(t)}
		f.Write(0, "x.key", pairs[0].key)
		f.Write(1, "x.key", pairs[1].key)
		f.Write(1, "x.crt", pairs[1].chain)
		f.Write(0, "x.crt", pairs[0].chain)
		then := time.Date(1998, 1, 1, 0, 0, 0, 0, time.UTC)
		for i, file := range []string{"x.key", "x.crt", "x.crt", "x.key"} { // of fe1 the key is the oldest, of fe2 the certificate
			node := i / 2
			if err := os.Chtimes(f.Path(node, file), then, then.Add(time.Duration([]int{0, 30, 10, 20}[i])*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 3 {
			f.Start(i)
		}
		f.Settle()
		f.AssertSame()
		expect(t, f, 2, "x.key", pairs[0].key)
		expect(t, f, 2, "x.crt", pairs[0].chain)
	})
}
