// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package connect

import "testing"

func TestParse(t *testing.T) {
	t.Parallel()
	const out = `FAILED: Basic/a:
	expected 1
	got 2
FAILED: Basic/b was expected to fail but did not
INFO: Basic/c failed (as expected):
	a reason

Total cases: 8
5 passed, 2 failed
(Another 1 failed as expected due to being known failures/flakes.)
`
	got, err := parse(out)
	if err != nil {
		t.Fatal(err)
	}
	if got.Passed != 5 || len(got.Failed) != 2 || len(got.Known) != 1 {
		t.Fatalf("passed %d, failed %+v, known %+v; want 5, 2 and 1", got.Passed, got.Failed, got.Known)
	}
	if c := got.Failed[0]; c.Name != "Basic/a" || c.Says != "\texpected 1\n\tgot 2\n" {
		t.Errorf("first failure = %+v", c)
	}
	if c := got.Failed[1]; c.Name != "Basic/b" || c.Says != "was expected to fail but did not" {
		t.Errorf("second failure = %+v", c)
	}
}

func TestParseIncomplete(t *testing.T) {
	t.Parallel()
	for name, out := range map[string]string{
		"no totals":         "FAILED: Basic/a:\n\tx\n",
		"a failure is lost": "Total cases: 2\n1 passed, 1 failed\n",
	} {
		if _, err := parse(out); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestParseNotRun(t *testing.T) {
	t.Parallel()
	got, err := parse("Total cases: 1\n1 passed, 0 failed\nAnother 3 could not be run due to client timing out or exiting prematurely.\n")
	if err != nil || len(got.Failed) != 1 {
		t.Errorf("failed %+v, %v; want the run itself", got.Failed, err)
	}
}

func TestWithoutTLS(t *testing.T) {
	t.Parallel()
	const want = "features:\n  codecs: [x]\n  supportsTls: false\n"
	for _, config := range []string{
		"features:\n  codecs: [x]\n  supportsTlsClientCerts: true\n",
		"features:\n  codecs: [x]\n  supportsTls: false\n",
	} {
		if got := string(withoutTLS([]byte(config))); got != want {
			t.Errorf("without TLS: %q, want %q", got, want)
		}
	}
}
