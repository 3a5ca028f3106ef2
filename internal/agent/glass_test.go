package agent_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/acmeclient"
	"certswarm/internal/agent"
	"certswarm/internal/control"
	"certswarm/internal/durable"
	"certswarm/testnet"
)

// glassLife is the life of a certificate in these stories, so short that break-glass comes in minutes: nothing is due before half of it has passed, urgent
// is the last 9 minutes, the last chance the last 2 minutes and a quarter.
const (
	glassLife = 20 * time.Minute
	lastTurn  = glassLife * 9 / 20 / 4 // what is left when the second of a pair takes its turn
)

// orphaned is a fleet whose first node has obtained a certificate, and is gone for good: without a vote nobody else can hold the lease. It returns the
// certificate and the CA.
func orphaned(t *testing.T, nodes int, edges func(node int, e *agent.Edges)) (*testnet.Fleet, *willing, *x509.Certificate) {
	t.Helper()
	ca := newWilling(t, glassLife)
	options := withCertificates(testnet.Options{Nodes: nodes})
	config, absent := options.Config, options.Edges
	options.Config = func(node int, yaml string) string {
		yaml = strings.Replace(config(node, yaml), "nginx: {enabled: true", "nginx: {enabled: false", 1)
		return strings.Replace(yaml, "acme: {", "acme: {budget: {orders_per_day: 9, orders_per_week: 9}, ", 1) + "lease: {engine: static}\n"
	}
	options.Edges = func(node int, e *agent.Edges) {
		absent(node, e)
		e.CA = ca.at(node)
		if edges != nil {
			edges(node, e)
		}
	}
	f := testnet.New(t, options)
	f.Settle()
	f.Advance(15 * time.Second)
	for node := range nodes {
		if s := f.Status(node); len(ca.orders(0)) != 1 || s.Certificates[0].Generation != 1 {
			t.Fatalf("fe%d has %+v after %d orders", node+1, s.Certificates[0], len(ca.orders(0)))
		}
	}
	leaf := leafOn(t, f, 0)
	f.Stop(0)
	return f, ca, leaf
}

// leafOn is the certificate that a node's nginx would show, if it had one.
func leafOn(t *testing.T, f *testnet.Fleet, node int) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(f.Path(node, "live/"+www+"/fullchain.pem"), f.Path(node, "live/"+www+"/privkey.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

// until lets time pass until so much of a certificate's life is left.
func until(f *testnet.Fleet, leaf *x509.Certificate, left time.Duration) {
	time.Sleep(time.Until(leaf.NotAfter) - left - time.Second)
	f.Advance(time.Second)
}

// An order without the lease says which certificate it replaces, so that a CA can tell two of them; it is gone on with, however long the CA needs. What
// it obtained is in force.
func TestAnOrderWithoutTheLeaseSaysWhatItReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, ca, leaf := orphaned(t, 2, nil)
		ca.be(func(ca *willing) { ca.unwell = 12 })
		until(f, leaf, lastTurn+10*time.Second)
		if n := len(ca.orders(1)); n != 0 {
			t.Fatalf("fe2 ordered %d times before its turn", n)
		}
		f.Advance(10*time.Second + time.Minute)
		orders := ca.orders(1)
		if len(orders) != 1 || orders[0].replaces != acmeclient.CertID(leaf) {
			t.Fatalf("fe2 ordered %+v, and what is in force is %s", orders, acmeclient.CertID(leaf))
		}
		if s := f.Status(1); !tells(s, control.BreakGlass, www+" was ordered without the lease") {
			t.Errorf("fe2 does not say it: %+v", s.Problems)
		}
		f.Advance(time.Minute)
		if now := leafOn(t, f, 1); !now.NotAfter.After(leaf.NotAfter) || len(ca.orders(1)) != 1 {
			t.Errorf("after %d orders what is in force lasts until %v", len(ca.orders(1)), now.NotAfter)
		}
		if n := ordersWithoutLease(f, 1); n != 1 {
			t.Errorf("%v orders are counted", n)
		}
	})
}

// Whoever reaches a node that has a newer certificate, or is about to obtain one, orders nothing, though it has not got it: until that node is gone.
func TestNobodyOrdersWhatAPeerHasOrIsObtaining(t *testing.T) {
	for name, slow := range map[string]bool{"it is obtaining it from a slow CA": true, "it has it while the disk here is full": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const first, second, third = 0, 1, 2 // by their turn
				var full atomic.Bool
				f, ca, leaf := orphaned(t, 3, func(node int, e *agent.Edges) {
					disk := e.Disk
					e.Disk = func(effect durable.Effect, do func() error) error {
						if node == third && full.Load() && strings.Contains(filepath.Join(effect.Dir, effect.Name), "/files/") {
							return syscall.ENOSPC
						}
						return disk(effect, do)
					}
				})
				full.Store(!slow)
				ca.be(func(ca *willing) { ca.silent = slow })
				until(f, leaf, 5*time.Minute)
				if n := len(ca.orders(second)); n != 1 {
					t.Fatalf("fe2 ordered %d times when its turn came", n)
				}
				until(f, leaf, 10*time.Second) // the turn of fe3 has come, were it not for fe2
				if orders := ca.orders(third); len(orders) != 0 {
					t.Fatalf("fe3 ordered, too: %v before the end", leaf.NotAfter.Sub(orders[0].at))
				}
				if now := leafOn(t, f, third); !now.Equal(leaf) {
					t.Fatal("fe3 has another certificate: this test proves nothing")
				}
				ca.be(func(ca *willing) { ca.silent = false })
				f.Stop(second)
				time.Sleep(3 * time.Minute)
				f.Advance(time.Second)
				if n := len(ca.orders(third)); n != 1 {
					t.Errorf("when fe2 is gone fe3 orders %d times", n)
				}
			})
		})
	}
}

