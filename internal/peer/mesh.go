// Package peer is who is who: one QUIC session to every reachable node of the peer list, in which both ends have
// proven the key that the list pins. It dials, accepts, chooses between two connections to one peer, notices the dead
// and hands out streams by purpose.
//
// It is not a router and not a directory of facts: it knows nothing of files, leases or certificates, relays nothing,
// and promises nothing about what is in flight when a session ends. Addresses are hints to it; only keys decide.
package peer

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"certswarm/internal/fleet"

	"github.com/quic-go/quic-go"
)

// ErrNotConnected says that there is no session with the peer that was asked for.
var ErrNotConnected = errors.New("not connected")

// Config is what a Mesh is made from; every field but Heard and Log is required.
type Config struct {
	Identity *Identity
	Cluster  string         // meshes of different clusters refuse each other
	Version  string         // of the software, told to peers
	Conn     net.PacketConn // UDP or simulated; Run closes it
	Roster   fleet.Roster   // whether it contains this node does not matter

	// Heard is when an earlier Mesh of this process last heard each of its peers, or zero: one that takes its place goes on from there. Nil for
	// the first.
	Heard map[fleet.NodeID]time.Time

	Log *slog.Logger // default: slog.Default()
}

// Mesh holds the sessions with all peers. Its methods may be called at any time from any goroutine, but Handle,
// HandleCall and OnSession only before Run.
type Mesh struct {
	self        *Identity
	ids         connectionIDs
	certificate tls.Certificate
	cluster     string
	version     string
	log         *slog.Logger
	instance    string // random: tells this process from the one before it
	conn        net.PacketConn

	streams   map[Purpose]func(context.Context, *Session, Stream) // written before Run only
	calls     map[string]func(context.Context, fleet.NodeID, []byte) ([]byte, error)
	onSession []func(context.Context, *Session)

	gate     gate
	windows  windows
	refusals refusals

	mu        sync.Mutex
	roster    fleet.Roster
	revision  uint64 // of what this node says about itself; grows with every SetRoster
	links     map[fleet.NodeID]*link
	changed   chan struct{}   // closed and replaced by changedLocked
	run       context.Context // nil before Run; ends with it
	transport *quic.Transport // nil before Run
	ending    bool            // no goroutine may be started any more
	tasks     sync.WaitGroup  // Add only with mu held and ending false
	adopted   uint64          // numbers the sessions that this node decided on, see adopt
}

// link is what is known of one peer of the list, connected or not.
type link struct {
	member      fleet.Member
	since       time.Time          // when it came into the list; zero: it was in the first one
	stop        context.CancelFunc // ends its dialling for good; nil before Run
	stopAttempt context.CancelFunc // ends the dial under way, if any: signalLocked calls it
	greeting    bool               // a connection dialled from here is past its handshake and saying Hello
	changed     chan struct{}      // closed and replaced when session or member changes
	session     *Session           // nil: not connected
	ended       sessionName        // the last session that ended here
	lastHeard   time.Time
	lastError   string
	failure     Failure // of lastError
	refuses     Failure // the last that Refuses since there was a session
	twins       twins
}

// PeerStatus is what an operator wants to know about one peer of the list.
type PeerStatus struct {
	ID             fleet.NodeID
	Connected      bool
	ConnectedSince time.Time     // zero when not connected
	Address        string        // the remote end of the session; "" when not connected
	RTT            time.Duration // the smallest seen in this session; 0 when not connected
	LastHeard      time.Time     // zero: never. While connected it moves when Peers is called, a live peer speaking every few seconds
	Version        string        // the peer's software, "" when not connected
	RosterDigest   [32]byte      // of the peer's own list, zero when not connected
	LastError      string        // why there is no session, "" when connected
	Failure        Failure       // the kind of LastError
	Refuses        Failure       // how it refused this node when it was last seen alive, which may be a while ago; "" when it did not
	Added          time.Time     // when a changed list brought it; zero: it was there when this process began
}

