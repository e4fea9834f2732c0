// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// httpStream is a request of HTTP/2 that is no gRPC, served by an http.Handler in a
// goroutine of its own.
type httpStream struct {
	down   *h2.Stream
	toHead bool // the answer has no content
	cancel context.CancelFunc

	mu   sync.Mutex
	wake *sync.Cond
	// Guarded by mu.
	body    bytes.Buffer // came and was not read yet; the stream's window bounds it
	bodyEnd bool
	over    bool // the handler returned, or nobody listens any more
}

var errStreamOver = errors.New("relay: the client reset the stream or its connection was lost")

// serveHTTP serves a request that is no gRPC.
func (d *downConn) serveHTTP(c *Call, b *h2.Batch, head h2.Head) {
	if d.srv.HTTP == nil {
		x := &refusal{down: &c.down, toHead: find(head.Fields, ":method") == http.MethodHead}
		c.down.Owner = x // nobody else has seen the stream yet
		if head.EndStream {
			x.answer(b)
		}
		return
	}
	x := &httpStream{down: &c.down, bodyEnd: head.EndStream}
	x.wake = sync.NewCond(&x.mu)
	c.down.Owner = x // nobody else has seen the stream yet
	ctx, cancel := context.WithCancel(context.Background())
	x.cancel = cancel
	r := d.httpRequest(c, head.Fields).WithContext(ctx)
	x.toHead = r.Method == http.MethodHead
	r.Body = x
	d.srv.conns.Add(1)
	go x.serve(d.srv, r) // ends with the handler, whose context ends with the stream
}

// A refusal is a request that is no gRPC, where no handler is given. It is answered when
// it has ended: until then it is held to the rules of HTTP/2 like any other.
type refusal struct {
	down   *h2.Stream
	toHead bool // it has no content in its answer
	seen   int  // octets of the body, thrown away
	done   bool
}

// maxRefused bounds how much of the body is waited for.
const maxRefused = 64 << 10

// data takes octets of the body.
func (x *refusal) data(b *h2.Batch, p []byte, end bool) (passed int) {
	if x.seen += len(p); end || x.seen > maxRefused {
		x.answer(b)
	}
	return len(p)
}

func (x *refusal) answer(b *h2.Batch) {
	if x.done {
		return
	}
	x.done = true
	s := x.down
	s.SendHeaders(b, []hpack.Field{
		{Name: ":status", Value: "415"},
		{Name: "content-type", Value: "text/plain; charset=utf-8"},
	}, x.toHead)
	s.Send(b, []byte("This is a gRPC endpoint: expected POST with content-type application/grpc.\n"), true) //nolint:errcheck // dropped where the stream has ended, or the budget is spent
	s.StopReceiving(b)
}

// httpRequest makes a request of header fields.
func (d *downConn) httpRequest(c *Call, fields []hpack.Field) *http.Request {
	r := &http.Request{
		Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: make(http.Header), Host: c.host, RequestURI: c.path,
		RemoteAddr: d.remote.String(), TLS: d.tls, ContentLength: -1,
	}
	for _, f := range fields {
		switch {
		case f.Name == ":method":
			r.Method = f.Value
		case f.Name == "content-length":
			if n, err := strconv.ParseInt(f.Value, 10, 64); err == nil {
				r.ContentLength = n
			}
		case !strings.HasPrefix(f.Name, ":"):
			r.Header.Add(f.Name, f.Value)
		}
	}
	u, err := url.ParseRequestURI(c.path)
	if err != nil {
		u = &url.URL{Path: c.path}
	}
	r.URL = u
	return r
}

// serve runs the handler.
func (x *httpStream) serve(s *Server, r *http.Request) {
	defer s.conns.Done()
	defer x.cancel()
	w := &httpWriter{x: x, header: make(http.Header)}
	defer func() {
		if p := recover(); p != nil {
			w.abort(r, p)
			return
		}
		w.end()
	}()
	s.HTTP.ServeHTTP(w, r)
}

// data takes octets of the body.
func (x *httpStream) data(p []byte, end bool) (passed int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return len(p)
	}
	x.body.Write(p)
	x.bodyEnd = x.bodyEnd || end
	x.wake.Broadcast()
	return 0
}

