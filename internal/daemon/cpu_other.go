// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package daemon

import "time"

// cpuTime returns 0: it is not known here.
func cpuTime() time.Duration { return 0 }
