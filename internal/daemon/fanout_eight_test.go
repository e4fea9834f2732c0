// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// describing is a node with one answer, or one failure.
type describing struct {
	samplepb.UnimplementedFleetServiceServer
	backend string
	err     error
}

func (d describing) Describe(context.Context, *samplepb.DescribeRequest) (*samplepb.DescribeResponse, error) {
	return &samplepb.DescribeResponse{Nodes: []*samplepb.Node{{Backend: d.backend}}}, d.err
}

// eightNodes are machines of all sorts: a, b and h are good, c is not there, d takes connections and says nothing, e answers too
// much, f answers nothing, g fails.
func eightNodes(t *testing.T) string {
	t.Helper()

	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	good := startBackends(t, 3)
	mute := waitingNode{began: make(chan struct{}, 100), ended: make(chan error, 100)}
	large := describing{backend: strings.Repeat("e", 200_000)}
	half := describing{err: status.Error(codes.Aborted, "on demand")}

	return fmt.Sprintf(`{a: "%s", b: "%s", c: "%s", d: "%s", e: "%s", f: "%s", g: "%s", h: "%s"}`, good[0].Addr(), good[1].Addr(), dead.Addr(),
		blackHole(t), serveFleet(t, large), serveFleet(t, mute), serveFleet(t, half), good[2].Addr())
}

// eightPolicies says how calls to the eight nodes end, whichever answers first, and who must have been heard if it is well. What exactly becomes of
// each target, package relay tests with a clock of its own.
var eightPolicies = []struct {
	policy string
	codes  []codes.Code // one of these
	heard  string       // the targets of which something must be in the answer
}{
	{"any", []codes.Code{codes.OK}, ""},
	{"quorum(3)", []codes.Code{codes.OK}, "abh"},
	{"quorum(4)", []codes.Code{codes.DeadlineExceeded}, ""}, // the most frequent failure
	{"primary(b)", []codes.Code{codes.OK}, "b"},
	{"primary(g)", []codes.Code{codes.Aborted}, ""},
	{"all", []codes.Code{codes.Unavailable, codes.ResourceExhausted, codes.Aborted}, ""}, // of those that failed by the time it ends
	{"best-effort", []codes.Code{codes.OK}, "abcdefgh"},
}

// Eight targets of all sorts by the daemon: each policy ends the call as it says, joined and in envelopes, and each target is heard as what it is.
func TestFanOutEight(t *testing.T) {
	carriers := []string{"concat", "envelope"}
	var routes []string
	for _, carrier := range carriers {
		for _, tt := range eightPolicies {
			layout := ""
			if carrier == "concat" {
				layout = "layout: {hostname: 1, error: 2, status: 3},"
			}
			routes = append(routes, fmt.Sprintf(`{match: {metadata: {carrier: %[1]s, policy: "%[2]s"}}, fan_out: {backend: machines, carrier: %[1]s, policy: "%[2]s",
  %[3]s reserve: 8s, max_target_bytes: 100000, unary: [Describe]}}`, carrier, tt.policy, layout))
		}
	}
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {machines: {endpoints: %s}}
routes: [%s]
`, eightNodes(t), strings.Join(routes, ",\n"))})
	conn := connectTo(t, d, "f", insecure.NewCredentials())
	for _, carrier := range carriers {
		for _, tt := range eightPolicies {
			t.Run(carrier+" "+tt.policy, func(t *testing.T) {
				within(t, func(timeout time.Duration) error {
					ctx, cancel := context.WithTimeout(t.Context(), timeout)
					defer cancel()
					ctx = metadata.AppendToOutgoingContext(ctx, "carrier", carrier, "policy", tt.policy)

					return checkEight(answersOf(ctx, conn, carrier == "envelope"), tt.codes, tt.heard)
				})
			})
		}
	}
}

// checkEight returns what is wrong with the answers of the eight nodes, behind which an error stands if the call failed.
func checkEight(answers []string, want []codes.Code, heard string) error {
	ends := map[string]string{"a": "0", "b": "1", "c": "Unavailable", "d": "DeadlineExceeded", "e": "ResourceExhausted", "f": "DeadlineExceeded", "g": "Aborted", "h": "2"}
	for i, answer := range answers {
		name, end, _ := strings.Cut(answer, ": ")
		if expected, ok := ends[name]; ok && end == expected {
			heard = strings.ReplaceAll(heard, name, "")
			continue
		}
		isCode := func(c codes.Code) bool { return strings.Contains(answer, "code = "+c.String()+" ") }
		if i < len(answers)-1 || !slices.ContainsFunc(want, isCode) {
			return fmt.Errorf("answer %q of %q, want %v", answer, answers, want)
		}
		return nil
	}
	if !slices.Contains(want, codes.OK) || heard != "" || len(answers) == 0 {
		return fmt.Errorf("answers %q without an error, want %v, and to hear of %q", answers, want, heard)
	}

	return nil
}
