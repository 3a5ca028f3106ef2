package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// formatVersion is the version of the file's format that this package reads.
const formatVersion = 1

// The words that stand for peers in a directory's writers, and can therefore be nobody's name.
const (
	writersAny     = "any"
	writersIssuers = "issuers"
)

// minTTL is the shortest lease: an election takes a sixth of it.
const minTTL = Duration(time.Second)

// maxPeers and maxDirectories bound what nodes tell each other when they meet.
const (
	maxPeers       = 1000
	maxDirectories = 63 // and the issuers' own: what one greeting holds
)

// responder is the name of the challenge responder's socket, unless another one is written.
const responder = "http01.sock"

// maxNames is how many names public CAs put into one certificate.
const maxNames = 100

// checker finds what is wrong with a configuration whose values have the right types.
type checker struct {
	*Config
	*decoder
	again map[string]bool // items whose name, or id, an earlier one has: "peers[1]"
}

// refuse reports what is wrong with the value at path, where it, or the nearest thing around it, was written.
func (v *checker) refuse(path, what, instead string) {
	at, around := v.places[path]
	for rest := path; !around; at, around = v.places[rest] {
		rest = parent(rest)
	}
	v.report(path, at, what, instead)
}

// written reports whether the value at path stands in a file.
func (v *checker) written(path string) bool {
	_, ok := v.places[path]
	return ok
}

// check reports r as what is wrong with the value at path, of which key is the last part.
func (v *checker) check(path string, r *refusal) {
	if r != nil {
		v.refuse(path, keyOf(path)+": "+r.what, r.instead)
	}
}

// keyOf returns the last key of a path: "peers[0].addresses[1]" -> "addresses".
func keyOf(path string) string {
	path = path[strings.LastIndexByte(path, '.')+1:]
	key, _, _ := strings.Cut(path, "[")
	return key
}

// values checks every value by itself. It also fills in those defaults that follow from other values.
func (v *checker) values() {
	if v.written("version") && v.Version != formatVersion {
		v.refuse("version", fmt.Sprintf("version %d is not one that this certswarm reads", v.Version), fmt.Sprintf("write version: %d", formatVersion))
	}
	if v.written("cluster") {
		v.name("cluster", v.Cluster, clusterName.MatchString, "1 to 64 of A-Z a-z 0-9 . _ -")
	}
	v.check("state_dir", checkPath(v.StateDir))
	v.check("control_socket", checkSocket(v.ControlSocket))
	if v.Listen != "" {
		v.check("listen", checkListen(v.Listen))
	}
	for i, p := range v.Peers {
		v.peer(p, fmt.Sprintf("peers[%d]", i))
	}
	v.atMost("peers", len(v.Peers), maxPeers)
	for i, d := range v.Directories {
		v.directory(d, fmt.Sprintf("directories[%d]", i))
	}
	v.atMost("directories", len(v.Directories), maxDirectories)
	if v.ACME != nil {
		if v.ACME.Store == "" && len(v.Directories) == 1 {
			v.ACME.Store = v.Directories[0].Name
		}
		v.acme(v.ACME)
	}
	for i := range v.Certificates {
		v.certificate(&v.Certificates[i], fmt.Sprintf("certificates[%d]", i))
	}
	v.pairs()
	v.lease()
	v.nginx()
}

// name reports a name that matches does not take.
func (v *checker) name(path, name string, matches func(string) bool, allowed string) {
	if !matches(name) {
		v.refuse(path, fmt.Sprintf("%s: %q is not a name", keyOf(path), name), "write "+allowed)
	}
}

func (v *checker) peer(p Peer, path string) {
	v.name(path+".name", p.Name, peerName.MatchString, "1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit")
	if p.Name == writersAny || p.Name == writersIssuers {
		v.refuse(path+".name", fmt.Sprintf("name: %q has a meaning of its own in writers", p.Name), "write another name")
	}
	if p.ID.IsZero() {
		v.refuse(path+".id", "id: this is nobody's", "write what certswarm identity show prints on that node")
	}
	if len(p.Addresses) == 0 && v.complete(path+".addresses") {
		v.refuse(path+".addresses", "addresses: none is given", "write addresses: [\"HOST:7443\"]")
	}
	for i, address := range p.Addresses {
		v.check(fmt.Sprintf("%s.addresses[%d]", path, i), checkAddress(address))
	}
	distinct(v, path+".addresses", p.Addresses)
	if len(p.Roles) != 1 && v.complete(path+".roles") {
		v.refuse(path+".roles", fmt.Sprintf("roles: a peer has one role, this has %d", len(p.Roles)), "write [issuer], [member] or [witness]")
	}
}

func (v *checker) directory(d Directory, path string) {
	v.name(path+".name", d.Name, directoryName.MatchString, "1 to 64 of a-z 0-9 -, beginning with a letter or digit")
	v.check(path+".path", checkPath(d.Path))
	if len(d.Writers) == 0 && v.complete(path+".writers") {
		v.refuse(path+".writers", "writers: nobody may change anything here", "write [any], [issuers] or names of peers")
	}
	distinct(v, path+".writers", d.Writers)
	for i, glob := range d.Ignore {
		v.check(fmt.Sprintf("%s.ignore[%d]", path, i), checkGlob(glob))
	}
}

