// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !poison

package h2

// poison does nothing in ordinary builds; see poison_on.go.
func poison([]byte) {}
