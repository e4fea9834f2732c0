// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package nonblock

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns the ends of a TCP connection over loopback.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return a, b
}

// fill writes until the socket accepts nothing, and returns how much it did.
func fill(t *testing.T, w *Writer) (total int) {
	t.Helper()
	p := make([]byte, 1<<20)
	for {
		n, err := w.TryWrite(p)
		if err != nil {
			t.Fatal(err)
		}
		if total += n; n == 0 {
			return total
		}
	}
}

func TestWriter(t *testing.T) {
	a, b := pair(t)
	var w Writer
	w.Init(a)
	if n, err := w.TryWrite([]byte("hello")); n != 5 || err != nil {
		t.Fatalf("TryWrite = %d, %v", n, err)
	}
	total := 5 + fill(t, &w)

	// A peer that reads nothing: WriteSome waits as long as the deadline says.
	a.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := w.WriteSome([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("WriteSome = %d, %v, want a timeout", n, err)
	}
	a.SetWriteDeadline(time.Now().Add(10 * time.Second))

	// One that reads: some passes, though not all of what there is.
	read := make(chan int64)
	go func() {
		n, _ := io.Copy(io.Discard, b)
		read <- n
	}()
	n, err := w.WriteSome(make([]byte, 64<<20))
	if n == 0 || err != nil {
		t.Fatalf("WriteSome = %d, %v, want something", n, err)
	}
	a.Close()
	if got := <-read; got != int64(total+n) {
		t.Errorf("the peer read %d octets, want %d", got, total+n)
	}
	if _, err := w.TryWrite([]byte("x")); err == nil {
		t.Error("TryWrite to a closed socket succeeds")
	}
}

// The error of the socket comes with what was written before it.
func TestBrokenSocket(t *testing.T) {
	a, b := pair(t)
	var w Writer
	w.Init(a)
	b.(*net.TCPConn).SetLinger(0)
	b.Close()
	a.SetReadDeadline(time.Now().Add(10 * time.Second))
	a.Read(make([]byte, 1)) // until the reset is here
	if n, err := w.WriteSome([]byte("x")); n != 0 || !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("WriteSome = %d, %v, want EPIPE or ECONNRESET", n, err)
	}
}

// What is no socket takes the blocking way.
func TestNoSocket(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	var w Writer
	w.Init(a)
	if n, err := w.TryWrite([]byte("x")); n != 0 || err != nil {
		t.Errorf("TryWrite = %d, %v, want nothing", n, err)
	}
}

// Read tells apart nothing, something and the end, and does not wait.
func TestRead(t *testing.T) {
	a, b := pair(t)
	raw, err := a.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 8)
	check := func(wantN int, wantErr error, wait bool) {
		t.Helper()
		var n int
		var rerr error
		a.SetReadDeadline(time.Now().Add(10 * time.Second))
		if err := raw.Read(func(fd uintptr) bool {
			n, rerr = Read(int(fd), p)
			return !wait || rerr != syscall.EAGAIN
		}); err != nil {
			t.Fatal(err)
		}
		if n != wantN || rerr != wantErr {
			t.Errorf("Read = %d, %v, want %d, %v", n, rerr, wantN, wantErr)
		}
	}
	check(-1, syscall.EAGAIN, false)
	b.Write([]byte("hello, world"))
	check(8, nil, true)
	if string(p) != "hello, w" {
		t.Errorf("read %q", p)
	}
	check(4, nil, true)
	b.Close()
	check(0, nil, true)
	if _, err := Read(-1, p); err != syscall.EBADF {
		t.Errorf("Read of no descriptor: %v, want EBADF", err)
	}
}

// A Reader tells apart nothing, something and the end; it waits if it shall, within the deadline.
func TestReader(t *testing.T) {
	a, b := pair(t)
	var r Reader
	r.Init(a)
	if !r.Can() {
		t.Fatal("a TCP connection cannot be asked")
	}
	p := make([]byte, 8)
	check := func(read func([]byte) (int, error), want string, wantErr error) {
		t.Helper()
		n, err := read(p)
		if string(p[:n]) != want || !errors.Is(err, wantErr) {
			t.Errorf("read %q, %v, want %q, %v", p[:n], err, want, wantErr)
		}
	}
	check(r.TryRead, "", nil)
	if n, err := r.Read(nil); n != 0 || err != nil {
		t.Errorf("a read into nothing: %d, %v", n, err)
	}
	a.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	check(r.Read, "", os.ErrDeadlineExceeded)
	a.SetReadDeadline(time.Now().Add(10 * time.Second))
	written := make(chan error)
	go func() {
		<-written
		b.Write([]byte("hello, world"))
		written <- nil
	}()
	written <- nil
	check(r.Read, "hello, w", nil)
	<-written
	check(r.TryRead, "orld", nil)
	check(r.TryRead, "", nil)
	b.Close()
	check(r.Read, "", io.EOF)
	a.Close()
	check(r.Read, "", net.ErrClosed)
	check(r.TryRead, "", net.ErrClosed)
}

// What is no socket cannot be asked.
func TestReaderOfNoSocket(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	var r Reader
	if r.Init(a); r.Can() {
		t.Error("a pipe in memory can be asked")
	}
}
