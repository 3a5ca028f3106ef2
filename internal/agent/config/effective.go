package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v4"
)

// Effective returns c as a configuration file, defaults written out: loading it yields c again. Nothing in it is
// secret, because a configuration names the files that hold secrets and never their content.
func Effective(c *Config) []byte {
	text, err := yaml.Dump(yamlOf(reflect.ValueOf(c).Elem()), yaml.WithLineWidth(-1))
	if err != nil {
		panic(fmt.Sprintf("config: a configuration that cannot be written: %v", err))
	}
	return text
}

// EffectiveJSON returns what Effective does as one JSON object with the same keys.
func EffectiveJSON(c *Config) []byte {
	text, err := json.Marshal(jsonOf(reflect.ValueOf(c).Elem()))
	if err != nil {
		panic(fmt.Sprintf("config: a configuration that cannot be written: %v", err))
	}
	return text
}

// yamlOf returns v, a section or a value in one, as YAML.
func yamlOf(v reflect.Value) *yaml.Node {
	if text, ok := textOf(v); ok {
		n := &yaml.Node{}
		n.SetString(text)
		return n
	}
	switch v.Kind() {
	case reflect.Pointer:
		return yamlOf(v.Elem())
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, f := range fieldsOf(v.Type()) {
			if value := v.Field(f.index); value.Kind() != reflect.Pointer || !value.IsNil() {
				n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: f.key}, yamlOf(value))
			}
		}
		return n
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if v.Type().Elem().Kind() != reflect.Struct {
			n.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			n.Content = append(n.Content, yamlOf(v.Index(i)))
		}
		return n
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v.Interface())}
	}
}

// jsonOf returns v in the types that encoding/json writes as yamlOf writes YAML.
func jsonOf(v reflect.Value) any {
	if text, ok := textOf(v); ok {
		return text
	}
	switch v.Kind() {
	case reflect.Pointer:
		return jsonOf(v.Elem())
	case reflect.Struct:
		object := make(map[string]any)
		for _, f := range fieldsOf(v.Type()) {
			if value := v.Field(f.index); value.Kind() != reflect.Pointer || !value.IsNil() {
				object[f.key] = jsonOf(value)
			}
		}
		return object
	case reflect.Slice:
		array := make([]any, v.Len())
		for i := range array {
			array[i] = jsonOf(v.Index(i))
		}
		return array
	default:
		return v.Interface()
	}
}

// textOf returns how v is written, if it is written as a text.
func textOf(v reflect.Value) (string, bool) {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok && v.Kind() != reflect.Pointer {
		text, err := m.MarshalText()
		if err != nil {
			panic(fmt.Sprintf("config: a value that cannot be written: %v", err))
		}
		return string(text), true
	}
	return v.String(), v.Kind() == reflect.String
}
