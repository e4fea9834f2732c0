// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package h2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/manifold-grpc/manifold/internal/evloop"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// sharedPair runs two ends that share a reader, and returns them when it reads both.
func sharedPair(t *testing.T, cfg Config) (client, server *Conn, k *caller, endClient, endServer func() error) {
	t.Helper()
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("with one processor nothing is shared")
	}
	a, b := sockets(t, "tcp")
	k = &caller{owner: *newOwner(), got: map[*Stream]*bytes.Buffer{}, t: t}
	cfg.ShareReader = true
	server = New(b, cfg, newEchoServer())
	cfg.Client = true
	client = New(a, cfg, k)
	endClient, endServer = serve(client), serve(server)
	echoed(t, client, k, 10)
	more := func() { echoed(t, client, k, 10) }
	untilShared(t, client, more)
	untilShared(t, server, more)
	return client, server, k, endClient, endServer
}

// patiently has the loop read whatever it is given for as long as the test lasts.
func patiently(t *testing.T) {
	t.Helper()
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("with one processor nothing is shared")
	}
	evloop.SetPatient(true)
	t.Cleanup(func() { evloop.SetPatient(false) })
}

// untilShared waits until the loop reads c. A connection that is just being written to when its input is worked through
// waits for the next by itself: something has it get more.
func untilShared(t *testing.T, c *Conn, something func()) {
	t.Helper()
	for end, last := time.Now().Add(30*time.Second), time.Now(); c.t.sock.Polled(); runtime.Gosched() {
		now := time.Now()
		if now.After(end) {
			t.Fatal("the connection is read by its own goroutine")
		}
		if now.Sub(last) > 20*time.Millisecond {
			last = now
			something()
		}
	}
}

// echoed sends octets and gets them back.
func echoed(t *testing.T, c *Conn, k *caller, size int) {
	t.Helper()
	sent := call(t, c, k, 1, size)
	k.left.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	for s, p := range sent {
		if !bytes.Equal(k.got[s].Bytes(), p) {
			t.Errorf("other octets came back")
		}
	}
}

// A connection that shares its reader ends as any other, whoever ends it.
func TestSharedEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		end            func(client, server *Conn)
		client, server error // nil: any, as who closes with octets unread resets the connection
	}{
		"client closes": {func(client, _ *Conn) { client.Close() }, ErrClosed, nil},
		"server closes": {func(_, server *Conn) { server.Close() }, nil, ErrClosed},
		"server drains": {func(_, server *Conn) {
			var b Batch
			server.Drain(&b)
			b.Flush()
		}, nil, errDrained},
	} {
		t.Run(name, func(t *testing.T) {
			client, server, _, endClient, endServer := sharedPair(t, Config{})
			tt.end(client, server)
			if err := endServer(); err == nil || tt.server != nil && !errors.Is(err, tt.server) {
				t.Errorf("the server ended with %v, want %v", err, tt.server)
			}
			if err := endClient(); err == nil || tt.client != nil && !errors.Is(err, tt.client) {
				t.Errorf("the client ended with %v, want %v", err, tt.client)
			}
		})
	}
}

// A peer that breaks a rule of a shared connection hears of it, and the connection ends.
func TestSharedBreaksRule(t *testing.T) {
	client, _, _, endClient, endServer := sharedPair(t, Config{})
	client.mu.Lock()
	client.put(frame.AppendWindowUpdate(client.buffer(), 0, 0))
	client.mu.Unlock()
	var b Batch
	client.flush(&b)
	b.Flush()
	var ferr *frame.Error
	if err := endServer(); !errors.As(err, &ferr) || ferr.Code != frame.ProtocolError {
		t.Errorf("the server ended with %v", err)
	}
	if err := endClient(); err == nil {
		t.Error("the client ended without a reason")
	}
}

// What a peer that reads nothing is sent waits, with a goroutine that Go's poller wakes; when it reads, everything arrives, and the
// connection is read by the loop again.
func TestSharedBlockedWrite(t *testing.T) {
	const size = 16 << 20
	patiently(t)
	a, b := sockets(t, "tcp")
	k := &caller{owner: *newOwner(), got: map[*Stream]*bytes.Buffer{}, t: t}
	client := New(a, Config{Client: true, ShareReader: true}, k)
	ended := serve(client)
	b.SetDeadline(time.Now().Add(30 * time.Second))
	b.Write(frame.AppendWindowUpdate(frame.AppendSettings(nil, frame.Setting{ID: frame.SettingInitialWindowSize, Value: size}), 0, size))
	ping := func() { b.Write(frame.AppendPing(nil, false, [8]byte{})) }
	untilShared(t, client, ping)
	k.left.Add(1)
	var s Stream
	k.got[&s] = &bytes.Buffer{}
	var batch Batch
	if err := client.Open(&batch, &s, own(requestFields), false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Send(&batch, make([]byte, size), true); err != nil {
		t.Fatal(err)
	}
	batch.Flush()
	for end, waits := time.Now().Add(30*time.Second), false; !waits; runtime.Gosched() {
		client.mu.Lock()
		waits = !client.blocked.IsZero()
		client.mu.Unlock()
		if time.Now().After(end) {
			t.Fatal("no write waits although nobody reads")
		}
	}
	ping() // which it reads, and so finds that Go's poller knows the socket
	framer := http2.NewFramer(b, b)
	if _, err := io.ReadFull(b, make([]byte, len(frame.ClientPreface))); err != nil {
		t.Fatal(err)
	}
	for got := 0; got < size; {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("after %d octets: %v", got, err)
		}
		if d, ok := f.(*http2.DataFrame); ok {
			got += len(d.Data())
		}
	}
	w := newFrameWriter()
	b.Write(w.line("HEADERS 1 end response"))
	k.left.Wait()
	untilShared(t, client, ping)
	b.Close()
	if err := ended(); err == nil {
		t.Error("the connection ended without a reason")
	}
}

// A connection whose input fills the read buffer is read by its own goroutine, though it has nothing to write that would wait.
func TestSharedBulk(t *testing.T) {
	const streams, size = 14, 4 * 15_000
	patiently(t)
	a, b := sockets(t, "tcp")
	k := &caller{owner: *newOwner(), got: map[*Stream]*bytes.Buffer{}, t: t}
	client := New(a, Config{Client: true, ShareReader: true}, k)
	ended := serve(client)
	b.SetDeadline(time.Now().Add(30 * time.Second))
	b.Write(frame.AppendSettings(nil))
	untilShared(t, client, func() { b.Write(frame.AppendPing(nil, false, [8]byte{})) })
	call(t, client, k, streams, 1)
	w := newFrameWriter()
	var answers []byte
	for id := uint32(1); id < 2*streams; id += 2 {
		answers = append(answers, w.line(fmt.Sprintf("HEADERS %d response", id))...)
		for left := size; left > 0; left -= 15_000 {
			var end frame.Flags
			if left == 15_000 {
				end = frame.FlagEndStream
			}
			answers = append(frame.AppendHeader(answers, 15_000, frame.TypeData, end, id), make([]byte, 15_000)...)
		}
	}
	b.Write(answers)
	k.left.Wait()
	b.Close()
	if err := ended(); err == nil {
		t.Error("the connection ended without a reason")
	}
	if client.shared.until.IsZero() {
		t.Error("the loop has read it to its end")
	}
}
