// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// failure is a target that ended a one-to-many call.
type failure struct {
	index  int // of the target
	name   string
	status *status.Status // not OK
}

// The bounds of a verdict's text and details. They travel in the trailer, whose size peers limit: 8 KiB is usual.
const (
	maxNamedFailures = 10
	maxFailureText   = 200
	maxDetailBytes   = 4 << 10
)

// verdict returns the status of a call of n targets that ended because of some of them.
//
// The code is the one that most failed targets share; of codes that are equally frequent, the one whose first target
// comes first in the director's order. The message is one line that names the failed targets in that order. The details are those of the failed
// targets, in that order, as far as they fit. The order of failures does not matter.
//
// Of a call to a single target it is that target's own status.
func verdict(failures []failure, n int) *status.Status {
	if n == 1 {
		return failures[0].status
	}

	sorted := slices.SortedFunc(slices.Values(failures), func(a, b failure) int { return cmp.Compare(a.index, b.index) })

	p := status.New(commonCode(sorted), failureText(sorted, n)).Proto()
	size := 0

	for _, f := range sorted {
		for _, d := range f.status.Proto().GetDetails() {
			if size += len(d.GetTypeUrl()) + len(d.GetValue()); size <= maxDetailBytes {
				p.Details = append(p.Details, d)
			}
		}
	}

	return status.FromProto(p)
}

// commonCode returns the most frequent code, the earliest of several.
func commonCode(sorted []failure) codes.Code {
	count := map[codes.Code]int{}
	for _, f := range sorted {
		count[f.status.Code()]++
	}

	best := sorted[0].status.Code()
	for _, f := range sorted[1:] {
		if c := f.status.Code(); count[c] > count[best] {
			best = c
		}
	}

	return best
}

func failureText(sorted []failure, n int) string {
	var b strings.Builder

	fmt.Fprintf(&b, "%d of %d backends failed", len(sorted), n)

	for i, f := range sorted {
		if i == maxNamedFailures {
			fmt.Fprintf(&b, "; and %d more", len(sorted)-i)

			break
		}

		separator := "; "
		if i == 0 {
			separator = ": "
		}

		fmt.Fprintf(&b, "%s%s: %v: %s", separator, f.name, f.status.Code(), clip(oneLine(f.status.Message()), maxFailureText))
	}

	return b.String()
}

// clip shortens s to at most n bytes of whole characters and a mark.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}

	return strings.ToValidUTF8(s[:n], "") + "..."
}
