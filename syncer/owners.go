package syncer

import (
	"fmt"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
)

// owners translates between this node's numbers and the names by which owners travel. A number without a name travels as a number.
type owners struct {
	policy     *durable.Owner // whom everything here is given to; nil: as at the origin
	privileged bool           // may give files away
	idOf       account        // by name
	nameOf     account        // by number

	mu    sync.Mutex
	names map[ownerKey]string
	ids   map[nameKey]int
	since time.Time
}

type ownerKey struct {
	group bool
	id    int
}

type nameKey struct {
	group bool
	name  string
}

// ownerMemory is for how long a look-up in the user database is believed.
const ownerMemory = time.Minute

// parseOwner reads a directory's `owner: user[:group]`; "" is no policy.
func parseOwner(text string) (*durable.Owner, error) {
	if text == "" {
		return nil, nil
	}
	name, groupName, grouped := strings.Cut(text, ":")
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return nil, fmt.Errorf("owner: there is no user %q on this node", name)
		}
	}
	gid := u.Gid
	if grouped {
		g, err := user.LookupGroup(groupName)
		if err != nil {
			if g, err = user.LookupGroupId(groupName); err != nil {
				return nil, fmt.Errorf("owner: there is no group %q on this node", groupName)
			}
		}
		gid = g.Gid
	}
	o := durable.Owner{}
	if o.UID, err = strconv.Atoi(u.Uid); err == nil {
		o.GID, err = strconv.Atoi(gid)
	}
	return &o, err
}

// account looks somebody up in the user database, by name or by number: a group or a user.
type account func(group bool, who string) (string, error)

func idOf(group bool, name string) (string, error) {
	if group {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

func nameOf(group bool, id string) (string, error) {
	if group {
		g, err := user.LookupGroupId(id)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	}
	u, err := user.LookupId(id)
	if err != nil {
		return "", err
	}
	return u.Username, nil
}

func (o *owners) user(uid int) string { return o.name(ownerKey{false, uid}) }

func (o *owners) group(gid int) string { return o.name(ownerKey{true, gid}) }

func (o *owners) name(key ownerKey) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refreshLocked()
	if name, ok := o.names[key]; ok {
		return name
	}
	name, err := o.nameOf(key.group, strconv.Itoa(key.id))
	if err != nil {
		name = strconv.Itoa(key.id)
	}
	o.names[key] = name
	return name
}

// forget has names looked up anew: somebody may have made the account that was missing.
func (o *owners) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.names = nil
}

func (o *owners) refreshLocked() {
	if o.names == nil || time.Since(o.since) > ownerMemory {
		o.names, o.ids, o.since = map[ownerKey]string{}, map[nameKey]int{}, time.Now()
	}
}

// wanted returns whom a file of these names is to be given to here; -1 where the name means nobody on this node.
func (o *owners) wanted(owner, group string) durable.Owner {
	if o.policy != nil {
		return *o.policy
	}
	return o.named(owner, group)
}

// named returns who these names mean on this node; -1 where that is nobody.
func (o *owners) named(owner, group string) durable.Owner {
	return durable.Owner{UID: o.id(false, owner), GID: o.id(true, group)}
}

// unknown says which of the names of a file or directory means nobody on this node, nil if none does or nobody asks.
func (o *owners) unknown(c index.Content) error {
	owner, group, _ := namesOf(c)
	switch w := o.wanted(owner, group); {
	case w.UID < 0 && owner != "":
		return fmt.Errorf("there is no user %q on this node: it belongs to the agent's; create the user, or set the directory's owner", owner)
	case w.GID < 0 && group != "":
		return fmt.Errorf("there is no group %q on this node: it belongs to the agent's; create the group, or set the directory's owner", group)
	}
	return nil
}

func (o *owners) id(group bool, name string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refreshLocked()
	key := nameKey{group, name}
	if id, ok := o.ids[key]; ok {
		return id
	}
	id := -1
	if text, err := o.idOf(group, name); err == nil {
		id, err = strconv.Atoi(text)
		if err != nil {
			id = -1
		}
	} else if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		id = int(n)
	}
	o.ids[key] = id
	return id
}

// same reports whether what was found is what is known, as far as this node can have it: an owner that it may not or cannot give
// is no change, and where the policy decides the owner, owners are nobody's changes.
func (o *owners) same(known, found index.Content) bool {
	if known == found {
		return true
	}
	switch k := known.(type) {
	case index.File:
		f, ok := found.(index.File)
		if ok && !o.givable(k.Owner, k.Group) {
			k.Owner, k.Group = f.Owner, f.Group
		}
		return ok && k == f
	case index.Directory:
		f, ok := found.(index.Directory)
		if ok && !o.givable(k.Owner, k.Group) {
			k.Owner, k.Group = f.Owner, f.Group
		}
		return ok && k == f
	}
	return false
}

// satisfied reports whether a file or directory belongs to whom it is to be given here.
func (o *owners) satisfied(c index.Content, stat durable.Stat) bool {
	is := durable.Owner{UID: stat.UID, GID: stat.GID}
	switch c := c.(type) {
	case index.File:
		return is == o.wanted(c.Owner, c.Group)
	case index.Directory:
		return is == o.wanted(c.Owner, c.Group)
	}
	return true
}

func (o *owners) givable(owner, group string) bool {
	if o.policy != nil || !o.privileged {
		return false
	}
	w := o.wanted(owner, group)
	return w.UID >= 0 && w.GID >= 0
}