// New checks config and returns a Mesh; it touches nothing outside.
func New(config Config) (*Mesh, error) {
	switch {
	case config.Identity == nil:
		return nil, errors.New("peer mesh: no identity")
	case config.Conn == nil:
		return nil, errors.New("peer mesh: no socket")
	case config.Cluster == "" || !plain(config.Cluster, clusterMax):
		return nil, fmt.Errorf("peer mesh: the cluster's name must have 1 to %d bytes, all printable", clusterMax)
	case !plain(config.Version, versionMax):
		return nil, fmt.Errorf("peer mesh: the version must have at most %d bytes, all printable", versionMax)
	}
	certificate, err := config.Identity.certificate()
	if err != nil {
		return nil, fmt.Errorf("peer mesh: %w", err)
	}
	m := &Mesh{
		self:        config.Identity,
		ids:         config.Identity.connectionIDs(),
		certificate: certificate,
		cluster:     config.Cluster,
		version:     config.Version,
		log:         config.Log,
		instance:    rand.Text(),
		conn:        config.Conn,
		streams:     map[Purpose]func(context.Context, *Session, Stream){},
		calls:       map[string]func(context.Context, fleet.NodeID, []byte) ([]byte, error){},
		links:       map[fleet.NodeID]*link{},
		changed:     make(chan struct{}),
	}
	if m.log == nil {
		m.log = slog.Default()
	}
	m.streams[purposeHello] = m.heardHello
	m.streams[PurposeCall] = m.answerCall
	m.SetRoster(config.Roster)
	for id, l := range m.links {
		heard, known := config.Heard[id]
		l.lastHeard = heard
		if known || config.Heard == nil {
			l.since = time.Time{}
		}
	}
	return m, nil
}

// Handle sets who serves streams that a peer opens for purpose. serve owns the stream until it returns; then the stream is
// closed. The context ends with the session.
func (m *Mesh) Handle(purpose Purpose, serve func(context.Context, *Session, Stream)) {
	if _, taken := m.streams[purpose]; taken {
		panic(fmt.Sprintf("peer: purpose %d is served already", purpose))
	}
	m.streams[purpose] = serve
}

// OnSession has f called, in a goroutine of its own, for every session that is established; the context ends with the
// session. When a session replaces another one with the same peer, the calls for both may overlap for a moment.
func (m *Mesh) OnSession(f func(context.Context, *Session)) { m.onSession = append(m.onSession, f) }

