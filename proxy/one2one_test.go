// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"slices"
	"testing"
)

func TestEcho(t *testing.T) {
	conn := behind(t, echo)

	for _, requests := range [][]string{nil, {""}, {"one"}, {"one", "", "three"}} {
		got, err := call(t, conn, "/test.Echo/Any", requests...)
		if err != nil || !slices.Equal(got, requests) {
			t.Errorf("echo of %q: got %q, %v", requests, got, err)
		}
	}
}
