package doctor

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/internal/peer"
)

// An agent answers who knocks though it never heard of him, a closed port refuses, and a port that says nothing is silent.
func TestKnock(t *testing.T) {
	mute, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.LocalAddr().String()
	closed.Close()
	for address, want := range map[string]Answer{agentAt(t): Answered, nobody: Refused, mute.LocalAddr().String(): Silent, "no address": NotAsked} {
		if got := knock(t.Context(), address); got != want {
			t.Errorf("%s: %d, not %d", address, got, want)
		}
	}
}

// agentAt runs a mesh without peers and returns its address.
func agentAt(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := conn.LocalAddr().String()
	roster, err := fleet.NewRoster(nil)
	if err != nil {
		t.Fatal(err)
	}
	mesh, err := peer.New(peer.Config{Identity: peer.NewIdentity(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))), Cluster: "edge", Conn: conn, Roster: roster})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mesh.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return address
}

func TestExamine(t *testing.T) {
	dir := t.TempDir()
	state, certs := filepath.Join(dir, "state"), filepath.Join(dir, "certs")
	if err := os.MkdirAll(filepath.Join(certs, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	id, _, err := peer.CreateIdentity(state)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "certswarm.yaml")
	text := fmt.Sprintf("version: 1\ncluster: edge\nstate_dir: %s\ncontrol_socket: %s/c.sock\npeers:\n"+
		"  - {name: fe1, id: %s, addresses: ['127.0.0.1:1']}\n  - {name: fe2, id: 3ci6pb7f5nctkd4hyaqu6ibvp3oajy2wnfjiqh6hw5s2eizqvmwa, addresses: [%q]}\n"+
		"directories: [{name: certs, path: %s}]\nnginx: {enabled: false}\n", state, dir, id.ID(), agentAt(t), certs)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load([]string{file})
	if err != nil {
		t.Fatal(err)
	}
	socket, err := control.Listen(cfg.ControlSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	f := Examine(t.Context(), cfg, nil, Probes{Status: func(context.Context) (control.Status, error) {
		return control.Status{Node: control.Node{Name: "fe1", ID: id.ID()}}, nil
	}})
	if f.Watches != 3 || f.WatchLimit == 0 || f.OpenFiles == 0 || f.FileLimit < f.OpenFiles || len(f.Disks) != 2 || f.Disks[1].Free == 0 {
		t.Errorf("%+v", f)
	}
	if s := f.State; s == nil || s.Mode.Perm() != 0o700 || s.Key.Perm() != 0o600 || s.Daemon != os.Getuid() || s.Owner != os.Getuid() {
		t.Errorf("%+v, %v", f.State, f.StateFailed)
	}
	if len(f.Peers) != 1 || f.Peers[0].Name != "fe2" || f.Peers[0].Answer != Answered || f.Peers[0].Connected {
		t.Errorf("%+v", f.Peers)
	}
	away := *cfg
	away.StateDir, away.ControlSocket = filepath.Join(dir, "away"), filepath.Join(dir, "none.sock")
	f = Examine(t.Context(), &away, nil, Probes{Status: func(context.Context) (control.Status, error) { return control.Status{}, control.ErrNoDaemon }})
	if f.State == nil || *f.State != (StateDir{Path: away.StateDir, Missing: true}) || f.StateFailed != nil || len(f.Disks) != 1 || f.FilesFailed == nil {
		t.Errorf("a state directory that is not there: %+v", f)
	}
	f = Examine(t.Context(), nil, errors.New("a\nb"), Probes{Status: func(context.Context) (control.Status, error) { return control.Status{}, control.ErrNoDaemon }})
	if f.Config != "a" || f.Status != nil || !errors.Is(f.Daemon, control.ErrNoDaemon) {
		t.Errorf("without a configuration or a daemon: %+v", f)
	}
}

func TestCredentials(t *testing.T) {
	c, err := parseCredentials("Name:\tnginx\nUid:\t0\t33\t33\t33\nGid:\t0\t44\t44\t44\nGroups:\t55 66 \n")
	if err != nil || c.user != 33 || fmt.Sprint(c.groups) != "[44 55 66]" {
		t.Errorf("%+v, %v", c, err)
	}
	for _, wrong := range []string{"", "Uid:\tx\ty\n"} {
		if _, err := parseCredentials(wrong); err == nil {
			t.Errorf("%q was taken", wrong)
		}
	}
}

func TestMayRead(t *testing.T) {
	dir := t.TempDir()
	open := func(path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	open(filepath.Dir(dir), 0o755)
	open(dir, 0o755)
	file, link := filepath.Join(dir, "key"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink("key", link)); err != nil {
		t.Fatal(err)
	}
	stranger, kin := credentials{user: 65500}, credentials{65500, []int{os.Getgid()}}
	for _, test := range []struct {
		mode     os.FileMode
		who      credentials
		readable bool
	}{
		{0o600, stranger, false}, {0o604, stranger, true}, {0o600, kin, false}, {0o640, kin, true}, {0o604, kin, false}, {0o600, credentials{}, true},
	} {
		open(file, test.mode)
		if got := test.who.mayRead(link); got != test.readable {
			t.Errorf("%+v reads a file of mode %04o: %v", test.who, test.mode, got)
		}
	}
	open(file, 0o644)
	open(dir, 0o700)
	if stranger.mayRead(file) {
		t.Error("a closed directory does not matter")
	}
	open(dir, 0o755)
	if !stranger.mayRead(filepath.Join(dir, "none")) {
		t.Error("what is not there is unreadable")
	}
}
