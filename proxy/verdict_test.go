// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	epb "google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// failures makes a failure of each text, "name index code message".
func failures(t testing.TB, texts ...string) (all []failure) {
	t.Helper()

	for _, text := range texts {
		var (
			f    failure
			code codes.Code
		)

		fields := strings.SplitN(text, " ", 4)
		if _, err := fmt.Sscan(fields[1], &f.index); err != nil {
			t.Fatal(err)
		}

		if err := code.UnmarshalJSON([]byte(fields[2])); err != nil {
			t.Fatal(err)
		}

		f.name, f.status = fields[0], status.New(code, fields[3])
		all = append(all, f)
	}

	return all
}

// The rule of the code, and the form of the message. Whatever order the failures come in, the verdict is the same.
func TestVerdict(t *testing.T) {
	tests := []struct {
		name     string
		targets  int
		failures []string
		want     string
	}{
		{"the only target's own", 1, []string{`a 0 "NOT_FOUND" no such thing`}, "NotFound: no such thing"},
		{"one of several", 3, []string{`b 1 "NOT_FOUND" no such thing`}, "NotFound: 1 of 3 backends failed: b: NotFound: no such thing"},
		{"the most frequent", 3, []string{`a 0 "INTERNAL" x`, `b 1 "NOT_FOUND" y`, `c 2 "NOT_FOUND" z`},
			"NotFound: 3 of 3 backends failed: a: Internal: x; b: NotFound: y; c: NotFound: z"},
		{"the first of several", 9, []string{`c 2 "INTERNAL" x`, `d 3 "NOT_FOUND" y`, `e 4 "NOT_FOUND" z`, `f 5 "INTERNAL" x`},
			"Internal: 4 of 9 backends failed: c: Internal: x; d: NotFound: y; e: NotFound: z; f: Internal: x"},
		{"no control characters", 2, []string{"a 0 \"INTERNAL\" line\r\n\tone\x00more"}, "Internal: 1 of 2 backends failed: a: Internal: line one more"},
		{"long messages", 2, []string{`a 0 "INTERNAL" ` + strings.Repeat("é", 150)}, "Internal: 1 of 2 backends failed: a: Internal: " + strings.Repeat("é", 100) + "..."},
	}

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all := failures(t, tt.failures...)

			for range 10 {
				s := verdict(all, tt.targets)
				if got := fmt.Sprintf("%v: %s", s.Code(), s.Message()); got != tt.want {
					t.Fatalf("got %q, want %q", got, tt.want)
				}

				rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			}
		})
	}
}

// A call of many targets has a message and details that fit into a trailer.
func TestVerdictIsBounded(t *testing.T) {
	var all []failure

	for i := range 1000 {
		s, err := status.New(codes.Unavailable, strings.Repeat("m", 1000)).WithDetails(&epb.ErrorInfo{Reason: fmt.Sprint(i), Domain: strings.Repeat("d", 1000)})
		if err != nil {
			t.Fatal(err)
		}

		all = append(all, failure{index: i, name: fmt.Sprint("node", i), status: s})
	}

	s := verdict(all, 1000)
	if n := proto.Size(s.Proto()); n > 8<<10 {
		t.Errorf("the status takes %d bytes", n)
	}

	if !strings.HasPrefix(s.Message(), "1000 of 1000 backends failed: node0: ") || !strings.HasSuffix(s.Message(), "...; and 990 more") {
		t.Errorf("message: %q", s.Message())
	}

	if d := s.Details(); len(d) != 3 || d[2].(*epb.ErrorInfo).GetReason() != "2" {
		t.Errorf("%d details", len(d))
	}
}

func FuzzOneLine(f *testing.F) {
	f.Add("a\nb")
	f.Add("\x00\x7f\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := clip(oneLine(s), 20)
		if strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%q becomes %q", s, got)
		}

		if len(got) > 23 || utf8.ValidString(s) && !utf8.ValidString(got) {
			t.Errorf("%q is clipped to %q", s, got)
		}
	})
}

func TestContentSubtypeParts(t *testing.T) {
	for _, key := range []string{"te", "connection", ":path", "grpc-timeout", "content-length", "user-agent", "grpc-accept-encoding"} {
		if !hopKey(key) {
			t.Errorf("%s is forwarded", key)
		}
	}

	for _, key := range []string{"grpc-trace-bin", "authorization", "grpc-status-details-bin", "x-te", "contents", ""} {
		if hopKey(key) {
			t.Errorf("%s is not forwarded", key)
		}
	}
}

// What the connection field names is dropped with it.
func TestDropHopKeys(t *testing.T) {
	md := map[string][]string{"connection": {"close, X-Private", "other"}, "x-private": {"1"}, "other": {"2"}, "kept": {"3"}}
	dropHopKeys(md)

	if len(md) != 1 || !slices.Equal(md["kept"], []string{"3"}) {
		t.Errorf("left: %v", md)
	}

	dropHopKeys(nil)
}
