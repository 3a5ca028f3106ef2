package agent_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent"
	"certswarm/internal/control"
	"certswarm/testnet"
)

const leaseTTL = 30 * time.Second // the default

// voting returns when every running node knows of that many voters and a holder that may act, whose number it returns.
func voting(t *testing.T, f *testnet.Fleet, nodes, voters int, within time.Duration) (holder int) {
	t.Helper()
	for begun := time.Now(); ; f.Advance(100 * time.Millisecond) {
		holder, agree := -1, true
		for i := range nodes {
			if !f.Live(i) {
				continue
			}
			l := f.Status(i).Lease
			votes := 0
			for _, v := range l.Voters {
				if !v.Learner {
					votes++
				}
			}
			agree = agree && votes == voters && l.Holder != ""
			if l.HeldHere {
				holder = i
			}
		}
		if agree && holder >= 0 {
			return holder
		}
		if time.Since(begun) > within {
			t.Fatalf("after %v fe%d holds the lease (0: nobody), and not everybody knows of %d voters: %+v", within, holder+1, voters, f.Status(0).Lease)
		}
	}
}

// taken returns how long it takes until another node may act.
func taken(t *testing.T, f *testnet.Fleet, nodes, from int, within time.Duration) (took time.Duration) {
	t.Helper()
	for begun := time.Now(); ; f.Advance(50 * time.Millisecond) {
		for i := range nodes {
			if i != from && f.Live(i) && f.Status(i).Lease.HeldHere {
				return time.Since(begun)
			}
		}
		if time.Since(begun) > within {
			t.Fatalf("nobody has taken over after %v", within)
		}
	}
}

// The bounds that are promised, at the default timings.
func TestTheLeaseMovesInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 3, Latency: time.Millisecond})
		f.Settle()
		holder := voting(t, f, 3, 3, 5*time.Minute)
		f.Stop(holder)
		if took := taken(t, f, 3, holder, time.Minute); took > time.Second {
			t.Errorf("another node may act %v after the holder ended in good order", took)
		}
		f.Start(holder)
		f.Settle()
		holder = voting(t, f, 3, 3, 5*time.Minute)
		f.Crash(holder)
		if took := taken(t, f, 3, holder, 2*time.Minute); took > leaseTTL+15*time.Second {
			t.Errorf("another node may act %v after the holder crashed", took)
		}
	})
}

// A list that grows from two to three wants a vote, and gets it without a session being lost.
func TestAThirdNodeBringsAVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var third string
		f := testnet.NewDown(t, testnet.Options{Nodes: 3, Config: func(node int, yaml string) string {
			if node == 2 {
				return yaml
			}
			from := strings.Index(yaml, "  - {name: fe3")
			third = yaml[from : from+strings.Index(yaml[from:], "\n")+1]
			return strings.Replace(yaml, third, "", 1)
		}})
		f.Start(0)
		f.Start(1)
		f.Advance(10 * time.Second)
		if l := f.Status(1).Lease; l.Engine != "static" || l.Holder != "fe1" {
			t.Fatalf("two nodes have the lease %+v", l)
		}
		epoch := f.Status(0).Lease.Epoch
		for i := range 2 {
			if err := reconfigure(t, f, i, "directories:", third+"directories:"); err != nil {
				t.Fatal(err)
			}
			if i == 0 && f.Status(1).Lease.Engine != "static" {
				t.Error("fe2 votes without having been told to")
			}
		}
		f.Advance(time.Second)
		for i := range 2 {
			s := f.Status(i)
			if s.Lease.Engine != "raft" || !s.Peers[0].Connected {
				t.Errorf("fe%d has the lease %+v and the peer %+v", i+1, s.Lease, s.Peers[0])
			}
		}
		f.Start(2)
		f.Settle()
		holder := voting(t, f, 3, 3, 5*time.Minute)
		if now := f.Status(holder).Lease.Epoch; now.Compare(epoch) <= 0 {
			t.Errorf("the vote grants under %v, and before it was %v", now, epoch)
		}
	})
}

// holders returns how many nodes may act this moment.
func holders(f *testnet.Fleet, nodes int) (n int) {
	for i := range nodes {
		if f.Live(i) && f.Status(i).Lease.HeldHere {
			n++
		}
	}
	return n
}

