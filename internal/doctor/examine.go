package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"certswarm/internal/agent/config"
	"certswarm/internal/control"
)

// Probes is how Examine asks what is neither a file nor the kernel.
type Probes struct {
	Status func(context.Context) (control.Status, error)
	// TestNginx runs nginx -t and returns what it said when it said no; an error when it could not be run.
	TestNginx func(context.Context, config.Nginx) (refused string, err error)
}

// Examine collects the facts. cfg is nil when the configuration is not valid, for the reason that wrong gives.
func Examine(ctx context.Context, cfg *config.Config, wrong error, p Probes) Facts {
	var f Facts
	if wrong != nil {
		f.Config, _, _ = strings.Cut(wrong.Error(), "\n")
	}
	status, err := p.Status(ctx)
	if err != nil {
		f.Daemon = err
	} else {
		f.Status = &status
	}
	f.ClockSeen, f.Unsynced = clock()
	f.WatchLimit = number("/proc/sys/fs/inotify/max_user_watches")
	if cfg == nil {
		return f
	}
	pid, user := daemon(cfg.ControlSocket)
	f.OpenFiles, f.FileLimit, f.FilesFailed = openFiles(pid)
	f.State, f.StateFailed = stateDir(cfg.StateDir, user)
	if f.State == nil || !f.State.Missing { // else that says it
		f.Disks = append(f.Disks, disk(cfg.StateDir))
	}
	for _, d := range cfg.Directories {
		f.Disks = append(f.Disks, disk(d.Path))
		f.Watches += directories(d.Path)
	}
	f.Peers = peers(ctx, cfg, f.Status)
	if cfg.Nginx.Enabled {
		f.Nginx = examineNginx(ctx, cfg, p)
	}
	return f
}

// clock asks the kernel whether anything disciplines its clock (adjtimex(2)).
func clock() (seen, unsynced bool) {
	const timeError = 5
	state, err := syscall.Adjtimex(&syscall.Timex{})
	return err == nil, state == timeError
}

// number reads a file of /proc that holds one; 0 when it cannot.
func number(file string) int {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return n
}

// daemon returns whose socket it is (unix(7), SO_PEERCRED); 0, -1 when nobody answers.
func daemon(socket string) (pid, user int) {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return 0, -1
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, -1
	}
	user = -1
	_ = raw.Control(func(fd uintptr) { // fails only for a closed socket
		if who, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			pid, user = int(who.Pid), int(who.Uid)
		}
	})
	return pid, user
}

// openFiles returns how many files a process has open and how many it may.
func openFiles(pid int) (open, limit int, err error) {
	if pid == 0 {
		return 0, 0, errors.New("its process cannot be seen from here")
	}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	names, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return 0, 0, err
	}
	text, err := os.ReadFile(filepath.Join(proc, "limits"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, "Max open files"); found {
			if fields := strings.Fields(rest); len(fields) > 0 {
				limit, _ = strconv.Atoi(fields[0]) // "unlimited" is as good as unknown
			}
		}
	}
	return len(names), limit, nil
}

func stateDir(path string, user int) (*StateDir, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &StateDir{Path: path, Missing: true}, nil
	case err != nil:
		return nil, err
	}
	s := &StateDir{Path: path, Mode: info.Mode(), Owner: ownerOf(info), Daemon: user}
	key, err := os.Stat(filepath.Join(path, "identity.pem"))
	switch {
	case err == nil:
		s.Key, s.KeyOwner = key.Mode(), ownerOf(key)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return s, nil
}

func ownerOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

func disk(path string) Disk {
	var found syscall.Statfs_t
	if err := syscall.Statfs(path, &found); err != nil {
		return Disk{Path: path, Err: &os.PathError{Op: "statfs", Path: path, Err: err}}
	}
	block := uint64(found.Bsize)
	return Disk{Path: path, Free: found.Bavail * block, Size: found.Blocks * block, FreeInodes: found.Ffree, Inodes: found.Files}
}

// directories counts the directories of a tree, each of which takes a watch. What cannot be read is not watched either.
func directories(root string) (n int) {
	_ = filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error { // every error is passed over below
		if err == nil && entry.IsDir() {
			n++
		}
		return nil
	})
	return n
}

// peers knocks at the first address of every other node, at all at once.
func peers(ctx context.Context, cfg *config.Config, status *control.Status) []Peer {
	var out []Peer
	for _, m := range cfg.Roster().Members() {
		p := Peer{Name: m.Name, Address: m.Addresses[0]}
		if status != nil {
			if m.ID == status.Node.ID {
				continue
			}
			i := slices.IndexFunc(status.Peers, func(s control.Peer) bool { return s.ID == m.ID })
			p.Connected = i >= 0 && status.Peers[i].Connected
		}
		out = append(out, p)
	}
	var all sync.WaitGroup
	for i := range out {
		all.Go(func() { out[i].Answer = knock(ctx, out[i].Address) })
	}
	all.Wait()
	return out
}

