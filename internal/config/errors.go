// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong with a file.
type Error struct {
	File string
	// Line and Col are where, from 1; 0 is the file as a whole.
	Line, Col int
	// Message says what is wrong and what was expected, in one line.
	Message string
}

var _ error = Error{}

// Error returns file:line:col: message.
func (e Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Message)
	}

	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Col, e.Message)
}

// Errors is all that is wrong with a file, in the order of the file. It is never empty
// where it is an error.
type Errors []Error

var _ error = Errors{}

// Error returns a line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}

	return strings.Join(lines, "\n")
}

// sorted returns the errors by position, each once: what an alias repeats is wrong once.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})

	return slices.Compact(e)
}

// nearest returns the name that text was probably meant to be, as " (did you mean it?)", or
// nothing if none is near.
func nearest(text string, names []string) string {
	best, distance := "", len(text)/3+1
	for _, name := range names {
		if d := edits(text, name); d <= distance && d < max(len(name), 2) {
			if best == "" || d < distance {
				best, distance = name, d
			}
		}
	}
	if best == "" {
		return ""
	}

	return fmt.Sprintf(" (did you mean %s?)", best)
}

// edits returns the Levenshtein distance: how many octets must be put in, left out or replaced.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}

	return row[len(b)]
}
