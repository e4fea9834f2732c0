// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv("MANIFOLD_UPSTREAM_CHILD"); addr != "" {
		child(addr)
	}
	goleak.VerifyTestMain(m)
}
