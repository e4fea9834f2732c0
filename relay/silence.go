// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import "time"

// silence is for how long a PING may be unanswered before calls go elsewhere. The connection
// lives on: what holds an upstream up for a moment shall not fail the calls at it.
const silence = time.Second

// listen notes whether u is silent.
func (e *Endpoint) listen(u *upConn, silent bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if u.silent != silent {
		u.silent = silent
		e.setState()
	}
}

// silent reports whether all connections are. mu is held.
func (e *Endpoint) silent() bool {
	for _, u := range e.conns {
		if !u.silent {
			return false
		}
	}
	return true
}
