// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	testRequest  = NewTemplate(":method", "POST", ":path", "/a/b")
	testHeaders  = NewTemplate(":status", "200", "content-type", "application/grpc")
	testTrailers = NewTemplate("grpc-status", "0")
)

// side is a Side of functions; nil ones do nothing.
type side struct {
	block   func(*Stream, *Block, bool) error
	message func(*Stream, Head, int) error
	end     func(*Stream) error
}

func (s side) Block(st *Stream, b *Block, end bool) error {
	if s.block == nil {
		return nil
	}
	return s.block(st, b, end)
}

func (s side) Message(st *Stream, h Head, size int) error {
	if s.message == nil {
		return nil
	}
	return s.message(st, h, size)
}

func (s side) End(st *Stream) error {
	if s.end == nil {
		return nil
	}
	return s.end(st)
}

// echo answers messages with count of the same.
func echo(count int) side {
	return side{
		message: func(s *Stream, h Head, size int) error {
			if h.Seq == 0 {
				s.Headers(testHeaders)
			}
			return s.Send(h, size, count)
		},
		end: func(s *Stream) error {
			s.Finish(testTrailers)
			return nil
		},
	}
}

// pipe returns both ends of a TCP connection, which end with the test or at a
// deadline that no test should meet.
func pipe(t *testing.T) (client, server net.Conn) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	if client, err = net.Dial("tcp", lis.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = lis.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, nc := range []net.Conn{client, server} {
		if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
	}
	return client, server
}

// serve runs the server's end until the client's closes; the error comes by the
// returned channel.
func serve(t *testing.T, nc net.Conn, s Side, join int) <-chan error {
	t.Helper()
	c := NewServer(nc, s, join)
	t.Cleanup(c.Close)
	ended := make(chan error, 1)
	go func() { ended <- c.Serve(func() bool { return false }) }() // ends with the connection
	return ended
}

// Messages in number and size beyond all windows, over one connection.
func TestConn(t *testing.T) {
	tests := []struct {
		name                 string
		streams, size, count int
		messages             int // that the client sends on each stream
	}{
		{name: "small", streams: 100, size: 64, count: 1, messages: 1},
		{name: "head alone", streams: 3, size: MinMessage, count: 2, messages: 1},
		{name: "more than a stream's window", streams: 20, size: MaxMessage, count: 1, messages: 1},
		{name: "many small ones", streams: 20, size: 1024, count: 3000, messages: 1},
		{name: "frames that fill up exactly", streams: 2, size: 16384 - 5, count: 100, messages: 1},
		{name: "ping-pong", streams: 50, size: 100, count: 1, messages: 50},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			near, far := pipe(t)
			ended := serve(t, far, echo(tt.count), DefaultJoin)
			open, got := tt.streams, 0
			next := func(s *Stream, seq int) error {
				h := Head{Call: uint64(s.id), Seq: uint32(seq)}
				if seq == tt.messages-1 {
					return s.SendLast(h, tt.size, 1)
				}
				return s.Send(h, tt.size, 1)
			}
			seen := map[uint32]int{}
			c, err := NewClient(near, side{
				message: func(s *Stream, h Head, size int) error {
					if h.Call != uint64(s.id) || int(h.Seq) != seen[s.id] || size != tt.size {
						t.Errorf("stream %d: message %+v of %d octets after %d", s.id, h, size, seen[s.id])
					}
					seen[s.id]++
					got++
					if seen[s.id] < tt.messages {
						return next(s, seen[s.id])
					}
					return nil
				},
				block: func(s *Stream, b *Block, end bool) error {
					if end != (b.Get("grpc-status") == "0") || end != (s.Blocks() == 2) {
						t.Errorf("stream %d: block %v, end %t", s.id, b.fields, end)
					}
					return nil
				},
				end: func(*Stream) error { open--; return nil },
			}, DefaultJoin)
			if err != nil {
				t.Fatal(err)
			}
			for range tt.streams {
				if err := next(c.Open(testRequest, hpack.HeaderField{}), 0); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Serve(func() bool { return open == 0 }); err != nil {
				t.Fatal(err)
			}
			if want := tt.streams * tt.messages * tt.count; got != want {
				t.Errorf("%d messages, expected %d", got, want)
			}
			if len(c.streams) != 0 {
				t.Errorf("%d streams are left", len(c.streams))
			}
			c.Close()
			if err := <-ended; !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
				t.Errorf("server ended with %v", err)
			}
		})
	}
}

