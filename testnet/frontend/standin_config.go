package frontend

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// directive is one statement of an nginx configuration.
type directive struct {
	name  string
	args  []string
	block block // what is within its braces; nil when it ended with a semicolon
}

// block is the inside of a pair of braces, or a whole file.
type block []directive

// all returns the directives called name, in order.
func (b block) all(name string) []directive {
	var found []directive
	for _, d := range b {
		if d.name == name {
			found = append(found, d)
		}
	}
	return found
}

// first returns the arguments of the first directive called name, or nil.
func (b block) first(name string) []string {
	for _, d := range b {
		if d.name == name {
			return d.args
		}
	}
	return nil
}

// arity bounds the number of a directive's arguments.
type arity struct{ least, most int }

const many = math.MaxInt

// simple holds every directive without a block that the stand-in knows.
var simple = map[string]arity{
	"daemon": {1, 1}, "master_process": {1, 1}, "worker_processes": {1, 1}, "worker_connections": {1, 1},
	"user": {1, 2}, "pid": {1, 1}, "error_log": {1, many}, "log_format": {2, many}, "access_log": {1, many},
	"client_body_temp_path": {1, 4}, "proxy_temp_path": {1, 4}, "fastcgi_temp_path": {1, 4}, "uwsgi_temp_path": {1, 4},
	"scgi_temp_path": {1, 4}, "default_type": {1, 1}, "listen": {1, many}, "server_name": {1, many},
	"ssl_certificate": {1, 1}, "ssl_certificate_key": {1, 1}, "ssl_protocols": {1, many},
	"root": {1, 1}, "try_files": {2, many}, "proxy_pass": {1, 1}, "proxy_set_header": {2, 2}, "return": {1, 2},
}

// blocks holds every directive with a block, likewise.
var blocks = map[string]arity{"events": {0, 0}, "http": {0, 0}, "server": {0, 0}, "location": {1, 2}}

// parseConfig reads text, which came from the named file. Like nginx it names file and line of what it cannot take.
func parseConfig(file, text string) (block, error) {
	p := parser{text: text, line: 1}
	b, err := p.block(0)
	if err != nil {
		return nil, fmt.Errorf("%w in %s:%d", err, file, p.line)
	}
	return b, nil
}

type parser struct {
	text string // what is still to be read
	line int    // of the beginning of text
}

func (p *parser) block(depth int) (block, error) {
	b := block{}
	var words []string
	for {
		token, kind, err := p.next()
		if err != nil {
			return nil, err
		}
		switch kind {
		case aWord:
			words = append(words, token)
			continue
		case theEnd, '}':
			if len(words) > 0 {
				return nil, fmt.Errorf("directive %q is not terminated by \";\"", words[0])
			}
			if (kind == '}') != (depth > 0) {
				return nil, errors.New(`unexpected "}" or end of file`)
			}
			return b, nil
		}
		if len(words) == 0 {
			return nil, fmt.Errorf("unexpected %q", kind)
		}
		d := directive{name: words[0], args: words[1:]}
		if err := d.check(kind == '{'); err != nil {
			return nil, err
		}
		if kind == '{' {
			if d.block, err = p.block(depth + 1); err != nil {
				return nil, err
			}
		}
		b, words = append(b, d), nil
	}
}

func (d directive) check(opens bool) error {
	takes, isBlock := blocks[d.name]
	known := isBlock
	if !isBlock {
		takes, known = simple[d.name]
	}
	switch {
	case !known:
		return fmt.Errorf("unknown directive %q", d.name)
	case isBlock && !opens:
		return fmt.Errorf("directive %q has no opening \"{\"", d.name)
	case !isBlock && opens:
		return fmt.Errorf("directive %q is not terminated by \";\"", d.name)
	case len(d.args) < takes.least || len(d.args) > takes.most:
		return fmt.Errorf("invalid number of arguments in %q directive", d.name)
	}
	return nil
}

// Kinds of token that are not a single character of punctuation.
const (
	theEnd = rune(0)
	aWord  = 'w'
)

// next returns the next token: a word, or the punctuation that kind is.
func (p *parser) next() (word string, kind rune, err error) {
	for p.text != "" {
		switch c := p.text[0]; c {
		case ' ', '\t', '\r', '\n':
			p.skip(1)
		case '#':
			if end := strings.IndexByte(p.text, '\n'); end >= 0 {
				p.skip(end)
			} else {
				p.skip(len(p.text))
			}
		case ';', '{', '}':
			p.skip(1)
			return "", rune(c), nil
		case '"', '\'':
			return p.quoted(c)
		default:
			end := strings.IndexAny(p.text, " \t\r\n;{}")
			if end < 0 {
				end = len(p.text)
			}
			word = p.text[:end]
			p.skip(end)
			return word, aWord, nil
		}
	}
	return "", theEnd, nil
}

func (p *parser) quoted(quote byte) (string, rune, error) {
	var word strings.Builder
	for i := 1; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == quote:
			p.skip(i + 1)
			return word.String(), aWord, nil
		case c == '\\' && i+1 < len(p.text):
			i++
			word.WriteString(unescape(p.text[i]))
		default:
			word.WriteByte(c)
		}
	}
	return "", 0, errors.New("unexpected end of file, expecting a closing quote")
}

