// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package bench measures package proxy beside github.com/siderolabs/grpc-proxy,
// the library that it replaces.
//
// There are two ways to run the same [Workloads]:
//
//	go run ./cmd/library        # what a call costs the process that proxies
//	go test -bench . -run '^$'  # what it costs the whole path, in one process
//
// The command starts two proxies, one over each library, as processes of their
// own, and keeps the load and the backends to itself. It asks each proxy for its
// CPU time before and after a slice of load, so that nothing but the proxy is in
// the figure, and it alternates the two, slice by slice, so that a noisy machine
// is noisy for both. It prints medians, and the median of the ratio of
// neighbouring slices.
//
// The benchmarks add a third side, "direct", where the client calls the backends
// itself. Their ns/op, B/op and allocs/op include client and backends.
//
// Every answer is compared with what it must be.
//
// Messages are bytes without a schema, carried by a codec that copies nothing.
// With a codec that decodes, most of what is measured would be that codec.
package bench
