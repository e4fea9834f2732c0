// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package undertest

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Forward is the control: it copies the bytes of each connection to the next
// backend and knows nothing of HTTP/2. What fails through it fails without a
// proxy too, so the fault lies with the suite or its server.
func Forward(c Config) (string, func(), error) {
	down, err := c.ServerTLS()
	if err != nil {
		return "", nil, err
	}
	up, err := c.BackendTLS()
	if err != nil {
		return "", nil, err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	if down != nil {
		lis = tls.NewListener(lis, down)
	}
	f := &forwarder{lis: lis, backends: c.Backends, tls: up, open: map[net.Conn]bool{}}
	f.running.Go(f.accept) // ends when stop closes the listener
	return lis.Addr().String(), f.stop, nil
}

type forwarder struct {
	lis      net.Listener
	backends []string
	tls      *tls.Config
	next     atomic.Uint64
	running  sync.WaitGroup

	mu      sync.Mutex
	open    map[net.Conn]bool // guarded by mu
	stopped bool              // guarded by mu
}

func (f *forwarder) accept() {
	for {
		conn, err := f.lis.Accept()
		if err != nil {
			return
		}
		f.running.Go(func() { f.serve(conn) }) // ends when either side closes, or stop
	}
}

func (f *forwarder) serve(down net.Conn) {
	defer f.close(down)
	if !f.keep(down) {
		return
	}
	up, err := f.dial()
	if err != nil {
		return
	}
	defer f.close(up)
	if !f.keep(up) {
		return
	}
	var responses sync.WaitGroup
	responses.Go(func() { // ends when the backend closes, or close below
		_, _ = io.Copy(down, up)
		_ = down.Close()
	})
	_, _ = io.Copy(up, down)
	_ = up.Close()
	responses.Wait()
}

func (f *forwarder) dial() (net.Conn, error) {
	addr := f.backends[f.next.Add(1)%uint64(len(f.backends))]
	if f.tls != nil {
		return tls.Dial("tcp", addr, f.tls)
	}
	return net.Dial("tcp", addr)
}

// keep makes stop close conn too; it is false once stopped.
func (f *forwarder) keep(conn net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[conn] = true
	return !f.stopped
}

func (f *forwarder) close(conn net.Conn) {
	_ = conn.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, conn)
}

func (f *forwarder) stop() {
	_ = f.lis.Close()
	f.mu.Lock()
	f.stopped = true
	for conn := range f.open {
		_ = conn.Close()
	}
	f.mu.Unlock()
	f.running.Wait()
}
