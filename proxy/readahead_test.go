// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
)

// countingPool counts the buffers that are in use.
type countingPool struct{ inUse atomic.Int64 }

func (p *countingPool) Get(n int) *[]byte {
	p.inUse.Add(1)

	b := make([]byte, n)

	return &b
}

func (p *countingPool) Put(*[]byte) { p.inUse.Add(-1) }

// padded makes a message so long that its buffer comes from a pool.
func padded(text string) string { return text + strings.Repeat(" ", 4096) }

// scripted is the stream of a caller whose requests come at moments that a test says, and at the same time the channel and
// the stream to the backend. Writing its status ends it.
type scripted struct {
	grpc.ClientConnInterface

	ctx      context.Context
	requests []string
	waitAt   int   // before this request, or the end, the caller waits until the upstream stream is being opened
	end      error // of the requests
	refuse   error // what opening ends with
	endAt    int   // the backend ends the call at this request with Aborted; -1: with OK after the half-close
	lateEnd  bool  // the requests end when the backend's status is known, and before anybody can look at them
	pool     countingPool
	next     int

	opened, ended, over, told          chan struct{}
	openOnce, endOnce, overOnce, tells sync.Once

	mu     sync.Mutex
	sent   []string
	closed int
}

func newScripted(requests int) *scripted {
	s := &scripted{
		waitAt: -1, end: io.EOF, endAt: -1,
		opened: make(chan struct{}), ended: make(chan struct{}), over: make(chan struct{}), told: make(chan struct{}),
	}
	s.ctx = grpc.NewContextWithServerTransportStream(context.Background(), scriptedTransport{s})

	for i := range requests {
		s.requests = append(s.requests, padded(fmt.Sprint("request ", i)))
	}

	return s
}

type scriptedTransport struct{ s *scripted }

func (scriptedTransport) Method() string               { return streamMethod }
func (scriptedTransport) SetHeader(metadata.MD) error  { return nil }
func (scriptedTransport) SendHeader(metadata.MD) error { return nil }
func (scriptedTransport) SetTrailer(metadata.MD) error { return nil }

func (t scriptedTransport) WriteStatus(*status.Status) error {
	t.s.endOnce.Do(func() { close(t.s.ended) })

	return nil
}

func (s *scripted) SetHeader(metadata.MD) error  { return nil }
func (s *scripted) SendHeader(metadata.MD) error { return nil }
func (s *scripted) SetTrailer(metadata.MD)       {}
func (s *scripted) SendMsg(any) error            { return nil }

func (s *scripted) Context() context.Context {
	if s.lateEnd {
		select {
		case <-s.told:
			<-time.After(time.Second)
		default:
		}
	}

	return s.ctx
}

func (s *scripted) RecvMsg(m any) error {
	i := s.next
	s.next++

	if i == s.waitAt {
		select {
		case <-s.opened:
		case <-s.ended:
			return status.Error(codes.Canceled, "the stream has ended")
		}
	}

	if i >= len(s.requests) {
		if s.lateEnd {
			<-s.told
			<-time.After(time.Millisecond)
		}

		return s.end
	}

	b := s.pool.Get(len(s.requests[i]))
	copy(*b, s.requests[i])

	data := mem.BufferSlice{mem.NewBuffer(b, &s.pool)}
	defer data.Free()

	return proxy.Codec().Unmarshal(data, m)
}

func (s *scripted) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	s.openOnce.Do(func() { close(s.opened) })

	return &scriptedBackend{s: s}, s.refuse
}

// scriptedBackend answers with a status alone, when the requests have ended or endAt says so.
type scriptedBackend struct {
	grpc.ClientStream
	s *scripted
}

func (b *scriptedBackend) Header() (metadata.MD, error) { return nil, nil }

func (b *scriptedBackend) Trailer() metadata.MD {
	b.s.tells.Do(func() { close(b.s.told) })

	return nil
}

func (b *scriptedBackend) CloseSend() error {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()

	b.s.closed++
	b.s.overOnce.Do(func() { close(b.s.over) })

	return nil
}

func (b *scriptedBackend) SendMsg(m any) error {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()

	if b.s.endAt >= 0 && len(b.s.sent) >= b.s.endAt {
		b.s.overOnce.Do(func() { close(b.s.over) })

		return io.EOF
	}

	b.s.sent = append(b.s.sent, string(m.(*proxy.Frame).Bytes()))

	return nil
}

func (b *scriptedBackend) RecvMsg(any) error {
	if !b.s.lateEnd {
		<-b.s.over
	}

	if b.s.endAt >= 0 {
		return status.Error(codes.Aborted, "of the backend")
	}

	return io.EOF
}

// call runs the handler and checks that all buffers are given back.
func (s *scripted) call(t *testing.T) error {
	t.Helper()

	err := proxy.TransparentHandler((&proxy.Upstream{Channel: s}).Direct)(nil, s)
	if n := s.pool.inUse.Load(); n != 0 {
		t.Errorf("%d buffers are still in use", n)
	}

	return err
}

// At whatever request the caller stops to think, the backend gets each once and in order, and then the half-close.
func TestReadAhead(t *testing.T) {
	for requests := range 4 {
		for waitAt := -1; waitAt <= min(requests, 1); waitAt++ {
			for range 50 {
				s := newScripted(requests)
				s.waitAt = waitAt

				if err := s.call(t); err != nil {
					t.Fatalf("%d requests, pause at %d: %v", requests, waitAt, err)
				}

				if !slices.Equal(s.sent, s.requests) || s.closed != 1 {
					t.Fatalf("%d requests, pause at %d: the backend got %.10q and %d half-closes", requests, waitAt, s.sent, s.closed)
				}
			}
		}
	}
}

// A stream that cannot be opened, or that the backend ends in the middle of the requests, ends the call with that,
// and nothing of what was read ahead is left.
func TestReadAheadInVain(t *testing.T) {
	for requests := range 4 {
		for waitAt := -1; waitAt <= min(requests, 1); waitAt++ {
			for endAt := -1; endAt < requests; endAt++ {
				for range 20 {
					s := newScripted(requests)
					s.waitAt, s.endAt = waitAt, endAt

					want := codes.Aborted
					if endAt == -1 {
						s.refuse, want = status.Error(codes.Unavailable, "of the channel"), codes.Unavailable
					}

					wantStatus(t, s.call(t), want, "of the ")
				}
			}
		}
	}
}

// A request side that fails when the backend has ended the call does not change what the call ends with.
func TestBackendStatusBeforeRequestError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(1)
		s.endAt, s.lateEnd, s.end = 1, true, status.Error(codes.ResourceExhausted, "too large")
		wantStatus(t, s.call(t), codes.Aborted, "of the backend")
	})
}
