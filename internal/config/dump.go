// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Dump returns the configuration as a file would say it: [Load] makes the same of it again. Variables and names of layouts are
// replaced by what they stand for, paths of files are absolute, and what is left at its default is not there.
func (c *Config) Dump() string { return c.dump(false) }

// DumpMasked is Dump without the values of headers, which may be secrets.
func (c *Config) DumpMasked() string { return c.dump(true) }

func (c *Config) dump(masked bool) string {
	d := dumper{masked: masked}
	d.structure(reflect.ValueOf(c).Elem(), "")

	return d.b.String()
}

// dumper writes a configuration.
type dumper struct {
	b      strings.Builder
	masked bool
}

func (d *dumper) structure(v reflect.Value, indent string) {
	for _, f := range fieldsOf(v.Type()) {
		field := v.Field(f.index)
		if field.Kind() == reflect.Pointer {
			if field.IsNil() {
				continue
			}
			field = field.Elem()
		} else if !f.required && absent(field) {
			continue
		}
		d.b.WriteString(indent + f.key + ":")
		if m, ok := field.Interface().(map[string]string); ok && d.masked && (v.Type() == reflect.TypeFor[HeaderChanges]() || v.Type() == reflect.TypeFor[Tracing]()) {
			field = reflect.ValueOf(hidden(m))
		}
		d.value(field, indent)
	}
}

// absent reports whether a value is what holds without its key.
func absent(v reflect.Value) bool {
	return v.IsZero() || (v.Kind() == reflect.Map || v.Kind() == reflect.Slice) && v.Len() == 0
}

// hidden returns m with its values hidden.
func hidden(m map[string]string) map[string]string {
	m = maps.Clone(m)
	for k := range m {
		m[k] = "(not shown)"
	}

	return m
}

// value writes what follows the colon after a key.
func (d *dumper) value(v reflect.Value, indent string) {
	if text, ok := dumpScalar(v); ok {
		d.b.WriteString(" " + text + "\n")
		return
	}
	if absent(v) {
		text := " {}\n"
		if v.Kind() == reflect.Slice {
			text = " []\n"
		}
		d.b.WriteString(text)
		return
	}
	d.b.WriteByte('\n')
	indent += "  "
	switch v.Kind() {
	case reflect.Struct:
		d.structure(v, indent)
	case reflect.Slice:
		if list, ok := v.Interface().(Endpoints); ok && list.named() {
			for _, e := range list {
				d.b.WriteString(indent + quoteIfOdd(e.Name) + ": " + quoteIfOdd(escapeVariables(e.String())) + "\n")
			}
			return
		}
		for i := range v.Len() {
			d.element(v.Index(i), indent)
		}
	case reflect.Map:
		for _, k := range slices.Sorted(maps.Keys(keysIn(v))) {
			d.b.WriteString(indent + quoteIfOdd(k) + ":")
			d.value(v.MapIndex(reflect.ValueOf(k)), indent)
		}
	}
}

// named reports whether an endpoint has a name of its own.
func (e Endpoints) named() bool {
	return slices.ContainsFunc(e, func(e NamedEndpoint) bool { return e.Name != e.String() })
}

func keysIn(v reflect.Value) map[string]bool {
	keys := map[string]bool{}
	for _, k := range v.MapKeys() {
		keys[k.String()] = true
	}

	return keys
}

func (d *dumper) element(v reflect.Value, indent string) {
	if text, ok := dumpScalar(v); ok {
		d.b.WriteString(indent + "- " + text + "\n")
		return
	}
	inner := dumper{masked: d.masked}
	inner.structure(v, indent+"  ")
	text := strings.TrimPrefix(inner.b.String(), indent+"  ")
	if text == "" {
		text = "{}\n"
	}
	d.b.WriteString(indent + "- " + text)
}

// dumpScalar returns what is one text in a file.
func dumpScalar(v reflect.Value) (string, bool) {
	switch x := v.Interface().(type) {
	case Time:
		return time.Duration(x).String(), true
	case OrNever:
		if x < 0 {
			return "never", true
		}

		return time.Duration(x).String(), true
	case Mode:
		return fmt.Sprintf("\"%04o\"", uint32(x)), true
	case Code:
		return nameOf(x), true
	case Peer:
		if x.Unix {
			return "unix", true
		}

		return quoteIfOdd(x.Network.String()), true
	case File:
		if abs, err := filepath.Abs(string(x)); err == nil && x != "" {
			x = File(abs)
		}

		return quoteIfOdd(escapeVariables(string(x))), true
	case Targets:
		if len(x) == 1 && x[0].Weight == 1 {
			return quoteIfOdd(escapeVariables(x[0].Name)), true
		}

		return "", false
	case fmt.Stringer:
		return quoteIfOdd(escapeVariables(x.String())), true
	}
	switch v.Kind() {
	case reflect.String:
		return quoteIfOdd(escapeVariables(v.String())), true
	case reflect.Bool:
		return strconv.FormatBool(v.Bool()), true
	case reflect.Int, reflect.Int64, reflect.Int32:
		return strconv.FormatInt(v.Int(), 10), true
	}

	return "", false
}

// nameOf returns the name of a code, as parseCode takes it.
func nameOf(c Code) string {
	for _, name := range codeNames {
		if code, err := parseCode(name); err == nil && code == c {
			return name
		}
	}

	return "" // the parser lets no other through
}

// escapeVariables has expand make s of it again.
func escapeVariables(s string) string { return strings.ReplaceAll(s, "${", "$${") }

// words are what YAML, of one version or another, takes for something else than a text.
var words = []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

// quoteIfOdd puts a text in quotes that YAML might take for something else.
func quoteIfOdd(s string) string {
	odd := s == "" || slices.Contains(words, strings.ToLower(s))
	for i, r := range s {
		letter := r == '_' || r == '/' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		odd = odd || !letter && (i == 0 || r != '.' && r != '-' && (r < '0' || r > '9'))
	}
	if odd {
		return strconv.Quote(s)
	}

	return s
}
