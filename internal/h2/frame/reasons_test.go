// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReasonsAreDocumented finds the reasons in the source of the packages below
// the connection: they are the only strings in snake_case there. The page that
// lists them is part of the contract, as reasons are labels of metrics.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../docs/architecture/h2.md")
	if err != nil {
		t.Fatal(err)
	}
	reason := regexp.MustCompile(`"([a-z]+(?:_[a-z0-9]+)+)"`)
	found := 0
	for _, dir := range []string{".", "../hpack", "../flow"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			source, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range reason.FindAllSubmatch(source, -1) {
				found++
				if !strings.Contains(string(page), "`"+string(m[1])+"`") {
					t.Errorf("%s: reason %s is not in docs/architecture/h2.md", name, m[1])
				}
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d reasons found; does the test still look in the right place?", found)
	}
}
