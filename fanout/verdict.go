// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// failure is a target that failed; its status is not OK.
type failure struct {
	name   string
	status *status.Status
}

// CodeRule chooses the code of a failed call from those of its failed targets. The zero
// value is [MostFrequent].
type CodeRule int

const (
	// MostFrequent takes the code that most failed targets have. Of codes that are equally
	// frequent it takes the one whose first target comes first.
	MostFrequent CodeRule = iota
	// MostSevere takes the code that leaves the caller least hope in a retry: see
	// severity. Codes outside of gRPC's list count as Unknown.
	MostSevere
)

// severity lists the codes from the most severe: damage, faults of the program, what the caller
// must change, what may pass, what passes by itself.
var severity = []codes.Code{
	codes.DataLoss, codes.Internal, codes.Unknown,
	codes.Unauthenticated, codes.PermissionDenied,
	codes.Unimplemented, codes.InvalidArgument, codes.OutOfRange, codes.FailedPrecondition, codes.NotFound, codes.AlreadyExists,
	codes.Aborted, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Unavailable, codes.Canceled,
}

// choose returns the code of a call with these failures, which are in the order of the targets.
func (r CodeRule) choose(failures []failure) codes.Code {
	weight := map[codes.Code]int{}
	for _, f := range failures {
		code := f.status.Code()
		if r == MostSevere {
			weight[code] = -rank(code)
		} else {
			weight[code]++
		}
	}
	best := failures[0].status.Code()
	for _, f := range failures[1:] {
		if code := f.status.Code(); weight[code] > weight[best] {
			best = code
		}
	}
	return best
}

func rank(code codes.Code) int {
	if i := slices.Index(severity, code); i >= 0 {
		return i
	}
	return slices.Index(severity, codes.Unknown)
}

// The bounds of a verdict. It travels in a trailer, whose size peers limit: 8 KiB is usual, of which a summary and the
// names of fields need some. The message is in there twice, as the details bring the whole status, and those as base64.
const (
	maxNamed        = 10
	maxNameBytes    = 100
	maxTextBytes    = 200
	maxMessageBytes = 2 << 10 // less the texts where names and codes alone take most of it
	maxDetailBytes  = 4 << 10
	maxVerdictBytes = 6 << 10
)

// verdict returns the status of a failed call to targets targets. The failures are in the order of the
// targets, at least one; unheard targets were not waited for.
func verdict(policy Policy, rule CodeRule, failures []failure, targets, unheard int) *status.Status {
	p := status.New(rule.choose(failures), verdictText(policy, failures, targets, unheard)).Proto()
	left := detailBytes(p.GetMessage())
	for _, f := range failures {
		for _, d := range f.status.Proto().GetDetails() {
			if n := len(d.GetTypeUrl()) + len(d.GetValue()); n <= left {
				left -= n
				p.Details = append(p.Details, d)
			}
		}
	}
	return status.FromProto(p)
}

// detailBytes returns how much the details may take beside a message.
func detailBytes(message string) int {
	return min(maxDetailBytes, (maxVerdictBytes-wireLen(message))*3/4-len(message))
}

// wireLen returns the length of a message in grpc-message, where it is percent-encoded.
func wireLen(message string) int {
	n := len(message)
	for i := range len(message) {
		if c := message[i]; c < ' ' || c > '~' || c == '%' {
			n += 2
		}
	}
	return n
}

func verdictText(policy Policy, failures []failure, targets, unheard int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "fanout: policy %v: ", policy)
	if policy.kind == policyPrimary {
		b.WriteString("the primary failed")
	} else {
		fmt.Fprintf(&b, "%d of %d targets failed", len(failures), targets)
		if unheard > 0 {
			fmt.Fprintf(&b, ", %d not waited for", unheard)
		}
	}
	named := failures[:min(len(failures), maxNamed)]
	room := textBytes(named)
	separator := ": "
	for _, f := range named {
		fmt.Fprintf(&b, "%s%s: %v", separator, clip(oneLine(f.name), maxNameBytes), f.status.Code())
		if text := oneLine(f.status.Message()); text != "" {
			b.WriteString(": " + clip(text, room))
		}
		separator = "; "
	}
	if more := len(failures) - len(named); more > 0 {
		fmt.Fprintf(&b, "; and %d more", more)
	}
	return b.String()
}

// textBytes returns how much each failure's text may take for the message to keep its bound: the long ones are cut.
func textBytes(named []failure) int {
	const step = 10
	for room := maxTextBytes; room > 0; room -= step {
		left := maxMessageBytes - 200 // for what comes before and behind
		for _, f := range named {
			left -= wireLen(clip(f.name, maxNameBytes)) + len(f.status.Code().String()) + wireLen(clip(f.status.Message(), room)) + len("; : : ")
		}
		if left >= 0 {
			return room
		}
	}
	return 0
}

// clip shortens s, which is UTF-8, to at most n bytes of whole characters and a mark.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

// oneLine makes s valid UTF-8 without control characters.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
