package real_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"certswarm/internal/control"
	"certswarm/internal/need"
	"certswarm/testnet/real"
)

// asTheUnit runs the agents with the capabilities that systemd leaves them, and no others.
func asTheUnit(t *testing.T) func(*real.Node) error {
	t.Helper()
	setpriv := need.Tool(t, "setpriv")
	unit, err := os.ReadFile("../../systemd/certswarm.service")
	if err != nil {
		t.Fatal(err)
	}
	set := "-all"
	for line := range strings.Lines(string(unit)) {
		if list, ok := strings.CutPrefix(line, "CapabilityBoundingSet="); ok {
			for capability := range strings.FieldsSeq(list) {
				set += ",+" + strings.ToLower(strings.TrimPrefix(capability, "CAP_"))
			}
		}
	}
	return func(n *real.Node) error {
		n.Launch = func(agent *exec.Cmd) {
			agent.Args = append([]string{"setpriv", "--bounding-set=" + set, "--no-new-privs", agent.Path}, agent.Args[1:]...)
			agent.Path = setpriv
		}
		return nil
	}
}

// Whoever writes a file is waited for, also where the file is another's than the agent's: with the rights that the unit gives, and not just as
// root.
func TestASlowWriterOfAnotherOwner(t *testing.T) {
	t.Parallel()
	need.Root(t)
	w := start(t, real.Config{Addresses: addresses(2), Before: asTheUnit(t)})
	w.await(real.Synced)
	from, to := w.Nodes[0], w.Nodes[1]
	const webServer = 33
	first, second := sealed("slow")[:40], sealed("slow")[40:]
	file, err := os.Create(in(from, "slow.conf"))
	w.must(err)
	w.must(file.Chown(webServer, webServer))
	_, err = file.WriteString(first)
	w.must(err)
	w.await(reports(control.HeldFile, from, "slow.conf"))
	w.witness(from, to)
	w.never("slow.conf", to)
	_, err = file.WriteString(second)
	w.must(err)
	w.must(file.Close())
	w.arrives("slow.conf", first+second, to)
	w.await(quiet(control.HeldFile))
}
