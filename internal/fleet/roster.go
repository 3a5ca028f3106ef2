package fleet

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Role is what a member of the fleet is for.
type Role string

// The roles, from the one that may do most to the one that may do least.
const (
	Issuer  Role = "issuer"  // may hold the lease, ask the CA, and originate changes
	Receive Role = "member"  // receives; its own edits are reverted
	Witness Role = "witness" // votes only: no directories, no keys
)

// Member is one line of the peer list.
type Member struct {
	Name      string
	ID        NodeID
	Addresses []string // host:port, tried in order; hints only, the key decides
	Role      Role
}

// Roster is the peer list: every node that belongs, itself included, in the order of the configuration file. A Roster
// is a value: it is never changed, only replaced.
type Roster struct {
	members []Member
	byID    map[NodeID]int
}

// NewRoster checks that no name or id stands twice.
func NewRoster(members []Member) (Roster, error) {
	r := Roster{members: slices.Clone(members), byID: make(map[NodeID]int, len(members))}
	names := make(map[string]bool, len(members))
	for i, m := range members {
		switch {
		case m.Name == "":
			return Roster{}, errors.New("a peer without a name")
		case m.ID.IsZero():
			return Roster{}, fmt.Errorf("peer %s has no id", m.Name)
		case names[m.Name]:
			return Roster{}, fmt.Errorf("two peers are called %s", m.Name)
		}
		if first, taken := r.byID[m.ID]; taken {
			return Roster{}, fmt.Errorf("peers %s and %s have the same id", members[first].Name, m.Name)
		}
		names[m.Name] = true
		r.byID[m.ID] = i
	}
	return r, nil
}

// Members returns the members in the order of the list; the slice is the caller's.
func (r Roster) Members() []Member { return slices.Clone(r.members) }

// Len returns how many members there are.
func (r Roster) Len() int { return len(r.members) }

// ByID returns the member that holds id's key.
func (r Roster) ByID(id NodeID) (Member, bool) {
	i, ok := r.byID[id]
	if !ok {
		return Member{}, false
	}
	return r.members[i], true
}

// ByName returns the member called name.
func (r Roster) ByName(name string) (Member, bool) {
	for _, m := range r.members {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}

// NameOf returns what to call id in a sentence: its name, or the start of the id for a stranger.
func (r Roster) NameOf(id NodeID) string {
	if m, ok := r.ByID(id); ok {
		return m.Name
	}
	return id.Short()
}

// Issuers returns the members that may hold the lease, in the order of the list.
func (r Roster) Issuers() []Member {
	var out []Member
	for _, m := range r.members {
		if m.Role == Issuer {
			out = append(out, m)
		}
	}
	return out
}

// Digest identifies the list whatever its order: nodes compare it to learn whether their lists agree.
func (r Roster) Digest() [sha256.Size]byte {
	lines := make([]string, 0, len(r.members))
	for _, m := range r.members {
		lines = append(lines, fmt.Sprintf("%q %s %s", m.Name, m.ID, m.Role))
	}
	slices.Sort(lines)
	return sha256.Sum256([]byte(strings.Join(lines, "\n")))
}
