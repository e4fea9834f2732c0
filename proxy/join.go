// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"iter"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// What concat holds of a call that is not streaming until its answers are joined.

// keep holds m until the answers are joined. turn is held.
func (a *concat) keep(t *fanTarget, m mem.BufferSlice) error {
	limit, n := a.fan.handler.options.fanoutLimits.MergedBytes, m.Len()

	if n > limit-a.merged {
		m.Free()

		err := status.Errorf(codes.ResourceExhausted, "proxy: the joined answers of the backends exceed the limit of %d bytes (MergedBytes)", limit)
		a.fan.abort(err)

		return err
	}

	a.merged += n
	if t.part.messages == nil {
		t.part.messages = t.part.one[:0]
	}

	t.part.messages = append(t.part.messages, m)

	return nil
}

// drop frees what is held of a target. turn is held.
func (a *concat) drop(t *fanTarget) {
	for _, m := range t.part.messages {
		a.merged -= m.Len()
		m.Free()
	}

	t.part.raw.free()
	t.part.messages, t.part.hasRaw, t.part.rawError = nil, false, nil
}

// join moves the messages of all targets into one, in their order. It reports whether there was any. turn is held.
func (a *concat) join() (joined mem.BufferSlice, found bool) {
	joined = make(mem.BufferSlice, 0, len(a.fan.targets))

	for _, t := range a.inOrder() {
		p := &t.part
		if a.fan.options != nil && !p.joins {
			a.drop(t)
		}

		for _, m := range p.messages {
			joined = append(joined, m...) // with their references
			found = true
		}

		p.raw.free()
		p.messages = nil
	}

	return joined, found
}

// inOrder ranges over the targets in the order of the answer.
func (a *concat) inOrder() iter.Seq2[int, *fanTarget] {
	return func(yield func(int, *fanTarget) bool) {
		targets := a.fan.targets

		if a.fan.options == nil || !a.fan.options.ByArrival {
			for i := range targets {
				if !yield(i, &targets[i]) {
					return
				}
			}

			return
		}

		sorted := make([]*fanTarget, len(targets))
		for i := range targets {
			sorted[i] = &targets[i]
		}

		slices.SortStableFunc(sorted, func(x, y *fanTarget) int { return cmp.Compare(x.part.arrival, y.part.arrival) })

		for i, t := range sorted {
			if !yield(i, t) {
				return
			}
		}
	}
}
