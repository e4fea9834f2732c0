// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/memnet"
)

// A tally is an owner that answers each stream itself, and counts them.
type tally struct {
	*owner
	conn  *Conn
	seen  atomic.Int64
	first chan *Stream // gets the first stream, which is not answered
}

func (o *tally) Headers(s *Stream, _ *Batch, _ Head) {
	if o.seen.Add(1) == 1 {
		o.first <- s
		return
	}
	o.conn.Answered()
}

// blocks returns n requests on further streams, all but the first with a field of the given length.
func blocks(n, length int) (out []byte) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := range n {
		block.Reset()
		for _, f := range requestFields {
			enc.WriteField(hpack.HeaderField{Name: f.Name, Value: f.Value}) //nolint:errcheck // into memory
		}
		if i > 0 && length > 0 {
			enc.WriteField(hpack.HeaderField{Name: "x", Value: string(bytes.Repeat([]byte{0xff}, length)), Sensitive: true}) //nolint:errcheck // into memory
		}
		out = append(out, rawFrame(frame.TypeHeaders, frame.FlagEndHeaders, uint32(2*i+1), block.Bytes())...)
	}
	return out
}

// A flood is a peer that sends as much as is taken of it.
type flood struct {
	conn    *Conn
	owner   *tally
	refused atomic.Int64
	peer    *memnet.Conn
	ended   chan error
}

// startFlood starts one whose connection is closed at the end of the test.
func startFlood(t *testing.T, cfg Config, acked bool, input []byte) *flood {
	x := &flood{owner: &tally{owner: newOwner(), first: make(chan *Stream, 1)}, ended: make(chan error, 1)}
	cfg.Patience, cfg.MaxControlFrames = 1<<30, 1<<30
	cfg.OnGlitch = func(kind string) {
		if kind == "refused_stream" {
			x.refused.Add(1)
		}
	}
	var nc *memnet.Conn
	x.peer, nc = memnet.Pipe(64 << 10)
	x.conn = New(nc, cfg, x.owner)
	x.owner.conn = x.conn
	go func() { x.ended <- x.conn.Serve() }() // ends with the connection
	out := frame.AppendSettings([]byte(frame.ClientPreface))
	if acked {
		out = frame.AppendSettingsAck(out)
	}
	out = append(out, input...)
	go x.peer.Write(out) //nolint:errcheck // ends when all is written or the connection is closed
	t.Cleanup(func() { x.peer.Close() })
	return x
}

// What serves no one is taken at its price: so much at once, and so much a second, whatever there is.
func TestPace(t *testing.T) {
	for _, tt := range []struct {
		name     string
		streams  uint32
		acked    bool
		length   int
		price    time.Duration
		discount time.Duration // that the first freelyRefused had
	}{
		{"above the limit, which it may not know", 1, false, 0, pricePersistent, freelyRefused * (pricePersistent - priceRefused)},
		{"above the limit that it acknowledged", 1, true, 0, pricePersistent, 0},
		{"header lists above their limit", 1 << 20, true, 8 << 10, priceTooLarge + priceAnswered + 8*priceTooLargeKiB, 0},
		{"answered at once", 1 << 20, true, 0, priceAnswered, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := int((2*time.Second + tt.discount) / tt.price)
				x := startFlood(t, Config{MaxConcurrentStreams: tt.streams, MaxHeaderBytes: 4 << 10}, tt.acked, blocks(n+2*maxTurn, tt.length))
				go io.Copy(io.Discard, x.peer) //nolint:errcheck // ends with the connection
				turn := maxTurn / (1 + tt.length/64)
				begin := time.Now()
				for range 5 {
					synctest.Wait()
					passed := time.Since(begin)
					got, least := int(x.refused.Load()+x.owner.seen.Load()), int((paceCredit+passed+tt.discount)/tt.price)
					if got < least-least/50 || got > least+turn+2 {
						t.Errorf("after %v: %d were taken, want %d and at most a turn of %d more", passed, got, least, turn)
					}
					time.Sleep(200 * time.Millisecond)
				}
				x.peer.Close()
				<-x.ended
			})
		})
	}
}

// While a peer waits for what it owes, what is under way on its connection goes on; and closing it does not wait.
func TestPaceHoldsNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := startFlood(t, Config{MaxConcurrentStreams: 1}, true, blocks(10_000, 0))
		s := <-x.owner.first
		synctest.Wait()
		begin := time.Now()
		go func() { // ends at once
			var b Batch
			s.Send(&b, []byte("response"), false)
			b.Flush()
		}()
		head, payload := make([]byte, frame.HeaderLen), make([]byte, frame.MinMaxFrameSize)
		for {
			if _, err := io.ReadFull(x.peer, head); err != nil {
				t.Fatal(err)
			}
			h := frame.ParseHeader(head)
			if _, err := io.ReadFull(x.peer, payload[:h.Length]); err != nil {
				t.Fatal(err)
			}
			if h.Type == frame.TypeData {
				break
			}
		}
		if d := time.Since(begin); d > 0 {
			t.Errorf("the response arrived after %v", d)
		}
		x.conn.Close()
		<-x.ended
		if d := time.Since(begin); d > paceStep {
			t.Errorf("the connection ended %v after Close, want at most %v", d, paceStep)
		}
	})
}

// Who calls waits for no server's debts: its connection is that of many callers.
func TestPaceOfServersOnly(t *testing.T) {
	c := New(&nowhere{}, Config{Client: true}, newOwner())
	c.oweTooLarge(1 << 20)
	if c.pace.owed != 0 {
		t.Errorf("a server owes %v", c.pace.owed)
	}
}