// peerLine returns the line about a peer in a node's configuration.
func peerLine(t *testing.T, f *testnet.Fleet, node int, peer string) string {
	t.Helper()
	yaml, err := os.ReadFile(filepath.Join(filepath.Dir(f.Path(node, "")), "certswarm.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile("(?m)^  - .name: " + peer + ",.*\n").FindString(string(yaml))
}

// While a list that shrinks is rolled out, whoever was voted to acts, and nobody by the new list, even where there is no session to the
// holder any more.
func TestAListThatShrinksMakesNoSecondHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 3})
		f.Settle()
		holder := voting(t, f, 3, 3, 5*time.Minute)
		for ; holder == 0; holder = voting(t, f, 3, 3, 5*time.Minute) {
			if err := f.Agent(0).ResignLease(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		stays := 3 - holder
		alone := func(span time.Duration) {
			t.Helper()
			for begun := time.Now(); time.Since(begun) < span; f.Advance(100 * time.Millisecond) {
				if n := holders(f, 3); n > 1 {
					t.Fatalf("%d nodes act %v after a list has changed", n, time.Since(begun))
				}
			}
		}
		drop := func(node int) {
			t.Helper()
			line := peerLine(t, f, node, fmt.Sprintf("fe%d", holder+1))
			if err := reconfigure(t, f, node, line, ""); err != nil {
				t.Fatal(err)
			}
		}
		before := f.Status(holder).Lease.Epoch
		drop(0)
		alone(90 * time.Second)
		if l := f.Status(0).Lease; l.Engine != "static" || l.HeldHere || l.Epoch != before {
			t.Errorf("fe1 has the new list, and the lease %+v", l)
		}
		if _, _, err := f.Agent(0).Right(t.Context(), false); err == nil {
			t.Error("fe1 lets others act under the lease")
		}
		drop(stays)
		alone(2 * leaseTTL)
		f.Stop(holder)
		if l := f.Status(0).Lease; !l.HeldHere || l.Epoch.Compare(before) <= 0 {
			t.Errorf("when all have the new list fe1 has the lease %+v", l)
		}
	})
}

// A holder by the list alone stops as soon as it hears of one that was voted to.
func TestAVoteEndsTheRightByTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.NewDown(t, testnet.Options{Nodes: 3, Config: func(node int, yaml string) string {
			if node == 0 {
				yaml += "lease: {engine: static}\n"
			}
			return yaml
		}})
		f.CutAll(0)
		for i := range 3 {
			f.Start(i)
		}
		taken(t, f, 3, 0, 5*time.Minute)
		right, _, err := f.Agent(0).Right(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		f.Heal()
		f.Settle()
		if right.Context().Err() == nil || holders(f, 3) != 1 || f.Status(0).Lease.HeldHere {
			t.Errorf("fe1 still acts; it has the lease %+v", f.Status(0).Lease)
		}
		voted := f.Status(0).Lease.Epoch
		f.Stop(1)
		f.Stop(2)
		f.Advance(2 * leaseTTL)
		if l := f.Status(0).Lease; !l.HeldHere || l.Epoch.Compare(voted) <= 0 {
			t.Errorf("without a vote fe1 has the lease %+v, and before it was %v", l, voted)
		}
	})
}

// counted is a CA that is not there, and counts who would have liked it to be.
type counted struct{ requests *atomic.Int32 }

// RoundTrip implements http.RoundTripper.
func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.requests.Add(1)
	return absent{}.RoundTrip(r)
}

// because returns what a problem says of its cause, "" where there is none.
func because(s control.Status, code control.Code) string {
	for _, p := range s.Problems {
		if p.Code == code {
			return p.Because
		}
	}
	return ""
}

// hung is a CA that takes questions and never answers.
type hung struct{}

// RoundTrip implements http.RoundTripper.
func (hung) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// Of several certificates that would expire none waits until another one has failed (what they do meanwhile: acmeclient.Visit).
func TestBreakGlassForSeveralAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		options := withCertificates(testnet.Options{Nodes: 2})
		plain, without := options.Config, options.Edges
		options.Config = func(i int, yaml string) string {
			return strings.Replace(plain(i, yaml), "[{name: www.example.com}]", "[{name: a.example.com}, {name: b.example.com}, {name: c.example.com}]", 1)
		}
		options.Edges = func(i int, edges *agent.Edges) {
			if without(i, edges); i == 1 {
				edges.CA = hung{}
			}
		}
		f := testnet.New(t, options)
		f.Settle()
		f.Stop(0)
		for tries := 0; !tells(f.Status(1), control.BreakGlass, ""); tries++ {
			if tries > 15*60 {
				t.Fatal("the glass was never broken")
			}
			f.Advance(time.Second)
		}
		for _, name := range []string{"a", "b", "c"} {
			if s := f.Status(1); !tells(s, control.BreakGlass, name+".example.com is asked for without the lease") {
				t.Errorf("%s is not asked for: %+v", name, s.Problems)
			}
		}
	})
}

