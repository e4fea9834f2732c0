// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package top shows a running daemon in a terminal: the data of the admin endpoint's status page, live.
//
// [Model] keeps what the daemon has told, [Render] makes lines of it, and both are pure: no clock, terminal or network.
// [Run] asks the daemon, draws, and takes keys. Nothing but ANSI escapes is used, so any terminal will do.
package top
