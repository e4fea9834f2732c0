// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import "sync/atomic"

// Budget bounds the memory that many windows may take together. A nil *Budget
// has no bound.
type Budget struct {
	max  atomic.Int64
	used atomic.Int64
}

// NewBudget returns a budget of n octets.
func NewBudget(n int64) *Budget {
	b := &Budget{}
	b.max.Store(n)
	return b
}

// SetMax makes n the bound. What is taken beyond a smaller one stays taken until it is released.
func (b *Budget) SetMax(n int64) { b.max.Store(n) }

// Reserve takes n octets and says whether they were there; if not, nothing is
// taken.
func (b *Budget) Reserve(n int64) bool {
	if b == nil {
		return true
	}
	for {
		used := b.used.Load()
		if n > b.max.Load()-used {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// Take takes n octets whether they are there or not: what is held already leaves no room for more.
func (b *Budget) Take(n int64) { b.used.Add(n) }

// Release gives n reserved octets back.
func (b *Budget) Release(n int64) {
	if b != nil {
		b.used.Add(-n)
	}
}

// Roomy reports whether less than half of the budget is taken. A nil budget is roomy.
func (b *Budget) Roomy() bool { return b == nil || b.used.Load() < b.max.Load()/2 }

// Used returns how many octets are taken.
func (b *Budget) Used() int64 {
	if b == nil {
		return 0
	}
	return b.used.Load()
}
