// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
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

// offMap returns the directories of packages that text does not name, in
// backquotes. A package is on the map also by the directory above it.
func offMap(files []sourceFile, text string) []string {
	var missing []string
	for _, f := range files {
		dir := path.Dir(f.name)
		if f.mod != "." {
			dir = f.mod // other modules are named as a whole
		}
		named := strings.Contains(text, "`"+dir+"`") || strings.Contains(text, "`"+path.Dir(dir)+"`")
		if !named && !slices.Contains(missing, dir) {
			missing = append(missing, dir)
		}
	}
	return missing
}

func TestPackageMap(t *testing.T) {
	t.Parallel()
	text, err := fs.ReadFile(repository(), "ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range offMap(load(t, repository()), string(text)) {
		t.Errorf("%s is not in ARCHITECTURE.md, which has a line for every package and module", dir)
	}
}

func TestOffMap(t *testing.T) {
	t.Parallel()
	source := &fstest.MapFile{Data: []byte("package p\n")}
	files := load(t, fstest.MapFS{
		"a/a.go":       source,
		"a/b/b.go":     source,
		"c/c.go":       source,
		"m/go.mod":     {Data: []byte("module m\n")},
		"m/deep/er.go": source,
		"n/go.mod":     {Data: []byte("module n\n")},
		"n/n.go":       source,
	})
	got := offMap(files, "| `a` | | `m` | c n")
	if want := []string{"c", "n"}; !slices.Equal(got, want) {
		t.Errorf("off the map = %q, want %q", got, want)
	}
}