// Another implementation of HTTP/2 understands what this one says, with small
// windows and a header table of no size.
func TestAgainstFramer(t *testing.T) {
	near, far := pipe(t)
	serve(t, near, echo(3), DefaultJoin)
	if _, err := io.WriteString(far, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	fr := http2.NewFramer(far, far)
	fr.ReadMetaHeaders = hpack.NewDecoder(0, nil)
	steps := []error{
		fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 80}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0}),
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x83}, EndHeaders: false}),
		fr.WriteContinuation(1, true, []byte{0x86, 0x84}),
		fr.WriteDataPadded(1, true, appendMessage(nil, Head{Call: 5}, 64, 0, prefixLen+64), make([]byte, 10)),
		fr.WritePing(false, [8]byte{1}),
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	var rx receiver
	var messages, window int
	for window = 80; ; { // room for a message, and then for less than a head
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			if window -= len(f.Data()); window < 0 {
				t.Fatal("more DATA than the window takes")
			}
			heads, err := receive(&rx, f.Data(), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			messages += len(heads)
			window += 30
			if err := fr.WriteWindowUpdate(1, 30); err != nil {
				t.Fatal(err)
			}
		case *http2.MetaHeadersFrame:
			if f.StreamEnded() {
				if messages != 3 || len(f.Fields) != 1 || f.Fields[0].Name != "grpc-status" {
					t.Errorf("%d messages, trailers %v", messages, f.Fields)
				}
				return
			}
		}
	}
}

// Everything that is not as it must be ends the connection.
func TestClientFindsFaults(t *testing.T) {
	tests := []struct {
		name, want string
		fault      func(fr *http2.Framer) error
	}{
		{"reset", "reset with CANCEL", func(fr *http2.Framer) error { return fr.WriteRSTStream(1, http2.ErrCodeCancel) }},
		{"GOAWAY", "goes away", func(fr *http2.Framer) error { return fr.WriteGoAway(1, http2.ErrCodeNo, []byte("bye")) }},
		{"a stream that is not there", "no such stream", func(fr *http2.Framer) error { return fr.WriteData(3, true, nil) }},
		{"damage", "differs", func(fr *http2.Framer) error {
			m := appendMessage(nil, Head{}, 64, 0, prefixLen+64)
			m[50]++
			return fr.WriteData(1, false, m)
		}},
		{"half a message", "ends within a message", func(fr *http2.Framer) error {
			return fr.WriteData(1, true, appendMessage(nil, Head{}, 64, 0, 30))
		}},
		{"headers cut off", "do not follow", func(fr *http2.Framer) error {
			err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}})
			return errors.Join(err, fr.WritePing(false, [8]byte{}))
		}},
		{"bad header block", "invalid indexed", func(fr *http2.Framer) error {
			return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xfe}, EndHeaders: true})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			near, far := pipe(t)
			fr := http2.NewFramer(far, far)
			if err := fr.WriteSettings(); err != nil {
				t.Fatal(err)
			}
			c, err := NewClient(near, side{}, DefaultJoin)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.Open(testRequest, hpack.HeaderField{}).SendLast(Head{}, 64, 1); err != nil {
				t.Fatal(err)
			}
			if err := tt.fault(fr); err != nil {
				t.Fatal(err)
			}
			if err := c.Serve(func() bool { return false }); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, expected one with %q", err, tt.want)
			}
		})
	}
}
