// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"fmt"
	"sync"
)

// blame keeps the first thing that a client did wrong until somebody asks. The zero value has none.
type blame struct {
	mu    sync.Mutex
	fault error // guarded by mu
}

// note keeps err, unless there is one already.
func (b *blame) note(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fault == nil {
		b.fault = fmt.Errorf("backend: %w", err)
	}
}

// Fault returns the first thing that a client did wrong since it was last asked, or "".
func (b *blame) Fault() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fault == nil {
		return ""
	}
	text := b.fault.Error()
	b.fault = nil
	return text
}
