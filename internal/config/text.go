// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"
)

// A field is a key of a mapping, as a struct's tags have it.
type field struct {
	key, doc, byDefault string
	required            bool
	index               int
}

// fieldsOf returns the keys of a struct in their order.
func fieldsOf(t reflect.Type) []field {
	fields := make([]field, t.NumField())
	for i := range fields {
		f := t.Field(i)
		key, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		fields[i] = field{key, f.Tag.Get("doc"), f.Tag.Get("default"), option == "required", i}
	}

	return fields
}

func keysOf(fields []field) []string {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}

	return keys
}

// names returns the keys for the end of an error.
func names(fields []field) string { return either(keysOf(fields)) }

// either returns "a, b or c".
func either(list []string) string {
	switch n := len(list); n {
	case 0:
		return "none"
	case 1:
		return list[0]
	default:
		return strings.Join(list[:n-1], ", ") + " or " + list[n-1]
	}
}

// join returns the path of a key.
func join(path, key string) string {
	if path == "" {
		return key
	}

	return path + "." + key
}

// place names a path in an error.
func place(path string) string {
	if path == "" {
		return "the file"
	}

	return path
}

// kinds names scalars for people.
var kinds = map[string]string{"!!int": "number", "!!float": "number", "!!bool": "truth value", "!!timestamp": "date"}

// describe says what a node is, for the beginning of an error.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "nothing"
		}
		return fmt.Sprintf("%q", n.Value)
	default:
		return "an alias"
	}
}

// expand replaces each ${NAME} by the value of a variable, and $${ by ${ itself.
func expand(text string, env func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, "${")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		if strings.HasSuffix(before, "$") {
			b.WriteString("{")
			text = after
			continue
		}
		name, rest, closed := strings.Cut(after, "}")
		if !closed || name == "" {
			return "", errors.New("${ without a name and }, expected ${NAME}, or $${ for the text ${ itself")
		}
		value, ok := "", false
		if env != nil {
			value, ok = env(name)
		}
		if !ok {
			return "", fmt.Errorf("environment variable %s is not set, expected a value for ${%s}", name, name)
		}
		b.WriteString(value)
		text = rest
	}
}
