// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// The notation of transcripts, in both directions: testdata/README.md describes it.

// A line is the words of one command. Its methods panic on text that makes no
// sense; the runner reports that with the line.
type line struct {
	words []string
}

func parseLine(s string) *line { return &line{split(s, ' ')} }

// split cuts s at each sep outside of double quotes, and leaves out what is empty.
func split(s string, sep byte) []string {
	var parts []string
	quoted, start := false, 0
	for i := 0; i <= len(s); i++ {
		if i == len(s) || s[i] == sep && !quoted {
			if part := strings.TrimSpace(s[start:i]); part != "" {
				parts = append(parts, part)
			}
			start = i + 1
		} else if s[i] == '"' && (i == 0 || s[i-1] != '\\') {
			quoted = !quoted
		}
	}
	return parts
}

// next removes the first word and returns it, or "".
func (l *line) next() string {
	if len(l.words) == 0 {
		return ""
	}
	w := l.words[0]
	l.words = l.words[1:]
	return w
}

// flag removes the word where it comes next, and says whether it did.
func (l *line) flag(word string) bool {
	if len(l.words) == 0 || l.words[0] != word {
		return false
	}
	l.words = l.words[1:]
	return true
}

// option removes name=value where it comes next.
func (l *line) option(name string) (value string, ok bool) {
	if len(l.words) == 0 {
		return "", false
	}
	if value, ok = strings.CutPrefix(l.words[0], name+"="); !ok {
		return "", false
	}
	l.words = l.words[1:]
	return value, true
}

func (l *line) number(name string, missing uint64) uint64 {
	v, ok := l.option(name)
	if !ok {
		return missing
	}
	return number(v)
}

func number(s string) uint64 {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// rest must be called when all of a line should have been understood.
func (l *line) rest() {
	if len(l.words) > 0 {
		panic(fmt.Sprintf("do not understand %q", l.words))
	}
}

// Header lists that come often have names.
var (
	requestFields = []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"},
		{Name: ":path", Value: "/s/m"}, {Name: ":authority", Value: "test"},
	}
	responseFields = []hpack.HeaderField{{Name: ":status", Value: "200"}}
)

// fields reads the remaining words as a header list. name=*N is a value of N
// octets, and many=N is N fields.
func (l *line) fields() []hpack.HeaderField {
	var list []hpack.HeaderField
	for len(l.words) > 0 {
		w := l.next()
		switch name, value, ok := cutField(w); {
		case w == "request":
			list = append(list, requestFields...)
		case w == "response":
			list = append(list, responseFields...)
		case !ok:
			panic(fmt.Sprintf("do not understand %q, expected name=value", w))
		case name == "many":
			for range number(value) {
				list = append(list, hpack.HeaderField{Name: "x", Value: "y"})
			}
		case strings.HasPrefix(value, "*"):
			list = append(list, hpack.HeaderField{Name: name, Value: strings.Repeat("v", int(number(value[1:])))})
		default:
			list = append(list, hpack.HeaderField{Name: name, Value: value})
		}
	}
	return list
}

// cutField reads name=value, either of them quoted or not.
func cutField(w string) (name, value string, ok bool) {
	at := strings.IndexByte(w, '=')
	if w[0] == '"' {
		end := strings.IndexByte(w[1:], '"') + 2
		at = end
	}
	if at < 0 || at >= len(w) {
		return "", "", false
	}
	return unquote(w[:at]), unquote(w[at+1:]), true
}

func unquote(s string) string {
	if !strings.HasPrefix(s, `"`) {
		return s
	}
	v, err := strconv.Unquote(s)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", s, err))
	}
	return v
}

// showFields is the reverse of fields.
func showFields(list []hpack.HeaderField) string {
	var b strings.Builder
	for i := 0; i < len(list); i++ {
		b.WriteByte(' ')
		switch n := len(requestFields); {
		case i == 0 && startsWith(list, requestFields):
			b.WriteString("request")
			i += n - 1
		case i == 0 && startsWith(list, responseFields):
			b.WriteString("response")
		case sameFields(list[i:]) > 3:
			n := sameFields(list[i:])
			fmt.Fprintf(&b, "many=%d", n)
			i += n - 1
		default:
			f := list[i]
			fmt.Fprintf(&b, "%s=%s", quote(f.Name), showValue(f.Value))
		}
	}
	return b.String()
}

// sameFields returns how many fields at the start are what many=N stands for.
func sameFields(list []hpack.HeaderField) (n int) {
	for n < len(list) && list[n].Name == "x" && list[n].Value == "y" {
		n++
	}
	return n
}

func startsWith(list, start []hpack.HeaderField) bool {
	for i, f := range start {
		if i >= len(list) || list[i].Name != f.Name || list[i].Value != f.Value {
			return false
		}
	}
	return true
}

func showValue(v string) string {
	if len(v) > 32 && strings.Trim(v, "v") == "" {
		return "*" + strconv.Itoa(len(v))
	}
	return quote(v)
}

func quote(s string) string {
	if s == "" || strings.ContainsAny(s, " \"\\;") || strconv.Quote(s) != `"`+s+`"` {
		return strconv.Quote(s)
	}
	return s
}

// A pattern is the octets that stand for len=N in one direction of a stream:
// what is lost, repeated or out of order shows.
type pattern map[uint32]int

func (p pattern) next(id uint32, n int) []byte {
	out := make([]byte, n)
	at := p[id]
	for i := range out {
		out[i] = 'a' + byte((at+i)%26)
	}
	p[id] = at + n
	return out
}

// payload reads "text", len=N or hex=XX; nothing is no octets.
func (l *line) payload(p pattern, id uint32) []byte {
	if v, ok := l.option("len"); ok {
		return p.next(id, int(number(v)))
	}
	if v, ok := l.option("hex"); ok {
		b, err := hex.DecodeString(v)
		if err != nil {
			panic(err)
		}
		return b
	}
	if len(l.words) > 0 && l.words[0][0] == '"' {
		v := unquote(l.next())
		p[id] += len(v)
		return []byte(v)
	}
	return nil
}

// showPayload is the reverse of payload. What ought to be the pattern and is
// not says so.
func (p pattern) showPayload(id uint32, b []byte) string {
	want := p.next(id, len(b))
	switch {
	case len(b) == 0:
		return ""
	case bytes.Equal(b, want):
		return fmt.Sprintf(" len=%d", len(b))
	case len(b) <= 16:
		return " " + strconv.Quote(string(b))
	}
	return fmt.Sprintf(" len=%d WRONG OCTETS", len(b))
}

// codeNamed returns the error code of a name, or of a number.
func codeNamed(s string) frame.Code {
	for c := frame.NoError; c <= frame.HTTP11Required; c++ {
		if c.String() == s {
			return c
		}
	}
	return frame.Code(number(s))
}

// settingNamed returns the identifier of a name, or of a number.
func settingNamed(s string) frame.SettingID {
	for id := frame.SettingID(1); id < 10; id++ {
		if id.String() == s {
			return id
		}
	}
	return frame.SettingID(number(s))
}
