package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// field is what the tags of one struct field say.
type field struct {
	index                     int
	key                       string
	required, restart, scalar bool
	preset                    string // the default, "" for the zero value
	hint                      string
}

// fieldsOf returns the fields of a section in the order of the struct.
func fieldsOf(section reflect.Type) []field {
	var fields []field
	for i := range section.NumField() {
		tag := section.Field(i).Tag
		name, options, _ := strings.Cut(tag.Get("yaml"), ",")
		if name == "" {
			continue
		}
		f := field{index: i, key: name, preset: tag.Get("default"), hint: tag.Get("hint")}
		for option := range strings.SplitSeq(options, ",") {
			f.required = f.required || option == "required"
			f.restart = f.restart || option == "restart"
			f.scalar = f.scalar || option == "scalar"
		}
		fields = append(fields, f)
	}
	return fields
}

// decoder fills a Config from a tree. What does not fit its type is a problem, and left at its default.
type decoder struct {
	*problems
	places map[string]place // of every value that was written, by path
	top    extent           // a fragment may lack what is required at the top
}

// config fills c from tree; nil is a configuration that says nothing.
func (d *decoder) config(tree *node, c *Config) {
	at := place{line: 1, col: 1}
	if len(d.files) > 0 {
		at.file = d.files[0]
	}
	if tree == nil {
		tree = &node{at: at, kind: mapping}
	}
	root := *tree
	root.at = at
	d.section(&root, reflect.ValueOf(c).Elem(), "")
}

// section fills the struct into from the mapping n.
func (d *decoder) section(n *node, into reflect.Value, path string) {
	fields := fieldsOf(into.Type())
	meant := d.unknown(n, fields, path)
	d.places[path] = n.at
	for _, f := range fields {
		fill(into.Field(f.index), f.preset)
		at := join(path, f.key)
		p := n.lookup(f.key)
		d.open[at] = meant[f.key] || p == nil && n.partial || p != nil && p.again
		switch {
		case p != nil && p.value != nil:
			d.value(p.value, into.Field(f.index), f, at)
		case p != nil: // reported as having no value
			d.bad[at] = true
		case d.open[at] && f.required: // it will stand there
			d.bad[at] = true
		case f.required && (path != "" || d.top == whole):
			d.report(at, n.at, f.key+" is missing", f.hint)
		}
	}
}

// lookup returns the pair of key, or nil.
func (n *node) lookup(key string) *pair {
	for i := range n.pairs {
		if n.pairs[i].key == key {
			return &n.pairs[i]
		}
	}
	return nil
}

// unknown reports the keys that the section at path does not have, and returns those that they were probably meant to be.
func (d *decoder) unknown(n *node, fields []field, path string) (meant map[string]bool) {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	meant = make(map[string]bool)
	for _, p := range n.pairs {
		if slices.Contains(keys, p.key) {
			continue
		}
		what := "unknown key " + strconv.Quote(p.key)
		if path != "" {
			what += " in " + path
		}
		instead := "known here are " + strings.Join(keys, ", ")
		if near := nearest(p.key, keys); near != "" {
			instead = "write " + near
			meant[near] = true
		}
		d.report("", p.keyAt, what, instead)
	}
	return meant
}

// value fills into from n. A pointer is filled when it is nil.
func (d *decoder) value(n *node, into reflect.Value, f field, path string) {
	d.places[path] = n.at
	if _, ok := into.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(n, into, f, path)
		return
	}
	switch into.Kind() {
	case reflect.Pointer:
		fresh := reflect.New(into.Type().Elem())
		into.Set(fresh)
		d.value(n, fresh.Elem(), f, path)
	case reflect.Struct:
		if d.want(mapping, n, f, path) {
			d.section(n, into, path)
		}
	case reflect.Slice:
		items := n.items
		if n.kind == scalar && f.scalar {
			items = []*node{n}
		} else if !d.want(list, n, f, path) {
			return
		}
		into.Set(reflect.MakeSlice(into.Type(), len(items), len(items)))
		d.open[path+"[]"] = n.partial
		for i, item := range items {
			d.value(item, into.Index(i), f, fmt.Sprintf("%s[%d]", path, i))
		}
	default:
		d.text(n, into, f, path)
	}
}

// want reports whether n has the shape k, and that it has not.
func (d *decoder) want(k kind, n *node, f field, path string) bool {
	if n.kind == k {
		return true
	}
	instead := f.hint
	if instead == "" {
		instead = map[kind]string{
			scalar:  "write " + f.key + ": VALUE",
			list:    "write " + f.key + ": [VALUE, ...]",
			mapping: "write its keys below " + f.key + ":, indented",
		}[k]
	}
	what := f.key
	if strings.HasSuffix(path, "]") {
		what = "each of " + f.key
	}
	d.report(path, n.at, fmt.Sprintf("%s must be %s, this is %s", what, k, n.kind), instead)
	return false
}

// text fills a value that is written as one text.
func (d *decoder) text(n *node, into reflect.Value, f field, path string) {
	if !d.want(scalar, n, f, path) {
		return
	}
	err := parseText(n.text, into)
	if err == nil {
		return
	}
	what, instead := err.Error(), f.hint
	if r := (*refusal)(nil); errors.As(err, &r) {
		what, instead = r.what, r.instead
	}
	d.report(path, n.at, f.key+": "+what, instead)
}

// parseText sets into to what text says.
func parseText(text string, into reflect.Value) error {
	if u, ok := into.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch into.Kind() {
	case reflect.Bool:
		if text != "true" && text != "false" {
			return &refusal{fmt.Sprintf("%q is neither true nor false", text), "write true or false"}
		}
		into.SetBool(text == "true")
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return &refusal{fmt.Sprintf("%q is not a whole number", text), "write a whole number"}
		}
		into.SetInt(int64(n))
	case reflect.String:
		into.SetString(text)
		if c, ok := into.Interface().(choice); ok {
			return choose(text, c)
		}
	default:
		panic(fmt.Sprintf("config: a field of type %s cannot be read", into.Type()))
	}
	return nil
}

// choose says whether c, written as text, is one of its kind's choices.
func choose(text string, c choice) error {
	choices := c.choices()
	for _, possible := range choices {
		if text == possible {
			return nil
		}
	}
	what := notYet[c]
	if what == "" {
		what = fmt.Sprintf("%q is unknown", text)
	}
	instead := "write " + alternatives(choices)
	return &refusal{what, instead}
}

// fill sets into to what a default tag says; the defaults inside a section stand on its own fields.
func fill(into reflect.Value, preset string) {
	switch {
	case into.Kind() == reflect.Struct && preset == "":
		if _, ok := into.Addr().Interface().(encoding.TextUnmarshaler); ok {
			return
		}
		for _, f := range fieldsOf(into.Type()) {
			fill(into.Field(f.index), f.preset)
		}
	case preset == "":
	case into.Kind() == reflect.Slice:
		texts := strings.Split(preset, ",")
		into.Set(reflect.MakeSlice(into.Type(), len(texts), len(texts)))
		for i, text := range texts {
			fill(into.Index(i), text)
		}
	default:
		if err := parseText(preset, into); err != nil {
			panic(fmt.Sprintf("config: the default %q: %v", preset, err))
		}
	}
}

// join returns the path of key in the section at path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
