// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package top

import (
	"strings"
	"unicode/utf8"
)

// style is an ANSI rendition (ECMA-48, SGR).
type style string

const (
	normal style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
	head   style = "1;7" // bold, inverse
)

// A line is spans of text from left to right.
type line struct {
	spans []spanOf
	fill  style // of the rest up to the width; normal: no rest
}

type spanOf struct {
	text string
	style
}

// add appends text.
func (l *line) add(s style, text string) { l.spans = append(l.spans, spanOf{plain(text), s}) }

// right appends text that ends at n.
func (l *line) right(s style, text string, n int) {
	text = plain(text)
	l.add(normal, strings.Repeat(" ", max(0, n-l.len()-utf8.RuneCountInString(text))))
	l.add(s, text)
}

// left appends text in a place of n characters.
func (l *line) left(s style, text string, n int) {
	from := l.len()
	l.add(s, clip(plain(text), n))
	if rest := from + n - l.len(); rest > 0 {
		l.add(normal, strings.Repeat(" ", rest))
	}
}

func (l *line) len() int {
	n := 0
	for _, s := range l.spans {
		n += utf8.RuneCountInString(s.text)
	}

	return n
}

// string returns the line in at most width characters; width 0 is no bound.
func (l *line) string(width int, colour bool) string {
	var b strings.Builder
	room := width
	put := func(st style, text string) {
		if width > 0 {
			text = clip(text, room)
			room -= utf8.RuneCountInString(text)
		}
		if text == "" {
			return
		}
		if colour && st != normal {
			text = "\x1b[" + string(st) + "m" + text + "\x1b[0m"
		}
		b.WriteString(text)
	}
	for _, s := range l.spans {
		st := s.style
		if st == normal {
			st = l.fill
		}
		put(st, s.text)
	}
	if l.fill != normal && colour && room > 0 {
		put(l.fill, strings.Repeat(" ", room))
	}
	if !colour {
		return strings.TrimRight(b.String(), " ")
	}

	return b.String()
}
