// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/memnet"
)

// Who goes on after it was cut off is hardly read any more, and is not rid of its connection before lingerTime.
func TestLingerTakesLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const room = 1 << 20 // of what a socket holds
		peer, nc := memnet.Pipe(room)
		c := New(nc, Config{Patience: 10}, newOwner())
		ended := make(chan error, 1)
		go func() { ended <- c.Serve() }() // ends when the connection does
		go io.Copy(io.Discard, peer)       //nolint:errcheck // ends with the connection
		if _, err := peer.Write([]byte(frame.ClientPreface)); err != nil {
			t.Fatal(err)
		}
		flood := frame.AppendSettings(nil)
		for range 1000 {
			flood = frame.AppendPing(flood, false, [8]byte{})
		}
		begin, taken := time.Now(), 0
		for {
			n, err := peer.Write(flood)
			if taken += n; err != nil {
				break
			}
		}
		if err := <-ended; err == nil {
			t.Error("no error of a flood")
		}
		if d := time.Since(begin); d != lingerTime {
			t.Errorf("it ended after %v, want %v", d, lingerTime)
		}
		// The first read, one after each of the pauses, and what the socket holds.
		if most := room + len(flood) + 14*bulkLen; taken > most {
			t.Errorf("%d octets were taken, want at most %d", taken, most)
		}
	})
}

// Who closes when it is told to is not waited for.
func TestLingerEndsWithThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, nc := memnet.Pipe(1 << 20)
		c := New(nc, Config{Patience: 10}, newOwner())
		ended := make(chan error, 1)
		go func() { ended <- c.Serve() }() // ends when the connection does
		out := frame.AppendSettings([]byte(frame.ClientPreface))
		for range 1000 {
			out = frame.AppendPing(out, false, [8]byte{})
		}
		if _, err := peer.Write(out); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		got, err := io.ReadAll(peer) // up to the end that follows GOAWAY
		if err != nil || len(got) == 0 {
			t.Fatalf("%d octets, %v", len(got), err)
		}
		peer.Close() //nolint:errcheck // over either way
		<-ended
		if d := time.Since(begin); d > lingerPause/100 {
			t.Errorf("it ended after %v, want after the first pause at the latest", d)
		}
	})
}
