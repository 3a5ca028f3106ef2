package nginx

import (
	"crypto/x509"
	"os"
	"slices"
	"strings"
)

// Want is a certificate that should be served.
type Want struct {
	Name  string   // of the certificate: under live/, or the path of a file elsewhere
	Names []string // host names and addresses to ask for; a wildcard stands for the names that fit it
	Leaf  *x509.Certificate
}

func (w Want) keyType() string { return keyType(w.Leaf) }

// targets says where to ask for w. s is nil when nginx's configuration is not known; verify are the listeners that the
// operator gave, empty for those in the configuration.
//
// A name is asked for on a listener when, by nginx's own rules, the server that answers there uses the certificate. A
// certificate for ten names does no harm to a node that serves only nine. But if it is used and no name leads to it,
// every name is asked for everywhere, so that whatever hides it comes to light.
func (w Want) targets(s *site, verify []string) []target {
	var listeners []listener
	for _, address := range verify {
		if s == nil {
			listeners = append(listeners, (&site{}).reached(address))
		} else {
			listeners = append(listeners, s.reached(address))
		}
	}
	if s == nil {
		return w.everywhere(listeners, serverNames(w.Names, nil))
	}
	if len(verify) == 0 {
		listeners = s.listeners()
	}
	users := s.users(w.Name)
	if len(users) == 0 && !s.dynamic {
		return nil
	}
	var out []target
	names := serverNames(w.Names, users)
	for _, l := range listeners {
		for _, name := range names {
			answers := s.answers(l.address, name)
			if answers != nil && answers.uses(w.Name) {
				out = append(out, target{want: w, at: l, sni: name, paired: len(answers.certs) > 1, where: answers.where})
			}
		}
	}
	if out != nil {
		return out
	}
	if len(verify) == 0 && !s.dynamic {
		listeners = slices.DeleteFunc(listeners, func(l listener) bool {
			return !slices.ContainsFunc(users, func(u *server) bool {
				return slices.ContainsFunc(u.listens, func(own listen) bool { return own.address == l.address })
			})
		})
	}
	return w.everywhere(listeners, names)
}

func (w Want) everywhere(listeners []listener, names []string) []target {
	var out []target
	for _, l := range listeners {
		for _, name := range names {
			out = append(out, target{want: w, at: l, sni: name, paired: true})
		}
	}
	return out
}

// serverNames turns the names of a certificate into what a client would send: an address is sent as nothing, a wildcard
// becomes the server names that fit it, or one invented for the purpose.
func serverNames(names []string, users []*server) []string {
	var out []string
	for _, name := range names {
		name = strings.ToLower(name)
		switch {
		case isIP(name):
			out = append(out, "")
		case strings.HasPrefix(name, "*."):
			fits := len(out)
			for _, user := range users {
				for _, candidate := range user.names {
					first, rest, _ := strings.Cut(candidate, ".")
					if rest == name[2:] && first != "" && first != "*" && !strings.HasPrefix(first, "~") {
						out = append(out, candidate)
					}
				}
			}
			if len(out) == fits {
				out = append(out, "certswarm-probe"+name[1:])
			}
		default:
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// users returns the servers that use the certificate called label.
func (s *site) users(label string) []*server {
	var out []*server
	for i := range s.servers {
		if s.servers[i].uses(label) {
			out = append(out, &s.servers[i])
		}
	}
	return out
}

func (s *server) uses(label string) bool {
	return s.dynamic || slices.ContainsFunc(s.certs, func(c certificateFile) bool { return c.label == label })
}

// wantsOf returns what nginx should serve by its own configuration and the files as they are now: for changes that
// others made. Files that cannot be read, and servers without a usable name, are nobody's wish.
func wantsOf(s *site) []Want {
	var out []Want
	seen := make(map[string]bool)
	for i := range s.servers {
		for _, c := range s.servers[i].certs {
			if seen[c.path] {
				continue
			}
			seen[c.path] = true
			data, err := os.ReadFile(c.path)
			if err != nil {
				continue
			}
			chain, err := parseChain(data)
			if err != nil {
				continue
			}
			out = append(out, Want{Name: c.label, Names: namesOf(chain[0]), Leaf: chain[0]})
		}
	}
	return out
}
