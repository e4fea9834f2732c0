// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

var update = flag.Bool("update", false, "write what the transcripts of testdata come to anew")

// TestEjectionTranscripts runs the rules step by step. A line of a transcript is a step, what came of it is indented below:
//
//	rules KEY=N ...       begins anew; keys as in rulesOf
//	endpoints N           a, b, c and so on
//	fail a                what comes of failures in a row at a
//	calls a=95/5 ...      successes and failures since the last sweep
//	sweep
//	wait 5s               and readmit who is due
func TestEjectionTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/ejection/*.txt")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d transcripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &script{now: time.Unix(0, 0).UTC()}
			got := s.run(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got != string(text) {
				t.Errorf("got\n%s\nwant\n%s", got, text)
			}
		})
	}
}

// script is the state of a transcript.
type script struct {
	rules ejectionRules
	all   []*subject
	now   time.Time
	out   strings.Builder
}

func (s *script) run(t *testing.T, text string) string {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "  ") {
			continue // what came of it
		}
		s.out.WriteString(line + "\n")
		if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
			if err := s.step(words[0], words[1:]); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
	}

	return s.out.String()
}

func (s *script) say(format string, args ...any) { fmt.Fprintf(&s.out, "  "+format+"\n", args...) }

func (s *script) step(verb string, args []string) error {
	switch verb {
	case "rules":
		return s.begin(args)
	case "endpoints":
		var n int
		_, err := fmt.Sscan(args[0], &n)
		s.all = nil
		for range n {
			s.all = append(s.all, &subject{})
		}
		return err
	case "fail":
		i := int(args[0][0] - 'a')
		if s.rules.eject(s.now, s.all[i], s.all) {
			s.say("%s ejected for %v", args[0], s.all[i].until.Sub(s.now))
		} else {
			s.say("%s stays", args[0])
		}
	case "calls":
		for _, arg := range args {
			sub := s.all[arg[0]-'a']
			if _, err := fmt.Sscanf(arg[2:], "%d/%d", &sub.successes, &sub.failures); err != nil {
				return err
			}
		}
	case "sweep":
		s.rules.sweep(s.now, s.all, func(i int, cause string) {
			s.say("%c ejected by %s for %v", 'a'+i, cause, s.all[i].until.Sub(s.now))
		})
	case "wait":
		d, err := time.ParseDuration(args[0])
		s.now = s.now.Add(d)
		for i, sub := range s.all {
			if s.rules.readmit(s.now, sub) {
				s.say("%c back", 'a'+i)
			}
		}
		return err
	default:
		return fmt.Errorf("unknown verb")
	}

	return nil
}

// begin sets the rules.
func (s *script) begin(args []string) error {
	var e config.Ejection
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		var n config.Count
		if _, err := fmt.Sscan(value, &n); err != nil {
			return err
		}
		seconds := config.Time(n) * config.Time(time.Second)
		switch key {
		case "base":
			e.BaseTime = seconds
		case "max":
			e.MaxTime = seconds
		case "percent":
			e.MaxPercent = n
		case "stdev":
			e.SuccessRate.StdevFactor = n
		case "threshold":
			e.FailureRate.Threshold = n
		case "disabled":
			e.Disabled = true
		default:
			return fmt.Errorf("unknown key %s", key)
		}
	}
	s.rules = rulesOf(&e)

	return nil
}

func TestOutcome(t *testing.T) {
	tests := []struct {
		code   codes.Code
		reason string
		took   time.Duration
		want   outcome
	}{
		{codes.Unavailable, "", 0, tellsGone},
		{codes.NotFound, "", 0, tellsGood},
		{codes.Unimplemented, "", 0, tellsGood},
		{codes.ResourceExhausted, "", 0, tellsGood},
		{codes.Internal, "", 0, tellsBad},
		{codes.DeadlineExceeded, "", 0, tellsBad},
		{codes.DeadlineExceeded, relay.ReasonDeadline, time.Second, tellsGone},
		{codes.DeadlineExceeded, relay.ReasonDeadline, time.Millisecond, tellsNothing},
		{codes.DeadlineExceeded, relay.ReasonIdle, time.Hour, tellsNothing}, // a stream may have nothing to say
		{codes.Canceled, relay.ReasonCanceled, time.Second, tellsNothing},
		{codes.Unavailable, relay.ReasonUpstreamLost, 0, tellsGone},
		{codes.Internal, relay.ReasonUpstreamReset, 0, tellsBad},
		{codes.Unavailable, relay.ReasonUpstreamNotGRPC, 0, tellsGone},
		{codes.Unknown, relay.ReasonUpstreamNotGRPC, 0, tellsBad},
		{codes.ResourceExhausted, relay.ReasonMessageTooLarge, 0, tellsNothing},
		{codes.Unavailable, relay.ReasonUnprocessed, 0, tellsNothing},
	}
	for _, tt := range tests {
		if got := outcomeOf(relay.AttemptStats{Opened: true, Code: tt.code, Reason: tt.reason}, tt.took); got != tt.want {
			t.Errorf("%v %s after %v: %v, want %v", tt.code, tt.reason, tt.took, got, tt.want)
		}
	}
	if got := outcomeOf(relay.AttemptStats{Code: codes.Unavailable}, 0); got != tellsNothing {
		t.Errorf("an attempt that was never sent tells %v", got)
	}
}
