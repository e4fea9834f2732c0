// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/manifold-grpc/manifold/internal/address"
)

// A position is a place in the file.
type position struct{ line, col int }

// positions are where values came from, by their paths, such as "routes[2].match.host".
// The key of a map has its path with "#" before it.
type positions map[string]position

// of returns the position of a path or, where it is not in the file, of the nearest thing around it.
func (p positions) of(path string) position {
	for {
		if pos, ok := p[path]; ok || path == "" {
			return pos
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

// A decoder turns nodes into structs, and goes on after what is wrong.
type decoder struct {
	source Source
	at     positions
	broken map[string]bool // paths of structs and lists with errors inside
	errs   Errors
}

// fail adds an error at a node.
func (d *decoder) fail(n *yaml.Node, format string, args ...any) {
	d.errs = append(d.errs, Error{Line: n.Line, Col: n.Column, Message: fmt.Sprintf(format, args...)})
}

// root decodes the document; nil is an empty one.
func (d *decoder) root(n *yaml.Node, c *Config) {
	d.at[""] = position{1, 1}
	if n == nil {
		n = &yaml.Node{Kind: yaml.MappingNode, Line: 1, Column: 1}
	}
	d.value(n, reflect.ValueOf(c).Elem(), "")
}

// value decodes n into v.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.at[path] = position{n.Line, n.Column}
	defer func(before int) {
		if len(d.errs) > before {
			d.broken[path] = true
		}
	}(len(d.errs))

	if s, ok := scalars[v.Type()]; ok {
		d.scalar(n, v, s)
		return
	}
	switch target := v.Addr().Interface().(type) {
	case *Endpoints:
		d.endpoints(n, target, path)
		return
	case *Targets:
		d.targets(n, target, path)
		return
	case *Layout:
		d.layout(n, target, path)
		return
	case *File:
		d.file(n, target)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path)
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Slice:
		d.sequence(n, v, path)
	default:
		d.plain(n, v)
	}
}

// scalar decodes the text of n.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, s scalar) {
	text, ok := d.text(n, s.expected)
	if !ok {
		return
	}
	value, err := s.parse(text)
	if err != nil {
		d.fail(n, "%q: %s, expected %s", text, what(err), s.expected)
		return
	}
	v.Set(reflect.ValueOf(value))
}

// what returns err without what package address says it expected, as that follows anyway.
func what(err error) string {
	text, _, _ := strings.Cut(err.Error(), "; expected ")

	return text
}

// plain decodes strings, numbers and booleans.
func (d *decoder) plain(n *yaml.Node, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if text, ok := d.str(n); ok {
			v.SetString(text)
		}
	case reflect.Bool:
		d.boolean(n, v)
	case reflect.Int:
		d.integer(n, v)
	default:
		panic("config: a field of type " + v.Type().String())
	}
}

// str returns a string. Other scalars are none: yes, 1.10 and null would not come out as they were written.
func (d *decoder) str(n *yaml.Node) (string, bool) {
	const expected = "a string"
	if n.Kind == yaml.ScalarNode && n.Tag != "!!str" && n.Tag != "!!null" {
		d.fail(n, "%s is a %s, expected %s: put it in quotes", n.Value, kinds[n.Tag], expected)
		return "", false
	}

	return d.text(n, expected)
}

func (d *decoder) boolean(n *yaml.Node, v reflect.Value) {
	const expected = "true or false"
	text, ok := d.text(n, expected)
	if !ok {
		return
	}
	if text != "true" && text != "false" || quotes(n) {
		d.fail(n, "%q, expected %s", text, expected)
		return
	}
	v.SetBool(text == "true")
}

// integer decodes a weight or the number of a field, of which 0 has a meaning of its own.
func (d *decoder) integer(n *yaml.Node, v reflect.Value) {
	const expected = "a whole number from 0 to 2147483647"
	text, ok := d.text(n, expected)
	if !ok {
		return
	}
	i, err := strconv.ParseUint(text, 10, 31)
	if err != nil || quotes(n) {
		d.fail(n, "%q, expected %s", text, expected)
		return
	}
	v.SetInt(int64(i))
}

// quotes reports whether a text was in quotes, hence meant to be a string, and not for the sake of a variable.
func quotes(n *yaml.Node) bool {
	return n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 && !strings.Contains(n.Value, "${")
}

func (d *decoder) file(n *yaml.Node, f *File) {
	text, ok := d.str(n)
	if !ok {
		return
	}
	if text == "" {
		d.fail(n, "no path, expected that of a file")
		return
	}
	*f = d.source.file(text)
	if err := d.source.exists(string(*f)); err != nil {
		if cause, ok := errors.AsType[*fs.PathError](err); ok {
			err = cause.Err
		}
		d.fail(n, "file %q: %v, expected one that can be read", *f, err)
	}
}

