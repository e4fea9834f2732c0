// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"os"
	"testing"
)

// TestNode runs node/suite.js: @grpc/grpc-js.
func TestNode(t *testing.T) {
	node := need(t, "node", "Node.js 20 or later")
	npm := need(t, "npm", "the npm of Node.js")

	// The packages of package-lock.json, and no scripts of theirs.
	suite(t, "node", os.Environ(), npm, "ci", "--ignore-scripts", "--prefer-offline")

	overEach(t, func(t *testing.T, g target) {
		suite(t, "node", g.environment(t), node, "--test", "--test-reporter=spec", "suite.js")
	})
}
