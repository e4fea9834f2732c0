// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

var update = flag.Bool("update", false, "write what happened into the transcripts, instead of comparing")

// TestTranscripts plays the files in testdata: each holds the prose of a rule,
// and connections on which it applies. Lines that begin with a tab are what must
// happen; testdata/README.md describes the others.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts in testdata: ", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			playFile(t, file)
		})
	}
}

func playFile(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	prose, scenarios := cutScenarios(string(text))
	var got strings.Builder
	got.WriteString(prose)
	for _, s := range scenarios {
		synctest.Test(t, func(t *testing.T) { got.WriteString(play(t, s)) })
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got.String() != string(text) {
		t.Errorf("%s: %s", file, firstDifference(string(text), got.String()))
	}
}

// cutScenarios divides a file into its prose and its scenarios, each with the
// number of its first line.
func cutScenarios(text string) (prose string, scenarios []string) {
	for l := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(l, "server"), strings.HasPrefix(l, "client"):
			scenarios = append(scenarios, l)
		case len(scenarios) > 0:
			scenarios[len(scenarios)-1] += l
		default:
			prose += l
		}
	}
	return prose, scenarios
}

// play runs one scenario and returns its text with what happened.
func play(t *testing.T, text string) string {
	var out strings.Builder
	var c *scenario
	for l := range strings.Lines(text) {
		if l[0] == '\t' {
			continue
		}
		out.WriteString(l)
		if l[0] == '\n' || l[0] == '#' {
			continue
		}
		for _, s := range collapse(step(t, &c, strings.TrimSpace(l))) {
			out.WriteString("\t" + s + "\n")
		}
	}
	c.finish()
	return out.String()
}

// step carries out one line and returns what happened.
func step(t *testing.T, c **scenario, text string) (shown []string) {
	defer func() {
		if p := recover(); p != nil {
			t.Fatalf("%s: %v", text, p)
		}
	}()
	verb, rest, _ := strings.Cut(text, " ")
	brief := verb == "brief"
	if brief {
		verb, rest, _ = strings.Cut(rest, " ")
	}
	switch verb {
	case "server", "client":
		*c = newScenario(t, parseLine(text))
	case ">":
		(*c).send(rest)
	case "owner":
		(*c).do(rest)
	case "wait":
		shown = (*c).elapse(duration(rest))
	default:
		shown = (*c).network(text)
	}
	shown = append(shown, (*c).settle()...)
	if brief {
		return summary(shown)
	}
	return shown
}

// network carries out a command of the network or of the peer's reading.
func (c *scenario) network(text string) []string {
	switch l := parseLine(text); text {
	case "freeze":
		c.peer.Freeze()
		c.deaf = true
	case "thaw":
		c.peer.Thaw()
		c.deaf = false
	case "cut":
		c.end.ended.Store(true)
		c.peer.Cut()
	case "peer closes":
		c.peer.Close() //nolint:errcheck // once
	case "peer ends":
		c.peer.CloseWrite() //nolint:errcheck // never fails
	case "peer stops reading":
		c.deaf = true
	case "peer reads on":
		c.deaf = false
	default:
		if l.flag("peer") && l.flag("reads") {
			return c.read(int(number(l.next())))
		}
		panic("do not understand it")
	}
	return nil
}

// collapse writes equal lines that follow each other as one.
func collapse(lines []string) (out []string) {
	for len(lines) > 0 {
		n := 1
		for n < len(lines) && lines[n] == lines[0] {
			n++
		}
		if n > 1 {
			out = append(out, fmt.Sprintf("%d× %s", n, lines[0]))
		} else {
			out = append(out, lines[0])
		}
		lines = lines[n:]
	}
	return out
}

// summary counts lines by what they are, whatever their streams and sizes.
func summary(lines []string) (out []string) {
	var order []string
	count := map[string]int{}
	for _, l := range lines {
		kind := strings.Join(slices.DeleteFunc(strings.Fields(l), func(w string) bool {
			return strings.Trim(w, "0123456789") == "" || strings.Contains(w, "=")
		}), " ")
		if count[kind]++; count[kind] == 1 {
			order = append(order, kind)
		}
	}
	for _, kind := range order {
		out = append(out, fmt.Sprintf("%d× %s", count[kind], kind))
	}
	return out
}

// firstDifference shows where two texts part, with some lines before.
func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for i < len(w) && i < len(g) && w[i] == g[i] {
		i++
	}
	near := func(lines []string) string {
		return strings.Join(lines[max(0, i-3):min(len(lines), i+4)], "\n")
	}
	return fmt.Sprintf("line %d differs (-update writes it anew)\n--- want\n%s\n--- got\n%s", i+1, near(w), near(g))
}
