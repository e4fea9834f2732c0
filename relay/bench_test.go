// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
)

// unaryRig is a relay between connections in memory whose other ends a benchmark plays: what a unary call costs but for
// the kernel.
type unaryRig struct {
	t       testing.TB
	clients []*benchClient
	up      net.Conn
	answer  [3][]byte // header block, message, trailers
	ids     []uint32  // of the streams that the upstream is to answer
	in, out []byte
}

// benchClient is a client's end: the header block of its requests, and its next stream.
type benchClient struct {
	nc    net.Conn
	block []byte
	next  uint32
}

// newUnaryRig starts a relay before so many clients.
func newUnaryRig(t testing.TB, clients int) *unaryRig {
	r := &unaryRig{t: t, in: make([]byte, 256<<10), answer: usualAnswer()}
	upstream := memnet.Listen("upstream")
	t.Cleanup(func() { upstream.Close() })
	frontend := memnet.Listen("frontend")
	cfg := rigConfig{listener: frontend}
	cfg.endpoint.Dial = upstream.DialContext
	greeted := make(chan error, 1)
	go func() { // ends with the first connection's preface
		var err error
		if r.up, err = upstream.Accept(); err == nil {
			err = rawpeer.New(r.up).Greet(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1 << 20})
		}
		greeted <- err
	}()
	s := start(t, cfg, "upstream")
	check(t, wait(t, greeted, "the relay's preface"))
	awaitReady(t, s.backend.Endpoints[0])
	for range clients {
		r.clients = append(r.clients, r.dial(frontend))
	}
	return r
}

// usualAnswer returns what answers a call.
func usualAnswer() [3][]byte {
	return [3][]byte{
		steady(":status", "200", "content-type", "application/grpc"),
		rawpeer.Message(make([]byte, 64)),
		steady("grpc-status", "0", "grpc-message", ""),
	}
}

func (r *unaryRig) dial(l *memnet.Listener) *benchClient {
	nc, err := l.DialContext(context.Background())
	check(r.t, err)
	_, err = rawpeer.Client(nc)
	check(r.t, err)
	return &benchClient{nc: nc, next: 1, block: steady(rawpeer.Request("/bench.Echo/Unary")...)}
}

// steady returns the header block that has the fields as literals that enter no table: the same octets each time.
func steady(pairs ...string) []byte {
	var buf bytes.Buffer
	enc := hpack.NewEncoder(&buf)
	enc.SetMaxDynamicTableSize(0)
	enc.WriteField(hpack.HeaderField{Name: pairs[0], Value: pairs[1]}) //nolint:errcheck // to memory
	buf.Next(1)                                                        // the change of size
	for i := 2; i < len(pairs); i += 2 {
		enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}) //nolint:errcheck // to memory
	}
	return buf.Bytes()
}

// round makes n calls of each client, all at once.
func (r *unaryRig) round(n int) {
	r.ids = r.ids[:0]
	for _, c := range r.clients {
		r.out = appendFrame(r.out[:0], http2.FrameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, uint32(n*len(r.answer[1]))))
		r.ask(c, n)
		r.write(c.nc)
	}
	r.readEnds(r.up, n*len(r.clients), http2.FrameData)
	r.reply(r.up)
	for _, c := range r.clients {
		r.readEnds(c.nc, n, http2.FrameHeaders)
	}
}

// ask appends n requests of c.
func (r *unaryRig) ask(c *benchClient, n int) {
	for range n {
		r.out = appendFrame(r.out, http2.FrameHeaders, http2.FlagHeadersEndHeaders, c.next, c.block)
		r.out = appendFrame(r.out, http2.FrameData, http2.FlagDataEndStream, c.next, r.answer[1])
		c.next += 2
	}
}

// reply answers the requests that were read.
func (r *unaryRig) reply(up net.Conn) {
	r.out = appendFrame(r.out[:0], http2.FrameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, uint32(len(r.ids)*len(r.answer[1]))))
	for _, id := range r.ids {
		r.out = appendFrame(r.out, http2.FrameHeaders, http2.FlagHeadersEndHeaders, id, r.answer[0])
		r.out = appendFrame(r.out, http2.FrameData, 0, id, r.answer[1])
		r.out = appendFrame(r.out, http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, id, r.answer[2])
	}
	r.write(up)
}

func (r *unaryRig) write(nc net.Conn) {
	if _, err := nc.Write(r.out); err != nil {
		r.t.Fatal(err)
	}
}

// readEnds reads until n streams have ended, with a frame of the type, and notes which.
func (r *unaryRig) readEnds(nc net.Conn, n int, ends http2.FrameType) { r.read(nc, n, ends, 1) }

