// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

// link is a Markdown link. Its target ends at the first parenthesis or, where it
// names a place in the file, at the hash.
var link = regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)

// deadLinks returns the links of all documents that lead to no file of root.
func deadLinks(t *testing.T, root fs.FS) []string {
	t.Helper()
	var dead []string
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && ignored(entry.Name()):
			return fs.SkipDir
		case path.Ext(name) != ".md":
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := fs.Stat(root, path.Join(path.Dir(name), m[1])); err != nil {
				dead = append(dead, fmt.Sprintf("%s: link to %s, which is not there", name, m[1]))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return dead
}

func TestLinks(t *testing.T) {
	t.Parallel()
	for _, fault := range deadLinks(t, repository()) {
		t.Error(fault)
	}
}

func TestDeadLinks(t *testing.T) {
	t.Parallel()
	root := fstest.MapFS{
		"README.md": {Data: []byte("[a](docs/a.md) [b](docs/b.md#part) [web](https://example.org/x) [self](#part) [dir](docs)")},
		"docs/a.md": {Data: []byte("[up](../README.md) [gone](../docs/c.md)")},
	}
	got := deadLinks(t, root)
	want := []string{"README.md: link to docs/b.md, which is not there", "docs/a.md: link to ../docs/c.md, which is not there"}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("dead links = %q, want %q", got, want)
	}
}