// Who is on its own asks for what would expire, loudly, and again while the CA cannot be reached; of a pair it is the understudy.
func TestBreakGlass(t *testing.T) {
	for name, c := range map[string]struct {
		nodes, down int
		lease       string
		asked       bool
	}{
		"of a pair":          {2, 1, "{}", true},
		"of three":           {3, 2, "{}", true},
		"unless that is off": {2, 1, `{break_glass: {mode: "off"}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				options := withCertificates(testnet.Options{Nodes: c.nodes})
				plain := options.Config
				options.Config = func(i int, yaml string) string { return plain(i, yaml) + "lease: " + c.lease + "\n" }
				alone := c.nodes - 1
				var requests atomic.Int32
				without := options.Edges
				options.Edges = func(i int, edges *agent.Edges) {
					without(i, edges)
					if i == alone {
						edges.CA = counted{&requests}
					}
				}
				f := testnet.New(t, options)
				f.Settle()
				f.Advance(time.Second)
				for i := range c.down {
					f.Stop(i)
				}
				requests.Store(0) // of a lease that it may have held
				time.Sleep(9 * time.Minute)
				f.Advance(time.Second)
				if tells(f.Status(alone), control.BreakGlass, "") {
					t.Fatal("the glass is broken before its time")
				}
				time.Sleep(5 * time.Minute)
				f.Advance(time.Second)
				s := f.Status(alone)
				if got := tells(s, control.BreakGlass, "www.example.com is asked for without the lease"); got != c.asked {
					t.Errorf("asked for without the lease: %v\n%+v", got, s.Problems)
				}
				if n := ordersWithoutLease(f, alone); n != 0 {
					t.Errorf("%v orders are counted at a CA that cannot be reached", n)
				}
				const once = 10 // at most, requests in one attempt
				if asked := requests.Load(); c.asked && asked <= once {
					t.Errorf("the CA was asked %d times: it was not tried again", asked)
				}
				if !tells(s, control.NoLeaseHolder, "nobody holds the lease") {
					t.Errorf("nothing says that nobody holds the lease: %+v", s.Problems)
				}
				if promised := strings.Contains(because(s, control.NoLeaseHolder), "(break-glass)"); promised != c.asked {
					t.Errorf("that what would expire is renewed is promised: %v", promised)
				}
				if votes := strings.Contains(because(s, control.BreakGlass), "majority"); c.asked && votes != (c.nodes > 2) {
					t.Errorf("a majority is needed: %v", votes)
				}
				if asked := requests.Load(); asked > 0 != c.asked {
					t.Errorf("the CA was asked %d times by whoever has no lease", asked)
				}
				f.Start(0) // a holder, or with it a majority
				f.Settle()
				time.Sleep(2 * leaseTTL)
				f.Advance(time.Second)
				if s := f.Status(alone); s.Lease.Holder == "" || tells(s, control.NoLeaseHolder, "") {
					t.Errorf("after the lease came back: %+v, %+v", s.Lease, s.Problems)
				}
			})
		})
	}
}

// Who takes no part in the vote shows who does, and what the holder has spent of the budget, by the word of those who know; and shows nothing of it as
// its own knowledge once they are gone.
func TestAMemberShowsWhoVotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 5, Roles: []string{"issuer", "witness", "issuer", "member", "member"}})
		f.Settle()
		holder := voting(t, f, 3, 3, 5*time.Minute)
		f.Cut(1, 3)
		f.Advance(20 * time.Second)
		there, here := f.Status(holder).Lease, f.Status(3).Lease
		if here.Leader != there.Leader || here.Leader == "" || here.Wished != 3 || len(here.Voters) != 3 {
			t.Errorf("a member shows %+v, and the holder %+v", here, there)
		}
		for _, v := range here.Voters {
			if v.Learner || !v.Listed || v.Connected != (v.Name != "fe2") || v.Name == "fe4" || v.Name == "fe5" {
				t.Errorf("a member that cannot see fe2 says of a voter: %+v", v)
			}
		}
		f.Cut(holder, 4)
		f.Advance(20 * time.Second)
		if l := f.Status(4).Lease; len(l.Voters) != 3 {
			t.Errorf("a member that does not see the holder shows %+v", l)
		}
		f.Stop((holder + 2) % 4) // the other issuer
		f.Advance(20 * time.Second)
		if l := f.Status(4).Lease; len(l.Voters) != 3 {
			t.Errorf("a member shows %+v while two voters are left", l)
		}
		f.Stop(holder)
		f.Stop(1)
		f.Advance(20 * time.Second)
		if l := f.Status(4).Lease; len(l.Voters) != 0 || l.Leader != "" {
			t.Errorf("a member shows who voted when it last heard of it: %+v", l)
		}
	})
}
