package config_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"certswarm/internal/agent/config"
	"certswarm/internal/fleet"
)

var update = flag.Bool("update", false, "rewrite the expected texts in testdata")

// TestWrongConfigurations reads every file of testdata/wrong by itself and compares all that is said about it.
func TestWrongConfigurations(t *testing.T) {
	t.Chdir("testdata/wrong")
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(file, ".yaml"), func(t *testing.T) {
			cfg, err := config.Load([]string{file})
			var wrong config.Errors
			if cfg != nil || !errors.As(err, &wrong) {
				t.Fatalf("%s was taken: %v", file, err)
			}
			expect(t, strings.TrimSuffix(file, ".yaml")+".expected", wrong.Error()+"\n")
		})
	}
}

func expect(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s says\n%s\nbut this was said:\n%s", file, want, got)
	}
}

func load(t *testing.T, files ...string) *config.Config {
	t.Helper()
	cfg, err := config.Load(files)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestTheContractsExampleIsTheDefaults reads the documented file, in which every value but the lists is its default.
func TestTheContractsExampleIsTheDefaults(t *testing.T) {
	documented := load(t, "testdata/contract.yaml")
	minimal := load(t, "testdata/minimal.yaml")
	documented.Directories[0].Ignore = nil // [] and nothing are the same
	minimal.Nginx.Verify = documented.Nginx.Verify
	for what, pair := range map[string][2]any{
		"state_dir":      {minimal.StateDir, documented.StateDir},
		"control_socket": {minimal.ControlSocket, documented.ControlSocket},
		"directories":    {minimal.Directories, documented.Directories},
		"roles":          {minimal.Peers[0].Roles, documented.Peers[0].Roles},
		"lease":          {minimal.Lease, documented.Lease},
		"nginx":          {minimal.Nginx, documented.Nginx},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s defaults to %+v, documented is %+v", what, pair[0], pair[1])
		}
	}
	if minimal.ACME != nil {
		t.Error("a fleet without acme: has one")
	}
	short := load(t, "testdata/minimal.yaml", write(t, "acme.yaml", `
acme: {accept_terms: true, email: ops@example.com}
certificates:
  - {name: www.example.com, names: [www.example.com, example.com]}
  - name: example.org
`))
	if !reflect.DeepEqual(short.ACME, documented.ACME) {
		t.Errorf("acme defaults to %+v, documented is %+v", short.ACME, documented.ACME)
	}
	if !reflect.DeepEqual(short.Certificates[0], documented.Certificates[0]) {
		t.Errorf("certificates default to %+v, documented is %+v", short.Certificates[0], documented.Certificates[0])
	}
	if got := short.Certificates[1].Names; !reflect.DeepEqual(got, []string{"example.org"}) {
		t.Errorf("names default to %q", got)
	}
	if got := documented.ACME.HTTP01Socket; got != "/run/certswarm/http01.sock" {
		t.Errorf("http01_socket defaults to %s", got)
	}
	if got := time.Duration(documented.ACME.Retry[2]); got != 100*time.Minute {
		t.Errorf("the third pause is %s", got)
	}
}

// A pair of keys is two certificates, each with its own name.
func TestAPairOfKeysIsTwoCertificates(t *testing.T) {
	pairs := load(t, "testdata/minimal.yaml", write(t, "acme.yaml", `
acme: {accept_terms: true}
certificates:
  - {name: www.example.com, names: [www.example.com, example.com], key: [ecdsa-p256, rsa-2048], profile: classic}
  - {name: example.org, key: [rsa-4096, ecdsa-p384]}
  - {name: example.net, key: [rsa-3072]}
`)).Certificates
	both, org := []string{"www.example.com", "example.com"}, []string{"example.org"}
	want := []config.Certificate{
		{Name: "www.example.com", Names: both, Key: []config.KeyType{"ecdsa-p256"}, Profile: "classic"},
		{Name: "example.org", Names: org, Key: []config.KeyType{"rsa-4096"}},
		{Name: "example.net", Names: []string{"example.net"}, Key: []config.KeyType{"rsa-3072"}},
		{Name: "www.example.com-rsa", Names: both, Key: []config.KeyType{"rsa-2048"}, Profile: "classic"},
		{Name: "example.org-ecdsa", Names: org, Key: []config.KeyType{"ecdsa-p384"}},
	}
	if !reflect.DeepEqual(pairs, want) {
		t.Errorf("read as %+v", pairs)
	}
}

