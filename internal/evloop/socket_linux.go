// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package evloop

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/manifold-grpc/manifold/internal/nonblock"
)

// A Socket is a TCP or Unix socket that can do without Go's poller: while the loop watches it that does not know
// of it, or each octet would wake a thread there too. It is a [net.Conn], whose deadlines and Close are safe for concurrent
// use; one goroutine may read while another writes.
type Socket struct {
	local, remote net.Addr

	// uses counts the operations under way, one more while the socket is not closed, and the loop; closedBit and
	// goneBit say what their names do. The descriptor is closed when none is left.
	uses    atomic.Int32
	expired atomic.Bool // the read deadline has passed

	mu sync.Mutex
	// Guarded by mu, and changed only while nobody reads or writes.
	fd     int
	polled polled          // owns fd; nil: the socket does, and Go's poller does not know of it
	raw    syscall.RawConn // of polled

	watched bool // by the loop, whose mu guards this
}

const (
	closedBit = 1 << 30
	goneBit   = 1 << 29
)

// polled is what Go's poller waits for: a net.Conn at first, an os.File after the loop had it.
type polled interface {
	SyscallConn() (syscall.RawConn, error)
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	Close() error
}

// Of returns nc, which it owns from now on, as a Socket, or nil if it is none, or one that is closed: then it is left alone.
func Of(nc net.Conn) *Socket {
	var p polled
	switch nc := nc.(type) {
	case *net.TCPConn:
		p = nc
	case *net.UnixConn:
		p = nc
	default:
		return nil
	}
	raw, err := p.SyscallConn()
	if err != nil {
		return nil
	}
	s := &Socket{local: nc.LocalAddr(), remote: nc.RemoteAddr(), polled: p, raw: raw}
	if raw.Control(func(fd uintptr) { s.fd = int(fd) }) != nil {
		return nil
	}
	s.uses.Store(1)
	return s
}

// acquire begins an operation, unless the socket is closed; release ends it.
func (s *Socket) acquire() bool {
	if s.uses.Add(1)&closedBit == 0 {
		return true
	}
	s.release()
	return false
}

func (s *Socket) release() {
	if s.uses.Add(-1) != closedBit || !s.uses.CompareAndSwap(closedBit, closedBit|goneBit) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.polled != nil {
		s.polled.Close() //nolint:errcheck // nobody to tell
	} else {
		syscall.Close(s.fd) //nolint:errcheck // likewise
	}
}

func (s *Socket) closed() bool { return s.uses.Load()&closedBit != 0 }

// Close closes the socket; who waits for it is told [net.ErrClosed]. An operation that is under way ends before the peer
// sees anything of it.
func (s *Socket) Close() error {
	for {
		uses := s.uses.Load()
		if uses&closedBit != 0 {
			return net.ErrClosed
		}
		if s.uses.CompareAndSwap(uses, uses|closedBit) {
			break
		}
	}
	s.mu.Lock()
	if s.polled != nil {
		s.polled.SetDeadline(longAgo) //nolint:errcheck // nobody waits for what is closed already
	}
	s.mu.Unlock()
	s.release()
	shared.kick(s)
	return nil
}

var longAgo = time.Unix(1, 0)

// waiter returns the socket as Go's poller knows it. mu is held.
func (s *Socket) waiter() (syscall.RawConn, error) {
	if s.closed() {
		return nil, net.ErrClosed
	}
	if s.polled != nil {
		return s.raw, nil
	}
	f := os.NewFile(uintptr(s.fd), "socket")
	s.polled = f
	var err error
	if s.raw, err = f.SyscallConn(); err == nil && s.expired.Load() {
		err = f.SetReadDeadline(longAgo)
	}
	return s.raw, err
}

// await has Go's poller call f until it returns true, as [syscall.RawConn] does.
func (s *Socket) await(f func(fd uintptr) bool, by func(syscall.RawConn, func(uintptr) bool) error) error {
	if !s.acquire() {
		return net.ErrClosed
	}
	defer s.release()
	s.mu.Lock()
	raw, err := s.waiter()
	s.mu.Unlock()
	if err == nil {
		err = by(raw, f)
	}
	if err != nil && s.closed() {
		return net.ErrClosed
	}
	return err
}

// RawRead calls f until it returns true, and waits for input after each time that it does not, within the read
// deadline.
func (s *Socket) RawRead(f func(fd uintptr) bool) error { return s.await(f, syscall.RawConn.Read) }

