// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package compat

import (
	"go/types"
	"testing"

	"golang.org/x/exp/apidiff"
	"golang.org/x/tools/go/packages"
)

// Everything that the ancestor exports must exist in our package with a type
// for which each use still compiles. Additions are free.
func TestSurface(t *testing.T) {
	loaded := load(t, ancestorProxy, ourProxy)
	report := apidiff.Changes(loaded[ancestorProxy], loaded[ourProxy])
	for _, c := range report.Changes {
		if !c.Compatible {
			t.Error(c.Message)
		}
	}
}

// The comparison must see a difference where there is one: the other way round,
// each of our additions is something that the ancestor lacks.
func TestSurfaceSeesDifferences(t *testing.T) {
	loaded := load(t, ancestorProxy, ourProxy)
	additions := 0
	for _, c := range apidiff.Changes(loaded[ourProxy], loaded[ancestorProxy]).Changes {
		if !c.Compatible {
			additions++
		}
	}
	if additions == 0 {
		t.Error("our package adds nothing to its ancestor's surface: the comparison is blind, or compares a package with itself")
	}
}

// load returns the types of the packages, by import path.
func load(t *testing.T, paths ...string) map[string]*types.Package {
	t.Helper()
	mode := packages.NeedName | packages.NeedTypes | packages.NeedImports | packages.NeedDeps
	pkgs, err := packages.Load(&packages.Config{Context: t.Context(), Mode: mode}, paths...)
	if err != nil {
		t.Fatal(err)
	}
	loaded := make(map[string]*types.Package)
	for _, p := range pkgs {
		for _, e := range p.Errors {
			t.Fatal(e)
		}
		loaded[p.PkgPath] = p.Types
	}
	return loaded
}
