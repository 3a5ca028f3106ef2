package agent_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet"
)

// Each of two nodes of different clusters says which is the other's, and names it.
func TestTwoClustersAreToldApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 2, Config: func(node int, yaml string) string {
			if node == 1 {
				return strings.Replace(yaml, "cluster: testnet", "cluster: staging", 1)
			}
			return yaml
		}})
		f.Advance(10 * time.Second)
		for node, want := range []string{
			`fe2 belongs to cluster "staging", this node to "testnet"`,
			`fe1 belongs to cluster "testnet", this node to "staging"`,
		} {
			if s := f.Status(node); !tells(s, control.TwoClusters, want) {
				t.Errorf("fe%d: %+v", node+1, s.Problems)
			}
		}
	})
}

// problem returns what a node's status tells of the code and the node, the zero problem if it tells nothing.
func problem(s control.Status, code control.Code, node string) control.Problem {
	for _, p := range s.Problems {
		if p.Code == code && p.Node == node {
			return p
		}
	}
	return control.Problem{}
}

// without takes a peer's line out of a node's configuration, and returns what puts it back.
func without(t *testing.T, f *testnet.Fleet, node int, peer string) (back func()) {
	t.Helper()
	line := peerLine(t, f, node, peer)
	if err := reconfigure(t, f, node, line, ""); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := reconfigure(t, f, node, "directories:", line+"directories:"); err != nil {
			t.Fatal(err)
		}
	}
}

// A node that is listed by now was refused rightly, and is so no longer, whether it is connected or merely stopped.
func TestARefusalThatWasMendedStaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 3})
		f.Settle()
		back := without(t, f, 0, "fe3")
		f.Advance(10 * time.Second)
		if s := f.Status(0); !tells(s, control.PeerRefused, "") {
			t.Fatalf("fe3 is let in: %+v", s.Problems)
		}
		f.Stop(2)
		back()
		if s := f.Status(0); tells(s, control.PeerRefused, "") {
			t.Errorf("fe3 is in the list: %+v", s.Problems)
		}
		f.Start(2)
		f.Advance(10 * time.Second)
		f.Stop(2)               // or it might be refused anew by now
		without(t, f, 0, "fe3") // it was connected: what was before is no more
		if s := f.Status(0); tells(s, control.PeerRefused, "") {
			t.Errorf("fe3 has not come since it is no longer in the list: %+v", s.Problems)
		}
	})
}

// Who answered for a peer is nobody's business once that peer is out of the list.
func TestAnAnswerForAPeerThatIsGoneIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.NewDown(t, testnet.Options{Nodes: 3, Config: func(node int, yaml string) string {
			at := strings.Index(yaml, "  - {name: fe3")
			own := strings.Replace(yaml[at:], "10.0.0.3", "10.0.0.2", 1) // where fe2 lives, whom fe1 does not know
			if node == 0 {
				return yaml[:strings.Index(yaml, "  - {name: fe2")] + own
			}
			return yaml
		}})
		f.Start(0)
		f.Start(1)
		f.Advance(10 * time.Second)
		s := f.Status(0)
		if !slices.ContainsFunc(s.Problems, func(p control.Problem) bool { return strings.Contains(p.Text, "fe3 was dialled, but") }) {
			t.Fatalf("%+v", s.Problems)
		}
		if next := problem(s, control.PeerLost, "fe3").Next; next != "certswarm config show; correct the address of fe3, or its id" {
			t.Errorf("next: %s", next)
		}
		without(t, f, 0, "fe3")
		if s := f.Status(0); slices.ContainsFunc(s.Problems, func(p control.Problem) bool { return strings.Contains(p.Text, "was dialled") }) {
			t.Errorf("%+v", s.Problems)
		}
	})
}

