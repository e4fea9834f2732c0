// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/manifold-grpc/manifold/bench/peers/backend"
	"github.com/manifold-grpc/manifold/bench/peers/wire"
)

// client is one connection with its calls. It is for one goroutine at a time.
type client struct {
	plan    Plan
	request *wire.Template
	conn    *wire.Conn
	nextID  uint64 // of the next call

	// Of the run under way.
	end     time.Duration // by conn.Now, when no further call begins
	active  int           // calls under way that are not held
	calls   int           // that have ended well
	latency histogram
}

var _ wire.Side = (*client)(nil)

// call is one call under way.
type call struct {
	id       uint64
	start    time.Duration // by conn.Now
	messages int           // that came
	ended    bool          // its trailers came
}

func newClient(p Plan, number uint64) *client {
	// The fields, and their order, are those of grpc-go.
	scheme := "http"
	if p.CA != "" {
		scheme = "https"
	}
	return &client{
		plan:   p,
		nextID: number << 32, // so that no two connections have a call of the same number
		request: wire.NewTemplate(":method", "POST", ":scheme", scheme, ":path", p.Call.path(), ":authority", "localhost",
			"content-type", "application/grpc", "user-agent", "grpc-go/1.85.0", "te", "trailers"),
	}
}

// run keeps calls going for d, and waits for the last one. Each stream has at least one
// call, or as many as are held already.
func (c *client) run(d time.Duration) (calls int, err error) {
	c.conn.Tick()
	c.end, c.active, c.calls, c.latency = c.conn.Now()+d, 0, 0, histogram{}
	if err := c.conn.SetDeadline(time.Now().Add(d + patience)); err != nil {
		return 0, err
	}
	if err := c.fill(); err != nil {
		return 0, err
	}
	err = c.conn.Serve(func() bool { return c.active == 0 })
	return c.calls, err
}

// fill begins a call on each stream.
func (c *client) fill() error {
	for range c.plan.Streams {
		if err := c.start(c.conn.Now()); err != nil {
			return err
		}
		if err := c.conn.FlushJoined(); err != nil {
			return err
		}
	}
	return nil
}

// start begins a call whose time counts from since, by conn.Now.
func (c *client) start(since time.Duration) error {
	var timeout hpack.HeaderField
	if c.plan.Call.Timeouts {
		timeout = hpack.HeaderField{Name: "grpc-timeout", Value: timeoutOf(c.nextID)}
	}
	s := c.conn.Open(c.request, timeout)
	k, ok := s.User.(*call)
	if !ok {
		k = new(call)
		s.User = k
	}
	*k = call{id: c.nextID, start: since}
	c.nextID++
	c.active++
	return c.send(s, k)
}

// timeoutOf returns a grpc-timeout that differs from those of the 9 million calls
// before it: 10 to 100 seconds.
func timeoutOf(call uint64) string {
	return strconv.FormatUint(10_000_000+call*7_919%89_999_999, 10) + "u"
}

// send sends the next message of a call.
func (c *client) send(s *wire.Stream, k *call) error {
	want := c.plan.Call
	h := wire.Head{Call: k.id, Seq: uint32(k.messages), Want: uint32(want.Pull)}
	if k.messages == want.Trips-1 && !want.Hold {
		return s.SendLast(h, want.Size, 1)
	}
	return s.Send(h, want.Size, 1)
}

// Block checks a response's headers, then its trailers.
func (c *client) Block(s *wire.Stream, b *wire.Block, end bool) error {
	k := s.User.(*call)
	kind, ok := b.Verdict.(*verdict)
	if !ok {
		kind = judge(b)
		b.Verdict = kind
	}
	switch {
	case s.Blocks() == 1 && kind.headers == nil && !end && k.messages == 0:
		return nil
	case s.Blocks() == 1:
		return fmt.Errorf("no response's headers: %w", errors.Join(kind.headers, status(b)))
	case kind.trailers != nil:
		return fmt.Errorf("no response's trailers: %w", errors.Join(kind.trailers, status(b)))
	case !end:
		return errors.New("trailers without the stream's end")
	}
	k.ended = true
	return nil
}

// verdict says what a header block is not; one of the two is nil for a good one.
type verdict struct{ headers, trailers error }

func judge(b *wire.Block) *verdict {
	return &verdict{lacks(b, backend.Headers[:]), lacks(b, backend.Trailers[:])}
}

// lacks names a field that b does not have as it should.
func lacks(b *wire.Block, fields []string) error {
	for i := 0; i < len(fields); i += 2 {
		if got := b.Get(fields[i]); got != fields[i+1] {
			return fmt.Errorf("%s is %q, expected %q", fields[i], got, fields[i+1])
		}
	}
	return nil
}

// status is the failure that a header block tells of.
func status(b *wire.Block) error {
	return fmt.Errorf("HTTP status %q, gRPC status %q %q", b.Get(":status"), b.Get("grpc-status"), b.Get("grpc-message"))
}

// Message checks a message, of which the octets after its head are known to be good.
func (c *client) Message(s *wire.Stream, h wire.Head, size int) error {
	k, want := s.User.(*call), c.plan.Call
	sent := wire.Head{Call: k.id, Seq: uint32(k.messages), Want: uint32(want.Pull)}
	if h != sent || size != want.Size || s.Blocks() != 1 || k.messages >= want.answers() {
		return fmt.Errorf("message %+v of %d octets after %d header blocks and %d messages, expected %+v of %d octets and %d messages in all",
			h, size, s.Blocks(), k.messages, sent, want.Size, want.answers())
	}
	k.messages++
	if want.Hold {
		c.active--
		return nil
	}
	if k.messages < want.Trips {
		return c.send(s, k)
	}
	return nil
}

// End counts a call, and starts another unless the time is over.
func (c *client) End(s *wire.Stream) error {
	k := s.User.(*call)
	if want := c.plan.Call.answers(); !k.ended || k.messages != want || c.plan.Call.Hold {
		return fmt.Errorf("call ended after %d messages, expected %d and trailers", k.messages, want)
	}
	c.calls++
	c.active--
	c.latency.record(c.conn.Now() - k.start)
	if c.conn.Now() >= c.end {
		return nil
	}
	return c.start(c.conn.Now())
}
