package config_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"certswarm/internal/agent/config"
)

// sound is a configuration in which nothing is wrong: each mistake below is made on a line of its own.
const sound = `version: 1
cluster: edge
state_dir: /var/lib/certswarm
control_socket: /run/certswarm/control.sock
peers:
  - name: fe1
    id: uehqnct7aaoxqdno357h3azujvru5zpd33t55agrkmq5sw64rkha
    addresses: ["10.0.0.1:7443"]
    roles: [issuer]
  - name: fe2
    id: 6iznsiokwfqwnjujh4apfkmfx2vbyzau47ijuzojnospvmeqkxaa
    addresses: ["10.0.0.2:7443"]
    roles: [issuer]
  - name: fe3
    id: mccgbksbqsvxmzwijgmjfzl4dat4lpteg6dx7q7ybih7ept2yx7q
    addresses: ["10.0.0.3:7443"]
    roles: [member]
directories:
  - name: certs
    path: /etc/nginx/certs
    writers: [fe1, fe2]
    max_delete: 50%
  - name: maps
    path: /etc/nginx/maps
    writers: [fe1]
  - name: snippets
    path: /etc/nginx/snippets
acme:
  accept_terms: true
  store: certs
  http01_socket: /run/certswarm/http01.sock
  budget:
    orders_per_day: 2
    orders_per_week: 4
certificates:
  - name: www.example.com
  - name: example.org
    key: ecdsa-p256
lease:
  ttl: 30s
nginx:
  verify: ["127.0.0.1:443"]
`

// mistakes are edits of sound, each on one line, and what is said of them.
var mistakes = map[string]struct{ was, is, what string }{
	"a version":          {"version: 1", "version: 7", "version 7 is not"},
	"an id":              {"    id: uehq", "    id: x", "a node id has 52"},
	"an id without text": {"    id: 6iznsiokwfqwnjujh4apfkmfx2vbyzau47ijuzojnospvmeqkxaa", "    id:", "id has no value"},
	"an address":         {`"10.0.0.3:7443"`, `"10.0.0.3"`, "is not an address with a port"},
	"another's address":  {`"10.0.0.2:7443"`, `"10.0.0.1:7443"`, "10.0.0.1:7443 stands already"},
	"a key of a peer":    {`    addresses: ["10.0.0.1:7443"]`, "    port: 1\n" + `    addresses: ["10.0.0.1:7443"]`, `unknown key "port"`},
	"a role":             {"roles: [member]", "roles: [membre]", `"membre" is unknown`},
	"a directory's name": {"name: snippets", "name: Snippets", `"Snippets" is not a name`},
	"the same name":      {"name: maps", "name: certs", "certs stands already"},
	"a path":             {"path: /etc/nginx/snippets", "path: snippets", "is not absolute"},
	"paths":              {"path: /etc/nginx/maps", "path: /etc/nginx/certs/maps", "overlaps /etc/nginx/certs"},
	"a share":            {"max_delete: 50%", "max_delete: half", "is not a share"},
	"a writer":           {"writers: [fe1]", "writers: [nosuch]", `there is no peer "nosuch"`},
	"a store":            {"store: certs", "store: foo", `there is no directory "foo"`},
	"terms":              {"accept_terms: true", "accept_terms: false", "before its terms of service"},
	"a socket":           {"http01_socket: /run/certswarm/http01.sock", "http01_socket: /run/certswarm/control.sock", "that is the control socket"},
	"a budget":           {"orders_per_week: 4", "orders_per_week: 1", "less than orders_per_day"},
	"certificates":       {"name: example.org", "name: www.example.com", "www.example.com stands already"},
	"a key":              {"key: ecdsa-p256", "key: [rsa-2048, rsa-4096]", "neither one type nor a pair"},
	"a ttl":              {"ttl: 30s", "ttl: 1ms", "too short"},
	"a listener":         {`verify: ["127.0.0.1:443"]`, "verify: [nowhere]", "is not an address with a port"},
	"a word":             {"  - name: www.example.com", "  - name: www.example.com\n    profil: x", `unknown key "profil"`},
	"a state directory":  {"state_dir: /var/lib/certswarm", "state_dir: /etc/nginx/snippets", "overlaps the state directory"},
}

