// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Reference returns a table of all keys, in Markdown, for docs/config.md.
func Reference() string {
	var b strings.Builder
	section(&b, reflect.TypeFor[Config](), "")

	return b.String()
}

// section writes the table of a struct, then those of the structs in its fields.
func section(b *strings.Builder, t reflect.Type, path string) {
	title := path
	if path == "" {
		title = "the file"
	}
	fmt.Fprintf(b, "### %s\n\n| key | value | | default |\n|---|---|---|---|\n", title)
	for _, f := range fieldsOf(t) {
		byDefault := f.byDefault
		if f.required {
			byDefault = "required"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", f.key, valueOf(t.Field(f.index).Type), f.doc, byDefault)
	}
	b.WriteString("\n")
	for _, f := range fieldsOf(t) {
		if inner, suffix, ok := inside(t.Field(f.index).Type); ok {
			section(b, inner, join(path, f.key)+suffix)
		}
	}
}

// inside returns the struct that a field's type is made of, and what its path gets for it.
func inside(t reflect.Type) (inner reflect.Type, suffix string, ok bool) {
	if _, ok := scalars[t]; ok || t == reflect.TypeFor[Endpoints]() {
		return nil, "", false
	}
	switch t.Kind() {
	case reflect.Pointer:
		t = t.Elem()
	case reflect.Slice:
		t, suffix = t.Elem(), "[]"
	case reflect.Map:
		t, suffix = t.Elem(), ".NAME"
	}

	_, leaf := scalars[t]

	return t, suffix, t.Kind() == reflect.Struct && !leaf
}

// valueOf says what values a type has.
func valueOf(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s, ok := scalars[t]; ok {
		return s.expected
	}
	switch t {
	case reflect.TypeFor[Endpoints]():
		return "list of addresses, or mapping of names to addresses: " + scalars[t.Elem().Field(1).Type].expected
	case reflect.TypeFor[Targets]():
		return "name, or list"
	case reflect.TypeFor[Layout]():
		return "name, or mapping"
	case reflect.TypeFor[File]():
		return "path, relative to the file's directory"
	}
	switch t.Kind() {
	case reflect.Slice:
		return "list"
	case reflect.Map, reflect.Struct:
		return "mapping"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "number"
	default:
		return "string"
	}
}
