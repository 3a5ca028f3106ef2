package agent_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent"
	"certswarm/internal/control"
	"certswarm/testnet"
)

// doors is a CA that some nodes cannot reach. Whom it answers it gives nothing.
type doors struct {
	mu     sync.Mutex
	firsts int               // guarded by mu: as many of those who ask first cannot reach it
	way    http.RoundTripper // of those
	status int               // guarded by mu: of the answers to all others
	shut   map[int]bool      // guarded by mu: who cannot reach it
	asked  map[int][]time.Time
}

func newDoors(firsts, status int) *doors {
	return &doors{firsts: firsts, way: absent{}, status: status, shut: map[int]bool{}, asked: map[int][]time.Time{}}
}

// door is the way of one node to it.
type door struct {
	*doors
	node int
}

// RoundTrip implements http.RoundTripper.
func (d door) RoundTrip(r *http.Request) (*http.Response, error) {
	d.mu.Lock()
	if len(d.asked[d.node]) == 0 && len(d.shut) < d.firsts {
		d.shut[d.node] = true
	}
	d.asked[d.node] = append(d.asked[d.node], time.Now())
	shut, status := d.shut[d.node], d.status
	d.mu.Unlock()
	if shut {
		return d.way.RoundTrip(r)
	}
	return &http.Response{
		StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: r, ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

// times returns when a node asked.
func (d *doors) times(node int) []time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]time.Time(nil), d.asked[node]...)
}

// closed reports whether a node cannot reach it.
func (d *doors) closed(node int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.shut[node]
}

// open lets everybody in.
func (d *doors) open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.firsts, d.shut = 0, map[int]bool{}
}

// refusing is a CA that refuses everything, and counts.
type refusing struct{ requests *atomic.Int32 }

// RoundTrip implements http.RoundTripper.
func (c refusing) RoundTrip(r *http.Request) (*http.Response, error) {
	c.requests.Add(1)
	return door{newDoors(0, http.StatusBadRequest), 0}.RoundTrip(r)
}

// behind returns a fleet that has a certificate to obtain from such a CA.
func behind(t *testing.T, d *doors, nodes int, retry string) *testnet.Fleet {
	t.Helper()
	options := withCertificates(testnet.Options{Nodes: nodes})
	with, edges := options.Config, options.Edges
	options.Config = func(i int, yaml string) string {
		return strings.Replace(with(i, yaml), "acme: {", "acme: {retry: "+retry+", ", 1) + "lease: {ttl: 2m}\n" // which makes days short
	}
	options.Edges = func(i int, e *agent.Edges) {
		edges(i, e)
		e.CA = door{d, i}
	}
	f := testnet.New(t, options)
	f.Settle()
	return f
}

const often = "[1m, 10m, 40m]"

const gaveAway = "could not reach the CA, and gave the lease away"

// holding returns who may act, -1 for nobody.
func holding(f *testnet.Fleet, nodes int) int {
	for i := range nodes {
		if f.Status(i).Lease.HeldHere {
			return i
		}
	}
	return -1
}

// Who holds the lease and cannot reach the CA gives it to one that can, who asks at once; also where that takes two steps. There it stays.
func TestAHolderThatCannotReachTheCAGivesTheLeaseAway(t *testing.T) {
	for name, c := range map[string]struct {
		firsts int
		way    http.RoundTripper
		within time.Duration
	}{
		"one is refused":    {1, absent{}, 3 * time.Minute},
		"two are refused":   {2, absent{}, 5 * time.Minute},
		"one hears nothing": {1, hung{}, 15 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDoors(c.firsts, http.StatusBadRequest)
				d.way = c.way
				f := behind(t, d, 3, often)
				first := voting(t, f, 3, 3, 5*time.Minute)
				for begun := time.Now(); ; f.Advance(time.Second) {
					if holder := holding(f, 3); holder >= 0 && len(d.times(holder)) > 0 && !d.closed(holder) {
						break
					}
					if time.Since(begun) > c.within {
						t.Fatalf("after %v nobody who can reach the CA holds the lease and asks it: %+v", time.Since(begun), f.Status(first).Lease)
					}
				}
				holder := holding(f, 3)
				for node := range 3 {
					if s := f.Status(node); d.closed(node) != tells(s, control.CAUnreachable, fmt.Sprintf("fe%d %s", node+1, gaveAway)) {
						t.Errorf("fe%d cannot reach the CA: %v; its problems are %+v", node+1, d.closed(node), s.Problems)
					}
				}
				epoch := f.Status(holder).Lease.Epoch
				time.Sleep(70 * time.Minute)
				f.Advance(time.Second)
				s := f.Status(holder)
				if s.Lease.Epoch != epoch || !s.Lease.HeldHere {
					t.Errorf("the lease moved on: it was under %v, and is %+v", epoch, s.Lease)
				}
				for node := range 3 {
					if tells(s, control.CAUnreachable, fmt.Sprintf("fe%d %s", node+1, gaveAway)) {
						t.Errorf("it is told for ever: %+v", s.Problems)
					}
				}
			})
		})
	}
}

