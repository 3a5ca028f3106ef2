package control

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Event is something that happened, as this node saw it. Its JSON form is additive, as that of Status is.
type Event struct {
	Seq  uint64    `json:"seq"` // from 1 since the daemon started, without gaps but for what is forgotten
	Time time.Time `json:"time"`
	Kind Kind      `json:"kind"`
	Node string    `json:"node"` // where it happened
	What string    `json:"what"` // the problem's code, or the name of the directory, certificate or peer; "" when there is none
	Text string    `json:"text"` // for people
}

// Kind says what sort of thing happened; the list only grows.
type Kind string

// The kinds of events.
const (
	ProblemBegan  Kind = "problem-began"
	ProblemEnded  Kind = "problem-ended"
	PeerConnected Kind = "peer-connected"
	PeerGone      Kind = "peer-gone"
	LeaseMoved    Kind = "lease-moved"
	Applied       Kind = "applied" // a directory holds something else than before
	CertIssued    Kind = "issued"  // another certificate is in force
	CertServed    Kind = "served"  // every live nginx serves it
	NginxReloaded Kind = "nginx-reloaded"
	ConfigTaken   Kind = "config-taken"
)

// Happened tells what became of before, in the order of the list above. A directory or certificate that before knows nothing of is no event,
// a problem is.
func Happened(before, after Status) []Event {
	var out []Event
	add := func(kind Kind, node, what, format string, args ...any) {
		out = append(out, Event{Kind: kind, Node: node, What: what, Text: fmt.Sprintf(format, args...)})
	}
	was, is := problemsByKey(before), problemsByKey(after)
	for _, p := range after.Problems {
		if _, known := was[keyOf(p)]; !known {
			add(ProblemBegan, p.Node, string(p.Code), "%s", p.Text)
		}
	}
	for _, p := range before.Problems {
		if _, still := is[keyOf(p)]; !still {
			add(ProblemEnded, p.Node, string(p.Code), "%s", p.Text)
		}
	}
	self := after.Node.Name
	for _, p := range after.Peers {
		if old := peerOf(before, p.Name); old.Connected != p.Connected && p.Connected {
			add(PeerConnected, self, p.Name, "%s is connected from or at %s", p.Name, p.Address)
		} else if old.Connected != p.Connected {
			add(PeerGone, self, p.Name, "%s is no longer connected", p.Name)
		}
	}
	if before.Lease.Holder != after.Lease.Holder {
		add(LeaseMoved, self, after.Lease.Holder, "the lease is held by %s, before by %s", cmp.Or(after.Lease.Holder, "nobody"), cmp.Or(before.Lease.Holder, "nobody"))
	}
	for _, d := range after.Directories {
		if old, known := directoryOf(before, d.Name); known && old.Fingerprint != d.Fingerprint {
			add(Applied, self, d.Name, "directory %s holds %d files, before %d", d.Name, d.Files, old.Files)
		}
	}
	for _, c := range after.Certificates {
		old, known := certificateOf(before, c.Name)
		if !known || c.Serial == "" {
			continue
		}
		if old.Serial != c.Serial {
			add(CertIssued, self, c.Name, "%s has serial %s, generation %d, until %s", c.Name, c.Serial, c.Generation, c.NotAfter.Format(time.RFC3339))
		}
		served, _ := IsServed(after, c.Name)
		if servedBefore, _ := IsServed(before, c.Name); served && (!servedBefore || old.Serial != c.Serial) {
			add(CertServed, self, c.Name, "%s is served everywhere", c.Name)
		}
	}
	return out
}

// keyOf is the same for a problem as long as it is the same problem: what comes after the first colon of its text may change.
func keyOf(p Problem) string {
	subject, _, _ := strings.Cut(p.Text, ": ")
	return string(p.Code) + "\x00" + p.Node + "\x00" + subject
}

func problemsByKey(s Status) map[string]Problem {
	out := make(map[string]Problem, len(s.Problems))
	for _, p := range s.Problems {
		out[keyOf(p)] = p
	}
	return out
}

func peerOf(s Status, name string) Peer {
	if i := slices.IndexFunc(s.Peers, func(p Peer) bool { return p.Name == name }); i >= 0 {
		return s.Peers[i]
	}
	return Peer{}
}

func directoryOf(s Status, name string) (Directory, bool) {
	if i := slices.IndexFunc(s.Directories, func(d Directory) bool { return d.Name == name }); i >= 0 {
		return s.Directories[i], true
	}
	return Directory{}, false
}

func certificateOf(s Status, name string) (Certificate, bool) {
	if i := slices.IndexFunc(s.Certificates, func(c Certificate) bool { return c.Name == name }); i >= 0 {
		return s.Certificates[i], true
	}
	return Certificate{}, false
}

// eventsKept is how many events a Chronicle remembers.
const eventsKept = 500

// Chronicle is what happened lately. It must be made by NewChronicle.
type Chronicle struct {
	mu     sync.Mutex
	events []Event       // guarded by mu: the latest, in their order
	last   uint64        // guarded by mu: the number of the latest
	more   chan struct{} // guarded by mu: closed by the next Note
}

// NewChronicle returns an empty Chronicle.
func NewChronicle() *Chronicle { return &Chronicle{more: make(chan struct{})} }

// Note remembers events that happened just now; their numbers and times are given here.
func (c *Chronicle) Note(events ...Event) {
	if len(events) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now().UTC().Truncate(time.Millisecond)
	for _, e := range events {
		c.last++
		e.Seq, e.Time = c.last, now
		c.events = append(c.events, e)
	}
	if over := len(c.events) - eventsKept; over > 0 {
		c.events = slices.Delete(c.events, 0, over)
	}
	close(c.more)
	c.more = make(chan struct{})
}

// After returns the remembered events with a number above seq, and what is closed when there are more.
func (c *Chronicle) After(seq uint64) (events []Event, more <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.events, func(e Event) bool { return e.Seq > seq })
	if i >= 0 {
		events = slices.Clone(c.events[i:])
	}
	return events, c.more
}
