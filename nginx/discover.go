package nginx

import (
	"cmp"
	"crypto/sha256"
	"net"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// site is what of an nginx configuration decides which certificate a client is shown.
type site struct {
	text    fingerprint // of all that nginx -T said
	servers []server
	files   []string        // every file that a TLS directive names, absolute, without variables; sorted
	used    map[string]bool // the labels of files
	dynamic bool            // some certificate's path has a variable: which file it is, only nginx knows
}

// server is one server block.
type server struct {
	names   []string // lower case, as written: exact, *.leading, trailing.*, .both, ~regex
	listens []listen
	certs   []certificateFile // those with variables are left out
	dynamic bool
	where   string // file:line
}

// certificateFile is the argument of one ssl_certificate directive.
type certificateFile struct {
	path  string // absolute
	label string // the name under live/ that it belongs to, else the path
}

// listen is one listen directive. Addresses are compared as text: nginx itself binds each once.
type listen struct {
	address    string
	preferred  bool // default_server
	tls, proxy bool
}

// listener is where handshakes can be made.
type listener struct {
	network, dial string // what to dial; the operator sees dial
	address       string // of the listen directives behind it; "" when no directive is known
	proxy         bool   // a PROXY header comes before the handshake
}

// parseSite reads the output of nginx -T; label says which certificate an absolute path belongs to.
func parseSite(dump string, label func(file string) string) *site {
	tree, main := parseDump(dump)
	r := siteReader{dir: path.Dir(main), label: label, site: site{text: sha256.Sum256([]byte(dump)), used: make(map[string]bool)}}
	r.context(tree, nil)
	slices.Sort(r.site.files)
	r.site.files = slices.Compact(r.site.files)
	// A flag on one listen directive holds for every server on that address.
	flags := make(map[string]listen)
	for _, s := range r.site.servers {
		for _, l := range s.listens {
			f := flags[l.address]
			flags[l.address] = listen{tls: f.tls || l.tls, proxy: f.proxy || l.proxy}
		}
	}
	for _, s := range r.site.servers {
		for i := range s.listens {
			f := flags[s.listens[i].address]
			s.listens[i].tls, s.listens[i].proxy = f.tls, f.proxy
		}
	}
	for _, file := range r.site.files {
		r.site.used[label(file)] = true
	}
	return &r.site
}

type siteReader struct {
	dir   string
	label func(string) string
	site  site
}

// context walks one block; inherited are the certificates of the blocks around it, which a block's own replace.
func (r *siteReader) context(block []directive, inherited []string) {
	own := r.certificates(block)
	if own == nil {
		own = inherited
	}
	for _, d := range block {
		if namesTLSFile(d.name) {
			for _, arg := range d.args {
				if file, ok := r.file(arg); ok {
					r.site.files = append(r.site.files, file)
				}
			}
		}
		switch {
		case d.block == nil:
		case d.name == "server":
			r.context(d.block, own)
			r.server(d, own)
		default:
			r.context(d.block, own)
		}
	}
}

// certificates returns the arguments of a block's own ssl_certificate directives.
func (r *siteReader) certificates(block []directive) []string {
	var out []string
	for _, d := range block {
		if d.name == "ssl_certificate" && len(d.args) > 0 {
			out = append(out, d.args[0])
		}
	}
	return out
}

func (r *siteReader) server(d directive, inherited []string) {
	s := server{where: at(d)}
	certs := inherited
	if own := r.certificates(d.block); own != nil {
		certs = own
	}
	for _, c := range certs {
		if file, ok := r.file(c); ok {
			s.certs = append(s.certs, certificateFile{path: file, label: r.label(file)})
		} else {
			s.dynamic, r.site.dynamic = true, true
		}
	}
	allTLS := slices.ContainsFunc(d.block, func(d directive) bool { // "ssl on": gone since nginx 1.25.1
		return d.name == "ssl" && slices.Equal(d.args, []string{"on"})
	})
	for _, d := range d.block {
		switch d.name {
		case "server_name":
			for _, name := range d.args {
				if strings.HasPrefix(name, "~") {
					s.names = append(s.names, name)
				} else if !strings.Contains(name, "$") {
					s.names = append(s.names, strings.ToLower(name))
				}
			}
		case "listen":
			if l, ok := parseListen(d.args); ok {
				l.tls = l.tls || allTLS
				s.listens = append(s.listens, l)
			}
		}
	}
	r.site.servers = append(r.site.servers, s)
}

// file makes the argument of a file directive absolute; not ok when it is no file that can be known: it has a
// variable, or is not a path at all ("data:", "engine:", "store:").
func (r *siteReader) file(arg string) (string, bool) {
	scheme, _, colon := strings.Cut(arg, ":")
	if strings.Contains(arg, "$") || arg == "" || colon && !strings.Contains(scheme, "/") {
		return "", false
	}
	if !path.IsAbs(arg) {
		arg = path.Join(r.dir, arg)
	}
	return path.Clean(arg), true
}

// namesTLSFile reports whether a directive's arguments are files that nginx reads when it loads its configuration and
// that matter to TLS, towards clients or towards the servers behind it (proxy_ssl_certificate and its relatives).
func namesTLSFile(directive string) bool {
	for _, suffix := range []string{"ssl_certificate", "ssl_certificate_key", "ssl_trusted_certificate", "ssl_client_certificate",
		"ssl_crl", "ssl_dhparam", "ssl_password_file", "ssl_session_ticket_key", "ssl_stapling_file", "quic_host_key"} {
		if directive == suffix || strings.HasSuffix(directive, "_"+suffix) {
			return true
		}
	}
	return false
}

func at(d directive) string {
	return d.file + ":" + strconv.Itoa(d.line)
}

// parseListen reads the arguments of a listen directive. Not ok: datagram sockets, which no TLS handshake over TCP reaches.
func parseListen(args []string) (listen, bool) {
	if len(args) == 0 {
		return listen{}, false
	}
	l := listen{address: listenAddress(args[0])}
	for _, parameter := range args[1:] {
		switch parameter {
		case "ssl":
			l.tls = true
		case "proxy_protocol":
			l.proxy = true
		case "default_server", "default":
			l.preferred = true
		case "quic", "udp":
			return listen{}, false
		}
	}
	return l, true
}

// listenAddress brings the spellings of one address together: "443", "*:443" and "0.0.0.0:443" are the same.
func listenAddress(text string) string {
	if strings.HasPrefix(text, "unix:") {
		return text
	}
	host, port, err := net.SplitHostPort(text)
	switch {
	case err == nil:
	case isNumber(text):
		host, port = "", text
	default:
		host, port = strings.Trim(text, "[]"), "80"
	}
	if host == "*" || host == "" {
		host = "0.0.0.0"
	}
	return net.JoinHostPort(host, port)
}

func isNumber(text string) bool {
	return text != "" && strings.Trim(text, "0123456789-") == "" // a range of ports in stream{} counts: 8000-8010
}

// listeners returns every address on which s speaks TLS over TCP or a Unix socket, in the order of the configuration.
func (s *site) listeners() []listener {
	var out []listener
	for _, server := range s.servers {
		for _, l := range server.listens {
			if l.tls && !slices.ContainsFunc(out, func(known listener) bool { return known.address == l.address }) {
				out = append(out, l.listener())
			}
		}
	}
	return out
}

// listener says how to reach l from this machine: a wildcard address through loopback of its family.
func (l listen) listener() listener {
	out := listener{network: "tcp", address: l.address, dial: l.address, proxy: l.proxy}
	if file, ok := strings.CutPrefix(l.address, "unix:"); ok {
		out.network, out.dial = "unix", file
		return out
	}
	host, port, _ := net.SplitHostPort(l.address)
	port, _, _ = strings.Cut(port, "-")
	switch host {
	case "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	out.dial = net.JoinHostPort(host, port)
	return out
}

// reached returns the listener that answers when address is dialled: the exact one, else the wildcard of its port.
func (s *site) reached(address string) listener {
	out := listener{network: "tcp", dial: address}
	if file, ok := strings.CutPrefix(address, "unix:"); ok {
		out.network, out.dial = "unix", file
	}
	_, port, _ := net.SplitHostPort(address)
	known := s.listeners()
	for _, want := range []string{address, listenAddress(address), net.JoinHostPort("0.0.0.0", port), net.JoinHostPort("::", port)} {
		for _, l := range known {
			if l.address == want || l.dial == want {
				out.address, out.proxy = l.address, l.proxy
				return out
			}
		}
	}
	return out
}

// answers returns the server that nginx chooses for a name on an address: exact, longest leading wildcard, longest
// trailing wildcard, first regular expression, default. Nil when nothing listens there.
func (s *site) answers(address, name string) *server {
	const exact = 1 << 20 // longer than any wildcard
	var best, fallback *server
	score, preferred := 0, false
	for i := range s.servers {
		candidate := &s.servers[i]
		for _, l := range candidate.listens {
			if l.address != address {
				continue
			}
			if fallback == nil || l.preferred && !preferred {
				fallback, preferred = candidate, l.preferred
			}
			for _, pattern := range candidate.names {
				if n := matchName(pattern, name, exact); n > score {
					best, score = candidate, n
				}
			}
		}
	}
	return cmp.Or(best, fallback)
}

// matchName ranks how well a server_name fits name; 0 is not at all. What PCRE understands and Go does not is taken
// for no match: the handshake then goes to the default server in our prediction only.
func matchName(pattern, name string, exact int) int {
	if name == "" {
		return 0
	}
	switch {
	case strings.HasPrefix(pattern, "~"):
		if re, err := regexp.Compile(strings.TrimPrefix(pattern, "~")); err == nil && re.MatchString(name) {
			return 1
		}
	case pattern == name:
		return exact
	case strings.HasPrefix(pattern, "."):
		if name == pattern[1:] {
			return exact
		}
		if strings.HasSuffix(name, pattern) {
			return exact/2 + len(pattern)
		}
	case strings.HasPrefix(pattern, "*."):
		if strings.HasSuffix(name, pattern[1:]) {
			return exact/2 + len(pattern)
		}
	case strings.HasSuffix(pattern, ".*"):
		if strings.HasPrefix(name, strings.TrimSuffix(pattern, "*")) {
			return 1 + len(pattern)
		}
	}
	return 0
}