func TestBounds(t *testing.T) {
	directories := "directories:\n"
	for i := range 64 {
		directories += fmt.Sprintf("  - {name: d%d, path: /d%d}\n", i, i)
	}
	peers := "peers:\n"
	for i := range 1001 {
		peers += fmt.Sprintf("  - {name: fe%d, id: %s, addresses: [\"fe%d:7443\"]}\n", i, fleet.NodeID{1, byte(i >> 8), byte(i)}, i)
	}
	tree(t, map[string]string{"a.yaml": head + peers + directories})
	_, err := config.Load([]string{"a.yaml"})
	want := "a.yaml:4:3: peers: 1001 are more than the 1000 that a fleet can have; write at most 1000\n" +
		"a.yaml:1006:3: directories: 64 are more than the 63 that a fleet can have; write at most 63"
	if err == nil || err.Error() != want {
		t.Errorf("want\n%s\ngot\n%v", want, err)
	}
}

func TestListenAddress(t *testing.T) {
	cfg := load(t, "testdata/minimal.yaml")
	self := cfg.Roster().Members()[0]
	if got := cfg.ListenAddress(self); got != ":7443" {
		t.Errorf("the port of the first address: %s", got)
	}
	cfg = load(t, "testdata/contract.yaml")
	cfg.Listen = "10.0.0.1:7000"
	if got := cfg.ListenAddress(self); got != "10.0.0.1:7000" {
		t.Errorf("what is written: %s", got)
	}
}

func TestSelfSaysWhereToPutTheID(t *testing.T) {
	first, second := write(t, "a.yaml", "version: 1\ncluster: edge\n"), "testdata/minimal.yaml"
	text, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	peers := write(t, "peers.yaml", strings.TrimPrefix(string(text), "version: 1\ncluster: edge\n"))
	cfg := load(t, first, peers)
	self := cfg.Roster().Members()[0]
	if m, err := cfg.Self(self.ID); err != nil || m.Name != "fe1" {
		t.Errorf("%v, %v", m, err)
	}
	_, err = cfg.Self(fleet.NodeID{1})
	if err == nil || !strings.Contains(err.Error(), peers) || !strings.Contains(err.Error(), fleet.NodeID{1}.String()) {
		t.Errorf("the error names neither the id nor %s: %v", peers, err)
	}
}

