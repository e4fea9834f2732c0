// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package proxy provides a transparent gRPC reverse proxy handler.
package proxy
