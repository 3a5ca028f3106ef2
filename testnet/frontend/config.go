package frontend

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"
)

// Standin is the one word that the stand-in goes by: as Config.Binary it asks for the stand-in even where nginx is
// installed, and as first argument it tells an executable to hand the rest to StandinMain.
const Standin = "standin"

// Config describes one front-end.
type Config struct {
	Dir       string // its own directory, absolute: configuration, pid file, logs/ and temporary files
	Address   string // the IP address it listens on
	HTTPPort  int    // where challenges are answered and all else is redirected
	HTTPSPort int    // where the certificates are served

	Store  string // the replicated certs directory, absolute: acme/ and live/ are in it
	Socket string // the agent's challenge responder (a Unix socket, absolute), asked when there is no token file

	Names []string   // the first names the certificate, live/NAME; all of them are served with it
	Also  [][]string // further certificates, each like Names; a client that names no server gets that of Names

	Pairs []string // those of the certificates, by their first name, whose server has the RSA half of a pair too: live/NAME-rsa

	BreakChallenge bool   // answer 404 where the CA looks: a front-end that somebody misconfigured
	Binary         string // nginx; "" is nginx from the PATH, or the stand-in if there is none; or Standin
}

// Paths is where a front-end's pieces are. Binary, ConfigFile and Prefix are what the agent's `nginx:` section wants.
type Paths struct {
	Binary     string
	ConfigFile string
	Prefix     string
	PidFile    string
	AccessLog  string // one line a request; the User-Agent is the last, quoted field
	ErrorLog   string
}

// HaveNginx returns the nginx of this machine. The sbin directories are searched too: that is where nginx is, and
// where the PATH of an unprivileged user often does not look.
func HaveNginx() (path string, ok bool) {
	for _, candidate := range []string{"nginx", "/usr/local/sbin/nginx", "/usr/sbin/nginx"} {
		if found, err := exec.LookPath(candidate); err == nil {
			return found, true
		}
	}
	return "", false
}

// WriteConfig makes c.Dir and writes the configuration into it, replacing the one that is there in one rename. It
// starts nothing and needs no certificate to exist yet, so the agent can be configured, and put its placeholders in
// place, before the front-end starts.
func WriteConfig(c Config) (Paths, error) {
	paths, _, err := prepare(c)
	if err != nil {
		return Paths{}, fmt.Errorf("front-end %s: %w", c.Address, err)
	}
	return paths, nil
}

// prepare is WriteConfig; it also says what will run.
func prepare(c Config) (Paths, build, error) {
	paths := Paths{
		Binary:     c.Binary,
		ConfigFile: filepath.Join(c.Dir, "nginx.conf"),
		Prefix:     c.Dir,
		PidFile:    filepath.Join(c.Dir, "nginx.pid"),
		AccessLog:  filepath.Join(c.Dir, "logs", "access.log"),
		ErrorLog:   filepath.Join(c.Dir, "logs", "error.log"),
	}
	if err := c.check(); err != nil {
		return Paths{}, build{}, err
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, "logs"), 0o755); err != nil {
		return Paths{}, build{}, err
	}
	if paths.Binary == "" {
		paths.Binary = Standin
		if found, ok := HaveNginx(); ok {
			paths.Binary = found
		}
	}
	if paths.Binary == Standin {
		wrapper, err := writeWrapper(paths)
		if err != nil {
			return Paths{}, build{}, err
		}
		paths.Binary = wrapper
	}
	about, err := inspect(paths.Binary)
	if err != nil {
		return Paths{}, build{}, err
	}
	text, err := c.render(paths, about)
	if err != nil {
		return Paths{}, build{}, err
	}
	return paths, about, replace(paths.ConfigFile, text, 0o644)
}

var serverName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// check refuses what could not be written into a configuration without meaning something else there.
func (c Config) check() error {
	for _, p := range []struct{ field, path string }{{"Dir", c.Dir}, {"Store", c.Store}, {"Socket", c.Socket}} {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("%s must be an absolute path, not %q", p.field, p.path)
		}
		// nginx expands $ even within quotes, and takes a colon for the end of a socket's path.
		if strings.ContainsAny(p.path, "$\"\\:\n\r") {
			return fmt.Errorf("%s cannot be named in an nginx configuration: %q", p.field, p.path)
		}
	}
	if _, err := netip.ParseAddr(c.Address); err != nil {
		return fmt.Errorf("the address: %w", err)
	}
	for _, port := range []int{c.HTTPPort, c.HTTPSPort} {
		if port < 1 || port > 65535 {
			return fmt.Errorf("not a port to listen on: %d", port)
		}
	}
	if c.HTTPPort == c.HTTPSPort {
		return fmt.Errorf("HTTP and HTTPS cannot both listen on port %d", c.HTTPPort)
	}
	for _, names := range c.certificates() {
		if len(names) == 0 {
			return errors.New("a certificate without a name: Names and each of Also need at least one")
		}
		for _, name := range names {
			if !serverName.MatchString(name) {
				return fmt.Errorf("not a server's name: %q", name)
			}
		}
	}
	return nil
}

func (c Config) certificates() [][]string { return append([][]string{c.Names}, c.Also...) }

// Paired reports whether the certificate called name is half of a pair.
func (c Config) Paired(name string) bool { return slices.Contains(c.Pairs, name) }

func (c Config) http() string  { return net.JoinHostPort(c.Address, strconv.Itoa(c.HTTPPort)) }
func (c Config) https() string { return net.JoinHostPort(c.Address, strconv.Itoa(c.HTTPSPort)) }

