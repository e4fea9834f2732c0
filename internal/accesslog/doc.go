// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package accesslog writes a line of JSON for each call.
//
// A line is put together in a pooled buffer by who ends the call, and added to what a [Writer] holds, which never
// waits: its own goroutine writes to the file. What does not fit its bound is dropped and counted.
//
// The names are those of Envoy's access log where it has the like, so that what reads those reads these; the rest are in
// docs/operation.md.
package accesslog
