package config

import (
	"fmt"
	"path/filepath"
	"strings"

	"certswarm/internal/fleet"
)

// relations checks what values must be to each other, and makes the roster. What is already wrong by itself is left
// out: one mistake, one error.
func (v *checker) relations() {
	v.peersAt = v.places["peers"]
	if len(v.Peers) == 0 {
		v.refuse("peers", "peers: none is given", "list every node, this one included")
	}
	if len(v.Directories) == 0 {
		v.refuse("directories", "directories: none is given", "list what to replicate")
	}
	unique(v, "peers", "name", v.Peers, func(p Peer) string { return p.Name })
	unique(v, "peers", "id", v.Peers, func(p Peer) string { return p.ID.String() })
	v.addresses()
	unique(v, "directories", "name", v.Directories, func(d Directory) string { return d.Name })
	unique(v, "certificates", "name", v.Certificates, func(c Certificate) string { return c.Name })
	if !v.wrong("directories") {
		v.paths()
	}
	v.obtaining()
	if v.under("peers") {
		return
	}
	v.form()
	v.writers()
	v.issuers()
}

// form makes the roster.
func (v *checker) form() {
	members := make([]fleet.Member, len(v.Peers))
	for i, p := range v.Peers {
		members[i] = p.member()
	}
	roster, err := fleet.NewRoster(members)
	if err != nil {
		panic(fmt.Sprintf("config: names and ids were found good and unique: %v", err))
	}
	v.roster = roster
}

// unique reports items of the named list at path whose key's value an earlier item has.
func unique[T any](v *checker, path, key string, items []T, value func(T) string) {
	first := make(map[string]int, len(items))
	for i, item := range items {
		at := fmt.Sprintf("%s[%d].%s", path, i, key)
		if v.wrong(at) {
			continue
		}
		if j, twice := first[value(item)]; twice {
			earlier := v.places[fmt.Sprintf("%s[%d].%s", path, j, key)]
			v.refuse(at, fmt.Sprintf("%s: %s stands already at %s", key, value(item), earlier), "keep one of the two")
			continue
		}
		first[value(item)] = i
	}
}

// addresses reports peers that are to be reached where another one is: no packet could tell which of them is meant.
func (v *checker) addresses() {
	type spot struct {
		peer int
		path string
	}
	first := make(map[string]spot)
	for i, p := range v.Peers {
		peer := fmt.Sprintf("peers[%d]", i)
		if v.wrong(peer+".name") || v.wrong(peer+".id") { // the same peer written twice is one mistake
			continue
		}
		for j, address := range p.Addresses {
			at := fmt.Sprintf("%s.addresses[%d]", peer, j)
			if v.wrong(at) {
				continue
			}
			earlier, taken := first[sameAddress(address)]
			switch {
			case !taken:
				first[sameAddress(address)] = spot{i, at}
			case earlier.peer != i:
				v.refuse(at, fmt.Sprintf("addresses: %s stands already at %s", address, v.places[earlier.path]), "keep one of the two")
			}
		}
	}
}

// paths reports directories that lie in one another or around what must not be replicated.
func (v *checker) paths() {
	for i, d := range v.Directories {
		path := fmt.Sprintf("directories[%d].path", i)
		if v.wrong(path) {
			continue
		}
		for j, other := range v.Directories[:i] {
			if earlier := fmt.Sprintf("directories[%d].path", j); !v.wrong(earlier) && overlap(d.Path, other.Path) {
				v.refuse(path, fmt.Sprintf("path: %s overlaps %s at %s", d.Path, other.Path, v.places[earlier]), "write paths that do not lie in one another")
			}
		}
		if !v.wrong("state_dir") && overlap(d.Path, v.StateDir) {
			v.refuse(path, fmt.Sprintf("path: %s overlaps the state directory %s, which is never replicated", d.Path, v.StateDir), "write another path, or another state_dir")
		}
		sockets := []string{v.ControlSocket}
		if v.ACME != nil {
			sockets = append(sockets, v.ACME.HTTP01Socket)
		}
		for _, socket := range sockets {
			if inside(socket, d.Path) {
				v.refuse(path, fmt.Sprintf("path: the socket %s would lie in it", socket), "write another path, or another control_socket")
			}
		}
	}
	if v.ACME != nil && v.ACME.HTTP01Socket == v.ControlSocket && !v.wrong("control_socket") {
		v.refuse("acme.http01_socket", "http01_socket: that is the control socket", "write another path")
	}
}

