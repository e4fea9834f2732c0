// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func (c *call) one2many(backends []Backend) error {
	return status.Errorf(codes.Unimplemented, "proxy: one-to-many over %d backends comes with the next commit", len(backends))
}
