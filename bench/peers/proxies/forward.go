// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxies

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
)

// serveForward copies octets and knows nothing of HTTP/2: what a proxy written in Go
// costs at least. io.Copy splices within the kernel where neither side is TLS.
func serveForward(lis net.Listener, c Config, front *tls.Config) (stop func(), err error) {
	if front != nil {
		front = front.Clone()
		front.NextProtos = []string{"h2"}
		front.DynamicRecordSizingDisabled = true // fewer records, as package relay has it
		lis = tls.NewListener(lis, front)
	}
	f := &forwarder{lis: lis, backend: c.Backend, open: map[net.Conn]bool{}}
	f.running.Go(f.accept) // ends when stop closes the listener
	return f.stop, nil
}

type forwarder struct {
	lis     net.Listener
	backend string
	running sync.WaitGroup

	mu      sync.Mutex
	open    map[net.Conn]bool // guarded by mu
	stopped bool              // guarded by mu
}

func (f *forwarder) accept() {
	for {
		down, err := f.lis.Accept()
		if err != nil {
			return
		}
		f.running.Go(func() { f.serve(down) }) // ends when either side closes, or with stop
	}
}

func (f *forwarder) serve(down net.Conn) {
	defer f.close(down)
	if !f.keep(down) {
		return
	}
	up, err := net.Dial("tcp", f.backend)
	if err != nil {
		return
	}
	defer f.close(up)
	if !f.keep(up) {
		return
	}
	var responses sync.WaitGroup
	responses.Go(func() { // ends when the backend closes, or when up is closed below
		_, _ = io.Copy(down, up)
		_ = down.Close()
	})
	_, _ = io.Copy(up, down)
	_ = up.Close()
	responses.Wait()
}

// keep makes stop close conn too. It is false once stopped.
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
