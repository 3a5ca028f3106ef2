// Package config is the configuration file: it reads the named files, merges them, says everything that is wrong with
// them at once and by position, and yields a Config that needs no further checking. It also prints a Config, and tells
// two of them apart.
//
// It does not know which node it runs on (the identity lies elsewhere, see Config.Self), looks at nothing on the disk
// but the files it is given (neither directories nor certificates need exist), and applies nothing.
package config

import (
	"fmt"
	"net"

	"certswarm/internal/fleet"
)

// DefaultFile is the configuration file when none is named; conf.d/ lies beside it.
const DefaultFile = "/etc/certswarm/certswarm.yaml"

// DefaultControlSocket is where the daemon listens for commands when the configuration does not say.
const DefaultControlSocket = "/run/certswarm/control.sock"

// Config is one valid configuration, defaults filled in: the same on every node but for paths, addresses to listen on,
// and the nginx section. It is never changed, only replaced.
//
// In the tags of this and the other sections, `yaml` is the key and its options: required (must be written), restart
// (a running daemon cannot take a change), scalar (a list of one may be written without brackets). `default` is what
// stands when nothing is written, `hint` what to write.
type Config struct {
	// Version is the version of the file's format: 1.
	Version int `yaml:"version,required" hint:"write version: 1"`
	// Cluster is part of the handshake: nodes of different clusters never speak to each other. 1 to 64 of A-Z a-z 0-9 . _ -
	Cluster string `yaml:"cluster,required,restart" hint:"write cluster: NAME, the same on every node"`
	// StateDir holds the identity, the state database, the archive and the journal; absolute.
	StateDir string `yaml:"state_dir,restart" default:"/var/lib/certswarm"`
	// ControlSocket is the path of the socket that the commands use; absolute, at most 107 bytes.
	ControlSocket string `yaml:"control_socket,restart" default:"/run/certswarm/control.sock"`
	// Listen is the UDP address for peers, IP:PORT or :PORT; empty: see ListenAddress.
	Listen string `yaml:"listen,restart"`
	// Peers is every node that belongs, this one included.
	Peers []Peer `yaml:"peers,required" hint:"list every node under peers: with its name, id and addresses"`
	// Directories is what is kept the same on every node.
	Directories []Directory `yaml:"directories,required" hint:"list what to replicate under directories: with its name and path"`
	// ACME says how to obtain certificates; nil for a fleet that only replicates.
	ACME *ACME `yaml:"acme"`
	// Certificates is what to obtain and to renew.
	Certificates []Certificate `yaml:"certificates"`
	// Lease says how it is decided which one node may talk to the CA.
	Lease Lease `yaml:"lease"`
	// Nginx says how this node's own nginx is tested, reloaded and verified.
	Nginx Nginx `yaml:"nginx"`

	roster  fleet.Roster
	peersAt place
}

// Peer is one node of the fleet.
type Peer struct {
	// Name is what people call it. 1 to 63 of A-Z a-z 0-9 . _ - , not "any" and not "issuers".
	Name string `yaml:"name,required" hint:"write name: NAME"`
	// ID is its identity: what `certswarm identity show` prints there.
	ID fleet.NodeID `yaml:"id,required" hint:"write id: and what certswarm identity show prints on that node"`
	// Addresses are where to reach it, HOST:PORT, tried in order. Hints only: the key decides who answers.
	Addresses []string `yaml:"addresses,required" hint:"write addresses: [\"HOST:7443\"]"`
	// Roles is a list of exactly one.
	Roles []Role `yaml:"roles" default:"issuer"`
}

// Directory is one replicated directory.
type Directory struct {
	// Name is what the fleet calls it; nodes may keep it at different paths. 1 to 64 of a-z 0-9 -
	Name string `yaml:"name,required" hint:"write name: NAME"`
	// Path is where it lies on this node; absolute, neither inside nor around another directory or the state directory.
	Path string `yaml:"path,required" hint:"write path: /etc/nginx/certs"`
	// Writers says who may originate changes; see MayWrite.
	Writers []string `yaml:"writers" default:"any"`
	// Owner is who owns what is written here; the zero Owner: the same as at the origin, by name.
	Owner Owner `yaml:"owner"`
	// Ignore holds globs of what is not replicated: without a slash they match base names, with one the path below the
	// directory; ** crosses directories.
	Ignore []string `yaml:"ignore"`
	// MaxFileSize is the largest file that is replicated or accepted.
	MaxFileSize Size `yaml:"max_file_size" default:"16MiB"`
	// MaxDelete is the share of the directory's files that may vanish at once; more halts this node's originating.
	MaxDelete Percent `yaml:"max_delete" default:"50%"`
}

