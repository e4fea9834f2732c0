// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build race

package relay_test

// raceEnabled says whether the race detector looks on: several times slower.
const raceEnabled = true
