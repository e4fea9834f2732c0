// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"maps"
	"slices"
	"strings"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
)

// Outcome is what became of one target.
type Outcome struct {
	// Name of the target and its place in the order of the call's targets, from 0.
	Name  string
	Index int
	// Phase is the part of the call in which the target ended.
	Phase fanoutpb.FanoutPhase
	// Status is the target's, or what was made of its failure; nil is OK.
	Status *status.Status
	// FirstResponse and Total run from the start of the call to the first response, 0
	// if there was none, and to the end of the target.
	FirstResponse, Total time.Duration
	// Messages and bytes to the target and from it.
	RequestMessages, RequestBytes   int64
	ResponseMessages, ResponseBytes int64
	// Header and Trailer are what the target sent.
	Header, Trailer metadata.MD
}

// Code returns the code that the target ended with. It is codes.Canceled of a target without a status that has not completed: the
// call ended before it, or needed it no more.
func (o *Outcome) Code() codes.Code {
	if o.Status == nil && o.Phase != fanoutpb.FanoutPhase_FANOUT_PHASE_COMPLETE {
		return codes.Canceled
	}
	return o.Status.Code()
}

// proto returns the wire form. Text that is no UTF-8 is mended, since no decoder would take it.
func (o *Outcome) proto(withMetadata bool) *fanoutpb.FanoutOutcome {
	p := &fanoutpb.FanoutOutcome{
		Target:           targetProto(o.Name, o.Index),
		Phase:            o.Phase,
		Status:           statusProto(o.Status),
		Total:            durationpb.New(o.Total),
		RequestMessages:  unsigned(o.RequestMessages),
		RequestBytes:     unsigned(o.RequestBytes),
		ResponseMessages: unsigned(o.ResponseMessages),
		ResponseBytes:    unsigned(o.ResponseBytes),
	}
	if o.FirstResponse > 0 {
		p.FirstResponse = durationpb.New(o.FirstResponse)
	}
	if withMetadata {
		p.Header, p.Trailer = metadataProto(o.Header), metadataProto(o.Trailer)
	}
	return p
}

func targetProto(name string, index int) *fanoutpb.FanoutTarget {
	return &fanoutpb.FanoutTarget{Name: strings.ToValidUTF8(name, "\uFFFD"), Index: uint32(max(index, 0))}
}

// statusProto returns nil for OK, else a copy that the caller may change.
func statusProto(s *status.Status) *spb.Status {
	if s.Code() == codes.OK {
		return nil
	}
	p := proto.CloneOf(s.Proto())
	p.Message = strings.ToValidUTF8(p.GetMessage(), "\uFFFD")
	return p
}

func unsigned(n int64) uint64 { return uint64(max(n, 0)) }

// metadataProto returns the metadata sorted by key.
func metadataProto(md metadata.MD) []*fanoutpb.FanoutMetadata {
	var list []*fanoutpb.FanoutMetadata
	for _, key := range slices.Sorted(maps.Keys(md)) {
		m := &fanoutpb.FanoutMetadata{Key: strings.ToValidUTF8(key, "\uFFFD")}
		for _, value := range md[key] {
			m.Values = append(m.Values, []byte(value))
		}
		list = append(list, m)
	}
	return list
}

// MetadataOf returns the metadata that list has.
func MetadataOf(list []*fanoutpb.FanoutMetadata) metadata.MD {
	md := make(metadata.MD, len(list))
	for _, m := range list {
		for _, value := range m.GetValues() {
			md.Append(m.GetKey(), string(value))
		}
	}
	return md
}

// DefaultReportBytes bounds a report. It is 5462 octets in a trailer, as base64.
const DefaultReportBytes = 4 << 10

// ReportLimits says how much a report may hold.
type ReportLimits struct {
	// MaxBytes of the encoded report; 0 means [DefaultReportBytes], and less than 64
	// means 64, which the counts need.
	MaxBytes int
	// Metadata says that the report has the headers and trailers of the targets.
	Metadata bool
}

// NewReport makes the report of a call whose outcomes, one for each target, are in the order of the targets.
// It drops what exceeds the limits in the order that the message's definition gives.
func NewReport(outcomes []Outcome, limits ReportLimits) *fanoutpb.FanoutReport {
	r := &fanoutpb.FanoutReport{Targets: uint32(len(outcomes))}
	for i := range outcomes {
		o := &outcomes[i]
		switch {
		case o.Phase == fanoutpb.FanoutPhase_FANOUT_PHASE_CANCELLED:
			r.Cancelled++
		case o.Status.Code() == codes.OK:
			r.Ok++
		default:
			r.Failed++
		}
		r.Outcomes = append(r.Outcomes, o.proto(limits.Metadata))
	}
	limit := limits.MaxBytes
	if limit == 0 {
		limit = DefaultReportBytes
	}
	shrink(r, max(limit, minReportBytes))
	return r
}

// minReportBytes has room for the five numbers of a report.
const minReportBytes = 64

// shrink drops parts of the report until it has at most limit bytes.
func shrink(r *fanoutpb.FanoutReport, limit int) {
	cuts := []func(*fanoutpb.FanoutOutcome){
		func(o *fanoutpb.FanoutOutcome) { o.Header, o.Trailer = nil, nil },
		func(o *fanoutpb.FanoutOutcome) {
			if o.Status != nil {
				o.Status.Details = nil
			}
		},
		func(o *fanoutpb.FanoutOutcome) {
			if o.Status != nil {
				o.Status.Message = clip(o.Status.Message, maxTextBytes)
			}
		},
		func(o *fanoutpb.FanoutOutcome) {
			if o.Status != nil {
				o.Status.Message = ""
			}
		},
	}
	for _, cut := range cuts {
		if proto.Size(r) <= limit {
			return
		}
		for _, o := range r.Outcomes {
			cut(o)
		}
	}
	dropOutcomes(r, limit)
}

// dropOutcomes drops the last good outcomes first, those that were cancelled among
// them, and then the last bad ones.
func dropOutcomes(r *fanoutpb.FanoutReport, limit int) {
	size := proto.Size(r)
	if size <= limit {
		return
	}
	size += omittedBytes
	for _, bad := range []bool{false, true} {
		for i := len(r.Outcomes) - 1; i >= 0 && size > limit; i-- {
			o := r.Outcomes[i]
			if o == nil {
				continue
			}
			failed := o.Status != nil && o.Phase != fanoutpb.FanoutPhase_FANOUT_PHASE_CANCELLED
			if failed != bad {
				continue
			}
			size -= proto.Size(&fanoutpb.FanoutReport{Outcomes: []*fanoutpb.FanoutOutcome{o}})
			r.Outcomes[i] = nil
			r.Omitted++
		}
	}
	r.Outcomes = slices.DeleteFunc(r.Outcomes, func(o *fanoutpb.FanoutOutcome) bool { return o == nil })
}

// omittedBytes is the most that the field omitted takes.
const omittedBytes = 6