func overlap(a, b string) bool { return inside(a, b) || inside(b, a) }

// inside reports whether path is dir or lies below it; both are clean.
func inside(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, string(filepath.Separator))+string(filepath.Separator))
}

// writers checks that those who may write are there and may originate anything at all.
func (v *checker) writers() {
	members := make(map[string]fleet.Member, v.roster.Len())
	for _, m := range v.roster.Members() {
		members[m.Name] = m
	}
	for i, d := range v.Directories {
		for j, writer := range d.Writers {
			path := fmt.Sprintf("directories[%d].writers[%d]", i, j)
			if writer == writersAny || writer == writersIssuers {
				if len(d.Writers) > 1 && writer == writersAny {
					v.refuse(path, "writers: any stands for every peer already", "write [any] alone, or leave it out")
				}
				continue
			}
			switch m, ok := members[writer]; {
			case !ok:
				v.refuse(path, fmt.Sprintf("writers: there is no peer %q", writer), "write "+alternatives(v.possibleWriters()))
			case m.Role != fleet.Issuer && len(v.roster.Issuers()) > 0: // else issuers says more
				v.refuse(path, fmt.Sprintf("writers: %s is a %s, which only receives or votes", writer, m.Role), "remove it, or give that peer roles: [issuer]")
			}
		}
	}
}

// possibleWriters returns what may stand among writers, as far as it fits into a line.
func (v *checker) possibleWriters() []string {
	words := []string{writersAny, writersIssuers}
	for _, m := range v.roster.Issuers() {
		if len(words) == 10 {
			return append(words, "the name of another issuer")
		}
		words = append(words, m.Name)
	}
	return words
}

// obtaining checks what certificates need of the other sections: an agreement, and a place to keep them.
func (v *checker) obtaining() {
	if v.ACME == nil {
		if len(v.Certificates) > 0 && !v.under("acme") {
			v.refuse("certificates", "certificates: there is no acme section to obtain them with", "write acme: with email and accept_terms: true")
		}
		return
	}
	if !v.ACME.AcceptTerms {
		v.refuse("acme.accept_terms", "accept_terms: a CA issues nothing before its terms of service are agreed to", "read them and write accept_terms: true")
	}
	if _, found := v.storeDirectory(); found || v.under("directories") {
		return
	}
	var names []string
	for _, d := range v.Directories {
		names = append(names, d.Name)
	}
	if v.ACME.Store == "" {
		v.refuse("acme.store", "store: which directory holds the certificates is not said", "write store: and "+alternatives(names))
		return
	}
	v.refuse("acme.store", fmt.Sprintf("store: there is no directory %q", v.ACME.Store), "write "+alternatives(names))
}

// storeDirectory returns the directory that acme.store names.
func (v *checker) storeDirectory() (Directory, bool) {
	for _, d := range v.Directories {
		if d.Name == v.ACME.Store {
			return d, true
		}
	}
	return Directory{}, false
}

// issuers checks that somebody may change anything, and that whoever obtains certificates can also store them.
func (v *checker) issuers() {
	issuers := v.roster.Issuers()
	if len(issuers) == 0 {
		v.refuse("peers", "peers: no peer is an issuer: nobody could change anything", "give one at least roles: [issuer]")
	}
	if v.ACME == nil {
		return
	}
	store, found := v.storeDirectory()
	if !found || v.under("directories") {
		return
	}
	for _, m := range issuers {
		if !store.MayWrite(m) {
			v.refuse("acme.store", fmt.Sprintf("store: issuer %s may not write to directory %s", m.Name, store.Name), "add it to the directory's writers, or make it roles: [member]")
			return
		}
	}
}
