// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"
)

// A sourceFile is one parsed Go file of the repository.
type sourceFile struct {
	name string // slash-separated, from the repository's root
	mod  string // directory of the module that it belongs to, "." for the main one
	text string
	set  *token.FileSet
	tree *ast.File
}

func (f sourceFile) test() bool { return strings.HasSuffix(f.name, "_test.go") }

// generated reports whether a tool wrote the file, by Go's convention for it.
func (f sourceFile) generated() bool { return ast.IsGenerated(f.tree) }

func (f sourceFile) imports() []string {
	var paths []string
	for _, spec := range f.tree.Imports {
		// The parser has checked that it is a string literal.
		imported, _ := strconv.Unquote(spec.Path.Value)
		paths = append(paths, imported)
	}
	return paths
}

// repository returns the tree of the repository's files: the go command runs
// tests in their package's directory.
func repository() fs.FS { return os.DirFS("../..") }

// load parses every Go file in root but those that the go command ignores too.
func load(t *testing.T, root fs.FS) []sourceFile {
	t.Helper()
	var files []sourceFile
	modules := map[string]string{".": "."} // by directory
	set := token.NewFileSet()
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && ignored(entry.Name()):
			return fs.SkipDir
		case entry.IsDir():
			modules[name] = moduleOf(root, name, modules)
			return nil
		case !strings.HasSuffix(name, ".go"):
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		tree, err := parser.ParseFile(set, name, text, parser.ParseComments)
		if err != nil {
			return err
		}
		files = append(files, sourceFile{name, modules[path.Dir(name)], string(text), set, tree})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func ignored(dir string) bool {
	hidden := len(dir) > 1 && (dir[0] == '.' || dir[0] == '_')
	return hidden || dir == "testdata" || dir == "node_modules"
}

// moduleOf returns the nearest directory at or above dir that has a go.mod.
// A parent is walked before its children, so modules knows it already.
func moduleOf(root fs.FS, dir string, modules map[string]string) string {
	if _, err := fs.Stat(root, path.Join(dir, "go.mod")); err == nil {
		return dir
	}
	return modules[path.Dir(dir)]
}

// mainModule returns the files that belong to no nested module.
func mainModule(files []sourceFile) []sourceFile {
	var kept []sourceFile
	for _, f := range files {
		if f.mod == "." {
			kept = append(kept, f)
		}
	}
	return kept
}
