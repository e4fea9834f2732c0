// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var update = flag.Bool("update", false, "write what happens into the transcripts")

// TestTranscripts plays testdata/*.txt. A line is prose ("# ..."), a step, or what
// the step before it gives ("> ..."). The steps:
//
//	policy POLICY           of the calls that follow
//	code most-frequent | most-severe
//	call NAME...            begin a call to these targets
//	end NAME CODE [FLAG...] [: MESSAGE]
//	                        the target has ended; flags: in-answer, veto, cancelled
//	status                  of the call if it ended now
func TestTranscripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("transcripts: %v, %v", files, err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Errorf("got:\n%s\nwant:\n%s", got, text)
			}
		})
	}
}

// play returns the transcript with what its steps give.
func play(t *testing.T, text string) string {
	var out strings.Builder
	var p player
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, ">") {
			continue
		}
		out.WriteString(line)
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		result, err := p.step(word, rest)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if result != "" {
			out.WriteString("> " + result + "\n")
		}
	}
	return out.String()
}

type player struct {
	policy Policy
	rule   CodeRule
	call   *Call
}

func (p *player) step(word, rest string) (result string, err error) {
	switch word {
	case "policy":
		p.policy, err = ParsePolicy(rest)
		return "", err
	case "code":
		p.rule = map[string]CodeRule{"most-frequent": MostFrequent, "most-severe": MostSevere}[rest]
		return "", nil
	case "call":
		p.call, err = NewCall(p.policy, p.rule, strings.Fields(rest))
		if err != nil {
			return "refused: " + err.Error(), nil
		}
		return "", nil
	case "end":
		return p.end(rest)
	case "status":
		s := p.call.Status()
		return strings.TrimSpace(fmt.Sprintf("%v %s", s.Code(), s.Message())), nil
	}
	return "", fmt.Errorf("no such step")
}

func (p *player) end(text string) (string, error) {
	text, message, _ := strings.Cut(text, " : ")
	words := strings.Fields(text)
	if len(words) < 2 {
		return "", fmt.Errorf("expected NAME CODE")
	}
	index := slices.Index(p.call.targets, words[0])
	number, known := code.Code_value[words[1]]
	if index < 0 || !known {
		return "", fmt.Errorf("no such target or code")
	}
	d := p.call.End(index, End{
		Status:    status.New(codes.Code(number), message),
		InAnswer:  slices.Contains(words[2:], "in-answer"),
		Veto:      slices.Contains(words[2:], "veto"),
		Cancelled: slices.Contains(words[2:], "cancelled"),
	})
	return p.show(d), nil
}

func (p *player) show(d Decision) string {
	var text strings.Builder
	text.WriteString(d.State.String())
	if d.Final {
		text.WriteString(", final")
	}
	if len(d.Cancel) > 0 {
		text.WriteString(", not needed:")
		for _, i := range d.Cancel {
			text.WriteString(" " + p.call.targets[i])
		}
	}
	return text.String()
}
