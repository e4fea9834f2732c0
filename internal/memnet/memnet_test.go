// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestConn runs the checks that the Go project offers for implementations of
// net.Conn, with buffers below and above what they write at once.
func TestConn(t *testing.T) {
	for name, size := range map[string]int{"small": 100, "default": 0} {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
				a, b = Pipe(size)
				return a, b, func() { a.Close(); b.Close() }, nil
			})
		})
	}
}

// bubble runs f with fake time; a deadlock in it fails the test.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
		t.Fatalf("Write(%q) = %d, %v", s, n, err)
	}
}

func wantRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	p := make([]byte, len(want)+1)
	if n, err := c.Read(p); string(p[:n]) != want || err != nil {
		t.Fatalf("Read = %q, %v, want %q", p[:n], err, want)
	}
}

func wantReadError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if n, err := c.Read(make([]byte, 10)); n != 0 || !errors.Is(err, want) {
		t.Fatalf("Read = %d, %v, want %v", n, err, want)
	}
}

func wantWriteError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if _, err := c.Write([]byte("x")); !errors.Is(err, want) {
		t.Fatalf("Write: %v, want %v", err, want)
	}
}

func TestClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(0)
		write(t, b, "never read")
		write(t, a, "last words")
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		wantRead(t, b, "last words")
		wantReadError(t, b, io.EOF)
		wantWriteError(t, b, syscall.EPIPE)
		wantReadError(t, a, net.ErrClosed)
		wantWriteError(t, a, net.ErrClosed)
		if n := b.Buffered(); n != 0 {
			t.Errorf("%d octets kept that nobody can read", n)
		}
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		wantWriteError(t, a, net.ErrClosed) // Close is final
		if err := a.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
		if err := a.SetDeadline(time.Now().Add(time.Hour)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SetDeadline after Close: %v", err)
		}
		b.Close()
	})
}

func TestCloseWrite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(0)
		write(t, a, "request")
		a.CloseWrite()
		wantWriteError(t, a, syscall.EPIPE)
		wantRead(t, b, "request")
		wantReadError(t, b, io.EOF)
		write(t, b, "answer")
		wantRead(t, a, "answer")
	})
}

// TestUnblock checks that everything that ends a connection wakes whoever waits.
func TestUnblock(t *testing.T) {
	full := make([]byte, 100)
	tests := []struct {
		name        string
		end         func(a, b *Conn)
		read, write error // of operations waiting at a
	}{
		{"close here", func(a, _ *Conn) { a.Close() }, net.ErrClosed, net.ErrClosed},
		{"close there", func(_, b *Conn) { b.Close() }, io.EOF, syscall.EPIPE},
		{"cut", func(_, b *Conn) { b.Cut() }, syscall.ECONNRESET, syscall.ECONNRESET},
		{"past deadline", func(a, _ *Conn) { a.SetDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded, os.ErrDeadlineExceeded},
		{"deadline", func(a, _ *Conn) { a.SetDeadline(time.Now().Add(time.Second)) }, os.ErrDeadlineExceeded, os.ErrDeadlineExceeded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				a, b := Pipe(len(full))
				a.Write(full)
				errs := make(chan error, 3)
				go func() { _, err := a.Read(full); errs <- err }()
				synctest.Wait()
				for range 2 { // the second waits for its turn
					go func() { _, err := a.Write(full); errs <- err }()
				}
				synctest.Wait()
				tt.end(a, b)
				for range 3 {
					if err := <-errs; !errors.Is(err, tt.read) && !errors.Is(err, tt.write) {
						t.Errorf("error %v, want %v or %v", err, tt.read, tt.write)
					}
				}
			})
		})
	}
}

func TestDeadlineMoves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(0)
		defer b.Close()
		start := time.Now()
		a.SetReadDeadline(start.Add(time.Second))
		wantReadError(t, a, os.ErrDeadlineExceeded)
		a.SetReadDeadline(start.Add(3 * time.Second)) // later
		wantReadError(t, a, os.ErrDeadlineExceeded)
		a.SetReadDeadline(start.Add(time.Hour))
		a.SetReadDeadline(start.Add(4 * time.Second)) // earlier
		wantReadError(t, a, os.ErrDeadlineExceeded)
		if d := time.Since(start); d != 4*time.Second {
			t.Errorf("reads ended after %v, want 4s", d)
		}
		a.SetReadDeadline(time.Time{})
		write(t, b, "x")
		a.SetReadDeadline(time.Now())
		wantReadError(t, a, os.ErrDeadlineExceeded) // goes before data
		a.SetReadDeadline(time.Time{})
		wantRead(t, a, "x")
		a.SetReadDeadline(time.Now().Add(time.Hour))
		a.Close()
		if a.in.readLimit.timer.Stop() {
			t.Error("a timer outlives Close")
		}
	})
}

