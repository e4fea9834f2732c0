// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// reasonsIn finds the reasons in source: those of errors, of malformed messages
// and of glitches.
var reasonsIn = regexp.MustCompile(`(Reason: |Reason = |malformed\([^"\n]*|glitch\(|[cC]ode, |"PROTOCOL_ERROR, )"([a-z_]+)"`)

// Each reason is in the documentation, and in a transcript that provokes it:
// that is what makes them complete.
func TestReasons(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/architecture/h2.md")
	if err != nil {
		t.Fatal(err)
	}
	// Streams that never reach the owner have their reasons tested in message_test.go.
	transcripts := readAll(t, "testdata/*.txt") + readAll(t, "message_test.go")
	found := 0
	for _, m := range reasonsIn.FindAllStringSubmatch(readAll(t, "*.go"), -1) {
		reason := m[2]
		if m[1] == "glitch(" {
			reason += "_flood"
		}
		found++
		if !strings.Contains(string(page), "`"+reason+"`") {
			t.Errorf("reason %s is not in docs/architecture/h2.md", reason)
		}
		if reason != "hpack" && !regexp.MustCompile(`\b`+reason+`\b`).MatchString(transcripts) {
			t.Errorf("reason %s is not in any transcript", reason)
		}
	}
	if found < 40 {
		t.Errorf("found %d reasons in the source: the pattern is out of date", found)
	}
	checkPage(t, string(page), transcripts)
}

// checkPage sees that the reasons of the packages below show in what leaves a
// connection, too.
func checkPage(t *testing.T, page, transcripts string) {
	t.Helper()
	packages := map[string]bool{"frame": true, "hpack": true, "flow": true, "memnet": true}
	for _, m := range regexp.MustCompile("\\| `([a-z_]+)` \\|").FindAllStringSubmatch(page, -1) {
		if packages[m[1]] || strings.HasPrefix(m[1], "hpack_") || strings.HasPrefix(m[1], "header_list_") {
			continue // the tests of hpack have all of its own
		}
		if !regexp.MustCompile(`\b` + m[1] + `\b`).MatchString(transcripts) {
			t.Errorf("docs/architecture/h2.md has reason %s, which no transcript provokes", m[1])
		}
	}
}

// readAll returns the text of the files, without tests unless they are asked for.
func readAll(t *testing.T, glob string) string {
	t.Helper()
	files, err := filepath.Glob(glob)
	if err != nil || len(files) == 0 {
		t.Fatal("no files ", glob, ": ", err)
	}
	var all strings.Builder
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") && f != glob {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
