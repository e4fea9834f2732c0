// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2spec

import "testing"

func TestParse(t *testing.T) {
	t.Parallel()
	const text = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="1. One" package="generic/1" tests="2">
    <testcase package="generic/1" classname="passes" time="0.1"></testcase>
    <testcase package="generic/1" classname="fails"><failure>Expect: a & b</failure></testcase>
  </testsuite>
  <testsuite name="5. Five" package="hpack/5.1" tests="2">
    <testcase package="hpack/5.1" classname="errs"><error>Timeout</error></testcase>
    <testcase package="hpack/5.1" classname="is left out"><skipped></skipped></testcase>
  </testsuite>
</testsuites>`
	got, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if got.Passed != 1 || len(got.Failed) != 2 || len(got.Known) != 1 {
		t.Fatalf("passed %d, failed %v, known %v; want 1, 2 and 1", got.Passed, got.Failed, got.Known)
	}
	if c := got.Failed[0]; c.Name != "generic/1/2 fails" || c.Says != "Expect: a & b" {
		t.Errorf("first failure = %+v", c)
	}
	if c := got.Failed[1]; c.Name != "hpack/5.1/1 errs" || c.Says != "Timeout" {
		t.Errorf("second failure = %+v", c)
	}
	if c := got.Known[0]; c.Name != "hpack/5.1/2 is left out" {
		t.Errorf("skipped = %+v", c)
	}
}

func TestParseBroken(t *testing.T) {
	t.Parallel()
	if _, err := parse("<testsuites><testsuite>"); err == nil {
		t.Error("a report that breaks off was read without an error")
	}
}