// A node to which the lease comes back within the hour keeps it that long, reloaded or not: what runs under the lease would end each time.
func TestANodeGivesTheLeaseAwayOnceAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoors(1, http.StatusBadRequest)
		f := behind(t, d, 3, often)
		first := voting(t, f, 3, 3, 5*time.Minute)
		took := taken(t, f, 3, first, 3*time.Minute)
		holder := holding(f, 3)
		if err := reconfigure(t, f, first, often, "[2m, 5m]"); err != nil {
			t.Fatal(err)
		}
		f.Advance(20 * time.Second)
		said := fmt.Sprintf("fe%d %s", first+1, gaveAway)
		if s := f.Status(first); !tells(s, control.CAUnreachable, said) {
			t.Errorf("the reload has forgotten it: %+v", s.Problems)
		}
		third := 3 - first - holder
		f.Stop(third)
		if err := f.Agent(holder).ResignLease(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.Advance(5 * time.Second)
		f.Start(third)
		time.Sleep(40 * time.Minute)
		f.Advance(time.Second)
		if l := f.Status(first).Lease; !l.HeldHere {
			t.Errorf("after the %v that it took, and then 41 minutes, the lease is given away again: %+v", took, l)
		}
		time.Sleep(time.Hour)
		f.Advance(time.Second)
		if s := f.Status(first); s.Lease.HeldHere || !tells(s, control.CAUnreachable, said) {
			t.Errorf("it is never given away again: %+v", s)
		}
	})
}

// When nobody can reach the CA the lease goes round once, and then not before the nodes may have another try; and what they try for that does not
// put off the next attempt.
func TestTheLeaseDoesNotGoRoundWhileTheCAIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hours = 4
		d := newDoors(3, http.StatusBadRequest)
		f := behind(t, d, 3, often)
		voting(t, f, 3, 3, 5*time.Minute)
		begun, term := time.Now(), f.Status(0).Lease.Epoch.Term
		time.Sleep(6 * time.Minute)
		f.Advance(time.Second)
		holder := holding(f, 3)
		if next := f.Status(holder).Certificates[0].NextAttempt.Time; next.IsZero() || next.Sub(begun) > 18*time.Minute {
			t.Errorf("after 6 minutes the next attempt is %v after the beginning", next.Sub(begun))
		}
		for node := range 3 {
			if len(d.times(node)) == 0 {
				t.Errorf("fe%d has not tried", node+1)
			}
		}
		total := uint64(0)
		for hour := range hours {
			time.Sleep(time.Until(begun.Add(time.Duration(hour+1) * time.Hour)))
			f.Advance(time.Second)
			now := f.Status(0).Lease.Epoch.Term
			if moved := now - term; hour == 0 && moved != 2 || moved > 3 {
				t.Errorf("the lease moved %d times in hour %d", moved, hour+1)
			}
			total += now - term
			term = now
		}
		if total > 2+3*(hours-1) || total < 4 {
			t.Errorf("the lease moved %d times in all: nobody tries again, or all do all the time", total)
		}
		d.open()
		holder = holding(f, 3)
		before := len(d.times(holder))
		next := f.Status(holder).Certificates[0].NextAttempt.Time
		if until := time.Until(next); until <= 0 || until > time.Hour {
			t.Fatalf("the next attempt is at %v, in %v", next, until)
		}
		time.Sleep(time.Until(next))
		f.Advance(3 * time.Second)
		if len(d.times(holder)) == before || holding(f, 3) != holder {
			t.Error("the CA is not asked at the time that is shown, or the lease moved once more")
		}
	})
}

// An answer is an answer: any other node would get the same.
func TestACAInTroubleMovesNoLease(t *testing.T) {
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusTooManyRequests} {
		synctest.Test(t, func(t *testing.T) {
			d := newDoors(0, status)
			f := behind(t, d, 3, often)
			holder := voting(t, f, 3, 3, 5*time.Minute)
			epoch := f.Status(holder).Lease.Epoch
			time.Sleep(time.Hour)
			f.Advance(time.Second)
			if l := f.Status(holder).Lease; l.Epoch != epoch || !l.HeldHere || len(d.times(holder)) < 3 {
				t.Errorf("for a %d, to %d requests, the lease moved from %v to %+v", status, len(d.times(holder)), epoch, l)
			}
		})
	}
}

// Of a pair the list says who holds the lease, whatever comes of it.
func TestAPairKeepsToItsList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoors(1, http.StatusBadRequest)
		f := behind(t, d, 2, "[10h]")
		f.Advance(20 * time.Second)
		epoch := f.Status(0).Lease.Epoch
		time.Sleep(time.Hour)
		f.Advance(time.Second)
		s := f.Status(0)
		if !s.Lease.HeldHere || s.Lease.Epoch != epoch || tells(s, control.CAUnreachable, "fe1 "+gaveAway) {
			t.Errorf("the first of the list gave the lease away: %+v, %+v", s.Lease, s.Problems)
		}
		if asked := d.times(0); asked[len(asked)-1].Sub(asked[0]) > time.Minute {
			t.Errorf("it asks before it is time: %v", asked)
		}
		if len(d.times(1)) > 0 || !tells(s, control.CAUnreachable, "www.example.com: the CA cannot be reached") {
			t.Errorf("the other node asks (%d requests), or nothing says that the CA cannot be reached: %+v", len(d.times(1)), s.Problems)
		}
	})
}
