// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package upstream is a backend of the daemon at run time: the endpoints that its configuration
// names, how a call finds one of them, and what is known of each.
//
//	b, err := upstream.Open("catalog", upstream.Config{Backend: file.Backends["catalog"]}, upstream.Deps{Log: log})
//	call.Forward(b.Relay())
//
// A call looks at nothing but a snapshot, the view, which has the endpoints that calls may go to
// now. It is made anew when something changes: a connection comes or goes, the configuration
// changes. A choice is thus a load of a pointer and a few operations, however much is on.
//
// Calls go to endpoints that are connected; if there are none, to those that are being connected,
// where calls wait; if there are none either, a call fails with UNAVAILABLE and the reason.
//
// Locks: Backend.changing, then extras.mu, then that of a relay.Endpoint, then Backend.mu.
package upstream
