// Package doctor judges what a node needs from the machine it runs on: Judge is pure, Examine collects the Facts. It mends nothing, and
// what the daemon itself reports as a problem it only passes on.
package doctor

import (
	"errors"
	"fmt"
	"io/fs"

	"certswarm/internal/control"
)

// Level says how bad a Finding is.
type Level string

// The levels. Unknown is what could not be looked at, for want of rights mostly.
const (
	OK      Level = "ok"
	Unknown Level = "unknown"
	Warn    Level = "warn"
	Error   Level = "error"
)

// Finding is one thing that was looked at.
type Finding struct {
	Level Level  `json:"level"`
	What  string `json:"what"`
	Text  string `json:"text"`
	Next  string `json:"next"` // the command to run; "" where there is nothing to do
}

// Facts is what was seen. What could not be looked at is nil, or has an error beside it.
type Facts struct {
	Config string          // what is wrong with the configuration; "" when it is valid
	Daemon error           // why the daemon did not answer; nil: Status is its answer
	Status *control.Status // nil: see Daemon

	Peers     []Peer
	Unsynced  bool // the kernel's clock is kept right by nobody
	ClockSeen bool // Unsynced says something

	Watches     int // directories to be watched
	WatchLimit  int // 0: unknown
	OpenFiles   int // of the daemon
	FileLimit   int // 0: unknown
	FilesFailed error
	Disks       []Disk
	State       *StateDir
	Nginx       *Nginx // nil: no nginx is in this node's care
	StateFailed error
}

// Peer is what came of knocking at an address of a peer.
type Peer struct {
	Name, Address string
	Connected     bool // the daemon has a session with it
	Answer        Answer
}

// Answer is what a UDP packet that any QUIC endpoint answers brought back.
type Answer int

// The answers.
const (
	NotAsked Answer = iota
	Answered        // something speaks QUIC there
	Refused         // the host is there and nobody listens on the port
	Silent
)

// Disk is a file system that the daemon writes to.
type Disk struct {
	Path               string
	Free, Size         uint64 // bytes; free for the daemon
	FreeInodes, Inodes uint64 // 0, 0: it does not count them
	Err                error
}

// StateDir is the state directory and the key in it.
type StateDir struct {
	Path     string
	Missing  bool // there is no such directory, and nothing below says anything
	Mode     fs.FileMode
	Owner    int
	Key      fs.FileMode // 0 when there is none
	KeyOwner int
	Daemon   int // the user that the daemon runs as; -1: unknown
}

// Nginx is this node's nginx.
type Nginx struct {
	Tested     bool     // nginx -t was run
	Refused    string   // its words, when it said no
	Failed     error    // it could not be run
	Running    bool     // a master is behind its pid file
	User       int      // of the master
	Unreadable []string // what User cannot read
}

const (
	diskLow     = 100 << 20 // bytes
	diskVeryLow = 10 << 20
)

// Judge says what each fact means.
func Judge(f Facts) []Finding {
	j := &judge{}
	if f.Config != "" {
		j.add(Error, "configuration", "is not valid: "+f.Config, "certswarm config check")
	} else {
		j.add(OK, "configuration", "is valid", "")
	}
	j.daemon(f)
	j.peers(f)
	j.clock(f)
	j.limits(f)
	for _, d := range f.Disks {
		j.disk(d)
	}
	j.state(f)
	j.nginx(f.Nginx)
	return j.findings
}

// Worst returns the worst level of findings, Unknown counting as nothing.
func Worst(findings []Finding) Level {
	worst := OK
	for _, f := range findings {
		if f.Level == Error || f.Level == Warn && worst == OK {
			worst = f.Level
		}
	}
	return worst
}

type judge struct{ findings []Finding }

func (j *judge) add(level Level, what, text, next string) {
	j.findings = append(j.findings, Finding{level, what, text, next})
}

func (j *judge) daemon(f Facts) {
	if f.Status == nil {
		j.add(Error, "daemon", f.Daemon.Error(), "systemctl status certswarm")
		return
	}
	j.add(OK, "daemon", fmt.Sprintf("%s answers, version %s", f.Status.Node.Name, f.Status.Node.Version), "")
	for _, p := range f.Status.Problems {
		level := Warn
		if p.Severity != control.Warn {
			level = Error
		}
		text := string(p.Code) + ": " + p.Text
		if p.Node != "" && p.Node != f.Status.Node.Name {
			text = "on " + p.Node + ", " + text
		}
		j.add(level, "problem", text, p.Next)
	}
}

// peers tells apart whose fault it can be that packets do not pass. Only the way out can be tried from here.
func (j *judge) peers(f Facts) {
	for _, p := range f.Peers {
		what, there := "peer "+p.Name, "UDP from here to "+p.Address
		switch {
		case p.Answer == Answered && p.Connected:
			j.add(OK, what, "is connected, and "+there+" passes", "")
		case p.Answer == Answered && f.Status == nil:
			j.add(OK, what, there+" passes", "")
		case p.Answer == Answered:
			j.add(Warn, what, there+" passes, and there is no session: the keys, the peer lists or the clusters differ", "certswarm status")
		case p.Connected:
			j.add(Warn, what, there+" is not answered, and yet it is connected: it came to this node. Outgoing UDP to that port is blocked, here or there",
				"let UDP to "+p.Address+" out here, and in on "+p.Name)
		case p.Answer == Refused:
			j.add(Error, what, there+" passes, and nobody listens on that port", "on "+p.Name+": systemctl status certswarm")
		case p.Answer == Silent:
			j.add(Error, what, there+" is not answered: it is blocked (out here, in there, or the answer back in), or that machine is down",
				"on "+p.Name+": certswarm doctor; in both firewalls let UDP pass to and from "+p.Address)
		default:
			j.add(Unknown, what, p.Address+" could not be asked", "")
		}
	}
}

