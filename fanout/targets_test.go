// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestDistinctAndLabel(t *testing.T) {
	t.Parallel()
	tests := []struct{ names, distinct, labels string }{
		{"", "", ""},
		{"a b", "a b", "a b"},
		{"a b a a", "a b", "a b a#2 a#3"},
		{"a a a#2 a", "a a#2", "a a#3 a#2 a#4"},
		{"a#2 a a a#2", "a#2 a", "a#2 a a#3 a#2#2"},
	}
	for _, tt := range tests {
		names := strings.Fields(tt.names)
		if got := strings.Join(Distinct(names), " "); got != tt.distinct {
			t.Errorf("Distinct(%s) = %s, want %s", tt.names, got, tt.distinct)
		}
		if got := strings.Join(Label(names), " "); got != tt.labels {
			t.Errorf("Label(%s) = %s, want %s", tt.names, got, tt.labels)
		}
	}
}

func TestSelect(t *testing.T) {
	t.Parallel()
	v6 := Selection{Key: "nodes", Patterns: []string{"[fd00::*]:50000", "fd00::*"}}
	base := Selection{Key: "nodes", Known: []string{"a", "b", "c"}, Patterns: []string{"10.5.0.*:50000", "w-*"}, MaxTargets: 4}
	required, repeated := base, base
	required.Required, repeated.Repeated = true, true
	tests := []struct {
		name      string
		selection Selection
		values    []string
		want      string
		code      codes.Code
	}{
		{"nothing is all", base, nil, "a b c", codes.OK},
		{"nothing where it is required", required, nil, "", codes.InvalidArgument},
		{"empty is nothing", required, []string{" , ", ""}, "", codes.InvalidArgument},
		{"star", required, []string{"*"}, "a b c", codes.OK},
		{"names in the caller's order", base, []string{"c", "a"}, "c a", codes.OK},
		{"a list in one value", base, []string{"c, b", "a"}, "c b a", codes.OK},
		{"twice", base, []string{"a,a", "*"}, "a b c", codes.OK},
		{"twice is two", repeated, []string{"a,a"}, "a a", codes.OK},
		{"patterns", base, []string{"10.5.0.7:50000", "w-eu_1"}, "10.5.0.7:50000 w-eu_1", codes.OK},
		{"a star takes no dot", base, []string{"10.5.0.7.example.org:50000"}, "", codes.PermissionDenied},
		{"nor nothing", base, []string{"w-"}, "", codes.PermissionDenied},
		{"not allowed", base, []string{"a", "evil\n"}, "", codes.PermissionDenied},
		{"letters in an address", base, []string{"10.5.0.x:50000"}, "", codes.PermissionDenied},
		{"digits that are no address", base, []string{"10.5.0.999:50000"}, "", codes.PermissionDenied},
		{"IPv6", v6, []string{"[fd00::a7]:50000", "fd00::1"}, "[fd00::a7]:50000 fd00::1", codes.OK},
		{"letters in IPv6", v6, []string{"[fd00::xyz]:50000"}, "", codes.PermissionDenied},
		{"patterns are the operator's", base, []string{"w-*"}, "", codes.PermissionDenied},
		{"as many as may be", base, []string{"w-1,w-2,w-3,w-4"}, "w-1 w-2 w-3 w-4", codes.OK},
		{"too many", base, []string{"w-1,w-2,w-3,w-4,w-5"}, "", codes.ResourceExhausted},
		{"too many by stars", repeated, []string{"*,*"}, "", codes.ResourceExhausted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := tt.selection.Select(metadata.MD{"nodes": tt.values})
			if status.Code(err) != tt.code || strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.code)
			}
			if err != nil && (strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), `"nodes"`)) {
				t.Errorf("the message %q is not one line that names the key", err)
			}
		})
	}
}

func TestSelectDefaultLimit(t *testing.T) {
	t.Parallel()
	s := Selection{Key: "n", Known: make([]string, DefaultMaxTargets+1), Repeated: true}
	if _, err := s.Select(nil); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%d targets: %v, want ResourceExhausted", len(s.Known), err)
	}
}

// FuzzMatches compares the patterns with what they are as regular expressions.
func FuzzMatches(f *testing.F) {
	f.Add("10.5.0.*:50000", "10.5.0.1:50000")
	f.Add("*a*.b*", "xaya.bb")
	f.Add("*1*", "1121")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern)+len(name) > 200 {
			return
		}
		parts := strings.Split(pattern, "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		re, err := regexp.Compile(`\A(?s:` + strings.Join(parts, "[0-9A-Za-z_-]+") + `)\z`)
		if err != nil { // no UTF-8
			return
		}
		if want := re.MatchString(name); matches(pattern, name) != want {
			t.Fatalf("matches(%q, %q) = %v, want %v", pattern, name, !want, want)
		}
	})
}

func TestGuard(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		guard Guard
		via   []string
		want  string // "" for a loop
	}{
		{"first", Guard{ID: "p"}, nil, "p"},
		{"behind others", Guard{ID: "p"}, []string{"q,r", "s"}, "q,r,s,p"},
		{"again", Guard{ID: "p"}, []string{"q, p ,r"}, ""},
		{"a part of a name is another", Guard{ID: "p"}, []string{"pp"}, "pp,p"},
		{"too many", Guard{ID: "p"}, []string{"a,b", "c,d"}, ""},
		{"own limit", Guard{ID: "p", MaxHops: 1}, []string{"a"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := tt.guard.Enter(metadata.MD{ViaKey: tt.via})
			if got != tt.want || (tt.want == "") != (status.Code(err) == codes.FailedPrecondition) {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestGuardKeepsMetadata(t *testing.T) {
	t.Parallel()
	values := slices.Grow([]string{"a"}, 4)
	if _, err := (Guard{ID: "p"}).Enter(metadata.MD{ViaKey: values}); err != nil || values[:2][1] != "" {
		t.Errorf("metadata is now %q, %v", values[:2], err)
	}
}
