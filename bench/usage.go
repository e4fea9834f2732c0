// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package bench

import (
	"runtime/metrics"
	"syscall"
	"time"
)

// Usage is what a process has spent since it began.
type Usage struct {
	CPU     time.Duration // user and system time
	Bytes   uint64        // allocated on the heap, freed or not
	Objects uint64        // likewise
}

// Sub returns what was spent between before and u.
func (u Usage) Sub(before Usage) Usage {
	return Usage{u.CPU - before.CPU, u.Bytes - before.Bytes, u.Objects - before.Objects}
}

// CurrentUsage returns what this process has spent.
func CurrentUsage() (Usage, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return Usage{}, err
	}
	heap := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/allocs:objects"}}
	metrics.Read(heap)
	return Usage{
		CPU:     time.Duration(r.Utime.Nano() + r.Stime.Nano()),
		Bytes:   heap[0].Value.Uint64(),
		Objects: heap[1].Value.Uint64(),
	}, nil
}
