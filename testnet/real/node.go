package real

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet/frontend"

	"golang.org/x/sys/unix"
)

// Node is one machine of the fleet: an agent, and its front-end if there are certificates.
type Node struct {
	Name, ID   string
	Address    string // the IP address of all that listens here
	Dir        string // everything below is in it
	Certs      string // the replicated directory
	State      string
	Socket     string // the control socket
	ConfigFile string
	Log        *Log

	// Launch, where it is not nil, may change how the agent is started: as whom, with what rights, seeing what.
	Launch func(*exec.Cmd)

	FrontEnd       *frontend.Frontend // nil without certificates
	FrontEndConfig frontend.Config
	FrontEndPaths  frontend.Paths

	fleet   *Fleet
	logFile *os.File
	agent   *exec.Cmd     // nil: never started
	ended   chan struct{} // closed when agent has been waited for
}

// newNode makes a node's directories and identity.
func (f *Fleet) newNode(ctx context.Context, name, address string) (*Node, error) {
	dir := filepath.Join(f.Dir, name)
	n := &Node{
		Name: name, Address: address, Dir: dir, Certs: filepath.Join(dir, "certs"), State: filepath.Join(dir, "state"),
		Socket: filepath.Join(dir, "control.sock"), ConfigFile: filepath.Join(dir, "certswarm.yaml"), fleet: f,
	}
	if err := os.MkdirAll(n.Certs, 0o755); err != nil {
		return nil, err
	}
	var err error
	if n.logFile, err = os.Create(filepath.Join(dir, "agent.log")); err != nil {
		return nil, err
	}
	n.Log = newLog(name, n.logFile)
	id, err := exec.CommandContext(ctx, f.config.Binary, "identity", "generate", "--state-dir", n.State).Output()
	if err != nil {
		return nil, fmt.Errorf("%s has no identity: %w", name, errors.Join(err, n.logFile.Close()))
	}
	n.ID = strings.TrimSpace(string(id))
	if len(f.config.Names) > 0 {
		n.FrontEndConfig = frontend.Config{
			Dir: filepath.Join(dir, "nginx"), Address: address, HTTPPort: f.ports.http, HTTPSPort: f.ports.https, Store: n.Certs,
			Socket: filepath.Join(dir, "http01.sock"), Names: f.config.Names, Also: f.config.More, Pairs: f.config.Pairs, BreakChallenge: f.config.Broken[name], Binary: f.config.FrontEnd,
		}
		if n.FrontEndPaths, err = frontend.WriteConfig(n.FrontEndConfig); err != nil {
			return nil, errors.Join(err, n.logFile.Close())
		}
	}
	return n, nil
}

// Peer is the node as a member of a roster.
func (n *Node) Peer() Peer {
	if relay := n.fleet.Relay; relay != nil {
		return Peer{n.Name, n.ID, relay.address(n)}
	}
	return Peer{n.Name, n.ID, n.Listen()}
}

// Listen is where the agent awaits its peers (UDP).
func (n *Node) Listen() string { return net.JoinHostPort(n.Address, strconv.Itoa(n.fleet.ports.peer)) }

// HTTP is where the front-end answers challenges.
func (n *Node) HTTP() string { return net.JoinHostPort(n.Address, strconv.Itoa(n.fleet.ports.http)) }

// HTTPS is where the front-end serves the certificate.
func (n *Node) HTTPS() string { return net.JoinHostPort(n.Address, strconv.Itoa(n.fleet.ports.https)) }

// PID is the agent's.
func (n *Node) PID() int { return n.agent.Process.Pid }

// Running reports whether the agent runs.
func (n *Node) Running() bool {
	if n.agent == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// Start starts the agent and returns when it is ready.
func (n *Node) Start(ctx context.Context) error {
	skip := len(n.Log.Events())
	agent := exec.Command(n.fleet.config.Binary, "run", "--config", n.ConfigFile)
	agent.Stderr = n.Log
	// A process group of its own: a Ctrl-C on the terminal reaches only us, who end things in order. And no agent
	// outlives us, however we end.
	agent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if n.Launch != nil {
		n.Launch(agent)
	}
	if err := agent.Start(); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	ended := make(chan struct{})
	n.agent, n.ended = agent, ended
	go func() {
		_ = agent.Wait() // the state it leaves is read by Stop
		close(ended)
	}()
	ready, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-ended:
			cancel(fmt.Errorf("it ended: %v\n%s", agent.ProcessState, n.lastWords()))
		case <-ready.Done():
		}
	}()
	if _, err := n.Log.Await(ready, skip, Said("certswarm is up")); err != nil {
		return fmt.Errorf("the agent of %s did not start: %w", n.Name, err)
	}
	return nil
}