// ACME is how certificates are obtained.
type ACME struct {
	// Directory is the URL of the CA's directory (RFC 8555 7.1.1).
	Directory string `yaml:"directory" default:"https://acme-v02.api.letsencrypt.org/directory"`
	// CAFile holds the PEM roots that the CA's own TLS is checked against; empty: the system's.
	CAFile string `yaml:"ca_file"`
	// Email is where the CA may write to; may be empty.
	Email string `yaml:"email"`
	// AcceptTerms is the operator's agreement to the CA's terms of service; always true in a valid configuration.
	AcceptTerms bool `yaml:"accept_terms"`
	// Store names the directory that holds acme/, live/ and archive/. Default: the only one there is.
	Store string `yaml:"store"`
	// Challenge is how control over a name is proven.
	Challenge Challenge `yaml:"challenge" default:"http-01"`
	// HTTP01Address is where this node's own nginx is asked for the token before the CA is told.
	HTTP01Address string `yaml:"http01_address" default:"127.0.0.1:80"`
	// HTTP01Socket is the challenge responder's socket. Default: http01.sock beside the control socket.
	HTTP01Socket string `yaml:"http01_socket"`
	// ChallengeWait is how long an unreachable node is waited for before the CA is told; a reachable one always is.
	ChallengeWait Duration `yaml:"challenge_wait" default:"30s"`
	// StagingDirectory is the CA for --dry-run.
	StagingDirectory string `yaml:"staging_directory" default:"https://acme-staging-v02.api.letsencrypt.org/directory"`
	// ARI says whether the CA is asked when to renew (RFC 9773).
	ARI Switch `yaml:"ari" default:"auto"`
	// Retry is the pause after each failure in a row, before jitter; the last one repeats.
	Retry []Duration `yaml:"retry" default:"1m,10m,100m,24h"`
	// Budget bounds what one set of names may cost at the CA.
	Budget Budget `yaml:"budget"`
}

// Budget bounds what one set of names may cost at the CA; orders are counted once accepted.
type Budget struct {
	OrdersPerDay    int `yaml:"orders_per_day" default:"2"`
	OrdersPerWeek   int `yaml:"orders_per_week" default:"4"`
	FailuresPerHour int `yaml:"failures_per_hour" default:"4"`
}

// Certificate is one certificate to obtain and to renew.
type Certificate struct {
	// Name is the certificate's name under live/. 1 to 200 of A-Z a-z 0-9 . _ -
	Name string `yaml:"name,required" hint:"write name: www.example.com"`
	// Names are the host names it is for, lower case. Default: Name alone.
	Names []string `yaml:"names"`
	// Key is the key's type. A list of an ECDSA and an RSA type is read as two certificates: see pairs. What was read has one.
	Key []KeyType `yaml:"key,scalar" default:"ecdsa-p256"`
	// Profile is the CA's certificate profile; empty: the CA's default.
	Profile string `yaml:"profile"`
}

// Lease is how the one node that may act is chosen.
type Lease struct {
	Engine Engine `yaml:"engine" default:"auto"`
	// TTL is how long a holder that is cut off may still act, at least one second.
	TTL        Duration   `yaml:"ttl" default:"30s"`
	BreakGlass BreakGlass `yaml:"break_glass"`
}

// BreakGlass is when a node may act without the lease, so that no certificate expires for want of a quorum.
type BreakGlass struct {
	Mode Switch `yaml:"mode" default:"auto"`
	// After is how long no renewal of the lease must have been seen.
	After Duration `yaml:"after" default:"10m"`
}

// Nginx is how this node's own nginx is tested, reloaded and verified.
type Nginx struct {
	// Enabled is false on a node whose nginx is down on purpose: it receives files and does not count as serving.
	Enabled bool `yaml:"enabled" default:"true"`
	// Binary is a name in PATH, or an absolute path.
	Binary string `yaml:"binary" default:"nginx"`
	// Config is nginx's -c; empty: its compiled-in default.
	Config string `yaml:"config"`
	// Prefix is nginx's -p; empty: its compiled-in default.
	Prefix string `yaml:"prefix"`
	// Control says how nginx is tested and reloaded.
	Control Control `yaml:"control" default:"direct"`
	// Verify lists the listeners to handshake with, HOST:PORT; empty: those that nginx -T shows.
	Verify []string `yaml:"verify"`
}

// Roster returns the peer list in the order of the files.
func (c *Config) Roster() fleet.Roster { return c.roster }

// Self returns the peer whose id is id; the error says into which file to put it.
func (c *Config) Self(id fleet.NodeID) (fleet.Member, error) {
	if m, ok := c.roster.ByID(id); ok {
		return m, nil
	}
	return fleet.Member{}, fmt.Errorf("this node's id %s is not among the %d peers; add it under peers: in %s (line %d), on every node",
		id, c.roster.Len(), c.peersAt.file, c.peersAt.line)
}

// ListenAddress returns the UDP address on which self awaits its peers: listen, or the port of self's first address on
// all interfaces.
func (c *Config) ListenAddress(self fleet.Member) string {
	if c.Listen != "" {
		return c.Listen
	}
	_, port, err := net.SplitHostPort(self.Addresses[0])
	if err != nil {
		panic(fmt.Sprintf("config: %s was validated: %v", self.Addresses[0], err))
	}
	return ":" + port
}

// MayWrite reports whether changes that m originates in d are taken by the others. Only issuers ever may.
func (d Directory) MayWrite(m fleet.Member) bool {
	if m.Role != fleet.Issuer {
		return false
	}
	for _, w := range d.Writers {
		if w == writersAny || w == writersIssuers || w == m.Name {
			return true
		}
	}
	return false
}

// member is p, which is valid, in the fleet's vocabulary.
func (p Peer) member() fleet.Member {
	return fleet.Member{Name: p.Name, ID: p.ID, Addresses: p.Addresses, Role: fleet.Role(p.Roles[0])}
}
