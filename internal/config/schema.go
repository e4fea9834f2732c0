// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"reflect"
)

// schema is the part of JSON Schema (draft 2020-12) that the structs need.
type schema struct {
	Dialect     string             `json:"$schema,omitempty"`
	Title       string             `json:"title,omitempty"`
	Description string             `json:"description,omitempty"`
	Type        string             `json:"type,omitempty"`
	Enum        []string           `json:"enum,omitempty"`
	Const       any                `json:"const,omitempty"`
	Pattern     string             `json:"pattern,omitempty"`
	Minimum     *int               `json:"minimum,omitempty"`
	Above       *int               `json:"exclusiveMinimum,omitempty"`
	Maximum     *int               `json:"maximum,omitempty"`
	MinItems    int                `json:"minItems,omitempty"`
	Items       *schema            `json:"items,omitempty"`
	Properties  map[string]*schema `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
	// Additional is false, or the schema of values under free keys.
	Additional any       `json:"additionalProperties,omitempty"`
	AnyOf      []*schema `json:"anyOf,omitempty"`
}

// variable is the pattern of a text with a variable of the environment in it, which may
// become anything.
const variable = `\$\{.+\}`

// Schema returns the JSON Schema of the file, for editors that complete and check it.
func Schema() []byte {
	s := schemaOf(reflect.TypeFor[Config]())
	s.Dialect, s.Title = "https://json-schema.org/draft/2020-12/schema", "manifold.yaml"
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic("config: " + err.Error()) // of plain data, for which it cannot be
	}

	return append(out, '\n')
}

// schemaOf returns the schema of a type.
func schemaOf(t reflect.Type) *schema {
	if s, ok := scalars[t]; ok {
		return scalarSchema(t, s)
	}
	switch t {
	case reflect.TypeFor[Endpoints]():
		addr := &schema{Type: "string"}
		return &schema{AnyOf: []*schema{{Type: "array", Items: addr, MinItems: 1}, {Type: "object", Additional: addr}}}
	case reflect.TypeFor[Targets]():
		return &schema{AnyOf: []*schema{{Type: "string"}, {Type: "array", Items: schemaOf(reflect.TypeFor[Target]()), MinItems: 1}}}
	case reflect.TypeFor[Layout]():
		return &schema{AnyOf: []*schema{{Enum: []string{"testservice", "talos"}}, structSchema(t)}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Struct:
		return structSchema(t)
	case reflect.Slice:
		return &schema{Type: "array", Items: schemaOf(t.Elem())}
	case reflect.Map:
		return &schema{Type: "object", Additional: schemaOf(t.Elem())}
	case reflect.Bool:
		return &schema{AnyOf: []*schema{{Type: "boolean"}, {Type: "string", Pattern: variable}}}
	case reflect.Int:
		return &schema{AnyOf: []*schema{{Type: "integer", Minimum: new(int)}, {Type: "string", Pattern: variable}}}
	default:
		return &schema{Type: "string"}
	}
}

func scalarSchema(t reflect.Type, s scalar) *schema {
	switch {
	case t == reflect.TypeFor[Size]():
		return &schema{AnyOf: []*schema{{Type: "integer", Minimum: new(1)}, {Type: "string", Pattern: s.pattern + "|" + variable}}}
	case t == reflect.TypeFor[Count]():
		return &schema{AnyOf: []*schema{{Type: "integer", Minimum: new(1)}, {Type: "string", Pattern: "^[0-9]+$|" + variable}}}
	case t == reflect.TypeFor[Ratio]():
		return &schema{AnyOf: []*schema{{Type: "number", Minimum: new(int), Maximum: new(1)}, {Type: "string", Pattern: `^[0-9.]+$|` + variable}}}
	case t == reflect.TypeFor[Percent]():
		return &schema{AnyOf: []*schema{{Type: "number", Above: new(int), Maximum: new(100)}, {Type: "string", Pattern: `^[0-9.]+$|` + variable}}}
	case t == reflect.TypeFor[Deny]():
		return &schema{AnyOf: []*schema{{Const: true}, {Enum: s.enum}, {Type: "string", Pattern: variable}}}
	case s.enum != nil:
		return &schema{AnyOf: []*schema{{Enum: s.enum}, {Type: "string", Pattern: variable}}}
	case s.pattern != "":
		return &schema{Type: "string", Pattern: s.pattern + "|" + variable}
	default:
		return &schema{Type: "string"}
	}
}

func structSchema(t reflect.Type) *schema {
	s := &schema{Type: "object", Properties: map[string]*schema{}, Additional: false}
	for _, f := range fieldsOf(t) {
		property := schemaOf(t.Field(f.index).Type)
		property.Description = f.doc
		if f.byDefault != "" {
			property.Description += " Default: " + f.byDefault + "."
		}
		s.Properties[f.key] = property
		if f.required {
			s.Required = append(s.Required, f.key)
		}
	}

	return s
}
