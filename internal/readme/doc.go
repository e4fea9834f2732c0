// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package readme holds the README to its word, as tests: the Go in it is part of
// examples that compile, run, and forward calls. It has no code to import.
package readme
