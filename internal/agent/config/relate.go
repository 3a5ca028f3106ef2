package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"certswarm/internal/fleet"
)

// relations checks what values must be to each other. What depends on a value that is wrong, or that may be another one
// when a mistake beside it is mended, is left out: one mistake, one error, and each true whatever the others become.
func (v *checker) relations() {
	v.peersAt = v.places["peers"]
	if len(v.Peers) == 0 && v.complete("peers") {
		v.refuse("peers", "peers: none is given", "list every node, this one included")
	}
	if len(v.Directories) == 0 && v.complete("directories") {
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
	v.sockets()
	v.obtaining()
	people := v.people()
	v.writers(people)
	v.store(people)
}

// settled reports whether the value at path stays what it is, whatever is wrong elsewhere and becomes of it: it is
// good, and no other one can take its place. In a fragment what is not written may stand in another file.
func (v *checker) settled(path string) bool {
	for at := path; at != ""; at = parent(at) {
		if v.bad[at] || v.open[at] {
			return false
		}
	}
	list, _, inside := strings.Cut(path, "[")
	if v.top == whole || joined[list] && inside {
		return true
	}
	return v.written(path) && !joined[path]
}

// complete reports whether the list at path is settled, and no item will be added to it.
func (v *checker) complete(path string) bool { return v.settled(path) && !v.open[path+"[]"] }

// form makes the roster of a configuration in which nothing is wrong.
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
		if !v.settled(at) {
			continue
		}
		if j, twice := first[value(item)]; twice {
			earlier := v.places[fmt.Sprintf("%s[%d].%s", path, j, key)]
			v.refuse(at, fmt.Sprintf("%s: %s stands already at %s", key, value(item), earlier), "keep one of the two")
			v.again[parent(at)] = true
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
		if v.again[peer] { // the same peer written twice is one mistake
			continue
		}
		for j, address := range p.Addresses {
			at := fmt.Sprintf("%s.addresses[%d]", peer, j)
			if !v.settled(at) {
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
		if !v.settled(path) {
			continue
		}
		for j, other := range v.Directories[:i] {
			if earlier := fmt.Sprintf("directories[%d].path", j); v.settled(earlier) && overlap(d.Path, other.Path) {
				v.refuse(path, fmt.Sprintf("path: %s overlaps %s at %s", d.Path, other.Path, v.places[earlier]), "write paths that do not lie in one another")
			}
		}
		if v.settled("state_dir") && overlap(d.Path, v.StateDir) {
			v.refuse(path, fmt.Sprintf("path: %s overlaps the state directory %s, which is never replicated", d.Path, v.StateDir), "write another path, or another state_dir")
		}
		for _, socket := range v.settledSockets() {
			if inside(socket, d.Path) {
				v.refuse(path, fmt.Sprintf("path: the socket %s would lie in it", socket), "write another path, or another control_socket")
			}
		}
	}
}

// settledSockets returns the paths of the sockets, as far as they are settled.
func (v *checker) settledSockets() []string {
	var sockets []string
	if v.settled("control_socket") {
		sockets = append(sockets, v.ControlSocket)
	}
	if v.settledResponder() {
		sockets = append(sockets, v.ACME.HTTP01Socket)
	}
	return sockets
}

// settledResponder reports whether the challenge responder's socket is settled: it may follow from control_socket.
func (v *checker) settledResponder() bool {
	if v.ACME == nil || !v.settled("acme.http01_socket") {
		return false
	}
	derived := v.ACME.HTTP01Socket == filepath.Join(filepath.Dir(v.ControlSocket), responder)
	return !derived || v.settled("control_socket")
}

// sockets reports two sockets at one path.
func (v *checker) sockets() {
	if v.settledResponder() && v.settled("control_socket") && v.ACME.HTTP01Socket == v.ControlSocket {
		v.refuse("acme.http01_socket", "http01_socket: that is the control socket", "write another path")
	}
}

func overlap(a, b string) bool { return inside(a, b) || inside(b, a) }

// inside reports whether path is dir or lies below it; both are clean.
func inside(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, string(filepath.Separator))+string(filepath.Separator))
}

// people is what is settled about the peers.
type people struct {
	role   map[string]fleet.Role // by name; "" where it is not settled
	named  bool                  // every name there will be is in role
	nobody bool                  // there is no issuer: that was reported
}

