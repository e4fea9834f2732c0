// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package fanoutpb is the generated code of proto/manifold/fanout/v1/fanout.proto:
// the report and the envelope of a one-to-many call. Package fanout writes and
// reads both; package fanoutclient is for callers.
package fanoutpb

//go:generate ./generate.sh
