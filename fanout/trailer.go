// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"fmt"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
)

// The trailers of a call that carry its outcomes.
const (
	// ReportKey holds a FanoutReport, encoded.
	ReportKey = "manifold-fanout-bin"
	// SummaryKey holds the readable line that [Summary] writes.
	SummaryKey = "manifold-fanout"
)

// Trailer returns both trailers of a report.
func Trailer(r *fanoutpb.FanoutReport) metadata.MD {
	b, err := proto.Marshal(r)
	if err != nil { // text that is no UTF-8, which NewReport has mended
		return metadata.Pairs(SummaryKey, Summary(r))
	}
	return metadata.Pairs(ReportKey, string(b), SummaryKey, Summary(r))
}

// ReadTrailer returns the report in a call's trailer, or nil if there is none: then
// the call was not fanned out, or was refused before it had targets.
func ReadTrailer(trailer metadata.MD) (*fanoutpb.FanoutReport, error) {
	values := trailer.Get(ReportKey)
	if len(values) == 0 {
		return nil, nil
	}
	// With proxies behind each other, the last value is from the one that the caller talks to: an outer proxy adds to what
	// it passes on.
	r := &fanoutpb.FanoutReport{}
	if err := proto.Unmarshal([]byte(values[len(values)-1]), r); err != nil {
		return nil, fmt.Errorf("fanout: trailer %s is no FanoutReport: %w", ReportKey, err)
	}
	return r, nil
}
