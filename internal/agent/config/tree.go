package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// kind is the shape of a node.
type kind int

const (
	scalar kind = iota
	list
	mapping
)

// String returns what people call the kind.
func (k kind) String() string { return [...]string{"a single value", "a list", "a map"}[k] }

// node is the configuration before it has types: YAML without what a configuration does not need (anchors, aliases,
// merge keys, tags, several documents), each value with its place. Scalars are texts: 1.10 stays 1.10, no stays no.
type node struct {
	at    place
	kind  kind
	text  string  // of a scalar
	items []*node // of a list
	pairs []pair  // of a mapping, in the order of the file, no key twice
	// partial says that more was meant to stand here: an item without a value, a merge key. It was reported.
	partial bool
}

type pair struct {
	key   string
	keyAt place
	value *node // nil when nothing stands behind the key
	again bool  // the key stands elsewhere too, with something else: that was reported, and either may be meant
}

// child returns the value of key, or nil.
func (n *node) child(key string) *node {
	if n == nil {
		return nil
	}
	for _, p := range n.pairs {
		if p.key == key {
			return p.value
		}
	}
	return nil
}

// parse makes a tree of each source; a source that is not YAML, or not a map, is a problem and has none.
func parse(sources []source, p *problems) []*node {
	var trees []*node
	for _, s := range sources {
		if at, what, instead := forbidden(s); what != "" {
			p.report("", at, what, instead)
			p.unread = true
			continue
		}
		tree, ok := parseOne(s, p)
		p.unread = p.unread || !ok
		if tree != nil {
			trees = append(trees, tree)
		}
	}
	return trees
}

// parseOne returns nil, true for a source that says nothing.
func parseOne(s source, p *problems) (tree *node, ok bool) {
	loader, err := yaml.NewLoader(bytes.NewReader(s.text))
	if err != nil {
		panic(fmt.Sprintf("config: a loader without options: %v", err))
	}
	var document, second yaml.Node
	if err := loader.Load(&document); errors.Is(err, io.EOF) {
		return nil, true
	} else if err != nil {
		p.syntax(s, err)
		return nil, false
	}
	if err := loader.Load(&second); err == nil {
		at := place{s.name, second.Line, second.Column}
		p.report("", at, "a second YAML document begins here", "write one document in each file")
		return nil, false
	} else if !errors.Is(err, io.EOF) {
		p.syntax(s, err)
		return nil, false
	}
	root := document.Content[0]
	if root.ShortTag() == "!!null" {
		return nil, true
	}
	if root.Kind != yaml.MappingNode {
		p.report("", place{s.name, root.Line, root.Column}, "not a map of keys and values", "write KEY: VALUE, one key a line, the first being version: 1")
		return nil, false
	}
	c := converter{file: s.name, problems: p}
	return c.node(root), true
}

// forbidden looks for what YAML forbids and its parser reports without a place.
func forbidden(s source) (at place, what, instead string) {
	line, col := 1, 1
	for rest := s.text; len(rest) > 0; col++ {
		r, size := utf8.DecodeRune(rest)
		switch {
		case r == utf8.RuneError && size == 1:
			return place{s.name, line, col}, "not UTF-8", "save the file as UTF-8"
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r >= 0x7f && r < 0xa0 && r != 0x85, r == 0xfffe, r == 0xffff:
			return place{s.name, line, col}, fmt.Sprintf("the control character U+%04X", r), "remove it"
		case r == '\n':
			line, col = line+1, 0
		}
		rest = rest[size:]
	}
	return place{}, "", ""
}

// syntax reports what the YAML parser could not read.
func (p *problems) syntax(s source, err error) {
	at, what := place{s.name, 1, 1}, err.Error()
	var load *yaml.LoadError
	if errors.As(err, &load) {
		what = load.Message
		if load.ContextMsg != "" {
			what += " " + load.ContextMsg
			if begun := load.ContextMark; begun.Line > 0 && begun != load.Mark {
				what += fmt.Sprintf(" begun at line %d column %d", begun.Line, begun.Column)
			}
		}
		if load.Mark.Line > 0 {
			at.line, at.col = load.Mark.Line, load.Mark.Column
		}
	}
	instead := "mend the quotes, brackets or indentation here"
	if lines := bytes.Split(s.text, []byte("\n")); at.line <= len(lines) {
		before := []rune(string(lines[at.line-1]))
		before = before[:min(at.col, len(before))]
		if strings.HasSuffix(string(before), "\t") {
			what, instead = "a tab cannot indent", "write spaces"
		}
	}
	p.report("", at, "not YAML: "+what, instead)
}

// converter makes nodes of one file's YAML nodes.
type converter struct {
	file string
	*problems
}

func (c *converter) place(n *yaml.Node) place { return place{c.file, n.Line, n.Column} }

// node returns nil for a value that is not there or was refused.
func (c *converter) node(n *yaml.Node) *node {
	switch {
	case n.Kind == yaml.AliasNode:
		c.report("", c.place(n), "an alias (*"+n.Value+")", "write the value itself")
		return nil
	case n.Anchor != "":
		c.report("", c.place(n), "an anchor (&"+n.Anchor+")", "remove it: aliases are not read")
	case n.Style&yaml.TaggedStyle != 0:
		c.report("", c.place(n), "a tag ("+n.Tag+")", "remove it: the key says what type its value has")
	}
	out := &node{at: c.place(n)}
	switch n.Kind {
	case yaml.MappingNode:
		out.kind = mapping
		first := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			c.pair(out, first, n.Content[i], n.Content[i+1])
		}
	case yaml.SequenceNode:
		out.kind = list
		for _, item := range n.Content {
			converted := c.node(item)
			if converted == nil && item.Kind != yaml.AliasNode {
				c.report("", c.place(item), "an item without a value", "write one, or remove the dash")
			}
			if converted == nil {
				out.partial = true
				continue
			}
			out.items = append(out.items, converted)
		}
	default:
		if n.ShortTag() == "!!null" {
			return nil
		}
		out.text = n.Value
	}
	return out
}

// pair adds one key and its value to out, unless first, the indices of out's keys, has it already.
func (c *converter) pair(out *node, first map[string]int, key, value *yaml.Node) {
	if key.Kind != yaml.ScalarNode {
		c.report("", c.place(key), "a key that is "+map[bool]string{true: "a list", false: "not a single word"}[key.Kind == yaml.SequenceNode], "write KEY: VALUE")
		return
	}
	if key.ShortTag() == "!!merge" {
		c.report("", c.place(key), "a merge key (<<)", "write the keys themselves")
		out.partial = true
		return
	}
	added := pair{key: key.Value, keyAt: c.place(key)}
	valueAt := c.place(value)
	if earlier, twice := first[key.Value]; twice {
		c.again(added, valueAt, out.pairs[earlier].keyAt)
		out.pairs[earlier].again = true
		return
	}
	if added.value = c.node(value); added.value == nil && value.Kind != yaml.AliasNode {
		c.report("", valueAt, key.Value+" has no value", "write one, or remove the key")
	}
	first[key.Value] = len(out.pairs)
	out.pairs = append(out.pairs, added)
}

// again reports that p says what was said at earlier, at the value if that stands beside its key.
func (p *problems) again(second pair, valueAt, earlier place) {
	at := second.keyAt
	if valueAt.line == at.line {
		at = valueAt
	}
	p.report("", at, fmt.Sprintf("%s stands already at %s", second.key, earlier), "keep one of the two")
}
