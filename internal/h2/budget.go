// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import "sync/atomic"

// A Budget bounds the octets that connections hold in queues for slow
// receivers. It is safe for concurrent use; nil bounds nothing.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// NewBudget returns a budget of limit octets.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

// Used returns the octets held now.
func (b *Budget) Used() int64 {
	if b == nil {
		return 0
	}
	return b.used.Load()
}

// take reserves n octets, or none and returns false.
func (b *Budget) take(n int) bool {
	if b == nil {
		return true
	}
	if b.used.Add(int64(n)) > b.limit {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

// give returns n octets.
func (b *Budget) give(n int) {
	if b != nil {
		b.used.Add(-int64(n))
	}
}

// roomy reports whether windows may still grow: more octets granted mean more
// that can end in queues, so that stops at half of the budget.
func (b *Budget) roomy() bool { return b == nil || b.used.Load() < b.limit/2 }