// Run listens and dials until ctx ends, then takes leave of every peer, waits for all it started, and closes the
// socket. It returns nil when ctx ended and an error when the socket failed. It can be called once.
func (m *Mesh) Run(ctx context.Context) error {
	// quic-go reports a small UDP buffer through the global logger and offers no other way to keep stderr clean. The
	// kernel's default buffer is ample for this traffic.
	if err := os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true"); err != nil {
		return fmt.Errorf("silence quic-go: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	transport := m.newTransport()
	listener, err := transport.Listen(m.serverTLS(), m.quicConfig())
	if err != nil {
		return errors.Join(fmt.Errorf("listen on %s: %w", m.conn.LocalAddr(), err), transport.Close(), m.conn.Close())
	}

	m.mu.Lock()
	m.run, m.transport = ctx, transport
	for _, l := range m.links {
		m.startDiallingLocked(l)
	}
	m.mu.Unlock()
	m.spawn(func() { m.endSilence(ctx) })

	err = m.accept(ctx, listener)
	cancel()

	m.mu.Lock()
	m.ending = true
	m.mu.Unlock()
	for _, s := range m.Sessions() {
		s.end(codeLeaving, "shutting down")
	}
	m.tasks.Wait()
	listener.Close()                           // ends the handshakes in flight
	err = errors.Join(err, transport.Close())  // waits for the reader of the socket
	if closing := m.conn.Close(); err == nil { // a failed socket may be closed already
		err = closing
	}
	return err
}

// accept hands every connection that has proven a pinned key to a goroutine of its own. It never waits for a peer.
func (m *Mesh) accept(ctx context.Context, listener *quic.Listener) error {
	for {
		conn, err := listener.Accept(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the peers' socket %s failed: %w", m.conn.LocalAddr(), err)
		}
		holdOf(conn).shaken()
		m.spawn(func() { m.greet(ctx, conn, false) }) // refused only when the socket's own end is near
	}
}

// spawn runs f in a goroutine that Run waits for, and reports false when Run is past starting any.
func (m *Mesh) spawn(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.spawnLocked(f)
}

func (m *Mesh) spawnLocked(f func()) bool {
	if m.ending {
		return false
	}
	m.tasks.Go(f)
	return true
}

// SetRoster replaces the peer list: sessions with peers that are no longer in it are cut at once, new ones are dialled,
// and the others are told this node's new digest.
func (m *Mesh) SetRoster(roster fleet.Roster) {
	var cut, told []*Session
	m.mu.Lock()
	m.roster = roster
	m.revision++
	for id, l := range m.links {
		if _, stays := roster.ByID(id); stays {
			continue
		}
		if l.stop != nil {
			l.stop()
		}
		if l.session != nil {
			cut = append(cut, l.session)
		}
		delete(m.links, id)
	}
	for _, member := range neighbours(roster, m.self.ID()) {
		l := m.links[member.ID]
		if l == nil {
			l = &link{member: member, since: time.Now(), changed: make(chan struct{})}
			m.links[member.ID] = l
			if m.run != nil {
				m.startDiallingLocked(l)
			}
			continue
		}
		if !slices.Equal(l.member.Addresses, member.Addresses) {
			l.signalLocked()
		}
		l.member = member
		if l.session != nil {
			told = append(told, l.session)
		}
	}
	m.changedLocked()
	for _, s := range told {
		m.spawnLocked(func() { m.tellHello(s) })
	}
	m.mu.Unlock()
	for _, s := range cut {
		s.end(codeRemoved, "no longer in the peer list")
	}
}

// neighbours returns the members that a node keeps a session with: all others. Past about 200 nodes this is the place to
// choose fewer, in a way that both ends of every pair agree on.
func neighbours(roster fleet.Roster, self fleet.NodeID) []fleet.Member {
	return slices.DeleteFunc(roster.Members(), func(member fleet.Member) bool { return member.ID == self })
}

// Session returns the session with a peer, false when there is none.
func (m *Mesh) Session(id fleet.NodeID) (*Session, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.links[id]; l != nil && l.session != nil {
		return l.session, true
	}
	return nil, false
}

// Sessions returns all sessions, in no particular order.
func (m *Mesh) Sessions() []*Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*Session
	for _, l := range m.links {
		if l.session != nil {
			all = append(all, l.session)
		}
	}
	return all
}

// Peers returns the state of every peer in the list but this node, ordered by id.
func (m *Mesh) Peers() []PeerStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]PeerStatus, 0, len(m.links))
	for _, id := range slices.SortedFunc(maps.Keys(m.links), fleet.NodeID.Compare) {
		l := m.links[id]
		status := PeerStatus{ID: id, LastHeard: l.lastHeard, LastError: l.lastError, Failure: l.failure, Refuses: l.refuses, Added: l.since}
		if s := l.session; s != nil {
			status.Connected = true
			status.ConnectedSince = s.since
			status.Address = s.Address()
			status.RTT = s.RTT()
			status.LastHeard = s.heardLocked(time.Now())
			status.Version = s.hello.Version
			status.RosterDigest = [32]byte(s.hello.Roster)
		}
		all = append(all, status)
	}
	return all
}

// Changed returns a channel that is closed at the next change of who is connected, of the list, or of what a peer says
// about itself. Ask for the channel first, look second, wait third: then no change is missed.
func (m *Mesh) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *Mesh) changedLocked() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// signalLocked says that the session or the member changed: whoever dials thinks again.
func (l *link) signalLocked() {
	if l.stopAttempt != nil {
		l.stopAttempt()
	}
	close(l.changed)
	l.changed = make(chan struct{})
}
