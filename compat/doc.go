// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package compat holds package proxy to its promise towards programs written
// for github.com/siderolabs/grpc-proxy: they compile and behave after changing
// only the import path.
//
// It has no code to import. Its tests take the ancestor from the module cache,
// where the go command puts it after checking its sum, and then
//
//   - run the ancestor's own tests, in which nothing but the import path of its
//     proxy package is replaced, under the race detector against our package;
//   - compare the exported surface of both packages, declaration by declaration.
//
// Nothing of the ancestor is kept in this repository. Run it with
//
//	go test ./...
//
// in this directory, adding -args -norace where there is no C compiler, or for a
// verdict that is always the same: in TestPingStream_FullDuplexConcurrent two
// goroutines share an err, which the race detector sees now and then.
package compat