func (x *httpStream) trailers(h2.Head) { x.data(nil, true) }

// lost tells the handler that nobody listens any more.
func (x *httpStream) lost() {
	x.mu.Lock()
	x.over = true
	x.mu.Unlock()
	x.cancel()
	x.wake.Broadcast()
}

// credit tells a waiting Write that the client took octets.
func (x *httpStream) credit() {
	x.mu.Lock() // so that no Write is between its look and its wait
	defer x.mu.Unlock()
	x.wake.Broadcast()
}

// Read reads the body.
func (x *httpStream) Read(p []byte) (int, error) {
	x.mu.Lock()
	for x.body.Len() == 0 && !x.bodyEnd && !x.over {
		x.wake.Wait()
	}
	n, _ := x.body.Read(p)
	end, over := x.bodyEnd, x.over
	x.mu.Unlock()
	switch {
	case n > 0:
		var b h2.Batch
		x.down.Consumed(&b, n)
		b.Flush()
		return n, nil
	case end:
		return 0, io.EOF
	case over:
		return 0, errStreamOver
	}
	return 0, nil
}

// Close does nothing: the body ends with the handler.
func (x *httpStream) Close() error { return nil }

// httpWriter is the handler's http.ResponseWriter, with http.Flusher.
type httpWriter struct {
	x      *httpStream
	header http.Header
	wrote  bool
	empty  bool // of a status that has no content
}

var _ http.Flusher = (*httpWriter)(nil)

func (w *httpWriter) Header() http.Header { return w.header }

func (w *httpWriter) WriteHeader(code int) {
	if w.wrote {
		return
	}
	w.wrote = code >= 200 // else it is interim
	w.empty = code == http.StatusNoContent || code == http.StatusNotModified
	fields := []hpack.Field{{Name: ":status", Value: strconv.Itoa(code)}}
	for name, values := range w.header {
		name = strings.ToLower(name)
		switch name {
		case "connection", "transfer-encoding", "keep-alive", "upgrade", "proxy-connection":
			continue
		}
		for _, v := range values {
			fields = append(fields, hpack.Field{Name: name, Value: v})
		}
	}
	var b h2.Batch
	w.x.down.SendHeaders(&b, fields, false)
	b.Flush()
}

// maxUnsent is how much of a response may wait for the client before Write does.
const maxUnsent = 64 << 10

// Write sends octets, and waits while the client has not taken those before. As with net/http, the content of an answer to HEAD is
// not sent, and one of a status without content is an error.
func (w *httpWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	switch {
	case w.empty:
		return 0, http.ErrBodyNotAllowed
	case w.x.toHead:
		return len(p), nil
	}
	written := 0
	for len(p) > 0 {
		if err := w.wait(); err != nil {
			return written, err
		}
		n := min(len(p), maxUnsent)
		var b h2.Batch
		_, err := w.x.down.Send(&b, p[:n], false)
		b.Flush()
		if err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// wait blocks until little waits for the client.
func (w *httpWriter) wait() error {
	x := w.x
	x.mu.Lock()
	defer x.mu.Unlock()
	for !x.over && x.down.Queued() >= maxUnsent {
		x.wake.Wait()
	}
	if x.over {
		return errStreamOver
	}
	return nil
}

func (w *httpWriter) Flush() { w.WriteHeader(http.StatusOK) }

// abort ends the response of a handler that panicked with p so that nobody can take it for a whole
// one, as net/http does; so does the log.
func (w *httpWriter) abort(r *http.Request, p any) {
	if p != http.ErrAbortHandler { //nolint:errorlint // compared as net/http does
		log.Printf("relay: panic serving %s: %v\n%s", r.RemoteAddr, p, debug.Stack())
	}
	var b h2.Batch
	w.x.down.Reset(&b, frame.InternalError)
	b.Flush()
	w.x.lost()
}

// end ends the response after the handler.
func (w *httpWriter) end() {
	w.WriteHeader(http.StatusOK)
	var b h2.Batch
	w.x.down.Send(&b, nil, true) //nolint:errcheck // nothing that could be over a budget
	w.x.down.StopReceiving(&b)
	b.Flush()
	w.x.mu.Lock()
	w.x.over = true
	w.x.mu.Unlock()
}
