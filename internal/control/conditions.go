package control

import (
	"fmt"
	"slices"
	"strings"
)

// IsSynced reports whether every live node has every file: this node all that was announced to it, every connected peer
// all that this node has. A peer that is not connected is not waited for. Otherwise why names what is missing.
func IsSynced(s Status) (ok bool, why string) {
	var missing []string
	for _, d := range s.Directories {
		if d.State == InSync {
			continue
		}
		text := fmt.Sprintf("directory %s on %s is %s", d.Name, s.Node.Name, d.State)
		if d.Reason != "" {
			text += ": " + d.Reason
		}
		missing = append(missing, text)
	}
	for _, p := range s.Problems {
		if p.Code == DirectoryHalted && p.Node != s.Node.Name {
			missing = append(missing, fmt.Sprintf("%s is halted: %s", p.Node, p.Text))
		}
	}
	for _, p := range s.Peers {
		if p.Connected && p.Behind > 0 {
			missing = append(missing, fmt.Sprintf("%s has not confirmed %s", p.Name, Unconfirmed(p)))
		}
	}
	return verdict(missing)
}

// IsIssued reports whether the named certificate, or every one when name is "", is issued: neither a placeholder nor
// under way nor failed. Otherwise why says how each stands. A name that is not declared is not issued.
func IsIssued(s Status, name string) (ok bool, why string) {
	var missing []string
	wanted, found := s.certificates(name)
	if !found {
		return false, fmt.Sprintf("no certificate is declared as %s", name)
	}
	for _, c := range wanted {
		if text := c.unissued(); text != "" {
			missing = append(missing, text)
		}
	}
	return verdict(missing)
}

// IsServed reports whether the named certificate, or every one when name is "", is issued and served by every listener
// of every live node. A node that is not connected, or that has no nginx in its care, does not count; nor, unless the certificate is named, one whose
// nginx has no server that uses it.
func IsServed(s Status, name string) (ok bool, why string) { return isServed(s, name, name == "") }

// IsServedWhereUsed is IsServed of a named certificate that passes over nodes whose nginx has no server that uses it.
func IsServedWhereUsed(s Status, name string) (ok bool, why string) { return isServed(s, name, true) }

func isServed(s Status, name string, whereUsed bool) (ok bool, why string) {
	var missing []string
	wanted, found := s.certificates(name)
	if !found {
		return false, fmt.Sprintf("no certificate is declared as %s", name)
	}
	for _, c := range wanted {
		if text := c.unissued(); text != "" {
			missing = append(missing, text)
			continue
		}
		for _, node := range s.Serving() {
			if text := c.unserved(node); text != "" && !(whereUsed && c.UnusedBy(node)) {
				missing = append(missing, text)
			}
		}
	}
	return verdict(missing)
}

// Serving returns the names of the live nodes that have an nginx in their care, this one first.
func (s Status) Serving() []string {
	var nodes []string
	if s.Node.Serves {
		nodes = append(nodes, s.Node.Name)
	}
	for _, p := range s.Peers {
		if p.Connected && p.Serves {
			nodes = append(nodes, p.Name)
		}
	}
	return nodes
}

// ServedBy reports whether node is known to serve c on every listener and with every key type.
func (c Certificate) ServedBy(node string) bool { return c.unserved(node) == "" }

// UnusedBy reports whether node's nginx has no server that uses c, as far as known.
func (c Certificate) UnusedBy(node string) bool { return slices.Contains(c.Unused, node) }

// Unconfirmed says how many changes a peer has not acknowledged, deletions included, and names the paths that are known:
// "2 changes: a, b".
func Unconfirmed(p Peer) string {
	text := fmt.Sprintf("%d changes", p.Behind)
	if p.Behind == 1 {
		text = "1 change"
	}
	if len(p.Missing) == 0 {
		return text
	}
	text += ": " + strings.Join(p.Missing, ", ")
	if more := p.Behind - len(p.Missing); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (s Status) certificates(name string) (wanted []Certificate, found bool) {
	if name == "" {
		return s.Certificates, true
	}
	for _, c := range s.Certificates {
		if c.Name == name {
			return []Certificate{c}, true
		}
	}
	return nil, false
}

// unissued says why c does not count as issued, "" when it does.
func (c Certificate) unissued() string {
	if c.State == Issued || c.State == External {
		return ""
	}
	text := fmt.Sprintf("%s is %s", c.Name, c.State)
	if c.State == Placeholder {
		text = c.Name + " is still a placeholder"
	}
	if c.LastError != "" {
		text += ": " + c.LastError
	}
	return text
}

// unserved says why c does not count as served by node, "" when it does.
func (c Certificate) unserved(node string) string {
	known := false
	for _, at := range c.Served {
		if at.Node != node {
			continue
		}
		known = true
		if at.State != Current {
			return fmt.Sprintf("%s on %s at %s (%s) is %s", c.Name, node, at.Listener, at.KeyType, at.State)
		}
	}
	if !known && c.UnusedBy(node) {
		return fmt.Sprintf("no server of %s's nginx uses %s", node, c.Name)
	}
	if !known {
		return fmt.Sprintf("%s has not yet been seen at any listener of %s", c.Name, node)
	}
	return ""
}

func verdict(missing []string) (ok bool, why string) {
	return len(missing) == 0, strings.Join(missing, "; ")
}
