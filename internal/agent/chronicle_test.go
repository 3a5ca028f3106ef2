package agent_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet"
)

// What happened is remembered in its order, over a reload too, and a reload is not taken for anything else.
func TestTheChronicle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var built atomic.Int32
		options := onLeaving(func() {
			if built.Load() == 1 {
				time.Sleep(12 * time.Second) // a long reload is looked at in between
			}
		}, &built)
		options.Nodes = 3
		f := testnet.New(t, options)
		f.Settle()
		f.Write(1, "a", "content")
		f.Settle()
		f.Advance(time.Second)
		f.Symlink(1, "/elsewhere", "bad")
		f.Advance(2 * time.Second)
		f.Remove(1, "bad")
		f.Advance(2 * time.Second)
		if err := reconfigure(t, f, 0, "nginx: {", "lease: {ttl: 20s}\nnginx: {"); err != nil {
			t.Fatal(err)
		}
		f.Settle()
		f.Advance(6 * time.Second) // before that it might yet connect again
		f.Stop(2)
		f.Advance(2 * time.Second)
		var got []string
		events, _ := f.Agent(0).Chronicle().After(0)
		for i, e := range events {
			if e.Seq != uint64(i+1) || e.Time.IsZero() || e.Text == "" {
				t.Errorf("event %d is %+v", i, e)
			}
			if e.Kind == control.LeaseMoved {
				continue // when, is the engine's business
			}
			got = append(got, strings.TrimSpace(string(e.Kind)+" "+e.Node+" "+e.What))
		}
		want := `peer-connected fe1 fe2, peer-connected fe1 fe3, applied fe1 certs, problem-began fe2 name-refused, ` +
			`problem-ended fe2 name-refused, config-taken fe1, problem-began fe3 peer-lost, peer-gone fe1 fe3`
		if text := strings.Join(got, ", "); text != want && text != strings.Replace(want, "fe2, peer-connected fe1 fe3", "fe3, peer-connected fe1 fe2", 1) {
			t.Errorf("the chronicle is\n%s\nnot\n%s", text, want)
		}
		if _, ok := any(f.Agent(0)).(control.Chronicler); !ok {
			t.Error("an agent is no Chronicler")
		}
	})
}
