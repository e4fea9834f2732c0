// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/relay"
)

// A call that the relay answers itself costs nearly no memory, whether it or the Route function refuses it: not for good, for
// the heap does not grow, nor for a while, for its memory is used again.
func TestRefusedCallsCostNoMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has sync.Pool lose what it holds")
	}
	denied := status.New(codes.PermissionDenied, "no")
	r := start(t, rigConfig{server: func(s *relay.Server) {
		s.Route = func(c *relay.Call) { c.Reject(denied, "") }
	}}, serve(t, echo))
	tests := []struct {
		name string
		unit func(a *attacker, id uint32)
		most float64 // allocations per call
	}{
		{"malformed path", (*attacker).badPath, 0.5},
		{"rejected", func(a *attacker, id uint32) { a.headers(id, frame.FlagEndStream) }, 1.5}, // the code's text
		{"rejected with a deadline", func(a *attacker, id uint32) { a.headers(id, frame.FlagEndStream, "grpc-timeout", "1H") }, 1.6},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			objects, octets := refusedCalls(t, r.addr, many(100_000), tt.unit)
			t.Logf("%.2f allocations and %.0f octets a call", objects, octets)
			if objects > tt.most || octets > 400 {
				t.Errorf("%.2f allocations and %.0f octets for each refused call, want at most %.1f and 400", objects, octets, tt.most)
			}
		})
	}
}

// refusedCalls has a client make n calls as fast as it can, and returns what was allocated for each: objects and octets.
func refusedCalls(t *testing.T, addr string, n int, unit func(a *attacker, id uint32)) (objects, octets float64) {
	nc, err := net.Dial("tcp", addr)
	check(t, err)
	defer nc.Close()
	check(t, nc.SetDeadline(time.Now().Add(2*patience)))
	a := &attacker{}
	a.enc = hpack.NewEncoder(&a.block)
	a.out = frame.AppendSettings(append(a.out, http2.ClientPreface...))
	for i := range n {
		unit(a, streamID(i))
	}
	a.out = frame.AppendPing(a.out, false, [8]byte{}) // answered after all that came before
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sent := make(chan error, 1)
	go func() { // ends when all is written or the connection ends
		_, err := nc.Write(a.out)
		sent <- err
	}()
	if got := answeredUntilPong(t, nc); got != n {
		t.Fatalf("%d calls were answered, want %d", got, n)
	}
	runtime.ReadMemStats(&after)
	check(t, <-sent)
	return float64(after.Mallocs-before.Mallocs) / float64(n), float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
}

// answeredUntilPong counts header blocks with END_STREAM until the answer to a PING.
func answeredUntilPong(t *testing.T, nc net.Conn) (n int) {
	t.Helper()
	head, payload := make([]byte, frame.HeaderLen), make([]byte, frame.MinMaxFrameSize)
	for {
		_, err := io.ReadFull(nc, head)
		check(t, err)
		h := frame.ParseHeader(head)
		_, err = io.ReadFull(nc, payload[:h.Length])
		check(t, err)
		switch {
		case h.Type == frame.TypePing && h.Flags.Has(frame.FlagAck):
			return n
		case h.Type == frame.TypeHeaders && h.Flags.Has(frame.FlagEndStream):
			n++
		}
	}
}