// TestDeadlineRace replaces a deadline at the instant at which it passes: the
// timer's late call must not hit the new one.
func TestDeadlineRace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(0)
		defer b.Close()
		a.SetReadDeadline(time.Now().Add(time.Second))
		a.in.mu.Lock()
		time.Sleep(time.Second) // fake: the timer has fired and waits for the lock
		a.in.readLimit.at = time.Now().Add(time.Second)
		a.in.mu.Unlock()
		start := time.Now()
		wantReadError(t, a, os.ErrDeadlineExceeded)
		if d := time.Since(start); d != time.Second {
			t.Errorf("read ended after %v, want 1s", d)
		}
	})
}

func TestPartialWrite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(4)
		a.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := a.Write([]byte("123456"))
		if n != 4 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Write = %d, %v, want 4 and a timeout", n, err)
		}
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%v is not a timeout", err)
		}
		wantRead(t, b, "1234")
	})
}

func TestTryWrite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(4)
		for i, want := range []int{3, 1, 0} {
			if n, err := a.TryWrite([]byte("abc")); n != want || err != nil {
				t.Fatalf("TryWrite %d = %d, %v, want %d", i, n, err, want)
			}
		}
		wantRead(t, b, "abca")
		write(t, a, "full")
		done := make(chan struct{})
		go func() { defer close(done); a.Write([]byte("!")) }()
		synctest.Wait()
		if n, err := a.TryWrite([]byte("x")); n != 0 || err != nil {
			t.Fatalf("TryWrite beside a Write = %d, %v", n, err)
		}
		b.Close()
		<-done
		if _, err := a.TryWrite([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("TryWrite to a closed peer: %v", err)
		}
	})
}

func TestWriteSome(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(4)
		for i, want := range []int{3, 1} {
			if n, err := a.WriteSome([]byte("abc")); n != want || err != nil {
				t.Fatalf("WriteSome %d = %d, %v, want %d", i, n, err, want)
			}
		}
		if n, err := a.WriteSome(nil); n != 0 || err != nil {
			t.Fatalf("WriteSome of nothing = %d, %v", n, err)
		}
		time.AfterFunc(time.Second, func() { b.Read(make([]byte, 2)) })
		start := time.Now()
		if n, err := a.WriteSome([]byte("def")); n != 2 || err != nil || time.Since(start) != time.Second {
			t.Fatalf("WriteSome = %d, %v after %v, want 2 when there was room", n, err, time.Since(start))
		}
		wantRead(t, b, "cade")
	})
}

func TestFreeze(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(4)
		write(t, a, "1")
		a.Freeze()
		write(t, a, "23")
		b.SetReadDeadline(time.Now().Add(time.Minute))
		wantReadError(t, b, os.ErrDeadlineExceeded)
		a.SetWriteDeadline(time.Now().Add(time.Minute))
		if n, err := a.Write([]byte("456")); n != 1 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write into the hole = %d, %v, want 1 and a timeout", n, err)
		}
		write(t, b, "back")
		b.CloseWrite()
		a.SetReadDeadline(time.Now().Add(time.Minute))
		wantReadError(t, a, os.ErrDeadlineExceeded) // neither octets nor io.EOF
		a.SetReadDeadline(time.Time{})
		a.Thaw()
		b.SetReadDeadline(time.Time{})
		wantRead(t, b, "1234")
		wantRead(t, a, "back")
		wantReadError(t, a, io.EOF)
	})
}

// TestFreezeHidesClose: a peer that went away unnoticed does not fail writes.
func TestFreezeHidesClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(0)
		a.Freeze()
		b.Close()
		write(t, a, "anybody?")
		a.Thaw()
		wantWriteError(t, a, syscall.EPIPE)
		wantReadError(t, a, io.EOF)
	})
}

func TestCut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(0)
		write(t, a, "lost")
		a.Freeze()
		b.Cut()
		for _, c := range []*Conn{a, b} {
			wantReadError(t, c, syscall.ECONNRESET)
			wantWriteError(t, c, syscall.ECONNRESET)
		}
	})
}

func TestCounters(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(0)
		write(t, a, "12345")
		write(t, a, "678")
		io.ReadFull(b, make([]byte, 6))
		if got, want := a.Counters(), (Counters{BytesWritten: 8, Writes: 2}); got != want {
			t.Errorf("writer: %+v, want %+v", got, want)
		}
		if got, want := b.Counters(), (Counters{BytesRead: 6, Reads: 1}); got != want {
			t.Errorf("reader: %+v, want %+v", got, want)
		}
		if n := a.Buffered(); n != 2 {
			t.Errorf("Buffered = %d, want 2", n)
		}
	})
}

