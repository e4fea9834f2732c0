// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"testing"

	"golang.org/x/net/http2"

	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// BenchmarkFanOut is the CPU of unary calls of 64 octets to so many targets, with so many calls at once, without a kernel. What plays the ends is in it.
func BenchmarkFanOut(b *testing.B) {
	for _, load := range []struct{ targets, calls int }{{5, 1}, {5, 32}, {20, 1}} {
		b.Run(fmt.Sprintf("%dx%d", load.targets, load.calls), func(b *testing.B) {
			r, ups := newFanRig(b, load.targets)
			for range 10 {
				r.fan(ups, load.calls)
			}
			b.ReportAllocs()
			for b.Loop() {
				r.fan(ups, load.calls)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*load.calls), "ns/call")
		})
	}
}

// newFanRig starts a relay between a client and so many targets.
func newFanRig(b *testing.B, targets int) (r *unaryRig, ups []net.Conn) {
	r = &unaryRig{t: b, in: make([]byte, 256<<10), answer: usualAnswer()}
	frontend := memnet.Listen("frontend")
	var list []relay.Target
	for i := range targets {
		up, e := benchUpstream(b, fmt.Sprint("target-", i))
		ups = append(ups, up)
		list = append(list, relay.Target{Name: e.Addr(), Backend: &relay.Backend{Name: e.Addr(), Endpoints: []*relay.Endpoint{e}}})
	}
	start(b, rigConfig{listener: frontend, server: func(s *relay.Server) {
		s.Route = func(c *relay.Call) { c.FanOut(&relay.FanOut{}, list) }
	}})
	r.clients = append(r.clients, r.dial(frontend))
	return r, ups
}

// benchUpstream returns an endpoint and the other end of its connection.
func benchUpstream(b *testing.B, name string) (net.Conn, *relay.Endpoint) {
	l := memnet.Listen(name)
	b.Cleanup(func() { l.Close() })
	e := relay.NewEndpoint(name, relay.EndpointConfig{Dial: l.DialContext})
	b.Cleanup(e.Close)
	nc, err := l.Accept()
	check(b, err)
	check(b, rawpeer.New(nc).Greet(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1 << 20}))
	awaitReady(b, e)
	return nc, e
}

// fan makes n calls at once.
func (r *unaryRig) fan(ups []net.Conn, n int) {
	c := r.clients[0]
	r.out = appendFrame(r.out[:0], http2.FrameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, uint32(n*len(ups)*len(r.answer[1]))))
	r.ask(c, n)
	r.write(c.nc)
	for _, up := range ups {
		r.readEnds(up, n, http2.FrameData)
		r.reply(up)
	}
	r.readEnds(c.nc, n, http2.FrameHeaders)
}
