// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/manifold-grpc/manifold/bench/peers/report"
)

// The parts of a document that a run fills in stand between <!-- NAME:begin --> and
// <!-- NAME:end -->, on lines of their own.
const (
	partAll     = "peers"         // plot and all tables
	partSummary = "peers-summary" // plot and the tables of all scenarios
)

// plotName is the file with the plot, beside the first document.
const plotName = "benchmarks%s.svg"

// record puts a run into documents. Each has at least one of the parts. Where the ends are not those of package wire, parts and plot
// have the name of the ends behind theirs.
func record(documents []string, r *report.Run) error {
	suffix := ""
	if r.Ends != "" {
		suffix = "-" + r.Ends
	}
	plot := filepath.Join(filepath.Dir(documents[0]), fmt.Sprintf(plotName, suffix))
	if err := os.WriteFile(plot, []byte(r.Plot()), 0o644); err != nil {
		return err
	}
	for _, document := range documents {
		link, err := filepath.Rel(filepath.Dir(document), plot)
		if err != nil {
			return err
		}
		image := fmt.Sprintf("![Cost, throughput and p99 of each proxy in terms of the TCP forwarder's](%s)\n\n", filepath.ToSlash(link))
		parts := map[string]string{partAll + suffix: image + r.Markdown(), partSummary + suffix: image + r.Summary()}
		if err := fill(document, parts); err != nil {
			return err
		}
	}
	return nil
}

// fill replaces what stands in the document's parts.
func fill(document string, parts map[string]string) error {
	old, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	text, found := string(old), false
	for name, content := range parts {
		begin, end := "<!-- "+name+":begin -->\n", "<!-- "+name+":end -->\n"
		before, rest, ok := strings.Cut(text, begin)
		if !ok {
			continue
		}
		_, after, ok := strings.Cut(rest, end)
		if !ok {
			return fmt.Errorf("%s: a line %s but none %s", document, strings.TrimSpace(begin), strings.TrimSpace(end))
		}
		text, found = before+begin+content+end+after, true
	}
	if !found {
		return fmt.Errorf("%s: no line <!-- NAME:begin --> where NAME is one of %s", document, strings.Join(slices.Sorted(maps.Keys(parts)), ", "))
	}
	return os.WriteFile(document, []byte(text), 0o644)
}
