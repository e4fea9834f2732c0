// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package backend is the server behind the proxies. It echoes messages, checks each
// request, and costs little: see package wire.
package backend

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/manifold-grpc/manifold/bench/peers/child"
	"github.com/manifold-grpc/manifold/bench/peers/wire"
)

// The paths of the backend's methods.
const (
	PathEcho  = "/bench.Peers/Echo"  // answers each message with itself
	PathPull  = "/bench.Peers/Pull"  // answers a message with as many as it wants
	PathTimed = "/bench.Peers/Timed" // is Echo for calls with a grpc-timeout
)

// MaxTimeout is the most that a call's grpc-timeout may be.
const MaxTimeout = 100 * time.Second

// maxPull is the most messages that one may ask for.
const maxPull = 1 << 20

// The fields of a response that clients check, in headers and in trailers.
var (
	Headers  = [...]string{":status", "200", "content-type", "application/grpc", "bench-leading", "header"}
	Trailers = [...]string{"grpc-status", "0", "bench-trailing", "trailer"}
)

var (
	headers  = wire.NewTemplate(Headers[:]...)
	trailers = wire.NewTemplate(Trailers[:]...)
)

// Hello is what a backend's process starts with.
type Hello struct{ Addr string }

// Answer tells what went wrong since the last answer. A client sees its connection
// broken, but not why.
type Answer struct{ Fault string }

// Config is what a backend's process is started with.
type Config struct {
	Join int // octets that are gathered for a write: see [wire.DefaultJoin]
}

// Role is a backend as a process. It is configured by a Config, and takes any request.
func Role(text json.RawMessage, session *child.Session) error {
	var c Config
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := Serve(lis, c)
	defer s.Close()
	return session.Serve(Hello{lis.Addr().String()}, func(json.RawMessage) (any, error) {
		return Answer{s.Fault()}, nil
	})
}

// Server is a running backend.
type Server struct {
	blame
	lis     net.Listener
	config  Config
	running sync.WaitGroup

	mu     sync.Mutex
	conns  map[*wire.Conn]bool // guarded by mu; nil after Close
	closed bool                // guarded by mu
}

// Serve serves lis until Close.
func Serve(lis net.Listener, c Config) *Server {
	s := &Server{lis: lis, config: c, conns: map[*wire.Conn]bool{}}
	s.running.Go(s.accept) // ends when Close closes the listener
	return s
}

// Close ends the server and its connections.
func (s *Server) Close() {
	_ = s.lis.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

func (s *Server) accept() {
	for {
		nc, err := s.lis.Accept()
		if err != nil {
			return
		}
		s.running.Go(func() { s.serve(nc) }) // ends with the connection, or Close
	}
}

func (s *Server) serve(nc net.Conn) {
	c := wire.NewServer(nc, side{}, s.config.Join)
	defer c.Close()
	s.mu.Lock()
	stop := s.closed
	s.conns[c] = true
	s.mu.Unlock()
	var err error
	if !stop {
		err = c.Serve(func() bool { return false })
	}
	s.mu.Lock()
	delete(s.conns, c)
	closed := s.closed
	s.mu.Unlock()
	if !closed && !gone(err) {
		s.note(err)
	}
}

// gone tells whether a connection ended because the peer wanted nothing more.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// side is what the backend does on its connections.
type side struct{}

var _ wire.Side = side{}

// request is the verdict on a request's header block.
type request struct {
	err  error
	pull bool
}

// Block judges a request's header block.
func (side) Block(s *wire.Stream, b *wire.Block, end bool) error {
	if s.Blocks() > 1 || end {
		return errors.New("request with trailers, or without a message")
	}
	r, ok := b.Verdict.(*request)
	if !ok {
		r = judge(b)
		b.Verdict = r
	}
	s.User = r
	return r.err
}

func judge(b *wire.Block) *request {
	r := &request{pull: b.Get(":path") == PathPull}
	for name, want := range map[string]string{":method": "POST", "content-type": "application/grpc", "te": "trailers"} {
		if got := b.Get(name); got != want {
			r.err = fmt.Errorf("request with %s %q, expected %q", name, got, want)
		}
	}
	switch b.Get(":path") {
	case PathEcho, PathPull:
	case PathTimed:
		if d, err := timeout(b.Get("grpc-timeout")); err != nil || d > MaxTimeout {
			r.err = fmt.Errorf("grpc-timeout %q, expected one of at most %v", b.Get("grpc-timeout"), MaxTimeout)
		}
	default:
		r.err = fmt.Errorf("no method %q", b.Get(":path"))
	}
	return r
}

// timeout reads a grpc-timeout: up to 8 digits and a unit.
func timeout(s string) (time.Duration, error) {
	units := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}
	if len(s) < 2 || len(s) > 9 {
		return 0, errors.New("wrong length")
	}
	unit, ok := units[s[len(s)-1]]
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if err != nil || !ok {
		return 0, errors.New("no number with a unit")
	}
	return time.Duration(n) * unit, nil
}

// Message answers a message.
func (side) Message(s *wire.Stream, h wire.Head, size int) error {
	count := 1
	if s.User.(*request).pull {
		if count = int(h.Want); count < 1 || count > maxPull {
			return fmt.Errorf("%d messages wanted, expected 1 to %d", count, maxPull)
		}
	}
	if h.Seq == 0 {
		s.Headers(headers)
	}
	return s.Send(h, size, count)
}

// End ends the response.
func (side) End(s *wire.Stream) error {
	s.Finish(trailers)
	return nil
}
