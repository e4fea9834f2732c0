// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"

	"github.com/manifold-grpc/manifold/internal/h2"
)

// Shutdown drains the endpoint: it takes no further calls, those that wait for it go to other endpoints, and
// those at it run to their end. It returns when the last is over, or closes what is left when ctx
// ends; its error is ctx's then. Nothing is left running when it returns.
func (e *Endpoint) Shutdown(ctx context.Context) error {
	e.mu.Lock()
	e.retired = true
	if e.retry != nil {
		e.retry.Stop()
	}
	conns := e.conns
	e.setConns(nil)
	e.setState()
	e.mu.Unlock()
	var b h2.Batch
	for _, u := range conns {
		u.h2.Drain(&b)
	}
	b.Flush()
	e.moveWaiting()
	if e.local != nil {
		e.local.Close() //nolint:errcheck // always nil
	}

	idle := make(chan struct{})
	go func() { // ends with the last connection: Close ends them all
		e.runs.Wait()
		close(idle)
	}()
	var err error
	select {
	case <-idle:
	case <-ctx.Done():
		err = ctx.Err()
	}
	e.Close()
	<-idle
	return err
}
