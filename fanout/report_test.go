// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
)

const (
	complete  = fanoutpb.FanoutPhase_FANOUT_PHASE_COMPLETE
	connect   = fanoutpb.FanoutPhase_FANOUT_PHASE_CONNECT
	cancelled = fanoutpb.FanoutPhase_FANOUT_PHASE_CANCELLED
)

func TestReport(t *testing.T) {
	t.Parallel()
	outcomes := []Outcome{
		{
			Name: "a", Phase: complete, FirstResponse: time.Second, Total: 1500 * time.Millisecond,
			RequestMessages: 1, RequestBytes: 10, ResponseMessages: 2, ResponseBytes: 20,
			Header: metadata.Pairs("k", "1", "b-bin", "\xff", "k", "2"), Trailer: metadata.Pairs("t", "3"),
		},
		{Name: "b\xff", Index: 1, Phase: connect, Status: status.New(codes.Unavailable, "no\xff route"), Total: time.Millisecond},
		{Name: "c", Index: 2, Phase: cancelled, Status: status.New(codes.Canceled, "not needed")},
	}
	want := &fanoutpb.FanoutReport{}
	err := prototext.Unmarshal([]byte(`
		targets: 3 ok: 1 failed: 1 cancelled: 1
		outcomes {
			target { name: "a" } phase: FANOUT_PHASE_COMPLETE
			first_response { seconds: 1 } total { seconds: 1 nanos: 500000000 }
			request_messages: 1 request_bytes: 10 response_messages: 2 response_bytes: 20
			header { key: "b-bin" values: "\xff" } header { key: "k" values: "1" values: "2" }
			trailer { key: "t" values: "3" }
		}
		outcomes { target { name: "b\uFFFD" index: 1 } phase: FANOUT_PHASE_CONNECT status { code: 14 message: "no\uFFFD route" } total { nanos: 1000000 } }
		outcomes { target { name: "c" index: 2 } phase: FANOUT_PHASE_CANCELLED status { code: 1 message: "not needed" } total {} }
	`), want)
	if err != nil {
		t.Fatal(err)
	}
	r := NewReport(outcomes, ReportLimits{Metadata: true})
	if !proto.Equal(r, want) {
		t.Errorf("report:\n%v\nwant:\n%v", r, want)
	}
	trailer := Trailer(r)
	if got, err := ReadTrailer(trailer); err != nil || !proto.Equal(got, want) {
		t.Errorf("from the trailer: %v, %v", got, err)
	}
	if got, want := trailer.Get(SummaryKey), "targets=3 ok=1 failed=1 cancelled=1; failures=b%EF%BF%BD:UNAVAILABLE"; len(got) != 1 || got[0] != want {
		t.Errorf("summary %q, want %q", got, want)
	}
	if got := MetadataOf(r.Outcomes[0].Header); !reflect.DeepEqual(got, outcomes[0].Header) {
		t.Errorf("header %v, want %v", got, outcomes[0].Header)
	}
	if without := NewReport(outcomes, ReportLimits{}); without.Outcomes[0].Header != nil || without.Outcomes[0].Trailer != nil {
		t.Errorf("metadata that nobody asked for: %v", without)
	}
}

func TestReadTrailer(t *testing.T) {
	t.Parallel()
	if r, err := ReadTrailer(metadata.Pairs("other", "x")); r != nil || err != nil {
		t.Errorf("no report: %v, %v", r, err)
	}
	if r, err := ReadTrailer(metadata.Pairs(ReportKey, "\xff")); r != nil || err == nil {
		t.Errorf("not protobuf: %v, %v", r, err)
	}
	inner, outer := NewReport(make([]Outcome, 2), ReportLimits{}), NewReport(make([]Outcome, 3), ReportLimits{})
	if r, err := ReadTrailer(metadata.Join(Trailer(inner), Trailer(outer))); err != nil || r.GetTargets() != 3 {
		t.Errorf("two reports: %v, %v", r, err)
	}
}

// TestReportBound has reports that do not fit, and says what is left of each.
func TestReportBound(t *testing.T) {
	t.Parallel()
	big, err := status.New(codes.Internal, strings.Repeat("é", 150)).WithDetails(&errdetails.ErrorInfo{Reason: strings.Repeat("r", 500)})
	if err != nil {
		t.Fatal(err)
	}
	outcomes := func(n int) []Outcome {
		list := make([]Outcome, n)
		for i := range list {
			list[i] = Outcome{Name: fmt.Sprint("t", i), Index: i, Phase: complete, Trailer: metadata.Pairs("k", strings.Repeat("v", 100))}
			if i%2 == 1 {
				list[i].Status = big
			}
		}
		return list
	}
	tests := []struct {
		n, limit                int
		metadata, details       bool
		message, good, bad, out int
	}{
		{4, 0, true, true, 300, 2, 2, 0},
		{4, 2000, false, true, 300, 2, 2, 0},
		{4, 1000, false, false, 300, 2, 2, 0},
		{4, 600, false, false, 203, 2, 2, 0},
		{4, 200, false, false, 0, 2, 2, 0},
		{6, 80, false, false, 0, 1, 3, 2},
		{100, 900, false, false, 0, 0, 47, 53},
		{1000, 1, false, false, 0, 0, 2, 998},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.n, "/", tt.limit), func(t *testing.T) {
			t.Parallel()
			r := NewReport(outcomes(tt.n), ReportLimits{MaxBytes: tt.limit, Metadata: true})
			var good, bad, message int
			var withMetadata, details bool
			for _, o := range r.Outcomes {
				if o.Status == nil {
					good++
				} else {
					bad++
					message = len(o.Status.Message)
				}
				withMetadata = withMetadata || o.Trailer != nil
				details = details || o.Status.GetDetails() != nil
			}
			if withMetadata != tt.metadata || details != tt.details || message != tt.message || good != tt.good || bad != tt.bad || int(r.Omitted) != tt.out {
				t.Errorf("metadata %v, details %v, message of %d, %d good, %d bad, %d omitted; want %+v", withMetadata, details, message, good, bad, r.Omitted, tt)
			}
			if int(r.Targets) != tt.n || int(r.Ok) != tt.n/2 || int(r.Failed) != tt.n/2 {
				t.Errorf("counts %d, %d, %d", r.Targets, r.Ok, r.Failed)
			}
			limit := tt.limit
			if limit == 0 {
				limit = DefaultReportBytes
			}
			if size := proto.Size(r); size > max(limit, minReportBytes) {
				t.Errorf("%d bytes, at most %d", size, limit)
			}
			if big.Message() == "" || len(big.Details()) != 1 {
				t.Fatal("the given status has changed")
			}
		})
	}
}