// dependent are those of which the first is only then certainly wrong when the second is mended.
var dependent = map[[2]string]bool{
	{"a store", "a directory's name"}: true,
	{"a store", "the same name"}:      true,
	{"a state directory", "a path"}:   true,
}

// TestNoMistakeHidesAnother makes every two mistakes at once: what is said is what is said of each.
func TestNoMistakeHidesAnother(t *testing.T) {
	load(t, write(t, "sound.yaml", sound))
	for a, first := range mistakes {
		if got := saidOf(t, mistaken(t, a)); len(got) != 1 || !strings.Contains(got[0], first.what) {
			t.Errorf("%s: want only %q, got %q", a, first.what, got)
		}
		for b, second := range mistakes {
			if a == b || dependent[[2]string{b, a}] {
				continue
			}
			want := []string{first.what, second.what}
			if dependent[[2]string{a, b}] {
				want = want[1:]
			}
			got := saidOf(t, mistaken(t, a, b))
			missed := slices.ContainsFunc(want, func(what string) bool {
				return !slices.ContainsFunc(got, func(said string) bool { return strings.Contains(said, what) })
			})
			if missed || len(got) != len(want) {
				t.Errorf("%s and %s: want %q, got %q", a, b, want, got)
			}
		}
	}
}

// mistaken is sound with mistakes in it.
func mistaken(t *testing.T, names ...string) string {
	t.Helper()
	text := sound
	for _, name := range names {
		edit := mistakes[name]
		if strings.Count(sound, edit.was) == 0 {
			t.Fatalf("%s: %q does not stand there", name, edit.was)
		}
		text = strings.Replace(text, edit.was, edit.is, 1)
	}
	return text
}

// saidOf returns what is said of a text taken as the whole configuration, without the places.
func saidOf(t *testing.T, text string) (said []string) {
	t.Helper()
	_, err := config.Load([]string{write(t, "a.yaml", text)})
	return whats(err)
}

func whats(err error) (said []string) {
	var wrong config.Errors
	errors.As(err, &wrong)
	for _, e := range wrong {
		said = append(said, e.What)
	}
	return said
}

