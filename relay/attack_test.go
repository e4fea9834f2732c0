// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// An attack is a client that sends the units 0, 1, 2 ... one after the other as fast as
// it can, and the criterion of docs/limits.md that must hold.
type attack struct {
	name string

	// unit appends the octets of unit i.
	unit func(a *attacker, i int)

	// units is how many it sends at most.
	units int

	// mute attackers read nothing.
	mute bool

	// survives says that the relay need not end the connection.
	survives bool

	// opened bounds the streams that reach the backend; 0: no bound.
	opened int64

	// heap bounds the growth of the heap.
	heap int64

	// reason is what the connection's end must name; empty: anything.
	reason string
}

// attacker is the state of an attack under way.
type attacker struct {
	out   []byte
	block bytes.Buffer
	enc   *hpack.Encoder
	buf   []byte
}

// encode makes a.block a request's header block.
func (a *attacker) encode(more ...string) {
	a.block.Reset()
	fields := rawpeer.Request("/attack.Service/Method", more...)
	for i := 0; i < len(fields); i += 2 {
		a.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) //nolint:errcheck // into memory
	}
}

// headers appends a request's header block on stream id.
func (a *attacker) headers(id uint32, f frame.Flags, more ...string) {
	a.encode(more...)
	a.out = frame.AppendHeader(a.out, a.block.Len(), frame.TypeHeaders, f|frame.FlagEndHeaders, id)
	a.out = append(a.out, a.block.Bytes()...)
}

// badPath appends a request that the relay answers itself.
func (a *attacker) badPath(id uint32) {
	a.block.Reset()
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/bad"}, {"content-type", "application/grpc"}} {
		a.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) //nolint:errcheck // into memory
	}
	a.out = frame.AppendHeader(a.out, a.block.Len(), frame.TypeHeaders, frame.FlagEndStream|frame.FlagEndHeaders, id)
	a.out = append(a.out, a.block.Bytes()...)
}

func (a *attacker) data(id uint32, f frame.Flags, p []byte) {
	a.out = append(frame.AppendHeader(a.out, len(p), frame.TypeData, f, id), p...)
}

// streamID is the identifier of a client's stream i.
func streamID(i int) uint32 { return uint32(2*i + 1) }

// many is the number of units of an attack: less under the race detector, which makes
// everything ten times slower, and in short tests.
func many(n int) int {
	if raceEnabled || testing.Short() {
		return n / 20
	}
	return n
}

// resets are attacks that have the backend start work in vain: rapid reset (CVE-2023-44487), and
// having the relay reset the streams by breaking a rule (MadeYouReset, CVE-2025-8671).
func resets() []attack {
	reset := func(name string, then func(a *attacker, id uint32)) attack {
		return attack{
			name: name, units: many(200_000), opened: 2 * 100, heap: 16 << 20, reason: "reset_flood",
			unit: func(a *attacker, i int) { then(a, streamID(i)) },
		}
	}
	return []attack{
		reset("rapid reset", func(a *attacker, id uint32) {
			a.headers(id, frame.FlagEndStream)
			a.out = frame.AppendRST(a.out, id, frame.Cancel)
		}),
		reset("rapid reset, later", func(a *attacker, id uint32) {
			a.headers(id, 0)
			if id > 100 {
				a.out = frame.AppendRST(a.out, id-100, frame.Cancel) // its call has begun by now
			}
		}),
		reset("rapid reset, as late as can be", func(a *attacker, id uint32) {
			if id > 200 {
				a.out = frame.AppendRST(a.out, id-200, frame.Cancel) // a hundred are open
			}
			a.headers(id, 0)
		}),
		reset("WINDOW_UPDATE of 0", func(a *attacker, id uint32) {
			a.headers(id, 0)
			a.out = frame.AppendWindowUpdate(a.out, id, 0)
		}),
		reset("WINDOW_UPDATE beyond the maximum", func(a *attacker, id uint32) {
			a.headers(id, 0)
			a.out = frame.AppendWindowUpdate(a.out, id, 1<<31-1)
			a.out = frame.AppendWindowUpdate(a.out, id, 1)
		}),
		reset("DATA after END_STREAM", func(a *attacker, id uint32) {
			a.headers(id, frame.FlagEndStream)
			a.data(id, 0, []byte("x"))
		}),
		reset("DATA against content-length", func(a *attacker, id uint32) {
			a.headers(id, 0, "content-length", "1")
			a.data(id, 0, []byte("xx"))
		}),
		reset("PRIORITY on itself", func(a *attacker, id uint32) {
			a.headers(id, 0)
			a.out = frame.AppendHeader(a.out, 5, frame.TypePriority, 0, id)
			a.out = append(a.out, byte(id>>24), byte(id>>16), byte(id>>8), byte(id), 0)
		}),
	}
}

