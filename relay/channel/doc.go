// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package channel makes gRPC calls over the endpoints of package relay: a [Channel] is a grpc.ClientConnInterface, for
// generated stubs and for package proxy, at a fraction of what a *grpc.ClientConn costs.
package channel
