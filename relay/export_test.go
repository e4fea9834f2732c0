// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

// MirrorsHeld returns what all mirrors hold.
func MirrorsHeld() int64 { return mirrorBudget.Used() }

// MaxLoose is how many targets of a server may go on after their calls.
const MaxLoose = maxLoose