func TestMayWrite(t *testing.T) {
	issuer, member := fleet.Member{Name: "fe1", Role: fleet.Issuer}, fleet.Member{Name: "fe2", Role: fleet.Receive}
	for _, c := range []struct {
		writers []string
		who     fleet.Member
		may     bool
	}{
		{[]string{"any"}, issuer, true},
		{[]string{"issuers"}, issuer, true},
		{[]string{"fe0", "fe1"}, issuer, true},
		{[]string{"fe0"}, issuer, false},
		{[]string{"any"}, member, false},
		{[]string{"fe2"}, member, false},
	} {
		if got := (config.Directory{Writers: c.writers}).MayWrite(c.who); got != c.may {
			t.Errorf("%s %s among %v: %v", c.who.Role, c.who.Name, c.writers, got)
		}
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// tree writes files below a fresh directory, which becomes the current one.
func tree(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	head      = "version: 1\ncluster: edge\n"
	peer1     = "peers:\n  - name: fe1\n    id: uehqnct7aaoxqdno357h3azujvru5zpd33t55agrkmq5sw64rkha\n    addresses: [\"10.0.0.1:7443\"]\n"
	peer2     = "peers:\n  - name: fe2\n    id: 6iznsiokwfqwnjujh4apfkmfx2vbyzau47ijuzojnospvmeqkxaa\n    addresses: [\"10.0.0.2:7443\"]\n"
	directory = "directories:\n  - name: certs\n    path: /etc/nginx/certs\n"
)

func TestConfDIsMergedInLexicalOrder(t *testing.T) {
	tree(t, map[string]string{
		"certswarm.yaml":        head + peer1 + directory + "acme:\n  accept_terms: true\n",
		"conf.d/20-more.yaml":   peer2 + "lease:\n  break_glass: {mode: \"off\"}\n",
		"conf.d/10-acme.yaml":   "acme:\n  email: ops@example.com\n",
		"conf.d/30-lease.yaml":  "lease:\n  ttl: 10s\n  break_glass: {after: 5m}\n",
		"conf.d/40-empty.yaml":  "# nothing yet\n",
		"conf.d/.hidden.yaml":   "not: read\n",
		"conf.d/50-note.txt":    "not: read\n",
		"conf.d/60-x.yaml.orig": "not: read\n",
	})
	cfg, err := config.LoadWithConfD("certswarm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Roster().Members(); len(got) != 2 || got[0].Name != "fe1" || got[1].Name != "fe2" {
		t.Errorf("peers %v", got)
	}
	want := config.Lease{Engine: config.EngineAuto, TTL: config.Duration(10 * time.Second), BreakGlass: config.BreakGlass{Mode: config.Off, After: config.Duration(5 * time.Minute)}}
	if cfg.Lease != want || cfg.ACME.Email != "ops@example.com" || !cfg.ACME.AcceptTerms {
		t.Errorf("lease %+v, acme %+v", cfg.Lease, cfg.ACME)
	}
}

// TestSeveralFiles is about errors that lie between files, or that leave one of them out.
func TestSeveralFiles(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{{
		"a value in two files",
		map[string]string{"certswarm.yaml": head + peer1 + directory, "conf.d/a.yaml": "lease:\n  ttl: 5s\n", "conf.d/b.yaml": "cluster: other\nlease:\n  ttl: 5s\n"},
		"conf.d/b.yaml:1:10: cluster stands already at certswarm.yaml:2:1; keep one of the two\n" +
			"conf.d/b.yaml:3:8: ttl stands already at conf.d/a.yaml:2:3; keep one of the two",
	}, {
		"a peer in two files",
		map[string]string{"certswarm.yaml": head + peer1 + directory, "conf.d/a.yaml": peer1},
		"conf.d/a.yaml:2:11: name: fe1 stands already at certswarm.yaml:4:11; keep one of the two\n" +
			"conf.d/a.yaml:3:9: id: uehqnct7aaoxqdno357h3azujvru5zpd33t55agrkmq5sw64rkha stands already at certswarm.yaml:5:9; keep one of the two",
	}, {
		"a list without names in two files",
		map[string]string{"certswarm.yaml": head + peer1 + directory + "acme: {accept_terms: true, retry: [1m]}\n", "conf.d/a.yaml": "acme:\n  retry: [2m]\n"},
		"conf.d/a.yaml:2:10: retry stands already at certswarm.yaml:10:28; keep one of the two",
	}, {
		"a map in one file and a value in the other",
		map[string]string{"certswarm.yaml": head + peer1 + directory + "lease:\n  ttl: 5s\n", "conf.d/a.yaml": "lease: 5s\n"},
		"conf.d/a.yaml:1:8: lease stands already at certswarm.yaml:10:1; keep one of the two",
	}, {
		"a file that is not YAML hides what it holds: the others are checked without it",
		map[string]string{"certswarm.yaml": head + "lease: {ttl: 1ms}\n", "conf.d/a.yaml": peer1 + "\t- x\n"},
		"certswarm.yaml:3:14: ttl: 1ms is too short to be renewed in time; write 1s or more\n" +
			"conf.d/a.yaml:5:1: not YAML: a tab cannot indent; write spaces",
	}, {
		"conf.d is a file",
		map[string]string{"certswarm.yaml": head + peer1 + directory, "conf.d": "x"},
		"conf.d:1:1: cannot be read: not a directory; name a file that can be read",
	}, {
		"a file too large",
		map[string]string{"certswarm.yaml": head + peer1 + directory, "conf.d/a.yaml": "# " + strings.Repeat("x", 1<<20)},
		"conf.d/a.yaml:1:1: longer than 1MiB; write several files into conf.d",
	}, {
		"no file",
		nil,
		"certswarm.yaml:1:1: cannot be read: no such file or directory; name a file that can be read",
	}} {
		t.Run(c.name, func(t *testing.T) {
			tree(t, c.files)
			cfg, err := config.LoadWithConfD("certswarm.yaml")
			if err == nil || cfg != nil || err.Error() != c.want {
				t.Errorf("want\n%s\ngot\n%v", c.want, err)
			}
		})
	}
}

func TestAFileNamedTwice(t *testing.T) {
	_, err := config.Load([]string{"testdata/minimal.yaml", "testdata/minimal.yaml"})
	if want := "testdata/minimal.yaml:1:1: this file is named twice; name it once"; err == nil || err.Error() != want {
		t.Errorf("want %s, got %v", want, err)
	}
}

func TestFragments(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing at all":            {"", ""},
		"references to other files": {"acme: {store: elsewhere}\n", ""},
		"certificates without acme": {"certificates: [{name: www.example.com}]\n", ""},
		"writers in other files":    {"directories: [{name: a, path: /a, writers: [fe9]}]\n", ""},
		"items must be complete":    {"peers:\n  - name: fe1\n    addresses: [\"10.0.0.1:7443\"]\n", "f.yaml:2:5: id is missing; write id: and what certswarm identity show prints on that node"},
		"values are checked":        {"version: 2\n", "f.yaml:1:10: version 2 is not one that this certswarm reads; write version: 1"},
		"keys are checked":          {"clutser: x\n", "f.yaml:1:1: unknown key \"clutser\"; write cluster"},
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

func TestControlSocketOf(t *testing.T) {
	tree(t, map[string]string{
		"plain/certswarm.yaml":          head + "control_socket: /run/a.sock\n",
		"broken/certswarm.yaml":         "control_socket: /run/b.sock\nunknown: 1\ncluster: ''\n",
		"inconfd/certswarm.yaml":        head,
		"inconfd/conf.d/a.yaml":         "control_socket: /run/c.sock\n",
		"silent/certswarm.yaml":         head,
		"nonsense/certswarm.yaml":       "control_socket: [x]\n",
		"unparsable/certswarm.yaml":     "control_socket: /run/d.sock\n\tx\n",
		"quoted/certswarm.yaml":         "cluster: 'edge\ncontrol_socket: \"/run/g.sock\"  # ours\npeers: [\n",
		"crlf/certswarm.yaml":           "peers: [\r\ncontrol_socket: /run/h.sock\r\n",
		"binary/certswarm.yaml":         "cluster: \xff\ncontrol_socket: /run/i.sock\n",
		"nested/certswarm.yaml":         "acme:\n  control_socket: /run/no.sock\n\tx\n",
		"unparsableline/certswarm.yaml": "control_socket: \"/run/no.sock\n\tx\n",
		"beside/certswarm.yaml":         head + "control_socket: /run/e.sock\n",
		"beside/conf.d/broken.yaml":     "peers: ]\n",
		"brokenbeside/certswarm.yaml":   head,
		"brokenbeside/conf.d/a.yaml":    "peers: ]\n",
		"brokenbeside/conf.d/b.yaml":    "control_socket: /run/j.sock\n",
		"relative/certswarm.yaml":       "control_socket: x.sock\n",
		"withoutmain/conf.d/a.yaml":     "control_socket: /run/f.sock\n",
		"empty/conf.d/certswarm.txt":    "",
		"directory/certswarm.yaml/x":    "",
	})
	for dir, want := range map[string]string{
		"plain": "/run/a.sock", "broken": "/run/b.sock", "inconfd": "/run/c.sock", "unparsable": "/run/d.sock", "quoted": "/run/g.sock",
		"crlf": "/run/h.sock", "binary": "/run/i.sock", "beside": "/run/e.sock", "brokenbeside": "/run/j.sock", "withoutmain": "/run/f.sock",
		"silent": config.DefaultControlSocket, "nonsense": config.DefaultControlSocket, "relative": config.DefaultControlSocket,
		"empty": config.DefaultControlSocket, "none": config.DefaultControlSocket,
	} {
		if got, err := config.ControlSocketOf(dir + "/certswarm.yaml"); got != want || err != nil {
			t.Errorf("%s: %s, want %s: %v", dir, got, want, err)
		}
	}
	for dir, want := range map[string]string{
		"nested": "not YAML", "unparsableline": "not YAML", "directory": "cannot be read",
	} {
		file := dir + "/certswarm.yaml"
		if got, err := config.ControlSocketOf(file); got != config.DefaultControlSocket || err == nil || !strings.HasPrefix(err.Error(), file+":") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s without a word that it is a guess: %v", dir, got, err)
		}
	}
	if cfg, err := config.Load([]string{"none.yaml"}); cfg != nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file is one of the Errors: %v", err)
	}
}

// Nobody may ever write into a pipe, so that it is not waited for.
func TestOnlyARegularFileIsRead(t *testing.T) {
	tree(t, map[string]string{"certswarm.yaml": head + peer1 + directory, "conf.d/a.yaml": "", "conf.d/dir.yaml/x": ""})
	if err := errors.Join(syscall.Mkfifo("pipe", 0o600), syscall.Mkfifo("conf.d/pipe.yaml", 0o600), os.Symlink("/dev/zero", "conf.d/zero.yaml")); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", "conf.d/socket.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	const instead = "; put a regular file in its place, or remove it"
	_, err = config.LoadWithConfD("certswarm.yaml")
	if want := "conf.d/dir.yaml:1:1: cannot be read: is a directory; name a file that can be read\n" +
		"conf.d/pipe.yaml:1:1: a pipe, not a file" + instead + "\n" +
		"conf.d/socket.yaml:1:1: a socket or a device, not a file" + instead + "\n" +
		"conf.d/zero.yaml:1:1: a device, not a file" + instead; err == nil || err.Error() != want {
		t.Errorf("want\n%s\ngot\n%v", want, err)
	}
	want := "pipe:1:1: a pipe, not a file" + instead
	if _, err := config.Load([]string{"pipe"}); err == nil || err.Error() != want {
		t.Errorf("want %s, got %v", want, err)
	}
	if err := config.CheckFragment("pipe"); err == nil || err.Error() != want {
		t.Errorf("want %s, got %v", want, err)
	}
	if socket, err := config.ControlSocketOf("pipe"); err == nil {
		t.Errorf("%s without a word that it is a guess", socket)
	}
}

func TestAPipeForConfD(t *testing.T) {
	tree(t, map[string]string{"certswarm.yaml": head + peer1 + directory})
	if err := syscall.Mkfifo("conf.d", 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := config.LoadWithConfD("certswarm.yaml")
	if want := "conf.d:1:1: cannot be read: not a directory; name a file that can be read"; err == nil || err.Error() != want {
		t.Errorf("want %s, got %v", want, err)
	}
}