func (v *checker) acme(a *ACME) {
	v.check("acme.directory", checkURL(a.Directory))
	v.check("acme.staging_directory", checkURL(a.StagingDirectory))
	if a.CAFile != "" {
		v.check("acme.ca_file", checkPath(a.CAFile))
	}
	if a.Email != "" && !emailAddress.MatchString(a.Email) {
		v.refuse("acme.email", fmt.Sprintf("email: %q is not an address", a.Email), "write one like ops@example.com")
	}
	v.check("acme.http01_address", checkAddress(a.HTTP01Address))
	derived := a.HTTP01Socket == ""
	if derived {
		a.HTTP01Socket = filepath.Join(filepath.Dir(v.ControlSocket), responder)
	}
	if !derived || !v.wrong("control_socket") {
		v.check("acme.http01_socket", checkSocket(a.HTTP01Socket))
	}
	v.positive("acme.challenge_wait", a.ChallengeWait)
	if len(a.Retry) == 0 && v.complete("acme.retry") {
		v.refuse("acme.retry", "retry: no pause is given", "write [1m, 10m, 100m, 24h]")
	}
	var before Duration
	for i, pause := range a.Retry {
		path := fmt.Sprintf("acme.retry[%d]", i)
		if v.positive(path, pause); v.wrong(path) {
			continue
		}
		if pause < before {
			v.refuse(path, fmt.Sprintf("retry: %s after %s: the pauses must not become shorter", pause, before), "write them in ascending order")
		}
		before = pause
	}
	for _, bound := range []struct {
		path  string
		value int
	}{
		{"acme.budget.orders_per_day", a.Budget.OrdersPerDay},
		{"acme.budget.orders_per_week", a.Budget.OrdersPerWeek},
		{"acme.budget.failures_per_hour", a.Budget.FailuresPerHour},
	} {
		if bound.value < 1 {
			v.refuse(bound.path, fmt.Sprintf("%s: with %d nothing could ever be ordered", keyOf(bound.path), bound.value), "write 1 or more")
		}
	}
	if a.Budget.OrdersPerWeek < a.Budget.OrdersPerDay && v.settled("acme.budget.orders_per_day") && v.settled("acme.budget.orders_per_week") {
		v.refuse("acme.budget.orders_per_week", "orders_per_week: less than orders_per_day", fmt.Sprintf("write %d or more", a.Budget.OrdersPerDay))
	}
}

func (v *checker) certificate(c *Certificate, path string) {
	if strings.HasPrefix(c.Name, "*.") {
		v.check(path+".name", checkCertified(c.Name))
	}
	v.name(path+".name", c.Name, certificateName.MatchString, "1 to 200 of A-Z a-z 0-9 . _ -, beginning with a letter or digit: it names a directory")
	switch n := len(c.Names); {
	case !v.written(path + ".names"):
		c.Names = []string{c.Name}
		if r := checkCertified(c.Name); r != nil && v.settled(path+".names") {
			v.refuse(path+".name", fmt.Sprintf("name: %q is no host name, and names: is missing", c.Name), "write names: [www.example.com]")
		}
		v.key(*c, path)
		return
	case n == 0 && !v.complete(path+".names"):
	case n == 0 || n > maxNames:
		v.refuse(path+".names", fmt.Sprintf("names: a certificate is for 1 to %d names, this for %d", maxNames, n), "write names: [www.example.com], or several certificates")
	}
	for i, name := range c.Names {
		v.check(fmt.Sprintf("%s.names[%d]", path, i), checkCertified(name))
	}
	distinct(v, path+".names", c.Names)
	v.key(*c, path)
}

func (v *checker) key(c Certificate, path string) {
	if len(c.Key) == 0 || len(c.Key) > 2 || len(c.Key) == 2 && c.Key[0].IsRSA() == c.Key[1].IsRSA() {
		v.refuse(path+".key", "key: neither one type nor a pair", "write one type, such as ecdsa-p256, or [ecdsa-p256, rsa-2048]")
	}
}

// IsRSA tells the two kinds of key apart that there are.
func (k KeyType) IsRSA() bool { return strings.HasPrefix(string(k), "rsa-") }

func (v *checker) lease() {
	if v.Lease.TTL < minTTL {
		v.refuse("lease.ttl", fmt.Sprintf("ttl: %s is too short to be renewed in time", v.Lease.TTL), fmt.Sprintf("write %s or more", minTTL))
	}
	v.positive("lease.break_glass.after", v.Lease.BreakGlass.After)
}

func (v *checker) nginx() {
	if binary := v.Nginx.Binary; binary == "" {
		v.refuse("nginx.binary", "binary: empty", "write nginx, or the path of the program")
	} else if strings.Contains(binary, "/") {
		v.check("nginx.binary", checkPath(binary))
	}
	if v.Nginx.Config != "" {
		v.check("nginx.config", checkPath(v.Nginx.Config))
	}
	if v.Nginx.Prefix != "" {
		// A prefix may end in a slash: nginx -p DIR/ is how its own manual writes it.
		v.check("nginx.prefix", checkPath(strings.TrimSuffix(v.Nginx.Prefix, "/")))
	}
	for i, listener := range v.Nginx.Verify {
		v.check(fmt.Sprintf("nginx.verify[%d]", i), checkAddress(listener))
	}
	distinct(v, "nginx.verify", v.Nginx.Verify)
}

func (v *checker) atMost(path string, n, bound int) {
	if n > bound {
		v.refuse(path, fmt.Sprintf("%s: %d are more than the %d that a fleet can have", path, n, bound), fmt.Sprintf("write at most %d", bound))
	}
}

func (v *checker) positive(path string, d Duration) {
	if d <= 0 {
		v.refuse(path, fmt.Sprintf("%s: %s is no time at all", keyOf(path), d), "write 1s or more")
	}
}

// distinct reports what stands twice in the list at path.
func distinct[T ~string](v *checker, path string, list []T) {
	seen := make(map[T]bool, len(list))
	for i, item := range list {
		if seen[item] {
			v.refuse(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%s: %s stands twice", keyOf(path), item), "remove one")
		}
		seen[item] = true
	}
}
