// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
)

// http1Server serves the HTTP/1.1 connections among those that the relay accepted, by net/http.
type http1Server struct {
	srv  *http.Server
	conn chan net.Conn
	stop chan struct{} // closed with the listener
	once sync.Once
	done sync.WaitGroup // the goroutine in srv.Serve
}

var _ net.Listener = (*http1Server)(nil)

func newHTTP1Server(s *Server, limits *Limits) *http1Server {
	h := s.HTTP
	if h == nil {
		h = http.HandlerFunc(refuseHTTP1)
	}
	x := &http1Server{conn: make(chan net.Conn), stop: make(chan struct{})}
	x.srv = &http.Server{
		Handler:           h,
		ReadHeaderTimeout: limits.SettingsTimeout,
		IdleTimeout:       limits.IdleTimeout,
		MaxHeaderBytes:    int(or(limits.MaxHeaderBytes, 16<<10)),
	}
	x.done.Go(func() { // ends when shutdown or close closes the listener
		x.srv.Serve(x) //nolint:errcheck // always http.ErrServerClosed
	})
	return x
}

// refuseHTTP1 answers HTTP/1.1 where no handler is given.
func refuseHTTP1(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusHTTPVersionNotSupported)
	io.WriteString(w, "This is a gRPC endpoint: expected HTTP/2.\n") //nolint:errcheck // the client may be gone
}

// serve hands a connection over and returns when it is closed.
func (x *http1Server) serve(nc net.Conn) error {
	c := &closeNotifier{Conn: nc, closed: make(chan struct{})}
	select {
	case x.conn <- c:
		<-c.closed
	case <-x.stop:
		nc.Close() //nolint:errcheck // of no use any more
	}
	return io.EOF
}

func (x *http1Server) Accept() (net.Conn, error) {
	select {
	case c := <-x.conn:
		return c, nil
	case <-x.stop:
		return nil, net.ErrClosed
	}
}

func (x *http1Server) Close() error {
	x.once.Do(func() { close(x.stop) })
	return nil
}

func (x *http1Server) Addr() net.Addr { return &net.UnixAddr{Name: "relay", Net: "unix"} }

func (x *http1Server) shutdown(ctx context.Context) error {
	// net/http polls for idle connections; a short while is given to those that are new.
	return x.srv.Shutdown(ctx)
}

func (x *http1Server) close() {
	x.srv.Close() //nolint:errcheck // it ends either way
	x.Close()     //nolint:errcheck // always nil
	x.done.Wait()
}

// closeNotifier tells when a connection was closed.
type closeNotifier struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *closeNotifier) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}
