package real_test

import (
	"strings"
	"testing"

	"certswarm/internal/control"
	"certswarm/internal/need"
	"certswarm/testnet/ca"
)

// A certificate that no nginx uses is for something else. It is obtained and renewed like the others, holds up nobody who waits for
// the fleet, and whoever waits for it by name is told why that does not end.
func TestACertificateThatNoServerUses(t *testing.T) {
	t.Parallel()
	config := issuing(2, new(ca.Faults), names[0])
	config.FrontEnd, config.Unserved = need.Tool(t, "nginx"), []string{"mail.example.com"}
	w := start(t, config)
	w.said(w.Nodes[1], 0, nil, "wait", "--for", "served", "--timeout", "20s")
	var done control.Obtained
	w.said(w.Nodes[1], 0, &done, "cert", "renew", "mail.example.com", "--timeout", "20s")
	if !done.Issued || done.Served || done.Generation != 2 {
		t.Errorf("%+v", done)
	}
	w.cost(cost{1, 3, 3})
	said := w.said(w.Nodes[0], 124, nil, "wait", "--for", "served", "--name", "mail.example.com", "--timeout", "1s")
	for _, n := range w.Nodes {
		if !strings.Contains(said, "no server of "+n.Name+"'s nginx uses mail.example.com") {
			t.Errorf("told: %s", said)
		}
	}
	w.said(w.Nodes[0], 0, nil, "wait", "--for", "issued", "--timeout", "20s")
}
