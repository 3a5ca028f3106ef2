package nginx

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestTokens(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`a b;c`, `a|b|;|c`},
		{`a "b c" 'd;e' f"g;`, `a|b c|d;e|f"g|;`},
		{`a "b\"c" d\ e \n;`, `a|b"c|d\ e|` + "\n" + `|;`},
		{"a # b { ;\nc;", `a|c|;`},
		{`a b#c;`, `a|b#c|;`},
		{`a ${b}c{d;}`, `a|${b}c|{|d|;|}`},
		{`a ${b c;`, `a|${b|c|;`},
		{`a "never closed`, `a|never closed`},
		{`a\`, `a\`},
		{`a}b;`, `a}b|;`},
		{``, ``},
	} {
		s := scanner{text: c.text, line: 1}
		var got []string
		for tok, ok := s.next(); ok; tok, ok = s.next() {
			got = append(got, tok.text)
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%q gives %q, not %q", c.text, strings.Join(got, "|"), c.want)
		}
	}
}

// theDump has what configurations have: includes before and after their files, quotes, comments, Lua, inheritance.
const theDump = `nginx noise before the first file
# configuration file /etc/nginx/nginx.conf:
user www-data; pid /run/nginx.pid;
events { }
http {
    ssl_certificate     live/default/fullchain.pem;   # relative to the main file
    ssl_certificate_key live/default/privkey.pem;
    include mime.types;
    include /etc/nginx/sites-enabled/*;
    content_by_lua_block { if x then return "}" end -- }
    }
    upstream app { server 127.0.0.1:8080; }
}
stream {
    server { listen 8443-8445 ssl; ssl_certificate "/certs/live/mail/fullchain.pem"; ssl_certificate_key /certs/live/mail/privkey.pem; }
    server { listen 53 udp; }
}

# configuration file /etc/nginx/mime.types:
types { text/html html; }

# configuration file /etc/nginx/sites-enabled/b.conf:
server {
    listen 443;
    listen [::]:443 ssl ipv6only=on;
    listen 443 quic reuseport;
    server_name WWW.example.com .example.net ~^api\d+\. $hostname;
    include /etc/nginx/tls.conf;
    location / { proxy_ssl_trusted_certificate /certs/live/backend/chain.pem; }
}

# configuration file /etc/nginx/tls.conf:
ssl_certificate /certs/live/www/fullchain.pem; ssl_certificate_key /certs/live/www/privkey.pem;
ssl_certificate /certs/live/www-rsa/fullchain.pem; ssl_certificate_key /certs/live/www-rsa/privkey.pem;

# configuration file /etc/nginx/sites-enabled/c.conf:
server { listen *:443 ssl default_server; listen unix:/run/tls.sock ssl proxy_protocol; }
server { listen 127.0.0.2 ; ssl on; server_name dynamic.example; ssl_certificate /certs/$ssl_server_name.pem; ssl_certificate_key data:$key; }
`

func label(file string) string {
	if name, ok := nameUnder("/certs/live", file); ok {
		return name
	}
	return file
}

func TestDiscovery(t *testing.T) {
	s := parseSite(theDump, label)
	var got []string
	for _, server := range s.servers {
		var certs []string
		for _, c := range server.certs {
			certs = append(certs, c.label)
		}
		got = append(got, fmt.Sprintf("%s %v %v dynamic=%v", server.where, server.names, certs, server.dynamic))
	}
	want := []string{
		`/etc/nginx/sites-enabled/b.conf:1 [www.example.com .example.net ~^api\d+\.] [www www-rsa] dynamic=false`,
		`/etc/nginx/sites-enabled/c.conf:1 [] [/etc/nginx/live/default/fullchain.pem] dynamic=false`,
		`/etc/nginx/sites-enabled/c.conf:2 [dynamic.example] [] dynamic=true`,
		`/etc/nginx/nginx.conf:13 [] [mail] dynamic=false`,
		`/etc/nginx/nginx.conf:14 [] [] dynamic=false`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("servers:\n%s\nnot:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var listeners []string
	for _, l := range s.listeners() {
		listeners = append(listeners, fmt.Sprintf("%s %s %v", l.network, l.dial, l.proxy))
	}
	wantListeners := []string{"tcp 127.0.0.1:443 false", "tcp [::1]:443 false", "unix /run/tls.sock true", "tcp 127.0.0.2:80 false", "tcp 127.0.0.1:8443 false"}
	if !reflect.DeepEqual(listeners, wantListeners) {
		t.Errorf("listeners %q, not %q", listeners, wantListeners)
	}
	for _, name := range []string{"www", "www-rsa", "mail", "backend", "/etc/nginx/live/default/privkey.pem"} {
		if !s.used[name] {
			t.Errorf("%s is not used", name)
		}
	}
	if s.used["default"] || s.used["other"] || !s.dynamic {
		t.Errorf("used %v, dynamic %v", s.used, s.dynamic)
	}
}

func TestTheServerThatAnswers(t *testing.T) {
	s := parseSite(`# configuration file /n.conf:
http {
    server { listen 443 ssl; server_name first; }
    server { listen 443 ssl default_server; server_name default; }
    server { listen 443 ssl; server_name *.example.com; }
    server { listen 443 ssl; server_name *.deep.example.com; }
    server { listen 443 ssl; server_name www.example.com; }
    server { listen 443 ssl; server_name www.*; }
    server { listen 443 ssl; server_name ~^api(?<n>\d+)\.; }
    server { listen 443 ssl; server_name "~(?!lookahead)"; }
    server { listen 443 ssl; server_name .both.example; }
    server { listen 8443 ssl; server_name elsewhere; }
}`, label)
	for name, line := range map[string]int{
		"www.example.com": 6, "a.example.com": 4, "a.b.example.com": 4, "a.deep.example.com": 5, "www.example.org": 7,
		"api7.example.org": 8, "both.example": 10, "x.both.example": 10, "example.com": 3, "elsewhere": 3, "": 3, "first": 2,
	} {
		if got := s.answers("0.0.0.0:443", name); got == nil || got.where != fmt.Sprintf("/n.conf:%d", line) {
			t.Errorf("%q is answered by %+v, not by line %d", name, got, line)
		}
	}
	if got := s.answers("0.0.0.0:444", "first"); got != nil {
		t.Errorf("nothing listens there, but %+v answers", got)
	}
}

func TestWildcardsAreAskedForByNamesThatFit(t *testing.T) {
	users := []*server{{names: []string{"a.example.com", "*.example.com", "b.other", "~x.example.com"}}}
	for _, c := range []struct {
		names []string
		users []*server
		want  []string
	}{
		{[]string{"*.example.com", "Example.com"}, users, []string{"a.example.com", "example.com"}},
		{[]string{"*.example.com"}, nil, []string{"certswarm-probe.example.com"}},
		{[]string{"192.0.2.1", "2001:db8::1"}, nil, []string{""}},
	} {
		if got := serverNames(c.names, c.users); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %q, not %q", c.names, got, c.want)
		}
	}
}

func TestNginxsOwnLine(t *testing.T) {
	for output, want := range map[string]string{
		"nginx: [warn] a\nnginx: [emerg] b in /c:3\nnginx: configuration file /c test failed\n": "[emerg] b in /c:3",
		"2026/01/01 00:00:00 [emerg] 1#1: bind() failed\n":                                      "2026/01/01 00:00:00 [emerg] 1#1: bind() failed",
		"nginx: invalid option\n": "invalid option",
		"":                        "nginx failed without a word",
	} {
		if got := (&Refusal{Output: output}).Error(); got != want {
			t.Errorf("%q: %q, not %q", output, got, want)
		}
	}
}

func FuzzDiscovery(f *testing.F) {
	f.Add(theDump, "www.example.com")
	f.Add("# configuration file /a:\ninclude /a;\n", "a")
	f.Add("# configuration file /a:\n{{{{}\"\\", "")
	f.Fuzz(func(t *testing.T, dump, name string) {
		s := parseSite(dump, label)
		for _, l := range s.listeners() {
			if s.answers(l.address, name) == nil {
				t.Errorf("nobody answers at %s, where somebody listens", l.address)
			}
			if back := s.reached(l.dial); l.network == "tcp" && back.dial != l.dial {
				t.Errorf("%s is reached as %s", l.dial, back.dial)
			}
		}
	})
}
