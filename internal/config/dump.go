// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Dump returns the configuration as a file would say it, with variables and names of layouts replaced by what they
// stand for, without what is left at its default, and without the values of headers, which may be secrets.
func (c *Config) Dump() string {
	var b strings.Builder
	dumpStruct(&b, reflect.ValueOf(c).Elem(), "")

	return b.String()
}

func dumpStruct(b *strings.Builder, v reflect.Value, indent string) {
	for _, f := range fieldsOf(v.Type()) {
		field := v.Field(f.index)
		if field.Kind() == reflect.Pointer {
			if field.IsNil() {
				continue
			}
			field = field.Elem()
			if text, ok := dumpScalar(field); ok { // said, though it may be zero
				fmt.Fprintf(b, "%s%s: %s\n", indent, f.key, text)
				continue
			}
			if field.IsZero() {
				fmt.Fprintf(b, "%s%s: {}\n", indent, f.key)
				continue
			}
		}
		if !field.IsZero() {
			fmt.Fprintf(b, "%s%s:", indent, f.key)
			dumpValue(b, field, indent, f.key)
		}
	}
}

// dumpValue writes what follows the colon after a key.
func dumpValue(b *strings.Builder, v reflect.Value, indent, key string) {
	if text, ok := dumpScalar(v); ok {
		fmt.Fprintf(b, " %s\n", text)
		return
	}
	b.WriteByte('\n')
	switch v.Kind() {
	case reflect.Struct:
		dumpStruct(b, v, indent+"  ")
	case reflect.Slice:
		for i := range v.Len() {
			dumpElement(b, v.Index(i), indent+"  ")
		}
	case reflect.Map:
		for _, k := range slices.Sorted(maps.Keys(keysIn(v))) {
			fmt.Fprintf(b, "%s  %s:", indent, quoteIfOdd(k))
			e := v.MapIndex(reflect.ValueOf(k))
			if key == "set" || key == "add" || key == "headers" {
				b.WriteString(" \"(not shown)\"\n")
				continue
			}
			dumpValue(b, e, indent+"  ", "")
		}
	}
}

func keysIn(v reflect.Value) map[string]bool {
	keys := map[string]bool{}
	for _, k := range v.MapKeys() {
		keys[k.String()] = true
	}

	return keys
}

func dumpElement(b *strings.Builder, v reflect.Value, indent string) {
	if text, ok := dumpScalar(v); ok {
		fmt.Fprintf(b, "%s- %s\n", indent, text)
		return
	}
	var inner strings.Builder
	dumpStruct(&inner, v, indent+"  ")
	text := strings.TrimPrefix(inner.String(), indent+"  ")
	if text == "" {
		text = "{}\n"
	}
	b.WriteString(indent + "- " + text)
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
	case NamedEndpoint:
		if x.Name != x.String() {
			return quoteIfOdd(x.Name) + " = " + quoteIfOdd(x.String()), true
		}

		return quoteIfOdd(x.String()), true
	case fmt.Stringer:
		return quoteIfOdd(x.String()), true
	}
	switch v.Kind() {
	case reflect.String:
		return quoteIfOdd(v.String()), true
	case reflect.Bool:
		return strconv.FormatBool(v.Bool()), true
	case reflect.Int, reflect.Int64, reflect.Int32:
		return strconv.FormatInt(v.Int(), 10), true
	case reflect.Uint, reflect.Uint64, reflect.Uint32:
		return strconv.FormatUint(v.Uint(), 10), true
	case reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64), true
	}

	return "", false
}

// quoteIfOdd puts a text in quotes that YAML might take for something else.
func quoteIfOdd(s string) string {
	if s != "" && !strings.ContainsAny(s, ":#{}[],&*!|>'\"%@` ") {
		return s
	}

	return strconv.Quote(s)
}
