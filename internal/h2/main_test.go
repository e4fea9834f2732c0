// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"testing"

	"go.uber.org/goleak"
)

// No goroutine may outlive the test that started its connection.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
