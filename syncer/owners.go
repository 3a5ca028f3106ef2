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

	mu    sync.Mutex
	names map[ownerKey]string
	ids   map[string]int
	since time.Time
}

type ownerKey struct {
	group bool
	id    int
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

func (o *owners) user(uid int) string {
	return o.name(ownerKey{false, uid}, func(id string) (string, error) {
		u, err := user.LookupId(id)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

func (o *owners) group(gid int) string {
	return o.name(ownerKey{true, gid}, func(id string) (string, error) {
		g, err := user.LookupGroupId(id)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

func (o *owners) name(key ownerKey, lookup func(id string) (string, error)) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refreshLocked()
	if name, ok := o.names[key]; ok {
		return name
	}
	name, err := lookup(strconv.Itoa(key.id))
	if err != nil {
		name = strconv.Itoa(key.id)
	}
	o.names[key] = name
	return name
}

func (o *owners) refreshLocked() {
	if o.names == nil || time.Since(o.since) > ownerMemory {
		o.names, o.ids, o.since = map[ownerKey]string{}, map[string]int{}, time.Now()
	}
}

// wanted returns whom a file of these names is to be given to here; -1 where the name means nobody on this node.
func (o *owners) wanted(owner, group string) durable.Owner {
	if o.policy != nil {
		return *o.policy
	}
	return durable.Owner{
		UID: o.id("u:"+owner, owner, func() (string, error) {
			u, err := user.Lookup(owner)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		}),
		GID: o.id("g:"+group, group, func() (string, error) {
			g, err := user.LookupGroup(group)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		}),
	}
}

// unknown says which of these names means nobody on this node, nil if none does or nobody asks.
func (o *owners) unknown(owner, group string) error {
	switch w := o.wanted(owner, group); {
	case w.UID < 0 && owner != "":
		return fmt.Errorf("there is no user %q on this node: it belongs to the agent's; create the user, or set the directory's owner", owner)
	case w.GID < 0 && group != "":
		return fmt.Errorf("there is no group %q on this node: it belongs to the agent's; create the group, or set the directory's owner", group)
	}
	return nil
}

func (o *owners) id(key, name string, lookup func() (string, error)) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refreshLocked()
	if id, ok := o.ids[key]; ok {
		return id
	}
	id := -1
	if text, err := lookup(); err == nil {
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