// TestStream moves a megabyte through buffers of odd sizes in pieces of random
// size, both ways at once.
func TestStream(t *testing.T) {
	want := make([]byte, 1<<20)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(want)
	for _, size := range []int{1, 7, 4096, 5000, 0} {
		a, b := Pipe(size)
		data := want
		if size < 100 {
			data = want[:1<<14]
		}
		send := func(c *Conn, seed uint64) {
			g := rand.New(rand.NewPCG(seed, 0))
			for p := data; len(p) > 0; {
				n, err := c.Write(p[:1+g.IntN(min(len(p), 20000))])
				if err != nil {
					t.Error(err)
					return
				}
				p = p[n:]
			}
			c.CloseWrite()
		}
		go send(a, 1) // both end when the peer has read everything
		go send(b, 2)
		got := make(chan []byte)
		go func() { p, _ := io.ReadAll(a); got <- p }()
		fromA, _ := io.ReadAll(b)
		if !bytes.Equal(fromA, data) || !bytes.Equal(<-got, data) {
			t.Errorf("buffer %d: data changed on the way", size)
		}
	}
}

// TestWritesDoNotMix lets writers compete for a buffer smaller than a write.
func TestWritesDoNotMix(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(3)
		for i := range byte(4) {
			go a.Write(bytes.Repeat([]byte{i}, 10)) // ends when b has read it
		}
		p := make([]byte, 40)
		if _, err := io.ReadFull(b, p); err != nil {
			t.Fatal(err)
		}
		for i := 0; i < 40; i += 10 {
			if !bytes.Equal(p[i:i+10], bytes.Repeat(p[i:i+1], 10)) {
				t.Errorf("octets %d to %d are of several writes: %v", i, i+10, p[i:i+10])
			}
		}
	})
}

// TestNextWriter: a writer that waits for its turn gets it as soon as the one
// before has ended, without another read.
func TestNextWriter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(4)
		done := make(chan struct{}, 2)
		for _, s := range []string{"123456", "7"} {
			go func() { a.Write([]byte(s)); done <- struct{}{} }()
			synctest.Wait()
		}
		io.ReadFull(b, make([]byte, 4))
		<-done
		<-done
		wantRead(t, b, "567")
	})
}

func TestListener(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := Listen("local")
		c, err := l.DialContext(t.Context()) // before Accept
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		write(t, c, "hello")
		wantRead(t, s, "hello")
		if got := s.LocalAddr().String() + " " + s.RemoteAddr().String() + " " + c.LocalAddr().Network(); got != "local local#1 mem" {
			t.Errorf("addresses: %q", got)
		}

		accepting := make(chan error)
		go func() { _, err := l.Accept(); accepting <- err }()
		synctest.Wait()
		l.Close()
		if err := <-accepting; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: %v", err)
		}
		for range 20 {
			if _, err := l.DialContext(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("Dial after Close: %v", err)
			}
		}
		if err := l.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		write(t, c, "still there")
		wantRead(t, s, "still there")
	})
}

func TestListenerBacklog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := Listen("busy")
		var first net.Conn
		for range backlog {
			c, err := l.DialContext(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = c
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.DialContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Dial with a full backlog: %v", err)
		}
		for range 20 {
			if _, err := Listen("free").DialContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Dial with a dead context: %v", err)
			}
		}
		dialling := make(chan error)
		go func() { _, err := l.DialContext(context.Background()); dialling <- err }()
		synctest.Wait()
		l.Close()
		if err := <-dialling; err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("waiting Dial: %v", err)
		}
		wantReadError(t, first, syscall.ECONNRESET) // nobody will ever accept it
	})
}

func TestSteadyStateAllocs(t *testing.T) {
	a, b := Pipe(0)
	p := make([]byte, 3000)
	n := testing.AllocsPerRun(1000, func() {
		a.Write(p)
		b.Read(p)
	})
	if n != 0 {
		t.Errorf("%v allocations per write and read, want 0", n)
	}
}

func BenchmarkPingPong(b *testing.B) {
	x, y := Pipe(0)
	defer x.Close()
	go func() { // ends when x closes
		defer y.Close()
		p := make([]byte, 64)
		for {
			n, err := y.Read(p)
			if err != nil {
				return
			}
			y.Write(p[:n])
		}
	}()
	p := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		x.Write(p)
		io.ReadFull(x, p)
	}
}

func BenchmarkBulk(b *testing.B) {
	x, y := Pipe(0)
	defer x.Close()
	go io.Copy(io.Discard, y) // ends when x closes
	p := make([]byte, 64<<10)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		x.Write(p)
	}
}
