// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"

	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
)

// Summary returns a report as one line of printable ASCII, for people and for clients that do
// not want protobuf for it:
//
//	targets=5 ok=2 failed=2 cancelled=1; failures=10.5.0.2:50000:UNAVAILABLE,node%20b:INTERNAL
//
// The second part is missing without failures. It names at most 10 failed targets, in
// their order, each with the name of its code after the last colon; more of them
// are counted in a last element such as "+3". In names, what is neither a letter or digit nor one of
// "-._~:[]/@#" is percent-encoded, and after 100 octets they end in "...".
func Summary(r *fanoutpb.FanoutReport) string {
	var b strings.Builder
	fmt.Fprintf(&b, "targets=%d ok=%d failed=%d cancelled=%d", r.GetTargets(), r.GetOk(), r.GetFailed(), r.GetCancelled())
	named := uint32(0)
	separator := "; failures="
	for _, o := range r.GetOutcomes() {
		if o.GetStatus() == nil || o.GetPhase() == fanoutpb.FanoutPhase_FANOUT_PHASE_CANCELLED || named == maxNamed {
			continue
		}
		named++
		fmt.Fprintf(&b, "%s%s:%v", separator, escape(clip(o.GetTarget().GetName(), maxNameBytes)), code.Code(o.GetStatus().GetCode()))
		separator = ","
	}
	if failed := r.GetFailed(); failed > named {
		fmt.Fprintf(&b, "%s+%d", separator, failed-named)
	}
	return b.String()
}

// escape percent-encodes all but the characters that Summary lists.
func escape(name string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

func plain(c byte) bool { return ofLabel(c) || strings.IndexByte(".~:[]/@#", c) >= 0 }

// SummaryLine is what a line of [Summary] says.
type SummaryLine struct {
	Targets, OK, Failed, Cancelled uint32
	Failures                       []SummaryFailure
	More                           uint32 // failed targets beyond those in Failures
}

// SummaryFailure is one failed target.
type SummaryFailure struct {
	Name string
	Code string // as "UNAVAILABLE"; a number for codes outside of gRPC's list
}

// ParseSummary reads a line of [Summary].
func ParseSummary(line string) (SummaryLine, error) {
	var s SummaryLine
	counts, failures, listed := strings.Cut(line, "; failures=")
	if err := scan(counts, "targets=%d ok=%d failed=%d cancelled=%d", &s.Targets, &s.OK, &s.Failed, &s.Cancelled); err != nil {
		return SummaryLine{}, err
	}
	if !listed {
		return s, nil
	}
	for element := range strings.SplitSeq(failures, ",") {
		if strings.HasPrefix(element, "+") && s.More == 0 {
			if err := scan(element, "+%d", &s.More); err != nil {
				return SummaryLine{}, err
			}
			continue
		}
		i := strings.LastIndexByte(element, ':')
		if i < 0 {
			return SummaryLine{}, fmt.Errorf("fanout: summary: %q is not name:CODE", element)
		}
		name, err := unescape(element[:i])
		if err != nil {
			return SummaryLine{}, err
		}
		s.Failures = append(s.Failures, SummaryFailure{name, element[i+1:]})
	}
	return s, nil
}

// scan reads numbers by a format, and nothing but what printing them by it gives.
func scan(text, format string, numbers ...any) error {
	if _, err := fmt.Sscanf(text, format, numbers...); err != nil {
		return fmt.Errorf("fanout: summary: %q is not of the form %q", text, format)
	}
	values := make([]any, len(numbers))
	for i, n := range numbers {
		values[i] = *n.(*uint32)
	}
	if fmt.Sprintf(format, values...) != text {
		return fmt.Errorf("fanout: summary: %q is not of the form %q", text, format)
	}
	return nil
}

var errEscape = errors.New("fanout: summary: a name with an invalid percent-encoding")

func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		var c byte
		if len(s)-i < 3 {
			return "", errEscape
		}
		if _, err := fmt.Sscanf(s[i+1:i+3], "%02X", &c); err != nil {
			return "", errEscape
		}
		b.WriteByte(c)
		i += 2
	}
	return b.String(), nil
}
