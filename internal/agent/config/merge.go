package config

// joined are the lists to which every file may add; what they hold is told apart by name.
var joined = map[string]bool{"peers": true, "directories": true, "certificates": true}

// merge makes one tree of several, in their order; nil for none. Maps merge, joined lists are joined, and what two
// files say otherwise is a problem at the later one.
func merge(trees []*node, p *problems) *node {
	if len(trees) == 0 {
		return nil
	}
	into := trees[0]
	for _, tree := range trees[1:] {
		mergeMap(into, tree, true, p)
	}
	return into
}

func mergeMap(into, from *node, top bool, p *problems) {
	into.partial = into.partial || from.partial
	index := make(map[string]int, len(into.pairs))
	for i, have := range into.pairs {
		index[have.key] = i
	}
	for _, add := range from.pairs {
		i, twice := index[add.key]
		if !twice {
			into.pairs = append(into.pairs, add)
			continue
		}
		into.pairs[i].again = into.pairs[i].again || add.again
		have := into.pairs[i].value
		switch {
		case have == nil || add.value == nil: // reported when it was parsed
			into.pairs[i].again = true
			if have == nil {
				into.pairs[i].value = add.value
			}
		case have.kind == mapping && add.value.kind == mapping:
			mergeMap(have, add.value, false, p)
		case top && joined[add.key] && have.kind == list && add.value.kind == list:
			have.items = append(have.items, add.value.items...)
			have.partial = have.partial || add.value.partial
		default:
			p.again(add, add.value.at, into.pairs[i].keyAt)
			into.pairs[i].again = true
		}
	}
}