// TryRead reads what there is; 0 with a nil error is nothing.
func (s *Socket) TryRead(p []byte) (int, error) {
	if !s.acquire() {
		return 0, net.ErrClosed
	}
	defer s.release()
	if s.expired.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := read(s.fd, p)
	if err == syscall.EAGAIN {
		return 0, nil
	}
	return n, err
}

// Read waits until there is input, and reads it; io.EOF is the end.
func (s *Socket) Read(p []byte) (n int, err error) {
	if werr := s.RawRead(func(fd uintptr) bool {
		n, err = read(int(fd), p)
		return err != syscall.EAGAIN
	}); werr != nil {
		return 0, werr
	}
	return n, err
}

func read(fd int, p []byte) (int, error) {
	n, err := nonblock.Read(fd, p)
	for err == syscall.EINTR {
		n, err = nonblock.Read(fd, p)
	}
	if n == 0 && err == nil && len(p) > 0 {
		return 0, io.EOF
	}
	return max(n, 0), err
}

// TryWrite writes what the socket accepts now. n < len(p), also 0, with a nil error means that it accepts no more.
func (s *Socket) TryWrite(p []byte) (int, error) {
	if !s.acquire() {
		return 0, net.ErrClosed
	}
	defer s.release()
	return write(s.fd, p)
}

// write returns a nil error with less than len(p) if the socket would block.
func write(fd int, p []byte) (n int, err error) {
	for n < len(p) {
		m, err := nonblock.Write(fd, p[n:])
		n += max(m, 0)
		switch err {
		case nil, syscall.EINTR:
		case syscall.EAGAIN:
			return n, nil
		default:
			return n, err
		}
	}
	return n, nil
}

// WriteSome waits until the socket accepts something, and writes what it does. The write deadline bounds the wait.
func (s *Socket) WriteSome(p []byte) (n int, err error) {
	if werr := s.await(func(fd uintptr) bool {
		n, err = write(int(fd), p)
		return n > 0 || err != nil
	}, syscall.RawConn.Write); werr != nil {
		return 0, werr
	}
	return n, err
}

// Write writes all of p.
func (s *Socket) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = s.WriteSome(p[n:])
		n += m
	}
	return n, err
}

// CloseWrite tells the peer that nothing follows.
func (s *Socket) CloseWrite() error {
	if !s.acquire() {
		return net.ErrClosed
	}
	defer s.release()
	return syscall.Shutdown(s.fd, syscall.SHUT_WR)
}

// LocalAddr returns the address of this end.
func (s *Socket) LocalAddr() net.Addr { return s.local }

// RemoteAddr returns the address of the peer.
func (s *Socket) RemoteAddr() net.Addr { return s.remote }

// SetDeadline sets both deadlines.
func (s *Socket) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// SetReadDeadline bounds waits for input. The loop, which waits for ever, is told of one that has passed already, and of no other.
func (s *Socket) SetReadDeadline(t time.Time) error {
	past := !t.IsZero() && time.Until(t) <= 0
	s.mu.Lock()
	s.expired.Store(past)
	err := s.setDeadline(t, past, polled.SetReadDeadline)
	s.mu.Unlock()
	if past {
		shared.kick(s)
	}
	return err
}

// SetWriteDeadline bounds waits for room.
func (s *Socket) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.setDeadline(t, false, polled.SetWriteDeadline)
}

// setDeadline leaves one that Go's poller need not know of, as it waits for nothing. mu is held.
func (s *Socket) setDeadline(t time.Time, known bool, set func(polled, time.Time) error) error {
	if s.polled == nil {
		if known || t.IsZero() {
			return nil
		}
		if _, err := s.waiter(); err != nil {
			return err
		}
	}
	if s.closed() {
		return net.ErrClosed
	}
	return set(s.polled, t)
}

// rest has Go's poller forget the socket. mu is held. It reports whether that was possible.
func (s *Socket) rest() bool {
	if s.polled == nil {
		return true
	}
	fd, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(s.fd), syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return false // no descriptor is free
	}
	s.polled.Close() //nolint:errcheck // the socket stays open by its other descriptor
	s.fd, s.polled, s.raw = int(fd), nil, nil
	return true
}

// Watch has the loop call h when there is input, until h has [Handler.Left]. Nobody may read or write meanwhile but who
// is called, and who waits by WriteSome. False: the loop has too much to do already, or cannot; the socket is used as before, then.
func (s *Socket) Watch(h Handler) bool {
	if !shared.open() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed() || s.expired.Load() || !s.rest() {
		return false
	}
	return shared.add(s, h)
}

// Polled reports whether Go's poller knows of the socket, as it does once somebody has waited: a socket that the loop watches then
// wakes a thread for nothing with each input.
func (s *Socket) Polled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.polled != nil
}
