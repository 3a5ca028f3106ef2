package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"syscall"
	"testing"

	"certswarm/internal/agent/config"
	"certswarm/internal/fleet"
)

// What to do about a front-end that does not serve the challenge asks that one, as it asked itself, for the token.
func TestABlockedFrontEndIsToBeAskedAtItsOwnAddress(t *testing.T) {
	at := func(address string) *house {
		h := &house{cfg: &config.Config{ACME: &config.ACME{HTTP01Address: address}}, log: slog.New(slog.DiscardHandler), changed: newBroadcast()}
		h.cfg.Nginx.Enabled = true
		h.edges.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
		return h
	}
	c := challenge{Token: "tok-en_1", Host: site}
	raw, err := at("127.0.0.4:8080").answerChallenge(t.Context(), fleet.NodeID{}, mustJSON(c))
	if err != nil {
		t.Fatal(err)
	}
	var theirs challengeAnswer
	if err := json.Unmarshal(raw, &theirs); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		theirs.Address:       "on fe3: curl -i -H 'Host: www.example.com' http://127.0.0.4:8080/.well-known/acme-challenge/tok-en_1",
		"[::1]:80":           "on fe3: curl -i -H 'Host: www.example.com' http://[::1]:80/.well-known/acme-challenge/tok-en_1",
		"":                   "on fe3: journalctl -u certswarm -n 50",
		"$(reboot):80":       "on fe3: journalctl -u certswarm -n 50",
		"127.0.0.4:80;sh":    "on fe3: journalctl -u certswarm -n 50",
		"127.0.0.4\nreboot:": "on fe3: journalctl -u certswarm -n 50",
	} {
		h := at("127.0.0.3:8080")
		h.setBlocked(blockage{host: site, node: "fe3", reason: theirs.Reason, token: c.Token, address: address})
		if p := h.barrierProblems(); len(p) != 1 || p[0].Node != "fe3" || p[0].Next != want {
			t.Errorf("%q: %+v", address, p)
		}
	}
}