// shown is what the world sees under a name: a server with that certificate; nil: nobody.
type shown atomic.Pointer[tls.Certificate]

// dial implements nginx.Dial.
func (s *shown) dial(_ context.Context, network, address string) (net.Conn, error) {
	at := (*atomic.Pointer[tls.Certificate])(s).Load()
	if at == nil || network != "tcp" || address != www+":443" {
		return nil, syscall.ECONNREFUSED
	}
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		if len(at.Certificate) > 0 { // else it is a server that says nothing
			_ = tls.Server(there, &tls.Config{Certificates: []tls.Certificate{*at}}).Handshake()
		}
		_, _ = io.Copy(io.Discard, there) // until the other side is gone
	}()
	return here, nil
}

func (s *shown) set(at *tls.Certificate) { (*atomic.Pointer[tls.Certificate])(s).Store(at) }

// A certificate that the world sees already was obtained by somebody who cannot be reached: what is about to expire here is not ordered again. It must
// be a good one.
func TestThePublicNameShowsWhoWasFaster(t *testing.T) {
	served := func(cert *x509.Certificate, key *ecdsa.PrivateKey) *tls.Certificate {
		return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	}
	for name, c := range map[string]struct {
		shows  func(t *testing.T, f *testnet.Fleet, ca *willing) *tls.Certificate
		faster bool
	}{
		"a newer one": {func(t *testing.T, _ *testnet.Fleet, ca *willing) *tls.Certificate {
			return served(issue(t, ca.root, ca.key, www, days))
		}, true},
		"the one in force": {func(t *testing.T, f *testnet.Fleet, _ *willing) *tls.Certificate {
			pair, err := tls.LoadX509KeyPair(f.Path(1, "live/"+www+"/fullchain.pem"), f.Path(1, "live/"+www+"/privkey.pem"))
			if err != nil {
				t.Fatal(err)
			}
			return &pair
		}, false},
		"an older one": {func(t *testing.T, _ *testnet.Fleet, ca *willing) *tls.Certificate {
			return served(issue(t, ca.root, ca.key, www, time.Minute))
		}, false},
		"a placeholder": {func(t *testing.T, _ *testnet.Fleet, _ *willing) *tls.Certificate {
			return served(issue(t, nil, nil, www, days))
		}, false},
		"somebody else's": {func(t *testing.T, _ *testnet.Fleet, ca *willing) *tls.Certificate {
			return served(issue(t, ca.root, ca.key, "elsewhere.example.com", days))
		}, false},
		"a server that hangs": {func(*testing.T, *testnet.Fleet, *willing) *tls.Certificate { return &tls.Certificate{} }, false},
		"nobody":              {func(*testing.T, *testnet.Fleet, *willing) *tls.Certificate { return nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var world shown
				f, ca, leaf := orphaned(t, 2, func(_ int, e *agent.Edges) { e.Public = world.dial })
				until(f, leaf, lastTurn+10*time.Second)
				world.set(c.shows(t, f, ca))
				f.Advance(30 * time.Second)
				if n := len(ca.orders(1)); n > 0 == c.faster {
					t.Fatalf("fe2 ordered %d times", n)
				}
				world.set(nil)
				f.Advance(65 * time.Second)
				if n := len(ca.orders(1)); n != 1 {
					t.Errorf("when the world sees nothing any more fe2 has ordered %d times", n)
				}
			})
		})
	}
}

// What was ordered without the lease and came to nothing is not ordered again that day, and no third time that week, whatever else the CA would allow, though
// there is no certificate any more. It is counted on the disk.
func TestTheBudgetBehindTheGlassOutlivesTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, ca, leaf := orphaned(t, 2, nil)
		ca.be(func(ca *willing) { ca.spoils = true })
		until(f, leaf, lastTurn-time.Minute)
		if n := len(ca.orders(1)); n != 1 {
			t.Fatalf("fe2 ordered %d times", n)
		}
		begun := ca.orders(1)[0].at
		const turn = 12 * time.Minute // after a start it is certain that nobody holds the lease, and that fe2 is the next
		for _, c := range []struct {
			after time.Duration
			want  int
		}{{turn, 1}, {days - time.Minute, 1}, {days + 2*time.Minute, 2}, {2*days + turn, 2}, {6 * days, 2}, {7*days + turn, 3}} {
			if c.after > time.Since(begun)+turn {
				f.Stop(1)
				time.Sleep(c.after - time.Since(begun) - turn)
				f.Start(1)
			}
			time.Sleep(c.after - time.Since(begun))
			f.Advance(time.Second)
			if n := len(ca.orders(1)); n != c.want {
				t.Errorf("%v after the first order fe2 has ordered %d times, not %d", c.after, n, c.want)
			}
		}
	})
}