// floods are a million useless frames of a client that does not read (CVE-2019-9511 to 9518).
func floods() []attack {
	flood := func(name, reason string, first func(a *attacker), unit func(a *attacker)) attack {
		return attack{
			name: name, units: many(1_000_000), mute: true, heap: 8 << 20, reason: reason,
			unit: func(a *attacker, i int) {
				if i == 0 && first != nil {
					first(a)
				}
				unit(a)
			},
		}
	}
	open := func(a *attacker) { a.headers(1, 0) }
	return []attack{
		flood("PING flood", "", nil, func(a *attacker) { a.out = frame.AppendPing(a.out, false, [8]byte{}) }),
		flood("SETTINGS flood", "settings_flood", nil, func(a *attacker) { a.out = frame.AppendSettings(a.out) }),
		flood("empty DATA flood", "empty_data_flood", open, func(a *attacker) { a.data(1, 0, nil) }),
		flood("PRIORITY flood", "priority_flood", nil, func(a *attacker) {
			a.out = append(frame.AppendHeader(a.out, 5, frame.TypePriority, 0, 3), 0, 0, 0, 0, 0)
		}),
		flood("WINDOW_UPDATE flood", "window_update_flood", nil, func(a *attacker) { a.out = frame.AppendWindowUpdate(a.out, 0, 1) }),
		flood("RST_STREAM flood", "", func(a *attacker) {
			a.headers(1, frame.FlagEndStream)
			a.out = frame.AppendRST(a.out, 1, frame.Cancel)
		}, func(a *attacker) { a.out = frame.AppendRST(a.out, 1, frame.Cancel) }),
		flood("unknown frame flood", "unknown_frame_flood", nil, func(a *attacker) { a.out = frame.AppendHeader(a.out, 0, 0xee, 0, 0) }),
	}
}

// headerAttacks cost memory or time of the decoder.
func headerAttacks() []attack {
	return []attack{
		{
			name: "answers nobody reads", units: 300_000, mute: true, heap: 32 << 20, reason: "control_flood",
			unit: func(a *attacker, i int) { a.badPath(streamID(i)) },
		},
		{
			name: "CONTINUATION flood (CVE-2024-27316)", units: many(100_000), heap: 4 << 20, reason: "continuation_flood",
			unit: func(a *attacker, i int) {
				if a.buf == nil { // a literal whose octets are as slow to decode as they get
					a.buf = bytes.Repeat([]byte{0xff, 0xff, 0xff, 0xea}, 4<<10)
				}
				t := frame.TypeContinuation
				if i == 0 {
					t = frame.TypeHeaders
				}
				a.out = append(frame.AppendHeader(a.out, len(a.buf), t, 0, 1), a.buf...)
			},
		},
		{
			// One field of 4 KiB goes into the table; then each octet of a block stands for it.
			name: "header bomb (CVE-2016-6581)", units: 100, survives: true, heap: 32 << 20,
			unit: func(a *attacker, i int) {
				a.encode("bomb", strings.Repeat("x", 3900))
				a.block.Write(bytes.Repeat([]byte{0x80 | 62}, 16<<10-a.block.Len()))
				a.out = frame.AppendHeader(a.out, a.block.Len(), frame.TypeHeaders, frame.FlagEndStream|frame.FlagEndHeaders, streamID(i))
				a.out = append(a.out, a.block.Bytes()...)
			},
		},
	}
}

func TestAttacks(t *testing.T) {
	for _, group := range [][]attack{resets(), floods(), headerAttacks()} {
		for _, a := range group {
			t.Run(a.name, a.run)
		}
	}
}

// victim is a relay with a backend that counts its calls, and another client who goes on calling.
type victim struct {
	*rig
	started atomic.Int64 // calls of attackers at the backend
	ends    chan error   // of clients' connections
}

func newVictim(t *testing.T, configure func(*relay.Server)) *victim {
	v := &victim{ends: make(chan error, 100)}
	addr := serve(t, func(srv any, st grpc.ServerStream) error {
		if m, _ := grpc.MethodFromServerStream(st); strings.HasPrefix(m, "/attack.") {
			v.started.Add(1)
			<-st.Context().Done()
			return nil
		}
		return echo(srv, st)
	})
	v.rig = start(t, rigConfig{server: func(s *relay.Server) {
		s.Hooks.ConnClosed = func(_ net.Addr, err error) { v.ends <- err }
		if configure != nil {
			configure(s)
		}
	}}, addr)
	return v
}