// people gathers what is settled about the peers, and checks that one of them may change anything.
func (v *checker) people() people {
	all := people{role: make(map[string]fleet.Role, len(v.Peers)), named: v.complete("peers"), nobody: v.complete("peers") && len(v.Peers) > 0}
	for i, p := range v.Peers {
		path := fmt.Sprintf("peers[%d]", i)
		role := fleet.Role("")
		if len(p.Roles) == 1 && v.complete(path+".roles") && v.settled(path+".roles[0]") {
			role = fleet.Role(p.Roles[0])
		}
		all.nobody = all.nobody && role != "" && role != fleet.Issuer
		if v.again[path] { // it will be removed, or get another name: or the first of them will
			role, all.named = "", false
		} else if !v.settled(path + ".name") {
			all.named = false
			continue
		}
		all.role[p.Name] = role
	}
	if all.nobody {
		v.refuse("peers", "peers: no peer is an issuer: nobody could change anything", "give one at least roles: [issuer]")
	}
	return all
}

// writers checks that those who may write are there and may originate anything at all.
func (v *checker) writers(all people) {
	for i, d := range v.Directories {
		for j, writer := range d.Writers {
			path := fmt.Sprintf("directories[%d].writers[%d]", i, j)
			if writer == writersAny || writer == writersIssuers {
				if len(d.Writers) > 1 && writer == writersAny {
					v.refuse(path, "writers: any stands for every peer already", "write [any] alone, or leave it out")
				}
				continue
			}
			switch role, known := all.role[writer]; {
			case !known && (all.named || !peerName.MatchString(writer)):
				v.refuse(path, fmt.Sprintf("writers: there is no peer %q", writer), "write "+alternatives(v.possibleWriters(all)))
			case role != "" && role != fleet.Issuer && !all.nobody: // else that says more
				v.refuse(path, fmt.Sprintf("writers: %s is a %s, which only receives or votes", writer, role), "remove it, or give that peer roles: [issuer]")
			}
		}
	}
}

// possibleWriters returns what may stand among writers, as far as it fits into a line.
func (v *checker) possibleWriters(all people) []string {
	words := []string{writersAny, writersIssuers}
	for _, p := range v.Peers {
		if all.role[p.Name] != fleet.Issuer {
			continue
		}
		if len(words) == 10 {
			return append(words, "the name of another issuer")
		}
		words = append(words, p.Name)
	}
	return words
}

// obtaining checks what certificates need of the other sections: an agreement, and a place to keep them.
func (v *checker) obtaining() {
	if v.ACME == nil {
		if len(v.Certificates) > 0 && v.settled("acme") {
			v.refuse("certificates", "certificates: there is no acme section to obtain them with", "write acme: with email and accept_terms: true")
		}
		return
	}
	if !v.ACME.AcceptTerms && v.settled("acme.accept_terms") {
		v.refuse("acme.accept_terms", "accept_terms: a CA issues nothing before its terms of service are agreed to", "read them and write accept_terms: true")
	}
	var names []string
	final, again := v.complete("directories"), false
	for i, d := range v.Directories {
		path := fmt.Sprintf("directories[%d]", i)
		again = again || v.again[path]
		if v.settled(path + ".name") {
			names = append(names, d.Name)
		} else {
			final = false
		}
	}
	instead := "one of the names under directories:"
	if final && len(names) > 0 {
		instead = alternatives(names)
	}
	switch name := v.ACME.Store; {
	case !v.settled("acme.store"), slices.Contains(names, name):
	case !v.written("acme.store") && len(v.Directories) < 2: // the only one, whatever its name
	case name == "":
		if len(v.Directories) > 1 && !again && v.complete("directories") {
			v.refuse("acme.store", "store: which directory holds the certificates is not said", "write store: and "+instead)
		}
	case final || !directoryName.MatchString(name):
		v.refuse("acme.store", fmt.Sprintf("store: there is no directory %q", name), "write "+instead)
	}
}

// store checks that whoever obtains certificates can also keep them.
func (v *checker) store(all people) {
	if v.ACME == nil || !v.settled("acme.store") {
		return
	}
	at := slices.IndexFunc(v.Directories, func(d Directory) bool { return d.Name == v.ACME.Store })
	path := fmt.Sprintf("directories[%d]", at)
	again := func(d Directory) bool { return d.Name == v.ACME.Store }
	if at < 0 || slices.ContainsFunc(v.Directories[at+1:], again) || !v.settled(path+".name") || !v.complete(path+".writers") || v.under(path+".writers") {
		return
	}
	for _, p := range v.Peers {
		if all.role[p.Name] == fleet.Issuer && !v.Directories[at].MayWrite(p.member()) {
			v.refuse("acme.store", fmt.Sprintf("store: issuer %s may not write to directory %s", p.Name, v.ACME.Store), "add it to the directory's writers, or make it roles: [member]")
			return
		}
	}
}
