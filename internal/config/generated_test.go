// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const (
	referenceFile = "../../docs/config.md"
	schemaFile    = "../../docs/manifold.schema.json"

	// What is between these lines of referenceFile is generated.
	referenceStart = "<!-- generated from internal/config: go test ./internal/config -update -->\n"
	referenceEnd   = "<!-- end of what is generated -->\n"
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}

	return string(text)
}

// holds wants the file to have the text, or writes it.
func holds(t *testing.T, file, text string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if read(t, file) != text {
		t.Errorf("%s is not up to date: run go test ./internal/config -update", file)
	}
}

func TestReferenceIsUpToDate(t *testing.T) {
	before, rest, found := strings.Cut(read(t, referenceFile), referenceStart)
	_, after, ended := strings.Cut(rest, referenceEnd)
	if !found || !ended {
		t.Fatalf("%s has no place for the reference", referenceFile)
	}
	holds(t, referenceFile, before+referenceStart+"\n"+Reference()+referenceEnd+after)
}

func TestSchemaIsUpToDate(t *testing.T) { holds(t, schemaFile, string(Schema())) }

// Each key has its doc, and what may be left out says what holds then, unless it is nothing.
func TestTags(t *testing.T) {
	seen := 0
	var visit func(t reflect.Type, path string) []string
	visit = func(st reflect.Type, path string) (faults []string) {
		for _, f := range fieldsOf(st) {
			seen++
			if f.key == "" || !strings.HasSuffix(f.doc, ".") || strings.ContainsAny(f.doc+f.byDefault, "|\n") {
				faults = append(faults, join(path, f.key))
			}
			if inner, _, ok := inside(st.Field(f.index).Type); ok {
				faults = append(faults, visit(inner, join(path, f.key))...)
			}
		}
		return faults
	}
	if faults := visit(reflect.TypeFor[Config](), ""); len(faults) > 0 || seen < 60 {
		t.Errorf("%d keys, without a sentence: %q", seen, faults)
	}
}

// TestSchema looks at a few places of the schema through its JSON.
func TestSchema(t *testing.T) {
	var root map[string]any
	if err := json.Unmarshal(Schema(), &root); err != nil {
		t.Fatal(err)
	}
	at := func(path ...string) map[string]any {
		node := root
		for _, key := range path {
			next, ok := node[key].(map[string]any)
			if !ok {
				t.Fatalf("no %s of %v", key, path)
			}
			node = next
		}
		return node
	}
	if root["additionalProperties"] != false || !reflect.DeepEqual(root["required"], []any{"frontends"}) {
		t.Errorf("root: %v, %v", root["additionalProperties"], root["required"])
	}
	if got := at("properties", "backends", "additionalProperties", "properties", "connect_timeout")["pattern"]; got != timePattern+"|"+variable {
		t.Errorf("pattern of a time = %v", got)
	}
	route := at("properties", "routes", "items", "properties")
	if keys := len(route); keys != reflect.TypeFor[Route]().NumField() {
		t.Errorf("a route has %d keys", keys)
	}
	if got := at("properties", "frontends", "items")["required"]; !slices.Equal(got.([]any), []any{"name", "listen"}) {
		t.Errorf("a frontend requires %v", got)
	}
}
