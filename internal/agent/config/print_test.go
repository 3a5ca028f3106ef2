package config_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"certswarm/internal/agent/config"

	"pgregory.net/rapid"
)

func TestEffective(t *testing.T) {
	expect(t, "testdata/contract.effective", string(config.Effective(load(t, "testdata/contract.yaml"))))
}

func TestEffectiveIsTheSameConfiguration(t *testing.T) {
	for _, file := range []string{"testdata/contract.yaml", "testdata/minimal.yaml", "testdata/everything.yaml"} {
		cfg := load(t, file)
		text := config.Effective(cfg)
		again := load(t, write(t, "effective.yaml", string(text)))
		if changes := config.Changes(cfg, again); len(changes) > 0 {
			t.Errorf("%s became another configuration:\n%s\nwritten as\n%s", file, strings.Join(changes, "\n"), text)
		}
	}
}

func TestEffectiveJSONHasTheSameKeys(t *testing.T) {
	var got struct {
		Cluster string
		Peers   []struct{ Name, ID string }
		ACME    struct {
			Retry  []string
			Budget map[string]int
		}
		Nginx struct{ Enabled bool }
	}
	if err := json.Unmarshal(config.EffectiveJSON(load(t, "testdata/contract.yaml")), &got); err != nil {
		t.Fatal(err)
	}
	if got.Cluster != "edge" || len(got.Peers) != 1 || len(got.Peers[0].ID) != 52 || !got.Nginx.Enabled ||
		!reflect.DeepEqual(got.ACME.Retry, []string{"1m", "10m", "1h40m", "24h"}) || got.ACME.Budget["orders_per_day"] != 2 {
		t.Errorf("%+v", got)
	}
}

func TestDurationsPrintShortAndReadBack(t *testing.T) {
	for text, want := range map[string]string{"24h": "24h", "60m": "1h", "90s": "1m30s", "100m": "1h40m", "0s": "0s", "10m": "10m", "1h0m5s": "1h0m5s", "20s": "20s", "500ms": "500ms"} {
		var d config.Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.String() != want {
			t.Errorf("%s prints as %s, not %s (%v)", text, d, want, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		const year = int64(366 * 24 * time.Hour)
		want := config.Duration(rapid.Int64Range(-year, year).Draw(t, "nanoseconds"))
		if rapid.Bool().Draw(t, "whole") {
			want = want / config.Duration(time.Minute) * config.Duration(time.Minute)
		}
		var got config.Duration
		if err := got.UnmarshalText([]byte(want.String())); err != nil || got != want {
			t.Fatalf("%d prints as %s and reads as %d: %v", want, want, got, err)
		}
	})
}

func TestSizesPrintShortAndReadBack(t *testing.T) {
	for text, want := range map[string]string{"16MiB": "16MiB", "1024KiB": "1MiB", "1000B": "1000B", "1GiB": "1GiB", "1 KiB": "1KiB"} {
		var s config.Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s.String() != want {
			t.Errorf("%s prints as %s, not %s (%v)", text, s, want, err)
		}
	}
	for _, text := range []string{"", "16", "MiB", "-1MiB", "0B", "1.5MiB", "2GiB", "16777216TiB", "99999999999999999999B", "1KB", "0x10B", "+1B"} {
		var s config.Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken for %s", text, s)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		want := config.Size(rapid.Int64Range(1, 1<<30).Draw(t, "bytes"))
		var got config.Size
		if err := got.UnmarshalText([]byte(want.String())); err != nil || got != want {
			t.Fatalf("%d prints as %s and reads as %d: %v", want, want, got, err)
		}
	})
}

func TestOwnersAndShares(t *testing.T) {
	for _, text := range []string{"", "root", "root:www-data", "33:33", "_user", "machine$", "a.b"} {
		var o config.Owner
		if err := o.UnmarshalText([]byte(text)); err != nil || o.String() != text {
			t.Errorf("owner %q reads as %q: %v", text, o, err)
		}
	}
	for _, text := range []string{":", "root:", ":www-data", "-x", "a b", "a:b:c", "a/b"} {
		if err := new(config.Owner).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("owner %q was taken", text)
		}
	}
	for _, text := range []string{"", "%", "50", "0%", "101%", "-1%", "1.5%", "+5%", "300%"} {
		if err := new(config.Percent).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("share %q was taken", text)
		}
	}
}

func TestChanges(t *testing.T) {
	base := head + peer1 + directory
	acme := "acme: {accept_terms: true}\n"
	peers := func(names ...string) string {
		text := "peers:\n"
		for _, name := range names {
			id := map[string]string{"fe1": "uehqnct7aaoxqdno357h3azujvru5zpd33t55agrkmq5sw64rkha", "fe2": "6iznsiokwfqwnjujh4apfkmfx2vbyzau47ijuzojnospvmeqkxaa"}[name]
			text += "  - {name: " + name + ", id: " + id + ", addresses: [\"" + name + ":7443\"]}\n"
		}
		return text
	}
	for _, c := range []struct {
		name, old, new string
		changes        []string
		restart        []string
	}{
		{"nothing", base, base, nil, nil},
		{"a default written out", base, base + "lease: {ttl: 30s}\n", nil, nil},
		{"a value", base, base + "lease: {ttl: 1m}\n", []string{"lease.ttl: 30s -> 1m"}, nil},
		{"a section", base, base + acme, []string{"acme: added"}, nil},
		{"a section gone", base + acme, base, []string{"acme: removed"}, nil},
		{"within a section", base + acme, base + "acme: {accept_terms: true, email: a@b.example, retry: [1m]}\n",
			[]string{`acme.email: "" -> a@b.example`, "acme.retry: [1m, 10m, 1h40m, 24h] -> [1m]"}, nil},
		{"a peer more", head + peers("fe1") + directory, head + peers("fe1", "fe2") + directory, []string{"peers[fe2]: added"}, nil},
		{"a peer less", head + peers("fe1", "fe2") + directory, head + peers("fe2") + directory, []string{"peers[fe1]: removed"}, nil},
		{"peers in another order", head + peers("fe1", "fe2") + directory, head + peers("fe2", "fe1") + directory, []string{"peers: in another order"}, nil},
		{"within a peer", head + peers("fe2", "fe1") + directory, head + strings.TrimSuffix(peers("fe2", "fe1"), "}\n") + ", roles: [witness]}\n" + directory, []string{"peers[fe1].roles: [issuer] -> [witness]"}, nil},
		{"what needs a restart", base, strings.Replace(base, "edge", "core", 1) + "state_dir: /srv/state\ncontrol_socket: /run/c.sock\nlisten: ':7444'\nnginx: {enabled: false}\n",
			[]string{"cluster: edge -> core", "state_dir: /var/lib/certswarm -> /srv/state", "control_socket: /run/certswarm/control.sock -> /run/c.sock", `listen: "" -> :7444`, "nginx.enabled: true -> false"},
			[]string{"cluster: edge -> core", "state_dir: /var/lib/certswarm -> /srv/state", "control_socket: /run/certswarm/control.sock -> /run/c.sock", `listen: "" -> :7444`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old, next := load(t, write(t, "old.yaml", c.old)), load(t, write(t, "new.yaml", c.new))
			if got := config.Changes(old, next); !slices.Equal(got, c.changes) {
				t.Errorf("changes %q, want %q", got, c.changes)
			}
			if got := config.NeedsRestart(old, next); !slices.Equal(got, c.restart) {
				t.Errorf("needs a restart for %q, want %q", got, c.restart)
			}
		})
	}
}
