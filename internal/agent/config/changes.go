package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Changes says in which values two configurations differ, one a line: "lease.ttl: 30s -> 1m", "peers[fe3]: added". It
// is empty exactly when a daemon that runs one need do nothing to run the other.
func Changes(old, new *Config) []string {
	return difference(reflect.ValueOf(old).Elem(), reflect.ValueOf(new).Elem(), "")
}

// NeedsRestart returns those of the Changes that a running daemon cannot take: it refuses a reload that has any.
func NeedsRestart(old, new *Config) []string {
	was, is := reflect.ValueOf(old).Elem(), reflect.ValueOf(new).Elem()
	var out []string
	for _, f := range fieldsOf(was.Type()) {
		if f.restart {
			out = append(out, difference(was.Field(f.index), is.Field(f.index), f.key)...)
		}
	}
	return out
}

// difference compares two values of one type; path is where they stand.
func difference(was, is reflect.Value, path string) []string {
	_, text := textOf(was)
	switch {
	case text:
	case was.Kind() == reflect.Pointer && !was.IsNil() && !is.IsNil():
		return difference(was.Elem(), is.Elem(), path)
	case was.Kind() == reflect.Pointer && was.IsNil() != is.IsNil():
		return []string{path + ": " + map[bool]string{true: "added", false: "removed"}[was.IsNil()]}
	case was.Kind() == reflect.Struct:
		var out []string
		for _, f := range fieldsOf(was.Type()) {
			out = append(out, difference(was.Field(f.index), is.Field(f.index), join(path, f.key))...)
		}
		return out
	case was.Kind() == reflect.Slice && was.Type().Elem().Kind() == reflect.Struct:
		return differentItems(was, is, path)
	}
	if before, after := oneLine(was), oneLine(is); before != after {
		return []string{fmt.Sprintf("%s: %s -> %s", path, before, after)}
	}
	return nil
}

// differentItems compares two named lists.
func differentItems(was, is reflect.Value, path string) []string {
	wasNames, isNames := namesIn(was), namesIn(is)
	var out []string
	for i, name := range wasNames {
		at := fmt.Sprintf("%s[%s]", path, name)
		if j := slices.Index(isNames, name); j >= 0 {
			out = append(out, difference(was.Index(i), is.Index(j), at)...)
		} else {
			out = append(out, at+": removed")
		}
	}
	for _, name := range isNames {
		if !slices.Contains(wasNames, name) {
			out = append(out, fmt.Sprintf("%s[%s]: added", path, name))
		}
	}
	stayed := func(names, others []string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !slices.Contains(others, name) })
	}
	if !slices.Equal(stayed(wasNames, isNames), stayed(isNames, wasNames)) {
		out = append(out, path+": in another order")
	}
	return out
}

func namesIn(list reflect.Value) []string {
	names := make([]string, list.Len())
	for i := range names {
		names[i] = list.Index(i).FieldByName("Name").String()
	}
	return names
}

// oneLine returns v as a person would write it.
func oneLine(v reflect.Value) string {
	if text, ok := textOf(v); ok {
		if text == "" {
			return `""`
		}
		return text
	}
	if v.Kind() == reflect.Slice {
		items := make([]string, v.Len())
		for i := range items {
			items[i] = oneLine(v.Index(i))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return fmt.Sprint(v.Interface())
}
