// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// A frameReader shows what a connection wrote, as implementations that are not
// ours understand it: their framer judges the order of frames, their
// decoder the header blocks.
type frameReader struct {
	in     bytes.Buffer
	framer *http2.Framer
	dec    *hpack.Decoder
	begun  bool // the preface came, if the connection under test is a client

	block  []byte
	split  []string // lengths of the block's frames so far
	fields []hpack.HeaderField
	got    pattern
	*referee
}

func newFrameReader(client bool) *frameReader {
	r := &frameReader{begun: !client, got: pattern{}, referee: newReferee(client)}
	r.framer = http2.NewFramer(nil, &r.in)
	r.framer.SetMaxReadFrameSize(frame.MaxMaxFrameSize)
	r.dec = hpack.NewDecoder(4096, func(f hpack.HeaderField) { r.fields = append(r.fields, f) })
	return r
}

// feed takes octets and returns the frames that are complete, each as text.
func (r *frameReader) feed(p []byte) (shown []string) {
	r.in.Write(p)
	if !r.begun && r.in.Len() >= len(frame.ClientPreface) {
		r.begun = true
		if got := string(r.in.Next(len(frame.ClientPreface))); got == frame.ClientPreface {
			shown = append(shown, "PREFACE")
		} else {
			shown = append(shown, "WRONG PREFACE "+strconv.Quote(got))
		}
	}
	for r.begun && r.in.Len() >= frame.HeaderLen {
		h := frame.ParseHeader(r.in.Bytes())
		if r.in.Len() < frame.HeaderLen+int(h.Length) {
			break
		}
		f, err := r.framer.ReadFrame()
		if err != nil {
			shown = append(shown, "ILLEGAL FRAME: "+err.Error())
			continue
		}
		if complaint := r.size(f); complaint != "" {
			shown = append(shown, "ILLEGAL FRAME: "+complaint)
		}
		if s := r.show(f); s != "" {
			shown = append(shown, s)
		}
	}
	return shown
}

// complain adds what the referee has against a frame.
func (r *frameReader) complain(text string, f http2.Frame, end bool) string {
	if complaint := r.judge(f, end); complaint != "" {
		return text + " ILLEGAL FRAME: " + complaint
	}
	return text
}

// show returns the notation of a frame, or "" for one whose header block goes on.
func (r *frameReader) show(f http2.Frame) string {
	text := ""
	switch f := f.(type) {
	case *http2.HeadersFrame:
		r.block, r.split, r.fields = nil, nil, nil
		return r.fragment(f, f.HeaderBlockFragment(), f.HeadersEnded(), f.StreamEnded())
	case *http2.ContinuationFrame:
		return r.fragment(f, f.HeaderBlockFragment(), f.HeadersEnded(), false)
	case *http2.DataFrame:
		text = fmt.Sprintf("DATA %d%s%s", f.StreamID, ending(f.StreamEnded()), r.got.showPayload(f.StreamID, f.Data()))
	case *http2.SettingsFrame:
		text = showSettings(f)
	case *http2.PingFrame:
		text = "PING " + map[bool]string{true: "ack "}[f.IsAck()] + strconv.Quote(strings.TrimRight(string(f.Data[:]), "\x00"))
	case *http2.GoAwayFrame:
		text = fmt.Sprintf("GOAWAY last=%d %s", f.LastStreamID, frame.Code(f.ErrCode))
		if d := f.DebugData(); len(d) > 0 {
			text += " " + strconv.Quote(string(d))
		}
	case *http2.RSTStreamFrame:
		text = fmt.Sprintf("RST_STREAM %d %s", f.StreamID, frame.Code(f.ErrCode))
	case *http2.WindowUpdateFrame:
		text = fmt.Sprintf("WINDOW_UPDATE %d %d", f.StreamID, f.Increment)
	default:
		text = f.Header().String()
	}
	return r.complain(text, f, false)
}

func ending(end bool) string {
	if end {
		return " end"
	}
	return ""
}

func showSettings(f *http2.SettingsFrame) string {
	if f.IsAck() {
		return "SETTINGS ack"
	}
	text := "SETTINGS"
	f.ForeachSetting(func(s http2.Setting) error { //nolint:errcheck // never one
		text += fmt.Sprintf(" %s=%d", frame.SettingID(s.ID), s.Val)
		return nil
	})
	return text
}

// fragment gathers a header block and shows it once it is complete.
func (r *frameReader) fragment(f http2.Frame, p []byte, done, end bool) string {
	r.block = append(r.block, p...)
	r.split = append(r.split, strconv.Itoa(len(p)))
	if end {
		r.split[0] += "end"
	}
	if !done {
		return ""
	}
	if _, err := r.dec.Write(r.block); err != nil {
		return "ILLEGAL HEADER BLOCK: " + err.Error()
	}
	if err := r.dec.Close(); err != nil {
		return "ILLEGAL HEADER BLOCK: " + err.Error()
	}
	first, end := strings.CutSuffix(r.split[0], "end")
	text := fmt.Sprintf("HEADERS %d%s", f.Header().StreamID, ending(end))
	if n := len(r.split); n > 1 {
		r.split[0] = first
		text += " split=" + strings.Join(r.split[:n-1], ",")
	}
	return r.complain(text+showUpdates(r.block)+showFields(r.fields), f, end)
}

// showUpdates shows the size updates with which a block begins (RFC 7541 section 6.3).
func showUpdates(block []byte) (text string) {
	for len(block) > 0 && block[0]&0xe0 == 0x20 {
		n, size := 1, int(block[0]&0x1f)
		for shift := 0; size >= 0x1f && n < len(block); shift += 7 {
			size += int(block[n]&0x7f) << shift
			if n++; block[n-1] < 0x80 {
				break
			}
		}
		text += fmt.Sprintf(" table=%d", size)
		block = block[n:]
	}
	return text
}
