package testnet_test

import (
	"testing"
	"time"

	"certswarm/testnet"
)

// What one node writes is on its way to all others at once: the last of fifty has it one one-way delay later, and what the bubble's clock does not
// show is measured in testnet/real.
func TestTheLastOfFiftyHasItAfterOneDelay(t *testing.T) {
	const delay, allowance = 40 * time.Millisecond, 10 * time.Millisecond
	fifty := testnet.Options{Nodes: 50, Latency: delay, Roles: []string{"issuer"}}
	for len(fifty.Roles) < fifty.Nodes {
		fifty.Roles = append(fifty.Roles, "member")
	}
	story(t, fifty, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "live/www/site", "one")
		var took time.Duration
		for have := 0; have < fifty.Nodes; took += time.Millisecond {
			if took > time.Second {
				t.Fatalf("after %v only %d have it", took, have)
			}
			f.Advance(time.Millisecond)
			have = 0
			for i := range fifty.Nodes {
				if _, ok := f.Read(i, "live/www/site"); ok {
					have++
				}
			}
		}
		if took > delay+allowance {
			t.Errorf("the last of %d had it after %v, want %v after a delay of %v", fifty.Nodes, took, delay+allowance, delay)
		}
	})
}
