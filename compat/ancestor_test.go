// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package compat

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	ancestor      = "github.com/siderolabs/grpc-proxy"
	version       = "v0.5.1"
	ancestorProxy = ancestor + "/proxy"
	ourProxy      = "github.com/manifold-grpc/manifold/proxy"
)

var noRace = flag.Bool("norace", false, "build the ancestor's tests without the race detector")

// TestAncestorsTests runs every test of the ancestor against our package.
func TestAncestorsTests(t *testing.T) {
	files := rewriteTests(t, filepath.Join(download(t), "proxy"))
	output := run(t, build(t, files))
	for _, missing := range unpassed(files, output) {
		t.Error(missing)
	}
	if t.Failed() {
		t.Logf("output of the ancestor's tests:\n%s", output)
	}
}

// download returns the directory in the module cache that holds the ancestor's
// files, after the go command has checked them against go.sum.
func download(t *testing.T) string {
	t.Helper()
	var module struct{ Dir, Error string }
	if err := json.Unmarshal(goCommand(t, "mod", "download", "-json", ancestor+"@"+version), &module); err != nil {
		t.Fatal(err)
	}
	if module.Error != "" {
		t.Fatal(module.Error)
	}
	return module.Dir
}

// testFile is one of the ancestor's test files with our import path in it.
type testFile struct {
	name string
	text string
	tree *ast.File // of the original
}

// rewriteTests reads the test files in dir and replaces the import path of the
// ancestor's proxy package, and nothing else.
func rewriteTests(t *testing.T, dir string) []testFile {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no test files in %s (%v)", dir, err)
	}
	var files []testFile
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, name, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		rewritten := string(text)
		for _, spec := range tree.Imports {
			if at := set.Position(spec.Path.Pos()).Offset; spec.Path.Value == fmt.Sprintf("%q", ancestorProxy) {
				rewritten = rewritten[:at] + fmt.Sprintf("%q", ourProxy) + rewritten[at+len(spec.Path.Value):]
			}
		}
		if rewritten == string(text) {
			t.Fatalf("%s does not import %s, so it would not test our package", name, ancestorProxy)
		}
		files = append(files, testFile{filepath.Base(name), rewritten, tree})
	}
	return files
}

// build compiles the files into a test program and returns its path. An overlay
// shows them to the go command as a package of this module, so that the module's
// own requirements and replacement hold for them, without a file put into it.
func build(t *testing.T, files []testFile) string {
	t.Helper()
	dir := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	replace := make(map[string]string)
	for _, f := range files {
		source := filepath.Join(dir, f.name)
		if err := os.WriteFile(source, []byte(f.text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(here, "ancestor", f.name)] = source
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	list, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "ancestor.test")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	goCommand(t, "test", "-c", "-vet=off", fmt.Sprintf("-race=%v", !*noRace), "-overlay", list, "-o", program, "./ancestor")
	return program
}

// run runs the test program and returns what it printed.
func run(t *testing.T, program string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, "-test.v", "-test.timeout=5m")
	cmd.Dir = filepath.Dir(program)
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("the ancestor's tests: %v", err)
	}
	return string(output)
}

// unpassed returns a line for each test, suite method and example with expected
// output in the files that the output does not report as passed. That the
// program ends well is not enough: it also would with no test in it.
func unpassed(files []testFile, output string) []string {
	want := make(map[string]int) // by last part of the name; two suites share names
	for _, f := range files {
		for _, decl := range f.tree.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if ok && (strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Example")) {
				want[fn.Name.Name]++
			}
		}
	}
	for line := range strings.Lines(output) {
		_, name, ok := strings.Cut(line, "--- PASS: ")
		if !ok {
			continue
		}
		name, _, _ = strings.Cut(name, " (")
		want[name[strings.LastIndex(name, "/")+1:]]--
	}
	var missing []string
	for name, n := range want {
		if n > 0 {
			missing = append(missing, fmt.Sprintf("%s: %d not passed", name, n))
		}
	}
	return missing
}

// goCommand runs the go command in this module and returns its output.
func goCommand(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	output, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			output = append(output, exit.Stderr...)
		}
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return output
}