// unescape returns what nginx makes of a backslash and c within quotes.
func unescape(c byte) string {
	switch c {
	case 'n':
		return "\n"
	case 't':
		return "\t"
	case 'r':
		return "\r"
	case '"', '\'', '\\':
		return string(c)
	}
	return `\` + string(c)
}

func (p *parser) skip(n int) {
	p.line += strings.Count(p.text[:n], "\n")
	p.text = p.text[n:]
}

// site is a configuration with the certificates it names: all that the stand-in serves from. It is never changed; a
// reload makes another.
type site struct {
	text      string
	pidFile   string
	errorLog  string
	accessLog string // "": none
	logFormat string
	endpoints []endpoint
}

// endpoint is one address and the servers behind it; the first is the default one.
type endpoint struct {
	address string
	tls     bool
	servers []server
}

type server struct {
	names       []string
	certificate *tls.Certificate // nil without TLS
	reply       *reply           // a `return` of the server itself wins over every location
	locations   []location
}

type location struct {
	prefix   string // or, with @, a name
	reply    *reply
	root     string // "" is none
	fallback string // the named location that try_files ends with
	proxy    http.Handler
}

// reply is a `return`: text may hold variables, and is the address of a redirect.
type reply struct {
	status int
	text   string
}

// compile makes the site that b describes; relative paths begin at prefix.
func compile(b block, prefix string) (*site, error) {
	if daemon := b.first("daemon"); daemon == nil || daemon[0] != "off" {
		return nil, errors.New("the stand-in stays in the foreground: write \"daemon off;\"")
	}
	absolute := func(args []string, otherwise string) string {
		if args == nil {
			args = []string{otherwise}
		}
		if filepath.IsAbs(args[0]) {
			return args[0]
		}
		return filepath.Join(prefix, args[0])
	}
	s := &site{
		pidFile:  absolute(b.first("pid"), "nginx.pid"),
		errorLog: absolute(b.first("error_log"), "logs/error.log"),
	}
	for _, web := range b.all("http") {
		if err := s.useLog(web.block, absolute); err != nil {
			return nil, err
		}
		for _, d := range web.block.all("server") {
			if err := s.add(d.block); err != nil {
				return nil, err
			}
		}
	}
	if len(s.endpoints) == 0 {
		return nil, errors.New("no server listens")
	}
	return s, nil
}

func (s *site) useLog(web block, absolute func([]string, string) string) error {
	access := web.first("access_log")
	if access == nil || access[0] == "off" {
		return nil
	}
	s.accessLog = absolute(access, "")
	for _, format := range web.all("log_format") {
		if len(access) > 1 && access[1] == format.args[0] {
			s.logFormat = strings.Join(format.args[1:], "")
		}
	}
	if s.logFormat == "" {
		return errors.New("the stand-in's access_log needs the name of a log_format")
	}
	return checkVariables(s.logFormat)
}

// add puts the server that b describes behind the addresses on which it listens.
func (s *site) add(b block) error {
	srv := server{names: b.first("server_name")}
	var err error
	if srv.reply, err = newReply(b.first("return")); err != nil {
		return err
	}
	for _, d := range b.all("location") {
		l, err := newLocation(d)
		if err != nil {
			return err
		}
		srv.locations = append(srv.locations, l)
	}
	for _, d := range b.all("listen") {
		e := endpoint{address: d.args[0], tls: len(d.args) > 1 && d.args[1] == "ssl"}
		if e.tls && srv.certificate == nil {
			if srv.certificate, err = loadPair(b.first("ssl_certificate"), b.first("ssl_certificate_key")); err != nil {
				return err
			}
		}
		at := slices.IndexFunc(s.endpoints, func(known endpoint) bool { return known.address == e.address })
		if at < 0 {
			at, s.endpoints = len(s.endpoints), append(s.endpoints, e)
		}
		s.endpoints[at].servers = append(s.endpoints[at].servers, srv)
	}
	return nil
}

func newLocation(d directive) (l location, err error) {
	l.prefix = d.args[len(d.args)-1]
	if len(d.args) == 2 && d.args[0] != "^~" {
		return l, fmt.Errorf("the stand-in has no location of kind %q", d.args[0])
	}
	if l.reply, err = newReply(d.block.first("return")); err != nil {
		return l, err
	}
	if root := d.block.first("root"); root != nil {
		l.root = root[0]
	}
	if try := d.block.first("try_files"); try != nil {
		if len(try) != 2 || try[0] != "$uri" || !strings.HasPrefix(try[1], "@") {
			return l, errors.New("the stand-in knows only \"try_files $uri @name\"")
		}
		l.fallback = try[1]
	}
	if pass := d.block.first("proxy_pass"); pass != nil {
		socket, ok := strings.CutPrefix(pass[0], "http://unix:")
		if !ok {
			return l, errors.New("the stand-in passes only to \"http://unix:SOCKET\"")
		}
		l.proxy = newProxy(socket)
	}
	return l, nil
}

func newReply(args []string) (*reply, error) {
	if args == nil {
		return nil, nil
	}
	status, err := strconv.Atoi(args[0])
	if err != nil || status < 200 || status > 599 {
		return nil, fmt.Errorf("invalid return code %q", args[0])
	}
	r := &reply{status: status}
	if len(args) > 1 {
		r.text = args[1]
	}
	return r, checkVariables(r.text)
}

// loadPair reads what nginx reads at start and reload, and refuses what it refuses.
func loadPair(certificate, key []string) (*tls.Certificate, error) {
	if certificate == nil || key == nil {
		return nil, errors.New(`no "ssl_certificate" or "ssl_certificate_key" is defined for the "listen ... ssl" directive`)
	}
	chain, err := os.ReadFile(certificate[0])
	if err != nil {
		return nil, fmt.Errorf("cannot load certificate %q: %w", certificate[0], err)
	}
	private, err := os.ReadFile(key[0])
	if err != nil {
		return nil, fmt.Errorf("cannot load certificate key %q: %w", key[0], err)
	}
	pair, err := tls.X509KeyPair(chain, private)
	if err != nil {
		return nil, fmt.Errorf("cannot use certificate %q with key %q: %w", certificate[0], key[0], err)
	}
	return &pair, nil
}
