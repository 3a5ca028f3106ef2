package agent_test

import (
	"net/http"
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

// counted is a CA that is not there, and counts who would have liked it to be.
type counted struct{ requests *atomic.Int32 }

// RoundTrip implements http.RoundTripper.
func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.requests.Add(1)
	return absent{}.RoundTrip(r)
}

// Who is on its own orders what would expire, loudly; of a pair it is the understudy.
func TestBreakGlass(t *testing.T) {
	for name, c := range map[string]struct {
		nodes, down int
		lease       string
		ordered     bool
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
				if got := tells(s, control.BreakGlass, "www.example.com was ordered without the lease"); got != c.ordered {
					t.Errorf("ordered without the lease: %v\n%+v", got, s.Problems)
				}
				orders := f.Agent(alone).Counters()["certswarm_break_glass_orders_total"]
				if orders != 0 != c.ordered || orders > 1 {
					t.Errorf("%v orders without the lease", orders)
				}
				if !tells(s, control.NoLeaseHolder, "nobody holds the lease") {
					t.Errorf("nothing says that nobody holds the lease: %+v", s.Problems)
				}
				if asked := requests.Load(); asked > 0 != c.ordered {
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
