package real_test

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/frontend"
	"certswarm/testnet/real"
)

// apart is true when these nodes are no longer connected with one.
func apart(gone *real.Node, nodes ...*real.Node) real.Condition {
	return among(nodes, func(all []control.Status) (bool, string) {
		for _, s := range all {
			for _, p := range s.Peers {
				if p.Name == gone.Name && p.Connected {
					return false, fmt.Sprintf("%s is connected with %s", s.Node.Name, p.Name)
				}
			}
		}
		return true, ""
	})
}

// lost is true when they also say so.
func lost(gone *real.Node, nodes ...*real.Node) real.Condition {
	return func(all []control.Status) (bool, string) {
		if ok, why := apart(gone, nodes...)(all); !ok {
			return false, why
		}
		return among(nodes, reports(control.PeerLost, gone))(all)
	}
}

// connected is true when these nodes are connected with each other.
func connected(nodes ...*real.Node) real.Condition {
	return among(nodes, func(all []control.Status) (bool, string) {
		for _, s := range all {
			for _, p := range s.Peers {
				if !p.Connected && isNamed(nodes, p.Name) {
					return false, fmt.Sprintf("%s is not connected with %s", s.Node.Name, p.Name)
				}
			}
		}
		return true, ""
	})
}

func isNamed(nodes []*real.Node, name string) bool {
	return slices.ContainsFunc(nodes, func(n *real.Node) bool { return n.Name == name })
}

// One agent stands still, as on a machine that hangs, and what another sends no longer reaches a third. Within fifteen
// seconds those who hear nothing say so, nobody waits for the frozen one any longer, and files find their way round. When all
// is well again it is so by itself, within seconds.
func TestSilence(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(4), Relayed: true})
	w.await(real.Synced)
	one, deaf, third, frozen := w.Nodes[0], w.Nodes[1], w.Nodes[2], w.Nodes[3]
	awake := w.Nodes[:3]
	since := time.Now()
	frozen.Freeze()
	w.Relay.Cut(one, deaf)
	w.put(one, "meanwhile", "written in the silence")
	w.awaitOn(apart(frozen, awake...), awake...)
	w.awaitOn(apart(one, deaf), awake...)
	if took := time.Since(since); took > 15*time.Second {
		t.Errorf("it took %v to notice", took)
	}
	w.arrives("meanwhile", "written in the silence", awake...)
	if code, said := w.certswarm(third, "wait", "--for", "synced", "--timeout", "5s"); code != 0 {
		t.Errorf("wait exits with %d: %s", code, said)
	}
	w.awaitOn(lost(frozen, third), awake...)
	w.awaitOn(among([]*real.Node{deaf}, reports(control.PeerLost, one, "UDP")), awake...)
	w.witness(deaf, one, third)

	since = time.Now()
	w.Relay.Heal()
	frozen.Thaw()
	w.await(connected(w.Nodes...))
	if took := time.Since(since); took > 5*time.Second {
		t.Errorf("it took %v to connect again", took)
	}
	w.arrives("meanwhile", "written in the silence", frozen)
	scene(t, w, "in the end all is well", allIsWell)
}