// TestNothingIsSaidThatAMendedValueCouldRefute is about what seems to be wrong only because something beside it is.
func TestNothingIsSaidThatAMendedValueCouldRefute(t *testing.T) {
	edit := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(sound) }
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"a writer that a wrong name may become":       {edit("name: fe2", "name: fe 2"), []string{`name: "fe 2" is not a name`}},
		"a writer that could never be anybody":        {edit("name: fe2", "name: fe 2", "[fe1, fe2]", "[fe1, \"f!\"]"), []string{`name: "fe 2" is not a name`, `writers: there is no peer "f!"`}},
		"a writer that one of two may be called":      {edit("name: fe2", "name: fe1", "[fe1, fe2]", "[fe1, fe9]"), []string{"name: fe1 stands already"}},
		"a writer of a list that stands twice":        {edit("directories:", "peers: []\ndirectories:", "[fe1]", "[fe9]"), []string{"peers stands already at a.yaml:5:1"}},
		"a writer after an item without a value":      {edit("directories:", "  -\ndirectories:", "[fe1]", "[fe9]"), []string{"an item without a value"}},
		"a role by another key":                       {edit("roles: [member]", "role: [issuer]", "writers: [fe1]", "writers: [fe3]", "[fe1, fe2]", "[fe1, fe2, fe3]"), []string{`unknown key "role" in peers[2]`}},
		"no issuer, where a role may become one":      {edit("roles: [issuer]", "roles: [member]", "roles: [member]", "roles: [isuer]", "[fe1, fe2]", "[any]", "writers: [fe1]", "writers: [any]"), []string{`roles: "isuer" is unknown`}},
		"no issuer, whatever the ids and names":       {edit("roles: [issuer]", "roles: [member]", "id: uehq", "id: x", "name: fe3", "name: any"), []string{"peers: no peer is an issuer: nobody could change anything", "id: a node id has", `name: "any" has a meaning of its own in writers`}},
		"a store that is a misspelt key":              {edit("store:", "stoer:"), []string{`unknown key "stoer" in acme`}},
		"no agreement, where it is a misspelt key":    {edit("accept_terms:", "accept-terms:"), []string{`unknown key "accept-terms" in acme`}},
		"certificates, where acme: is misspelt":       {edit("acme:", "acmes:"), []string{`unknown key "acmes"`}},
		"a store that must be named, or not":          {edit("  store: certs\n", "", "  - name: snippets\n    path: /etc/nginx/snippets\n", "", "name: maps", "name: certs"), []string{"name: certs stands already"}},
		"a store that may be written to, or not":      {edit("[fe1, fe2]", "[fe1, fe22]"), []string{`writers: there is no peer "fe22"`}},
		"a budget for a week, the day's being wrong":  {edit("orders_per_day: 2", "orders_per_day: ten", "orders_per_week: 4", "orders_per_week: 1"), []string{`orders_per_day: "ten" is not a whole number`}},
		"a path around a control socket that is none": {edit("/run/certswarm/control.sock", "/run/certswarm/", "/etc/nginx/maps", "/run/certswarm", "http01_socket: /run/certswarm", "http01_socket: /run/x"), []string{`control_socket: "/run/certswarm/" has more than one spelling`}},
		"a path around the state that is elsewhere":   {edit("state_dir:", "state-dir:", "/etc/nginx/maps", "/var/lib"), []string{`unknown key "state-dir"`}},
		"names that are written, and are none":        {edit("name: example.org", "name: org_.\n    names:"), []string{"names has no value"}},
		"a key that is missing by its name":           {edit("path: /etc/nginx/maps", "pathh: /etc/nginx/maps"), []string{`unknown key "pathh" in directories[1]`}},
		"two pairs of one name":                       {edit("name: www.example.com", "name: example.org\n    key: [ecdsa-p256, rsa-2048]", "key: ecdsa-p256", "key: [ecdsa-p256, rsa-2048]"), []string{"name: example.org stands already"}},
	} {
		t.Run(name, func(t *testing.T) {
			tree(t, map[string]string{"a.yaml": c.text})
			_, err := config.Load([]string{"a.yaml"})
			got := whats(err)
			if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				t.Errorf("want %q, got %q", c.want, got)
			}
		})
	}
}

// TestAFragmentIsComparedWithItself is about what two values of one file say of each other, whatever other files hold.
func TestAFragmentIsComparedWithItself(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"certificates of one name":     {"certificates:\n  - name: www.example.com\n  - name: www.example.com\n", "f.yaml:3:11: name: www.example.com stands already at f.yaml:2:11; keep one of the two"},
		"peers of one name":            {peer1 + strings.Replace(strings.TrimPrefix(peer2, "peers:\n"), "fe2", "fe1", 1), "f.yaml:5:11: name: fe1 stands already at f.yaml:2:11; keep one of the two"},
		"directories in each other":    {directory + "  - {name: more, path: /etc/nginx/certs/more}\n", "f.yaml:4:24: path: /etc/nginx/certs/more overlaps /etc/nginx/certs at f.yaml:3:11; write paths that do not lie in one another"},
		"any beside a name":            {"directories: [{name: a, path: /a, writers: [fe1, any]}]\n", "f.yaml:1:50: writers: any stands for every peer already; write [any] alone, or leave it out"},
		"a state directory, as it is":  {"state_dir: /a\ndirectories: [{name: a, path: /a}]\n", "f.yaml:2:31: path: /a overlaps the state directory /a, which is never replicated; write another path, or another state_dir"},
		"a state directory, elsewhere": {"directories: [{name: a, path: /var/lib}]\n", ""},
		"a control socket, elsewhere":  {"acme: {http01_socket: /run/certswarm/control.sock}\n", ""},
		"a responder beside it":        {"acme: {email: ops@example.com}\ndirectories: [{name: a, path: /run}]\n", ""},
		"a budget's other half":        {"acme: {budget: {orders_per_day: 10}}\n", ""},
		"a store, elsewhere":           {directory + "acme: {store: other}\n", ""},
		"members only, and an issuer":  {strings.TrimSuffix(peer1, "\n") + "\n    roles: [member]\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			tree(t, map[string]string{"f.yaml": c.text})
			got := ""
			if err := config.CheckFragment("f.yaml"); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("want %q, got %q", c.want, got)
			}
		})
	}
}