func (j *judge) clock(f Facts) {
	switch {
	case !f.ClockSeen:
		j.add(Unknown, "clock", "whether anything keeps it right cannot be seen", "timedatectl status")
	case f.Unsynced:
		j.add(Warn, "clock", "nothing keeps it right: past 10 minutes of difference the others refuse what this node writes", "timedatectl set-ntp true, or install chrony")
	default:
		j.add(OK, "clock", "is kept right", "")
	}
}

func (j *judge) limits(f Facts) {
	switch {
	case f.WatchLimit == 0:
		j.add(Unknown, "inotify", "the limit of watches cannot be read", "sysctl fs.inotify.max_user_watches")
	case f.Watches > f.WatchLimit/2:
		level := Warn
		if f.Watches >= f.WatchLimit {
			level = Error
		}
		j.add(level, "inotify", fmt.Sprintf("%d directories are to be watched, of %d that this user may", f.Watches, f.WatchLimit),
			fmt.Sprintf("sysctl -w fs.inotify.max_user_watches=%d", 4*f.Watches))
	default:
		j.add(OK, "inotify", fmt.Sprintf("%d directories are to be watched, of %d that this user may", f.Watches, f.WatchLimit), "")
	}
	switch {
	case f.Status == nil: // nobody has any open
	case f.FilesFailed != nil:
		j.add(Unknown, "open files", "the daemon's limit cannot be read: "+f.FilesFailed.Error(), asRoot(f.FilesFailed))
	case f.FileLimit == 0: // nobody looked
	case f.OpenFiles > f.FileLimit/2:
		j.add(Warn, "open files", fmt.Sprintf("the daemon has %d open, of %d that it may", f.OpenFiles, f.FileLimit), "systemctl edit certswarm: LimitNOFILE=")
	default:
		j.add(OK, "open files", fmt.Sprintf("the daemon has %d open, of %d that it may", f.OpenFiles, f.FileLimit), "")
	}
}

func (j *judge) disk(d Disk) {
	what := "disk of " + d.Path
	switch full := d.Inodes > 0 && d.FreeInodes < 100; {
	case d.Err != nil:
		j.add(Error, what, d.Err.Error(), "ls -ld "+d.Path)
	case d.Free < diskVeryLow || full && d.FreeInodes == 0:
		j.add(Error, what, fmt.Sprintf("%d MiB and %d inodes are free", d.Free>>20, d.FreeInodes), "df -h "+d.Path+"; df -i "+d.Path)
	case d.Free < diskLow || full:
		j.add(Warn, what, fmt.Sprintf("%d MiB and %d inodes are free", d.Free>>20, d.FreeInodes), "df -h "+d.Path+"; df -i "+d.Path)
	default:
		j.add(OK, what, fmt.Sprintf("%d MiB of %d are free", d.Free>>20, d.Size>>20), "")
	}
}

func (j *judge) state(f Facts) {
	s := f.State
	if s == nil {
		if f.StateFailed != nil {
			j.add(Unknown, "state directory", f.StateFailed.Error(), asRoot(f.StateFailed))
		}
		return
	}
	if s.Missing {
		j.add(Error, "state directory", "there is no "+s.Path+": this node has no key", "certswarm identity generate --state-dir "+s.Path)
		return
	}
	key := s.Path + "/identity.pem"
	before := len(j.findings)
	if s.Mode.Perm()&0o077 != 0 {
		j.add(Error, "state directory", fmt.Sprintf("%s has mode %04o: others can look into it", s.Path, s.Mode.Perm()), "chmod 0700 "+s.Path)
	}
	switch {
	case s.Key == 0:
		j.add(Error, "state directory", "there is no key in it", "certswarm identity generate --state-dir "+s.Path)
	case s.Key.Perm()&0o077 != 0:
		j.add(Error, "state directory", fmt.Sprintf("%s has mode %04o: others can be this node", key, s.Key.Perm()), "chmod 0600 "+key)
	}
	if s.Daemon > 0 && (s.Owner != s.Daemon || s.Key != 0 && s.KeyOwner != s.Daemon) {
		j.add(Error, "state directory", fmt.Sprintf("the daemon runs as user %d, which does not own all of %s", s.Daemon, s.Path), fmt.Sprintf("chown -R %d %s", s.Daemon, s.Path))
	}
	if len(j.findings) == before {
		j.add(OK, "state directory", s.Path+" is the daemon's alone", "")
	}
}

// asRoot is what to do about what could not be looked at: root helps where rights are what is wanting.
func asRoot(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "run this as root"
	}
	return ""
}

func (j *judge) nginx(n *Nginx) {
	switch {
	case n == nil:
		return
	case n.Failed != nil:
		j.add(Error, "nginx", "cannot be tested: "+n.Failed.Error(), "certswarm config show")
	case !n.Tested:
		j.add(Unknown, "nginx", "only root can test its configuration", "run this as root")
	case n.Refused != "":
		j.add(Error, "nginx", "refuses its configuration: "+n.Refused, "nginx -t")
	default:
		j.add(OK, "nginx", "accepts its configuration", "")
	}
	switch {
	case !n.Running: // status says whether that is a problem
	case len(n.Unreadable) > 0:
		j.add(Error, "nginx", fmt.Sprintf("its master runs as user %d, which cannot read %s (%d such files)", n.User, n.Unreadable[0], len(n.Unreadable)),
			"set owner: of the directory to that user's group")
	default:
		j.add(OK, "nginx", "can read the certificates", "")
	}
}
