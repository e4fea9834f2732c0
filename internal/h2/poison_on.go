// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build poison

package h2

// poison overwrites a buffer that is given back, so that a test built with
// -tags poison sees any use after that as a wrong payload.
func poison(p []byte) {
	for i := range p {
		p[i] = 0xDB
	}
}
