// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"net"
	"sync"

	"github.com/manifold-grpc/manifold/internal/nonblock"
)

// output is the write side of a connection. The reading goroutine must never wait for
// the socket, as the peer may wait for it to read; so what the socket does not
// take at once is left to a second goroutine.
type output struct {
	nc     net.Conn
	direct nonblock.Writer // writes nothing over TLS

	mu     sync.Mutex
	cond   *sync.Cond // queue grew, closed, err
	queue  []byte     // what the goroutine in drain is to write
	busy   bool       // it writes
	closed bool
	err    error

	done chan struct{} // closed when drain returns
}

func newOutput(nc net.Conn) *output {
	o := &output{nc: nc, done: make(chan struct{})}
	o.cond = sync.NewCond(&o.mu)
	o.direct.Init(nc)
	go o.drain() // ends with close
	return o
}

// write hands over p, which the caller may use again.
func (o *output) write(p []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil || len(p) == 0 {
		return o.err
	}
	if !o.busy && len(o.queue) == 0 {
		n, err := o.direct.TryWrite(p)
		if err != nil {
			o.err = err
			return err
		}
		if p = p[n:]; len(p) == 0 {
			return nil
		}
	}
	o.queue = append(o.queue, p...)
	o.cond.Signal()
	return nil
}

// drain writes the queue.
func (o *output) drain() {
	defer close(o.done)
	var mine []byte
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		for len(o.queue) == 0 && !o.closed {
			o.cond.Wait()
		}
		if len(o.queue) == 0 || o.err != nil {
			return
		}
		mine, o.queue, o.busy = o.queue, mine[:0], true
		o.mu.Unlock()
		_, err := o.nc.Write(mine)
		o.mu.Lock()
		o.busy = false
		if err != nil {
			o.err = err
			return
		}
	}
}

// close closes the connection and waits until nothing is written any more.
func (o *output) close() {
	o.mu.Lock()
	o.closed = true
	o.cond.Signal()
	o.mu.Unlock()
	_ = o.nc.Close() // ends a write under way
	<-o.done
}
