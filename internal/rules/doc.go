// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package rules holds the project to its own rules, as tests: who may import
// whom, and how source files look.
//
// The package has no code to import. Its tests parse the repository's source in
// the test process itself, so that the go command sees every file they read and
// never answers from its cache after a file changed.
//
// To allow a new import, change the table in imports_test.go in the same commit
// and say why in its subject. The rules of style are in style_test.go.
package rules