func TestSummary(t *testing.T) {
	t.Parallel()
	failed := func(names ...string) (list []Outcome) {
		for i, name := range names {
			list = append(list, Outcome{Name: name, Index: i, Phase: complete, Status: status.New(codes.Unavailable, "down")})
		}
		return list
	}
	long := strings.Repeat("n", 150)
	many := failed("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11")
	tests := []struct {
		outcomes []Outcome
		want     string
	}{
		{nil, "targets=0 ok=0 failed=0 cancelled=0"},
		{[]Outcome{{Phase: complete}, {Phase: cancelled}}, "targets=2 ok=1 failed=0 cancelled=1"},
		{failed("[::1]:80", "a,b;%+\n"), "targets=2 ok=0 failed=2 cancelled=0; failures=[::1]:80:UNAVAILABLE,a%2Cb%3B%25%2B%0A:UNAVAILABLE"},
		{failed(long), "targets=1 ok=0 failed=1 cancelled=0; failures=" + long[:100] + "...:UNAVAILABLE"},
		{failed(""), "targets=1 ok=0 failed=1 cancelled=0; failures=:UNAVAILABLE"},
		{[]Outcome{{Name: "a", Status: status.New(77, "odd")}}, "targets=1 ok=0 failed=1 cancelled=0; failures=a:77"},
		{many, "targets=12 ok=0 failed=12 cancelled=0; failures=0:UNAVAILABLE,1:UNAVAILABLE,2:UNAVAILABLE,3:UNAVAILABLE,4:UNAVAILABLE," +
			"5:UNAVAILABLE,6:UNAVAILABLE,7:UNAVAILABLE,8:UNAVAILABLE,9:UNAVAILABLE,+2"},
	}
	for _, tt := range tests {
		got := Summary(NewReport(tt.outcomes, ReportLimits{}))
		if got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
		if _, err := ParseSummary(got); err != nil {
			t.Errorf("%s: %v", got, err)
		}
	}
}

func TestParseSummary(t *testing.T) {
	t.Parallel()
	got, err := ParseSummary("targets=9 ok=2 failed=4 cancelled=3; failures=10.5.0.2:50000:UNAVAILABLE,node%20b:INTERNAL,+2")
	want := SummaryLine{9, 2, 4, 3, []SummaryFailure{{"10.5.0.2:50000", "UNAVAILABLE"}, {"node b", "INTERNAL"}}, 2}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, line := range []string{
		"", "targets=1", "targets=-1 ok=0 failed=0 cancelled=0", "targets=01 ok=0 failed=0 cancelled=0",
		"targets=1 ok=1 failed=0 cancelled=0 ", "targets=1 ok=0 failed=1 cancelled=0; failures=a",
		"targets=1 ok=0 failed=1 cancelled=0; failures=", "targets=1 ok=0 failed=1 cancelled=0; failures=+x",
		"targets=1 ok=0 failed=1 cancelled=0; failures=%4:X", "targets=1 ok=0 failed=1 cancelled=0; failures=%zz:X",
		"targets=99999999999 ok=0 failed=0 cancelled=0",
	} {
		if got, err := ParseSummary(line); err == nil {
			t.Errorf("ParseSummary(%q) = %+v", line, got)
		}
	}
}

// FuzzSummary has names of any bytes go through the line and back.
func FuzzSummary(f *testing.F) {
	f.Add("a", "10.0.0.1:80", uint32(14))
	f.Add("a:b,c", "+1", uint32(99))
	f.Fuzz(func(t *testing.T, first, second string, number uint32) {
		outcomes := []Outcome{{Name: first, Status: status.New(codes.Code(number|1), "x")}, {Name: second, Status: status.New(codes.Internal, "y")}}
		r := NewReport(outcomes, ReportLimits{MaxBytes: 1 << 20})
		line := Summary(r)
		for i := range len(line) {
			if line[i] < ' ' || line[i] > '~' {
				t.Fatalf("%q is not printable ASCII", line)
			}
		}
		got, err := ParseSummary(line)
		if err != nil || len(got.Failures) != 2 {
			t.Fatalf("%q: %+v, %v", line, got, err)
		}
		for i, o := range r.Outcomes {
			if want := clip(o.Target.Name, maxNameBytes); got.Failures[i].Name != want {
				t.Fatalf("name %q, want %q", got.Failures[i].Name, want)
			}
		}
	})
}

func FuzzParseSummary(f *testing.F) {
	f.Add("targets=9 ok=2 failed=4 cancelled=3; failures=10.5.0.2:50000:UNAVAILABLE,node%20b:INTERNAL,+2")
	f.Fuzz(func(t *testing.T, line string) {
		if s, err := ParseSummary(line); err != nil && (s.Targets != 0 || s.Failures != nil) {
			t.Fatalf("a summary with an error: %+v, %v", s, err)
		}
	})
}
