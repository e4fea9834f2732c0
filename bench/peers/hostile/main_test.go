// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/manifold-grpc/manifold/bench/peers/child"
)

// The command starts the program that it is in, which here is the test.
func TestMain(m *testing.M) {
	if !child.Run(roles()) {
		m.Run()
	}
}

// Every attack runs, none costs a bystander a call, and each has its line.
func TestCommand(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-duration", "50ms", "-rounds", "1"}, &out); err != nil {
		t.Fatal(err)
	}
	for _, a := range attacks() {
		if !strings.Contains(out.String(), "| "+a.name+" | ") {
			t.Errorf("no line for %s:\n%s", a.name, out.String())
		}
	}
	if n := strings.Count(out.String(), " × 100 | "); n != 8 {
		t.Errorf("%d lines of overload and capacity, expected 8:\n%s", n, out.String())
	}
}
