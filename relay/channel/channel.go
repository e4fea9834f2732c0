// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/relay"
)

// A Channel makes calls to the endpoints of a backend. Its fields must not change once it is in use; its methods
// are safe for concurrent use. It owns nothing: who made the endpoints closes them, and then calls end with UNAVAILABLE.
type Channel struct {
	// Backend chooses an endpoint for each call. Its Retry is not asked. nil: each call fails with UNAVAILABLE.
	Backend *relay.Backend

	// Authority is the :authority of calls that do not set their own by [grpc.CallAuthority]. Empty: that of the
	// endpoint's configuration, or else its address.
	Authority string

	// UserAgent goes before the channel's own name in user-agent.
	UserAgent string

	// Options are put before those of each call, as [grpc.WithDefaultCallOptions] does.
	Options []grpc.CallOption
}

var _ grpc.ClientConnInterface = (*Channel)(nil)

// New returns a channel over endpoints, each call to the next one in turn that is ready.
func New(endpoints ...*relay.Endpoint) *Channel {
	names := make([]string, len(endpoints))
	for i, e := range endpoints {
		names[i] = e.Addr()
	}
	return &Channel{Backend: &relay.Backend{Name: strings.Join(names, ","), Endpoints: endpoints}}
}

// Target returns the name of the backend, for messages.
func (c *Channel) Target() string {
	if c.Backend == nil {
		return ""
	}
	return c.Backend.Name
}

// Prompt reports that opening a stream, and sending a first message of up to 64 KiB on it, waits for nothing while the
// channel is ready and its connections have a stream to spare. Package proxy uses it to fan out in one goroutine.
func (c *Channel) Prompt() bool { return true }

// GetState returns the state of the best endpoint. A backend that chooses by itself (Choose) counts as ready.
func (c *Channel) GetState() connectivity.State {
	if c.Backend == nil {
		return connectivity.Shutdown
	}
	if c.Backend.Choose != nil {
		return connectivity.Ready
	}
	state := connectivity.Shutdown
	for _, e := range c.Backend.Endpoints {
		switch e.State() {
		case relay.Ready:
			return connectivity.Ready
		case relay.Connecting, relay.Silent:
			state = connectivity.Connecting
		case relay.Failing:
			if state == connectivity.Shutdown {
				state = connectivity.TransientFailure
			}
		}
	}
	return state
}

// Invoke makes a unary call and returns when its answer is in reply. The error is a gRPC status.
func (c *Channel) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	s, err := c.newStream(ctx, unaryDesc, method, opts)
	if err != nil {
		return err
	}
	if err := s.SendMsg(args); err != nil {
		return err
	}
	return s.RecvMsg(reply)
}

var unaryDesc = &grpc.StreamDesc{}

// NewStream begins a call. As with a *grpc.ClientConn: it waits for a connection, unless every endpoint is known to be
// down; the stream's resources are held until ctx ends or RecvMsg returns an error; one goroutine may send
// while another receives.
func (c *Channel) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := c.newStream(ctx, desc, method, opts)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (c *Channel) newStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts []grpc.CallOption) (*stream, error) {
	s := &stream{ctx: ctx, clientStreams: desc.ClientStreams, serverStreams: desc.ServerStreams}
	if err := s.prepare(c, method, opts); err != nil {
		s.info.finished(err)
		return nil, err
	}
	if err := s.begin(c); err != nil {
		s.finish(err, false)
		return nil, err
	}
	return s, nil
}

// prepare reads what the call asks for. The error is a status.
func (s *stream) prepare(c *Channel, method string, opts []grpc.CallOption) error {
	if c.Backend == nil {
		return status.Error(codes.Unavailable, "channel: no backend")
	}
	if err := s.info.apply(c.Options); err != nil {
		return err
	}
	if err := s.info.apply(opts); err != nil {
		return err
	}
	if err := s.info.complete(); err != nil {
		return err
	}
	if err := s.ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	s.authority = s.info.authority
	if s.authority == "" {
		s.authority = c.Authority
	}
	s.userAgent = userAgent
	if c.UserAgent != "" {
		s.userAgent = c.UserAgent + " " + userAgent
	}
	s.method = method
	s.init()
	s.origin.Backend, s.origin.Events = c.Backend, s
	s.origin.Path, s.origin.Authority = method, s.authority
	return s.outgoing(c)
}

// begin opens the stream, or leaves it to the first message where that is the only one and nothing is to wait for: then
// both go in one write.
func (s *stream) begin(c *Channel) error {
	if s.ctx.Done() != nil {
		s.stop = context.AfterFunc(s.ctx, s.expire)
	}
	if !s.clientStreams && !s.info.wait && c.GetState() == connectivity.Ready {
		return nil
	}
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := s.openNow()
		if err == nil || !s.info.wait || !s.refused {
			return err
		}
		if err := s.pause(pause); err != nil {
			return err
		}
	}
}

// A call that waits for a ready endpoint looks for one after pauses that grow from minPause to maxPause.
const (
	minPause = 5 * time.Millisecond
	maxPause = 250 * time.Millisecond
)

// pause waits, or returns the status of a call whose context ends before.
func (s *stream) pause(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return s.restart()
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

// userAgent is the channel's name.
const userAgent = "grpc-manifold/1"