// lastWords is the end of the agent's log.
func (n *Node) lastWords() string {
	const enough = 10
	events := n.Log.Events()
	var lines []string
	for _, e := range events[max(0, len(events)-enough):] {
		lines = append(lines, e.String())
	}
	return strings.Join(lines, "\n")
}

// Stop asks the agent to end. It is an error if it does not within its five seconds and some, or not with status 0.
func (n *Node) Stop() error {
	if !n.Running() {
		return nil
	}
	n.signal(syscall.SIGCONT)
	n.signal(syscall.SIGTERM)
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case <-n.ended:
	case <-timer.C:
		n.Kill()
		return fmt.Errorf("the agent of %s did not end within %v and was killed", n.Name, stopPatience)
	}
	if !n.agent.ProcessState.Success() {
		return fmt.Errorf("the agent of %s ended badly: %v\n%s", n.Name, n.agent.ProcessState, n.lastWords())
	}
	return nil
}

// Kill is kill -9: the agent has no say in it.
func (n *Node) Kill() {
	n.signal(syscall.SIGKILL)
	<-n.ended
}

// Freeze makes the agent stand still, as on a machine that hangs, until Thaw. When it returns the last of its threads has stopped: on a busy machine
// that is some time after the signal was sent.
func (n *Node) Freeze() {
	n.signal(syscall.SIGSTOP)
	_ = unix.Waitid(unix.P_PID, n.agent.Process.Pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil) // one that has ended stands still, too
}

// Thaw ends Freeze.
func (n *Node) Thaw() { n.signal(syscall.SIGCONT) }

// signal sends a signal; to an agent that has ended it means nothing.
func (n *Node) signal(s syscall.Signal) { _ = n.agent.Process.Signal(s) }

// startFrontEnd needs what a ready agent promises: a certificate or its placeholder.
func (n *Node) startFrontEnd(ctx context.Context) (err error) {
	n.FrontEnd, err = frontend.Start(ctx, n.FrontEndConfig)
	return err
}

// Control speaks to the agent.
func (n *Node) Control() *control.Client { return control.Dial(n.Socket) }

// Certswarm is the command line, used on this node.
func (n *Node) Certswarm(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, n.fleet.config.Binary, append(args, "--config", n.ConfigFile)...)
}

// Fetch is a request that a front-end answered.
type Fetch struct {
	Host      string
	Path      string
	Status    int
	UserAgent string
}

// ByAgent reports whether an agent fetched it, to see whether its front-end serves it.
func (f Fetch) ByAgent() bool { return strings.HasPrefix(f.UserAgent, "certswarm/") }

var accessLine = regexp.MustCompile(`(?m)^\S+ \[[^]]*\] (\S+) "\S+ (\S+)[^"]*" (\d+) "([^"]*)"$`)

// Fetches returns what the front-end's access log tells.
func (n *Node) Fetches() ([]Fetch, error) {
	text, err := os.ReadFile(n.FrontEndPaths.AccessLog)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var fetches []Fetch
	for _, m := range accessLine.FindAllStringSubmatch(string(text), -1) {
		status, err := strconv.Atoi(m[3])
		if err != nil {
			return nil, err
		}
		fetches = append(fetches, Fetch{Host: m[1], Path: m[2], Status: status, UserAgent: m[4]})
	}
	return fetches, nil
}

// Shown makes a TLS handshake with the front-end and returns the leaf that it shows for name, which must chain to what the
// CA issues.
func (n *Node) Shown(ctx context.Context, name string) (*x509.Certificate, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(n.fleet.CA.IssuingRoot())
	dialer := tls.Dialer{Config: &tls.Config{ServerName: name, RootCAs: roots}}
	conn, err := dialer.DialContext(ctx, "tcp", n.HTTPS())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.HTTPS(), err)
	}
	leaf := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	return leaf, conn.Close()
}
