// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// A frameWriter turns the notation into octets: any frames, legal or not. Header
// blocks are encoded by an implementation that is not ours.
type frameWriter struct {
	block  bytes.Buffer // of enc
	enc    *hpack.Encoder
	rest   []byte // of a block whose frames come one by one
	sent   pattern
	nextID uint32 // what "next" stands for
}

func newFrameWriter() *frameWriter {
	w := &frameWriter{sent: pattern{}, nextID: 1}
	w.enc = hpack.NewEncoder(&w.block)
	return w
}

// id reads a stream identifier: a number, "next" for a new one, or "last" for
// the one that "next" meant before.
func (w *frameWriter) id(l *line) uint32 {
	switch v := l.next(); v {
	case "next":
		w.nextID += 2
		return w.nextID - 2
	case "last":
		return w.nextID - 2
	default:
		id := uint32(number(v))
		if id%2 == 1 && id >= w.nextID {
			w.nextID = id + 2
		}
		return id
	}
}

func rawFrame(t frame.Type, f frame.Flags, id uint32, payload []byte) []byte {
	return append(frame.AppendHeader(nil, len(payload), t, f, id), payload...)
}

func flagged(l *line, word string, f frame.Flags) frame.Flags {
	if l.flag(word) {
		return f
	}
	return 0
}

// line returns the octets of what follows ">": frames with semicolons between them.
func (w *frameWriter) line(text string) (out []byte) {
	n, text := repeat(text)
	for range n {
		for _, f := range split(text, ';') {
			m, f := repeat(f)
			for range m {
				out = append(out, w.frame(parseLine(f))...)
			}
		}
	}
	return out
}

// frame returns the octets of one frame, or of several, in the notation.
func (w *frameWriter) frame(l *line) []byte {
	defer l.rest()
	switch kind := l.next(); kind {
	case "PREFACE":
		return []byte(frame.ClientPreface)
	case "TABLE":
		w.enc.SetMaxDynamicTableSizeLimit(uint32(number(l.next())))
		return nil
	case "OCTETS":
		return l.payload(pattern{}, 0)
	case "FRAME":
		return w.any(l)
	case "SETTINGS":
		return w.settings(l)
	case "HEADERS":
		return w.headers(l)
	case "CONTINUATION":
		return w.continuation(l)
	case "DATA":
		return w.data(l)
	case "PING":
		f := flagged(l, "ack", frame.FlagAck)
		v := [8]byte{}
		copy(v[:], l.payload(pattern{}, 0))
		return rawFrame(frame.TypePing, f, 0, v[:])
	case "GOAWAY":
		last := uint32(l.number("last", 0))
		return frame.AppendGoAway(nil, last, codeNamed(l.next()), l.payload(pattern{}, 0))
	default:
		return w.small(kind, w.id(l), l)
	}
}

// small writes the frames of a stream that hold next to nothing.
func (w *frameWriter) small(kind string, id uint32, l *line) []byte {
	switch kind {
	case "RST_STREAM":
		return frame.AppendRST(nil, id, codeNamed(l.next()))
	case "WINDOW_UPDATE":
		return frame.AppendWindowUpdate(nil, id, uint32(number(l.next())))
	case "PRIORITY":
		dep := uint32(l.number("dep", 0))
		return rawFrame(frame.TypePriority, 0, id, append(binary.BigEndian.AppendUint32(nil, dep), 15))
	case "PUSH_PROMISE":
		return rawFrame(frame.TypePushPromise, frame.FlagEndHeaders, id, []byte{0, 0, 0, 2, 0x82})
	}
	panic(fmt.Sprintf("do not understand %q", kind))
}

// any writes a frame of which everything is said: FRAME type flags stream payload.
func (w *frameWriter) any(l *line) []byte {
	t, f, id := number(l.next()), number(l.next()), number(l.next())
	return rawFrame(frame.Type(t), frame.Flags(f), uint32(id), l.payload(pattern{}, 0))
}

func (w *frameWriter) settings(l *line) []byte {
	if l.flag("ack") {
		return frame.AppendSettingsAck(nil)
	}
	var list []frame.Setting
	for len(l.words) > 0 {
		name, value, _ := strings.Cut(l.next(), "=")
		list = append(list, frame.Setting{ID: settingNamed(name), Value: uint32(number(value))})
	}
	return frame.AppendSettings(nil, list...)
}

func (w *frameWriter) data(l *line) []byte {
	id := w.id(l)
	f := flagged(l, "end", frame.FlagEndStream)
	pad, padded := l.option("pad")
	p := l.payload(w.sent, id)
	if padded {
		n := number(pad)
		f |= frame.FlagPadded
		p = append(append([]byte{byte(n)}, p...), make([]byte, n)...)
	}
	return rawFrame(frame.TypeData, f, id, p)
}

// headers writes HEADERS and what CONTINUATION frames "split" asks for. With
// "open" the block goes on in CONTINUATION commands, and "first" is the part of it
// that HEADERS has.
func (w *frameWriter) headers(l *line) []byte {
	id := w.id(l)
	open := l.flag("open")
	f := flagged(l, "end", frame.FlagEndStream)
	dep, hasDep := l.option("dep")
	parts, _ := l.option("split")
	first := l.number("first", 1<<30)
	block := w.encode(l)
	var prio []byte
	if hasDep {
		f |= frame.FlagPriority
		prio = append(binary.BigEndian.AppendUint32(nil, uint32(number(dep))), 15)
	}
	if open {
		n := min(int(first), len(block))
		w.rest = block[n:]
		return rawFrame(frame.TypeHeaders, f, id, append(prio, block[:n]...))
	}
	return w.divided(id, f, prio, block, split(parts, ','))
}

// divided writes a whole block in frames of the given lengths and one more.
func (w *frameWriter) divided(id uint32, f frame.Flags, prio, block []byte, parts []string) []byte {
	var out []byte
	t := frame.TypeHeaders
	for _, part := range parts {
		n := number(part)
		out = append(out, rawFrame(t, f, id, append(prio, block[:n]...))...)
		block, prio, t, f = block[n:], nil, frame.TypeContinuation, 0
	}
	return append(out, rawFrame(t, f|frame.FlagEndHeaders, id, append(prio, block...))...)
}

// encode returns a header block: hex=XX as it is, else the fields.
func (w *frameWriter) encode(l *line) []byte {
	if len(l.words) > 0 && strings.HasPrefix(l.words[0], "hex=") {
		return l.payload(pattern{}, 0)
	}
	w.block.Reset()
	for _, f := range l.fields() {
		w.enc.WriteField(f) //nolint:errcheck // a bytes.Buffer takes all
	}
	return bytes.Clone(w.block.Bytes())
}

// continuation goes on with an open block: "open" for not its end, next=N for as
// many octets, else what is left.
func (w *frameWriter) continuation(l *line) []byte {
	id := w.id(l)
	f := frame.FlagEndHeaders
	if l.flag("open") {
		f = 0
	}
	n := min(int(l.number("next", 1<<30)), len(w.rest))
	p := w.rest[:n]
	w.rest = w.rest[n:]
	if len(l.words) > 0 {
		p = l.payload(pattern{}, 0)
	}
	return rawFrame(frame.TypeContinuation, f, id, p)
}

// repeat reads "201* FRAME": how often, and the rest.
func repeat(s string) (n int, rest string) {
	count, rest, ok := strings.Cut(s, "* ")
	if n, err := strconv.Atoi(count); ok && err == nil {
		return n, rest
	}
	return 1, s
}