// A peer that has just come into the list has its time to connect; then it was missing since it came.
func TestAnAddedPeerIsNotLostSinceEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.NewDown(t, testnet.Options{Nodes: 3})
		f.Start(0)
		back := without(t, f, 0, "fe3")
		f.Start(1)
		f.Advance(5 * time.Minute)
		back()
		added := time.Now()
		if s := f.Status(0); problem(s, control.PeerLost, "fe3").Code != "" {
			t.Errorf("at once: %+v", s.Problems)
		}
		f.Advance(6 * time.Second)
		p := problem(f.Status(0), control.PeerLost, "fe3")
		if !strings.Contains(p.Text, "never connected since it was added") || p.Since.Sub(added).Abs() > time.Second {
			t.Errorf("added at %v: %+v", added, p)
		}
		if p := problem(f.Status(1), control.PeerLost, "fe3"); !strings.Contains(p.Text, "since this agent started") {
			t.Errorf("fe2, which knew it from the start: %+v", p)
		}
	})
}

// What to do about a peer that is not connected depends on what it said.
func TestWhatToDoAboutALostPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.NewDown(t, testnet.Options{Nodes: 3, Config: func(node int, yaml string) string {
			if node == 1 {
				return strings.Replace(yaml, "cluster: testnet", "cluster: staging", 1)
			}
			return yaml
		}})
		for i := range 2 {
			f.Start(i)
		}
		without(t, f, 0, "fe3")
		f.Advance(2 * time.Second)
		f.Start(2)
		f.Advance(10 * time.Second)
		s := f.Status(2)
		for peer, want := range map[string]string{
			"fe1": "on fe1: certswarm config show; if this node belongs there, add its id to peers:",
			"fe2": "certswarm config show; make cluster: the same",
		} {
			if p := problem(s, control.PeerLost, peer); p.Next != want {
				t.Errorf("%+v", p)
			}
		}
		f.Stop(0)
		f.Advance(10 * time.Second)
		if p := problem(f.Status(2), control.PeerLost, "fe1"); p.Next != "on fe1: systemctl status certswarm" {
			t.Errorf("once it is down: %+v", p)
		}
	})
}

// A machine that was cloned with its key is named once, by name, with what to do, and no longer once it has ended.
func TestTwoDaemonsWithOneKeyAreAProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.NewDown(t, testnet.Options{Nodes: 4})
		third := peerLine(t, f, 0, "fe3")
		state := func(i int) string { return filepath.Join(filepath.Dir(f.Path(i, "")), "state", "identity.pem") }
		key, err := os.ReadFile(state(2))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(state(3), key, 0o600); err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			file := filepath.Join(filepath.Dir(f.Path(i, "")), "certswarm.yaml")
			yaml, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(strings.Replace(string(yaml), peerLine(t, f, i, "fe4"), "", 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			f.Start(i)
		}
		f.Advance(30 * time.Second)
		p := problem(f.Status(0), control.PeerRefused, "fe3")
		if p.Text != "two daemons run with the key of fe3, at 10.0.0.3:7443 and 10.0.0.4:7443" ||
			p.Next != "stop one of them and give it its own key: move its state_dir away, then certswarm identity generate" || !strings.Contains(third, strings.Fields(p.Because)[0]) {
			t.Errorf("%+v", p)
		}
		f.Stop(3)
		f.Advance(90 * time.Second)
		if s := f.Status(0); tells(s, control.PeerRefused, "") || problem(s, control.PeerLost, "fe3").Code != "" {
			t.Errorf("fe3 is alone again: %+v", s.Problems)
		}
	})
}

// Errors first; and of these what explains the others.
func TestTwoClustersComeBeforeTheLeaseThatNobodyHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 3, Config: func(node int, yaml string) string {
			if node == 2 {
				yaml = strings.Replace(yaml, "cluster: testnet", "cluster: staging", 1)
			}
			return yaml + "lease: {ttl: 10s}\n"
		}})
		f.Advance(40 * time.Second)
		var codes []string
		for _, p := range f.Status(2).Problems {
			if p.Severity == control.Error {
				codes = append(codes, string(p.Code))
			}
		}
		if got := strings.Join(codes, " "); got != "two-clusters two-clusters no-lease-holder" {
			t.Errorf("%q: %+v", got, f.Status(2).Problems)
		}
	})
}