// What listens at a listed address has another key than the list says. Its peers name it, and nothing else changes.
func TestWrongKeyAtAListedAddress(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3)})
	w.await(real.Synced)
	w.replicates("before", w.Nodes...)
	rightful, others := w.Nodes[2], w.Nodes[:2]
	w.must(rightful.Stop())

	// The impostor has the address, the list and everything else, but an identity of its own.
	impostor := start(t, real.Config{Addresses: addresses(1), Prefix: "impostor", Others: w.Roster()[:2]})
	liar := impostor.Nodes[0]
	w.must(liar.Stop())
	text, err := os.ReadFile(liar.ConfigFile)
	w.must(err)
	w.must(os.WriteFile(liar.ConfigFile, []byte(strings.ReplaceAll(string(text), liar.Listen(), rightful.Listen())), 0o644))
	impostor.put(liar, "poison", "from an impostor")
	w.must(liar.Start(w.ctx))

	w.awaitOn(func(all []control.Status) (bool, string) {
		for _, s := range all {
			p, ok := problem(s, control.PeerRefused)
			if said := p.Text + p.Because; !ok || !strings.Contains(said, rightful.Name) && !strings.Contains(said, rightful.Listen()) && !strings.Contains(said, liar.ID) {
				return false, fmt.Sprintf("%s does not say who answers at %s: %v", s.Node.Name, rightful.Listen(), s.Problems)
			}
		}
		return apart(rightful, others...)(all)
	}, others...)
	w.witness(others[0], others[1])
	w.never("poison", others...)
	w.never("before", liar)
	w.must(liar.Stop())
	w.must(rightful.Start(w.ctx))
	w.await(connected(w.Nodes...))
	scene(t, w, "in the end all hold the same", func(w *world) {
		w.await(real.Synced)
		w.alike(w.Nodes...)
	})
}

// Garbage costs nothing but a counter and a line in the log: see TestStrangers. Here an agent gets it from an address that is in the list.
func TestGarbageFromAListedAddress(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(2)})
	w.await(real.Synced)
	one, two := w.Nodes[0], w.Nodes[1]
	w.must(two.Stop())
	here, err := net.ResolveUDPAddr("udp", two.Listen())
	w.must(err)
	there, err := net.ResolveUDPAddr("udp", one.Listen())
	w.must(err)
	conn, err := net.DialUDP("udp", here, there)
	w.must(err)
	for size := range 1400 {
		_, err := conn.Write([]byte(strings.Repeat("\xc3\x00\x00\x00\x01", 300)[:size+1]))
		w.must(err)
	}
	w.must(conn.Close())
	w.must(two.Start(w.ctx))
	w.await(connected(w.Nodes...))
	w.witness(one, two)
}

// A node dies while a certificate is being issued. It is waited for, for challenge_wait; then it is left behind and named,
// and the certificate is issued. Not before: nobody can tell a dead node from one that serves the wrong thing.
func TestDeadNodeAtIssuance(t *testing.T) {
	t.Parallel()
	const challengeWait = 3 * time.Second
	w := start(t, real.Config{
		Addresses: addresses(3), Names: names, FrontEnd: frontend.Standin, Broken: map[string]bool{"fe3": true},
		ACME: []string{"challenge_wait: " + challengeWait.String()},
	})
	w.await(blames("fe3"))
	if n := len(w.Accepts()); n != 0 {
		t.Fatalf("the CA was told to look %d times while fe3 was there and did not serve", n)
	}
	dead, living := w.Node("fe3"), w.Nodes[:2]
	died := time.Now()
	dead.Kill()
	// The CA may ask any front-end. That of the dead node serves the token by now, but no agent is there to say so.
	dead.FrontEndConfig.BreakChallenge = false
	w.must(dead.FrontEnd.Reload(w.ctx, dead.FrontEndConfig))

	w.await(lost(dead, living...))
	w.await(real.Served)
	for _, a := range w.Accepts() {
		if after := a.Time.Sub(died); after < challengeWait {
			t.Errorf("the CA was told to look %v after the node died", after)
		}
		if len(a.Served["fe3"]) > 0 {
			t.Error("an agent has fetched from the dead node's front-end: this test proves nothing")
		}
		for _, n := range living {
			if len(a.Served[n.Name]) != len(names) {
				t.Errorf("the CA was told to look when %s had served %d tokens", n.Name, len(a.Served[n.Name]))
			}
		}
	}
	w.await(reports(control.PeerLost, dead))
	if issued := w.CA.Issued(); len(issued) != 1 {
		t.Errorf("the CA issued %q", issued)
	}
	w.must(dead.Start(w.ctx))
	w.await(connected(w.Nodes...))
	w.await(real.Served)
	w.servesOneCertificate()
}
