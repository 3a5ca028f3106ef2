package agent_test

import (
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
