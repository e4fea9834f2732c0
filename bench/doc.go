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
// Four proxies are compared, each as the documentation of its library shows it:
// the ancestor's; "moved", the same program after a change of the import path;
// "manifold", a program written for package proxy, with Upstream, ServerOptions and DirectSockets; and "channel", which is
// that over package relay/channel in place of connections of grpc-go. The targets are the channel's. Of
// the options of grpc-go ServerOptions sets one that saves CPU, NumStreamWorkers, which the
// other two could set as well. DirectSockets works for any server and client of grpc-go, too.
//
// The command starts the proxies as processes of their
// own, and keeps the load and the backends to itself. It asks each proxy for its
// CPU time before and after a slice of load, so that nothing but the proxy is in
// the figure, and it takes them in turn, slice by slice, so that a noisy machine
// is noisy for all. It prints medians, and medians of the ratios of
// neighbouring slices.
//
// With one call at a time most of what is measured is grpc-go and Go's scheduler,
// which wake a thread for each of the steps of a call. With many, steps share wakings.
//
// The benchmarks add a side, "direct", where the client calls the backends
// itself. Their ns/op, B/op and allocs/op include client and backends.
//
// Every answer is compared with what it must be.
//
// Messages are bytes without a schema, carried by a codec that copies nothing.
// With a codec that decodes, most of what is measured would be that codec.
package bench
