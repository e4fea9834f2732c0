// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/manifold-grpc/manifold/bench/peers/report"
)

func TestRecord(t *testing.T) {
	dir := t.TempDir()
	doc, readme := filepath.Join(dir, "docs", "b.md"), filepath.Join(dir, "README.md")
	if err := os.Mkdir(filepath.Dir(doc), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(doc, "a\n<!-- peers:begin -->\nstale\n<!-- peers:end -->\nb\n")
	put(readme, "c\n<!-- peers-summary:begin -->\n<!-- peers-summary:end -->\nd\n")
	r := smallRun()
	for range 2 { // what is filled can be filled again
		if err := record([]string{doc, readme}, r); err != nil {
			t.Fatal(err)
		}
	}
	for file, wants := range map[string][]string{
		doc:    {"a\n<!-- peers:begin -->\n![", "](benchmarks.svg)\n\n| cost", "### calls\n", "<!-- peers:end -->\nb\n"},
		readme: {"c\n<!-- peers-summary:begin -->\n![", "](docs/benchmarks.svg)\n\n| cost", "| 5.00 |\n", "| holds |\n<!-- peers-summary:end -->\nd\n"},
		filepath.Join(dir, "docs", "benchmarks.svg"): {"<svg", "calls"},
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if strings.Count(string(text), want) != 1 && !strings.HasSuffix(file, ".svg") || !strings.Contains(string(text), want) {
				t.Errorf("%s: expected %q once in\n%s", file, want, text)
			}
		}
		if strings.Contains(string(text), "stale") {
			t.Errorf("%s: the stale part is still there", file)
		}
	}
	for text, want := range map[string]string{"nothing\n": "no line", "<!-- peers:begin -->\n": "but none <!-- peers:end -->"} {
		put(readme, text)
		if err := record([]string{doc, readme}, r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("document %q: error %v, expected one with %q", text, err, want)
		}
	}
}

func smallRun() *report.Run {
	return &report.Run{
		Proxies:   []report.Proxy{{Name: "relay"}},
		Scenarios: []report.Scenario{{Title: "calls", Unit: "call", Cells: []report.Cell{{Proxy: "relay", Samples: []report.Sample{{CPU: 5000}}}}}},
	}
}

// A run between other ends has parts and a plot of its own.
func TestRecordOtherEnds(t *testing.T) {
	doc := filepath.Join(t.TempDir(), "b.md")
	if err := os.WriteFile(doc, []byte("<!-- peers:begin -->\nkept\n<!-- peers:end -->\n<!-- peers-summary-grpc-go:begin -->\n<!-- peers-summary-grpc-go:end -->\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := smallRun()
	r.Ends = endsGRPC
	if err := record([]string{doc}, r); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(text); !strings.Contains(got, "\nkept\n") || !strings.Contains(got, "<!-- peers-summary-grpc-go:begin -->\n![") || !strings.Contains(got, "](benchmarks-grpc-go.svg)") {
		t.Errorf("recorded as\n%s", got)
	}
}

// The repository's own documents can be filled.
func TestDocuments(t *testing.T) {
	for part, file := range map[string]string{partAll: "../../docs/benchmarks.md", partSummary + "-" + endsGRPC: "../../docs/benchmarks.md", partSummary: "../../README.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"<!-- " + part + ":begin -->\n", "<!-- " + part + ":end -->\n"} {
			if strings.Count(string(text), line) != 1 {
				t.Errorf("%s has the line %q not just once", file, line)
			}
		}
	}
}
