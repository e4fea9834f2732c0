// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package upstream

// child does nothing: the tests that start processes of their own, and stop them by signals, are for Unix.
func child(string) {}