// text returns the text of a scalar with its variables replaced.
func (d *decoder) text(n *yaml.Node, expected string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.fail(n, "%s, expected %s", describe(n), expected)
		return "", false
	}
	text, err := expand(n.Value, d.source.Env)
	if err != nil {
		d.fail(n, "%v", err)
		return "", false
	}

	return text, true
}

// structure decodes a mapping into the fields of a struct.
func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	fields := fieldsOf(v.Type())
	if !d.is(n, yaml.MappingNode, "a mapping with "+strings.Join(keysOf(fields), ", ")) {
		return
	}
	seen := map[string]bool{}
	for key, value := range d.pairs(n) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key.Value })
		if i < 0 {
			d.fail(key, "unknown key %q%s, expected %s", key.Value, nearest(key.Value, keysOf(fields)), names(fields))
			continue
		}
		seen[key.Value] = true
		d.value(value, v.Field(fields[i].index), join(path, key.Value))
	}
	for _, f := range fields {
		if f.required && !seen[f.key] {
			d.fail(n, "%s is missing, expected it in %s", f.key, place(path))
		}
	}
}

// mapping decodes a mapping with free keys.
func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if !d.is(n, yaml.MappingNode, "a mapping") {
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for key, value := range d.pairs(n) {
		element := reflect.New(v.Type().Elem()).Elem()
		d.value(value, element, join(path, key.Value))
		v.SetMapIndex(reflect.ValueOf(key.Value), element)
	}
}

func (d *decoder) sequence(n *yaml.Node, v reflect.Value, path string) {
	if !d.is(n, yaml.SequenceNode, "a list") {
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, element := range n.Content {
		d.value(element, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

// pairs yields the keys of a mapping with their values, each key once.
func (d *decoder) pairs(n *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		first := map[string]*yaml.Node{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if key.Kind != yaml.ScalarNode || key.Value == "" {
				d.fail(key, "%s for a key, expected a name", describe(key))
				continue
			}
			if earlier := first[key.Value]; earlier != nil {
				d.fail(key, "key %q is given twice, expected it once: the first is at %d:%d", key.Value, earlier.Line, earlier.Column)
				continue
			}
			first[key.Value] = key
			if !yield(key, value) {
				return
			}
		}
	}
}

// is reports whether n is of a kind, and fails otherwise.
func (d *decoder) is(n *yaml.Node, kind yaml.Kind, expected string) bool {
	if n.Kind != kind {
		d.fail(n, "%s, expected %s", describe(n), expected)
	}

	return n.Kind == kind
}

// layout decodes the name of a layout, or its field numbers.
func (d *decoder) layout(n *yaml.Node, l *Layout, path string) {
	if n.Kind != yaml.ScalarNode {
		d.structure(n, reflect.ValueOf(l).Elem(), path)
		return
	}
	const expected = "testservice, talos, or a mapping of field numbers"
	text, ok := d.text(n, expected)
	if !ok {
		return
	}
	known, ok := layouts[text]
	if !ok {
		d.fail(n, "%q, expected %s", text, expected)
		return
	}
	*l = known
}

// endpoints decodes a list, or a map of names.
func (d *decoder) endpoints(n *yaml.Node, e *Endpoints, path string) {
	add := func(name string, n *yaml.Node, path string) {
		var addr address.Endpoint
		d.value(n, reflect.ValueOf(&addr).Elem(), path)
		if name == "" {
			name = addr.String()
		}
		*e = append(*e, NamedEndpoint{name, addr})
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for i, element := range n.Content {
			add("", element, fmt.Sprintf("%s[%d]", path, i))
		}
	case yaml.MappingNode:
		for key, value := range d.pairs(n) {
			add(key.Value, value, fmt.Sprintf("%s[%d]", path, len(*e)))
		}
	default:
		d.fail(n, "%s, expected a list of addresses or a mapping of names to addresses", describe(n))
	}
}

// targets decodes the name of a backend, or a list with weights.
func (d *decoder) targets(n *yaml.Node, t *Targets, path string) {
	if n.Kind == yaml.ScalarNode {
		target := Target{Weight: 1}
		d.value(n, reflect.ValueOf(&target.Name).Elem(), path)
		*t = Targets{target}
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.fail(n, "%s, expected the name of a backend or a list of {name, weight}", describe(n))
		return
	}
	d.sequence(n, reflect.ValueOf(t).Elem(), path)
}
