// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package suite holds what all third-party suites share: how their programs are
// built and what a run gives.
package suite

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A Case is one test of a suite, by the name that the suite gives it, and what
// the suite said of it.
type Case struct{ Name, Says string }

// A Report is what one run of a suite gave.
type Report struct {
	Run    string // which suite, against which arrangement
	Passed int
	Failed []Case // what the proxy did wrong
	Known  []Case // did not pass, and why that is no fault of the proxy's
}

// Total returns how many cases the run had.
func (r Report) Total() int { return r.Passed + len(r.Failed) + len(r.Known) }

// Print writes the figures of the runs, after the cases that did not pass, and
// reports whether none failed and something ran at all.
func Print(w io.Writer, runs []Report) bool {
	ok := len(runs) > 0
	for _, r := range runs {
		sortCases(r.Failed)
		sortCases(r.Known)
		for _, c := range r.Failed {
			fmt.Fprintf(w, "FAILED %s: %s\n%s\n", r.Run, c.Name, indent(c.Says))
		}
		for _, why := range reasons(r.Known) {
			fmt.Fprintf(w, "known  %s: %s\n%s\n", r.Run, why.Name, indent(why.Says))
		}
	}
	fmt.Fprintf(w, "\n%-52s %6s %6s %6s %6s\n", "run", "cases", "passed", "known", "failed")
	for _, r := range runs {
		fmt.Fprintf(w, "%-52s %6d %6d %6d %6d\n", r.Run, r.Total(), r.Passed, len(r.Known), len(r.Failed))
		ok = ok && len(r.Failed) == 0 && r.Passed > 0
	}
	return ok
}

// reasons returns one case for each reason, and says how many more have it: a
// suite has the same case many times, by codec and compression.
func reasons(known []Case) []Case {
	var found []Case
	more := map[string]int{}
	for _, c := range known {
		if _, ok := more[c.Says]; !ok {
			found = append(found, c)
			more[c.Says] = -1
		}
		more[c.Says]++
	}
	for i, c := range found {
		if n := more[c.Says]; n > 0 {
			found[i].Name = fmt.Sprintf("%s, and %d more", c.Name, n)
		}
	}
	return found
}

func sortCases(cases []Case) {
	slices.SortFunc(cases, func(a, b Case) int { return cmp.Compare(a.Name, b.Name) })
}

func indent(text string) string {
	return "       " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n       ")
}

// Build compiles the main package at an import path into dir and returns the
// program's path. The version is the one in this module's go.mod, which names
// every program as a tool, so this must run within the module.
func Build(ctx context.Context, dir, pkg string) (string, error) {
	// Two suites have a program called "client", hence the whole path.
	program := filepath.Join(dir, strings.ReplaceAll(pkg, "/", "-"))
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, pkg)
	// The race detector, where it is on, is for the proxy and not for the suite.
	cmd.Env = append(os.Environ(), "GOFLAGS="+strings.ReplaceAll(os.Getenv("GOFLAGS"), "-race", ""))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return program, nil
}
