// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package compat

// What the ancestor's tests import. They are compiled in the context of this
// module, so go.mod has to require it though no file here uses it.
import (
	_ "github.com/manifold-grpc/manifold/proxy"
	_ "github.com/siderolabs/grpc-proxy/proxy"
	_ "github.com/siderolabs/grpc-proxy/testservice"
	_ "github.com/stretchr/testify/assert"
	_ "github.com/stretchr/testify/require"
	_ "github.com/stretchr/testify/suite"
)