const (
	knockTries = 3
	knockWait  = 500 * time.Millisecond
)

// knock sends what every QUIC endpoint answers without a handshake: a long header of a version that nobody speaks (RFC 9000 6.1). The
// answer is a Version Negotiation packet that bears this packet's connection ids.
func knock(ctx context.Context, address string) Answer {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "udp", address)
	if err != nil {
		return NotAsked
	}
	defer conn.Close()
	packet := make([]byte, 1200) // RFC 9000 14.1: a shorter one is not answered
	copy(packet, []byte{0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8})
	rand.Read(packet[6:14]) // never fails
	packet[14] = 8
	rand.Read(packet[15:23])
	answer := make([]byte, 1500)
	for range knockTries {
		if _, err := conn.Write(packet); errors.Is(err, syscall.ECONNREFUSED) {
			return Refused
		} else if err != nil {
			return Silent // a firewall here says EPERM, a missing route that it is missing
		}
		if err := conn.SetReadDeadline(time.Now().Add(knockWait)); err != nil {
			return NotAsked
		}
		n, err := conn.Read(answer)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return Refused
		case err == nil && n > 14 && answer[0]&0x80 != 0 && answer[5] == 8 && string(answer[6:14]) == string(packet[15:23]):
			return Answered
		}
	}
	return Silent
}

// examineNginx tests it, and looks with its master's eyes at what it must read.
func examineNginx(ctx context.Context, cfg *config.Config, p Probes) *Nginx {
	n := &Nginx{}
	if os.Geteuid() == 0 {
		n.Tested = true
		n.Refused, n.Failed = p.TestNginx(ctx, cfg.Nginx)
	}
	pid := masterPID()
	if pid == 0 || cfg.ACME == nil {
		return n
	}
	who, err := credentialsOf(pid)
	if err != nil {
		return n
	}
	n.Running, n.User = true, who.user
	for _, d := range cfg.Directories {
		if d.Name != cfg.ACME.Store {
			continue
		}
		for _, c := range cfg.Certificates {
			for _, name := range []string{"fullchain.pem", "privkey.pem"} {
				file := filepath.Join(d.Path, "live", c.Name, name)
				if !who.mayRead(file) {
					n.Unreadable = append(n.Unreadable, file)
				}
			}
		}
	}
	return n
}

// masterPID finds a process that calls itself nginx's master; 0 when there is none.
func masterPID() int {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		panic(err) // the pattern is wrong
	}
	for _, file := range all {
		if text, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(text), "nginx: master process") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file))) // the pattern has only digits
			return pid
		}
	}
	return 0
}

// credentials are by whom files are read.
type credentials struct {
	user   int
	groups []int
}

func credentialsOf(pid int) (credentials, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return credentials{}, err
	}
	return parseCredentials(string(text))
}

// parseCredentials reads proc_pid_status(5): the effective user is the second of Uid.
func parseCredentials(status string) (c credentials, err error) {
	c.user = -1
	for line := range strings.Lines(status) {
		name, rest, _ := strings.Cut(line, ":")
		var numbers []int
		if name == "Uid" || name == "Gid" || name == "Groups" {
			for _, field := range strings.Fields(rest) {
				n, err := strconv.Atoi(field)
				if err != nil {
					return credentials{}, fmt.Errorf("%q is no id", field)
				}
				numbers = append(numbers, n)
			}
		}
		switch {
		case name == "Uid" && len(numbers) > 1:
			c.user = numbers[1]
		case name == "Gid" && len(numbers) > 1:
			c.groups = append(c.groups, numbers[1])
		case name == "Groups":
			c.groups = append(c.groups, numbers...)
		}
	}
	if c.user < 0 {
		return credentials{}, errors.New("there is no Uid")
	}
	return c, nil
}

// mayRead reports whether every directory on the way lets c through and the file may be read. What is not there is not unreadable.
func (c credentials) mayRead(file string) bool {
	if c.user == 0 {
		return true
	}
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	for dir := filepath.Dir(real); ; dir = filepath.Dir(dir) {
		if !c.has(dir, 0o1) {
			return false
		}
		if dir == filepath.Dir(dir) {
			return c.has(real, 0o4)
		}
	}
}

// has reports whether c has one of the permission bits r 4, w 2, x 1 on a path.
func (c credentials) has(path string, bit fs.FileMode) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	stat := info.Sys().(*syscall.Stat_t)
	switch {
	case int(stat.Uid) == c.user:
		bit <<= 6
	case slices.Contains(c.groups, int(stat.Gid)):
		bit <<= 3
	}
	return info.Mode().Perm()&bit != 0
}