// readFrames reads until n frames of the type came, and notes of which streams.
func (r *unaryRig) readFrames(nc net.Conn, n int, t http2.FrameType) { r.read(nc, n, t, 0) }

// read reads until n frames of the type came that have those flags.
func (r *unaryRig) read(nc net.Conn, n int, t http2.FrameType, flags byte) {
	r.ids = r.ids[:0]
	for from := 0; len(r.ids) < n; {
		k, err := nc.Read(r.in[from:])
		if err != nil {
			r.t.Fatal(err)
		}
		p := r.in[:from+k]
		for len(p) >= 9 {
			size := 9 + int(p[0])<<16 + int(p[1])<<8 + int(p[2])
			if len(p) < size {
				break
			}
			switch id := binary.BigEndian.Uint32(p[5:]); {
			case http2.FrameType(p[3]) == http2.FrameRSTStream, http2.FrameType(p[3]) == http2.FrameGoAway:
				r.t.Fatalf("the relay sent %x", p[:size])
			case http2.FrameType(p[3]) == t && p[4]&flags == flags:
				r.ids = append(r.ids, id)
			}
			p = p[size:]
		}
		from = copy(r.in, p)
	}
}

func appendFrame(dst []byte, t http2.FrameType, f http2.Flags, id uint32, p []byte) []byte {
	dst = append(dst, byte(len(p)>>16), byte(len(p)>>8), byte(len(p)), byte(t), byte(f))
	dst = binary.BigEndian.AppendUint32(dst, id)
	return append(dst, p...)
}

// BenchmarkUnary is the CPU of unary calls of 64 octets without a kernel, with so many clients and calls at once of each. What plays
// the ends is in it. Run it with -cpu 1.
func BenchmarkUnary(b *testing.B) {
	for _, load := range []struct{ clients, calls int }{{1, 1}, {1, 100}, {8, 100}} {
		b.Run(fmt.Sprintf("%dx%d", load.clients, load.calls), func(b *testing.B) {
			r := newUnaryRig(b, load.clients)
			for range 10 {
				r.round(load.calls)
			}
			b.ReportAllocs()
			for b.Loop() {
				r.round(load.calls)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*load.clients*load.calls), "ns/call")
		})
	}
}

// pingPong opens n streams of each client that do not end, and returns what sends a message of each both ways.
func (r *unaryRig) pingPong(n int) (round func()) {
	wide := appendFrame(nil, http2.FrameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, 1<<29))
	window := func(id uint32) {
		r.out = appendFrame(r.out, http2.FrameWindowUpdate, 0, id, binary.BigEndian.AppendUint32(nil, 1<<29))
	}
	first := make([]uint32, len(r.clients))
	for i, c := range r.clients {
		first[i] = c.next
		r.out = append(r.out[:0], wide...)
		for range n {
			r.out = appendFrame(r.out, http2.FrameHeaders, http2.FlagHeadersEndHeaders, c.next, c.block)
			window(c.next)
			c.next += 2
		}
		r.write(c.nc)
	}
	r.readFrames(r.up, n*len(r.clients), http2.FrameHeaders)
	streams := slices.Clone(r.ids)
	r.out = append(r.out[:0], wide...)
	for _, id := range streams {
		r.out = appendFrame(r.out, http2.FrameHeaders, http2.FlagHeadersEndHeaders, id, r.answer[0])
		window(id)
	}
	r.write(r.up)
	for _, c := range r.clients {
		r.readFrames(c.nc, n, http2.FrameHeaders)
	}
	return func() {
		for i, c := range r.clients {
			r.out = r.out[:0]
			for id := first[i]; id < c.next; id += 2 {
				r.out = appendFrame(r.out, http2.FrameData, 0, id, r.answer[1])
			}
			r.write(c.nc)
		}
		r.readFrames(r.up, n*len(r.clients), http2.FrameData)
		r.out = r.out[:0]
		for _, id := range streams {
			r.out = appendFrame(r.out, http2.FrameData, 0, id, r.answer[1])
		}
		r.write(r.up)
		for _, c := range r.clients {
			r.readFrames(c.nc, n, http2.FrameData)
		}
	}
}

// BenchmarkPingPong is the CPU of a message of 64 octets in each direction of streams that stay open, likewise.
func BenchmarkPingPong(b *testing.B) {
	for _, load := range []struct{ clients, calls int }{{1, 1}, {1, 100}} {
		b.Run(fmt.Sprintf("%dx%d", load.clients, load.calls), func(b *testing.B) {
			r := newUnaryRig(b, load.clients)
			for range 10 {
				r.round(load.calls)
			}
			round := r.pingPong(load.calls)
			b.ReportAllocs()
			for b.Loop() {
				round()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*load.clients*load.calls), "ns/call")
		})
	}
}