// bystander makes calls until stop, and then says how long the slowest hundredth of them took at least.
func (v *victim) bystander(t *testing.T) (stop func() (calls int, p99 time.Duration)) {
	cc := dial(t, v.addr)
	if _, err := unary(within(t), cc, "/good.Service/Method", "hello"); err != nil {
		t.Fatal(err)
	}
	var times []time.Duration
	done, quit := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
			}
			begin := time.Now()
			if s, err := unary(t.Context(), cc, "/good.Service/Method", "hello"); err != nil || s != "hello" {
				t.Errorf("another client's call: %q, %v", s, err)
				return
			}
			times = append(times, time.Since(begin))
		}
	}()
	return func() (int, time.Duration) {
		close(quit)
		<-done
		return len(times), percentile(times, 99)
	}
}

func (a attack) run(t *testing.T) {
	v := newVictim(t, nil)
	idle := v.calm(t)
	stop := v.bystander(t)
	before, cpu := liveHeap(), cpuTime()
	begin := time.Now()
	nc, sent, closed := a.play(t, v)
	took, spent := time.Since(begin), cpuTime()-cpu
	grown := liveHeap() - before
	calls, p99 := stop()
	nc.Close()

	t.Logf("%d units; closed %v after %v; %v of CPU for all of the test (%v a unit); heap grew by %d KiB; %d streams at the backend; "+
		"p99 of %d other calls %v, idle %v", sent, closed, took.Round(time.Millisecond), spent.Round(time.Millisecond),
		(spent / time.Duration(max(sent, 1))).Round(10*time.Nanosecond), grown>>10, v.started.Load(), calls, p99.Round(time.Microsecond), idle.Round(time.Microsecond))
	if !closed && !a.survives {
		t.Errorf("the connection outlived %d units", sent)
	}
	if grown > a.heap {
		t.Errorf("heap grew by %d octets, want at most %d", grown, a.heap)
	}
	if n := v.started.Load(); a.opened > 0 && n > a.opened {
		t.Errorf("%d streams reached the backend, want at most %d", n, a.opened)
	}
	if a.reason != "" {
		v.endedBy(t, a.reason)
	}
	if a.survives && closed {
		t.Errorf("the connection ended with %v", wait(t, v.ends, "its end"))
	}
}

// endedBy waits for a connection's end that names the reason.
func (v *victim) endedBy(t *testing.T, reason string) {
	t.Helper()
	var ferr *frame.Error
	err := wait(t, v.ends, "the end of the connection")
	if !errors.As(err, &ferr) || ferr.Reason != reason {
		t.Errorf("the connection ended with %v, want reason %s", err, reason)
	}
}

// calm measures the p99 of calls while nothing happens.
func (v *victim) calm(t *testing.T) time.Duration {
	cc := dial(t, v.addr)
	defer func() {
		cc.Close()
		wait(t, v.ends, "the end of a quiet connection")
	}()
	var times []time.Duration
	for range 200 {
		begin := time.Now()
		if _, err := unary(within(t), cc, "/good.Service/Method", "hello"); err != nil {
			t.Fatal(err)
		}
		times = append(times, time.Since(begin))
	}
	return percentile(times, 99)
}

// play sends the units until there are no more or the connection ends.
func (a attack) play(t *testing.T, v *victim) (nc net.Conn, sent int, closed bool) {
	nc, err := net.Dial("tcp", v.addr)
	check(t, err)
	check(t, nc.SetDeadline(time.Now().Add(2*patience)))
	if a.mute {
		check(t, nc.(*net.TCPConn).SetReadBuffer(4<<10)) // what it does not read shall not lie in its kernel
	}
	x := &attacker{}
	x.enc = hpack.NewEncoder(&x.block)
	x.out = frame.AppendSettings(append(x.out, http2.ClientPreface...),
		frame.Setting{ID: frame.SettingInitialWindowSize, Value: 0}, frame.Setting{ID: frame.SettingHeaderTableSize, Value: 0})
	var reader sync.WaitGroup
	gone := make(chan struct{})
	if !a.mute {
		reader.Go(func() { // ends with the connection
			defer close(gone)
			io.Copy(io.Discard, nc) //nolint:errcheck // its end is what counts
		})
	}
	for sent < a.units {
		a.unit(x, sent)
		sent++
		if len(x.out) < 16<<10 && sent < a.units {
			continue
		}
		if _, err := nc.Write(x.out); err != nil {
			return nc, sent, true
		}
		x.out = x.out[:0]
	}
	if a.survives {
		x.out = frame.AppendPing(x.out[:0], false, [8]byte{}) // answered after all that came before
		nc.Write(x.out)                                       //nolint:errcheck // closed, then
		return nc, sent, false
	}
	if a.mute {
		io.Copy(io.Discard, nc) //nolint:errcheck // its end is what counts
		return nc, sent, true
	}
	wait(t, gone, "the end of the attacker's connection")
	return nc, sent, true
}

// liveHeap returns the octets that live objects take.
func liveHeap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func percentile(times []time.Duration, p int) time.Duration {
	if len(times) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(times))
	return s[min(len(s)-1, len(s)*p/100)]
}