// In configText the challenge's location is `^~` so that no regular expression of a real configuration would win over
// it, and the redirect sits in `location /` because a `return` of the server itself would swallow the challenge.
//
// As root nginx gives its workers to nobody, who may not enter the private temporary directories that a testnet lives
// in; hence `user root`, which is for a testnet and nothing else. Everybody else's workers are themselves.
var configText = template.Must(template.New("nginx.conf").Parse(`# The front-end {{.Address}} of a certswarm testnet. Rewritten whenever that starts.
daemon off;
master_process on;
worker_processes 1;
{{- if .Root}}
user root;
{{- end}}
pid "{{.PidFile}}";
error_log "{{.ErrorLog}}" notice;

events {
    worker_connections 256;
}

http {
    log_format testnet '$remote_addr [$time_iso8601] $host "$request" $status "$http_user_agent"';
    access_log "{{.AccessLog}}" testnet;
    default_type text/plain;
{{- range .TempPaths}}
    {{.}}_temp_path "{{$.Prefix}}/{{.}}_temp";
{{- end}}

    server {
        listen {{.HTTP}};
        server_name{{range .Certificates}}{{range .}} {{.}}{{end}}{{end}};

        location ^~ /.well-known/acme-challenge/ {
{{- if .BreakChallenge}}
            return 404;
        }
{{- else}}
            root "{{.Store}}/acme";
            default_type text/plain;
            try_files $uri @certswarm;
        }
        location @certswarm {
            proxy_pass "http://unix:{{.Socket}}";
            proxy_set_header Host $host;
        }
{{- end}}
        location / {
            return 301 "https://${host}{{.RedirectPort}}$request_uri";
        }
    }
{{- range .Certificates}}

    server {
        listen {{$.HTTPS}} ssl;
        server_name{{range .}} {{.}}{{end}};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate "{{$.Store}}/live/{{index . 0}}/fullchain.pem";
        ssl_certificate_key "{{$.Store}}/live/{{index . 0}}/privkey.pem";
{{- if $.Paired (index . 0)}}
        ssl_certificate "{{$.Store}}/live/{{index . 0}}-rsa/fullchain.pem";
        ssl_certificate_key "{{$.Store}}/live/{{index . 0}}-rsa/privkey.pem";
{{- end}}
        return 200 "hello from {{$.Address}}\n";
    }
{{- end}}
}
`))

func (c Config) render(paths Paths, about build) ([]byte, error) {
	redirectPort := ""
	if c.HTTPSPort != 443 {
		redirectPort = fmt.Sprintf(":%d", c.HTTPSPort)
	}
	var text strings.Builder
	err := configText.Execute(&text, struct {
		Config
		Paths
		HTTP, HTTPS, RedirectPort string
		Certificates              [][]string
		TempPaths                 []string
		Root                      bool
	}{c, paths, c.http(), c.https(), redirectPort, c.certificates(), about.tempPaths, os.Geteuid() == 0})
	return []byte(text.String()), err
}

// build is what a binary says about itself.
type build struct {
	kind      string   // "nginx 1.22.1", "stand-in"
	tempPaths []string // the modules that keep temporary files, by the first word of their *_temp_path
}

var versionLine = regexp.MustCompile(`(?m)^nginx version: ([^/\s]+)/(\S+)`)

// inspect asks binary for its version and which of the modules with temporary files it was built with: a directive of
// a module that is missing is an error to nginx.
func inspect(binary string) (build, error) {
	output, err := exec.Command(binary, "-V").CombinedOutput()
	if err != nil {
		return build{}, fmt.Errorf("%s -V: %w: %s", binary, err, strings.TrimSpace(string(output)))
	}
	version := versionLine.FindStringSubmatch(string(output))
	if version == nil {
		return build{}, fmt.Errorf("%s is not nginx: -V says %q", binary, strings.TrimSpace(string(output)))
	}
	b := build{kind: version[1] + " " + version[2], tempPaths: []string{"client_body"}}
	if version[1] == standinProduct {
		b.kind = "stand-in"
	}
	for _, module := range []string{"proxy", "fastcgi", "uwsgi", "scgi"} {
		if !strings.Contains(string(output), "--without-http_"+module+"_module") {
			b.tempPaths = append(b.tempPaths, module)
		}
	}
	return b, nil
}

// writeWrapper writes the program that the agent and the testnet run in nginx's place: this executable again, with
// the paths that are compiled into a real nginx as arguments that later ones override.
func writeWrapper(paths Paths) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("cannot tell which executable the stand-in is: %w", err)
	}
	wrapper := filepath.Join(paths.Prefix, "nginx")
	script := fmt.Sprintf("#!/bin/sh\nexec %s %s -p %s -c %s \"$@\"\n",
		shellQuote(self), Standin, shellQuote(paths.Prefix), shellQuote(paths.ConfigFile))
	return wrapper, replace(wrapper, []byte(script), 0o755)
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// replace puts content at path in one rename, for readers that may come at any time: an agent testing the
// configuration, or running the wrapper.
func replace(path string, content []byte, mode os.FileMode) error {
	// A child that is forked while the file is open for writing has it open until its own exec, and the kernel runs no
	// program that somebody may write to (ETXTBSY, go.dev/issue/22315).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	staged := path + ".new"
	if err := os.WriteFile(staged, content, mode); err != nil {
		return err
	}
	return os.Rename(staged, path)
}
