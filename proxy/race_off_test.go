// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package proxy_test

// raceEnabled says that the race detector watches.
const raceEnabled = false
