// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package fanout is what a one-to-many call decides and tells: which targets it has,
// whether it has succeeded, whom it may cancel, and what its caller learns of each.
//
// It is pure. There is no clock, goroutine, connection or log here; a shell such as
// package proxy moves the messages, says what happened, and does what it is told.
//
//   - [Selection] finds the targets that a caller's metadata asks for; [Distinct] and
//     [Label] deal with one name given twice; [Guard] ends loops.
//   - [Policy] and [Call] turn the ends of targets into a decision and a status.
//   - [Outcome], [NewReport], [Summary] and [Trailer] are what the caller's trailers say.
//   - [Envelope] wraps messages, headers and outcomes for callers who ask for them.
//   - [Merge] joins streams that are each in order into one that is; [FieldKey] makes
//     keys for it out of messages whose type it does not know.
//
// No function keeps a reference to what it is given, unless it says so, and none but
// the methods of [Call] and [Merge] changes state; these two are for one goroutine at a time.
package fanout
