// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
)

// msg encodes a field with a message or string as value.
func msg(num protowire.Number, parts ...string) string {
	return string(appendMessage(nil, num, []byte(strings.Join(parts, ""))))
}

// varint encodes a field of an integer type.
func varint(num protowire.Number, v uint64) string {
	return string(protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v))
}

func TestAppendInfo(t *testing.T) {
	var (
		info  = msg(99, msg(99, "n1"))
		value = msg(1, "v") + varint(2, 42)
		long  = msg(1, strings.Repeat("x", 126))
		group = string(protowire.AppendGroup(protowire.AppendTag(nil, 7, protowire.StartGroupType), 7, []byte(varint(1, 5))))
		fixed = string(protowire.AppendFixed64(protowire.AppendTag(nil, 8, protowire.Fixed64Type), 8))
	)
	testservice, keep := TestserviceLayout(), TestserviceLayout()
	keep.KeepEmpty = true
	tests := []struct {
		name      string
		layout    Layout
		streaming bool
		resp      string
		want      string
	}{
		{"one element", testservice, false, msg(1, value), msg(1, value, info)},
		{"every element", testservice, false, msg(1, value) + msg(1) + msg(1, value), msg(1, value, info) + msg(1, info) + msg(1, value, info)},
		{"length prefix grows", testservice, false, msg(1, long), msg(1, long, info)},
		{"fields around the elements", testservice, false, varint(3, 1) + msg(1, value) + group + msg(1, value) + fixed,
			varint(3, 1) + msg(1, value, info) + group + msg(1, value, info) + fixed},
		{"empty reply", testservice, false, "", msg(1, info)},
		{"empty reply kept", keep, false, "", ""},
		{"reply without elements", testservice, false, fixed, fixed + msg(1, info)},
		{"reply without elements kept", keep, false, fixed, fixed},
		{"elements annotated though empty is kept", keep, false, msg(1, value), msg(1, value, info)},
		{"metadata already there", testservice, false, msg(1, msg(99, msg(100, "e")), value), msg(1, msg(99, msg(100, "e")), value, info)},
		{"stream message", testservice, true, value, value + info},
		{"stream message with other fields", testservice, true, group + fixed, group + fixed + info},
		{"empty stream message", testservice, true, "", info},
		{"other numbers", Layout{Element: 5, Metadata: 6, Hostname: 7}, false, msg(1, value) + msg(5, value), msg(1, value) + msg(5, value, msg(6, msg(7, "n1")))},
		{"no hostname field, unary", Layout{Error: 1}, false, msg(1, value), msg(1, value)},
		{"no hostname field, anything", Layout{Error: 1}, true, "\xff", "\xff"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp := []byte(tt.resp)
			got, err := mustNew(t, tt.layout, "n1").AppendInfo(tt.streaming, resp)
			if err != nil || string(got) != tt.want {
				t.Errorf("AppendInfo = %x, %v\nwant %x", got, err, tt.want)
			}
			if string(resp) != tt.resp {
				t.Errorf("the answer passed in became %x", resp)
			}
		})
	}
}

// A stream's message takes the info in place if there is room, and nothing else is ever written to.
func TestAppendInfoWritesWhere(t *testing.T) {
	a := mustNew(t, TestserviceLayout(), "n1")
	for _, tt := range []struct {
		name      string
		streaming bool
		room      int
		inPlace   bool
	}{
		{"stream, enough room", true, len(a.info), true},
		{"stream, a byte too little", true, len(a.info) - 1, false},
		{"reply", false, 100, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			message := msg(1, msg(1, "v"))
			buf := bytes.Repeat([]byte{0xAA}, 200)
			n := copy(buf, message)
			got, err := a.AppendInfo(tt.streaming, buf[:n:n+tt.room])
			if err != nil {
				t.Fatal(err)
			}
			want := message + strings.Repeat("\xAA", 200-n)
			if tt.inPlace {
				want = string(got) + strings.Repeat("\xAA", 200-len(got))
			}
			if inPlace := &got[0] == &buf[0]; inPlace != tt.inPlace || string(buf) != want {
				t.Errorf("in place: %v, want %v; the buffer became %x", inPlace, tt.inPlace, buf)
			}
		})
	}
}

func TestAppendInfoRejects(t *testing.T) {
	const prefix = `splice: answer of "n1" does not fit the layout: `
	tests := []struct {
		name      string
		streaming bool
		resp      string
		want      string
	}{
		{"tag cut short", false, "\x80", "the field tag at byte 0 is cut short"},
		{"tag too long", false, strings.Repeat("\x80", 11), "the field tag at byte 0 is not protobuf"},
		{"field number 0", false, msg(2, "abc") + "\x02", "the field tag at byte 5 is not protobuf"},
		{"length cut short", false, msg(1) + "\x0a", "the field value at byte 3 is cut short"},
		{"element cut short", false, "\x0a\x05abc", "the field value at byte 1 is cut short"},
		{"length near 2^63", false, "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "the field value at byte 1 is cut short"},
		{"element is a string", false, msg(1) + msg(1, "hello"), "the field value at byte 7 is not protobuf"},
		{"element's last field cut short", false, msg(1, msg(1, "v"), "\x12\x09ab"), "the field value at byte 6 is cut short"},
		{"element is an integer", false, varint(2, 1) + varint(1, 1), "field 1 at byte 2 has wire type 0, expected a message of wire type 2"},
		{"element is a group", false, "\x0b\x0c", "field 1 at byte 0 has wire type 3, expected a message of wire type 2"},
		{"end of no group", false, "\x14", "the field value at byte 1 is not protobuf"},
		{"wire type 6", false, "\x16", "the field value at byte 1 is not protobuf"},
		{"group without end", true, "\x13\x08\x01", "the field value at byte 1 is cut short"},
		{"stream message is no protobuf", true, `{"json": true}`, "the field value at byte 1 is cut short"},
		{"metadata is an integer", true, varint(1, 1) + varint(99, 1), "field 99 at byte 2 has wire type 0, expected a message of wire type 2"},
		{"metadata is a string", false, msg(1, msg(99, "hello")), "the field value at byte 8 is not protobuf"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := mustNew(t, TestserviceLayout(), "n1").AppendInfo(tt.streaming, []byte(tt.resp))
			st := status.Convert(err)
			if got != nil || st.Code() != codes.Internal || st.Message() != prefix+tt.want {
				t.Errorf("AppendInfo = %x, %v\nwant Internal: %s", got, err, prefix+tt.want)
			}
		})
	}
}

func TestBuildError(t *testing.T) {
	detailed, err := status.New(codes.FailedPrecondition, "Userspace error.").WithDetails(&errdetails.ErrorInfo{Reason: "R"})
	if err != nil {
		t.Fatal(err)
	}
	talosStatus := func(code codes.Code, text string) string {
		return msg(3, string(mustMarshal(t, &spb.Status{Code: int32(code), Message: text})))
	}
	tests := []struct {
		name   string
		layout Layout
		err    error
		want   string // the metadata
	}{
		{"status error", TestserviceLayout(), status.Error(codes.FailedPrecondition, "Userspace error."),
			msg(99, "n1") + msg(100, "rpc error: code = FailedPrecondition desc = Userspace error.")},
		{"plain error", TalosLayout(), errors.New("boom"), msg(1, "n1") + msg(2, "boom") + talosStatus(codes.Unknown, "boom")},
		{"details", TalosLayout(), detailed.Err(), msg(1, "n1") + msg(2, detailed.Err().Error()) + msg(3, string(mustMarshal(t, detailed.Proto())))},
		{"wrapped status", TalosLayout(), fmt.Errorf("dial: %w", status.Error(codes.Unavailable, "down")),
			msg(1, "n1") + msg(2, "dial: rpc error: code = Unavailable desc = down") + talosStatus(codes.Unavailable, "dial: rpc error: code = Unavailable desc = down")},
		{"deadline", TalosLayout(), context.DeadlineExceeded,
			msg(1, "n1") + msg(2, "context deadline exceeded") + talosStatus(codes.DeadlineExceeded, "context deadline exceeded")},
		{"not UTF-8", TalosLayout(), errors.New("a\xffb"), msg(1, "n1") + msg(2, "a\uFFFDb") + talosStatus(codes.Unknown, "a\uFFFDb")},
		{"details not encodable", TalosLayout(), status.FromProto(&spb.Status{Code: 5, Message: "m", Details: []*anypb.Any{{TypeUrl: "\xff"}}}).Err(),
			msg(1, "n1") + msg(2, "rpc error: code = NotFound desc = m") + talosStatus(codes.NotFound, "m")},
		{"no text", TalosLayout(), errors.New(""), msg(1, "n1") + talosStatus(codes.Unknown, "")},
		{"error only", Layout{Metadata: 1, Error: 2}, errors.New("boom"), msg(2, "boom")},
		{"status only", Layout{Metadata: 1, Hostname: 1, Status: 3}, errors.New("boom"), msg(1, "n1") + talosStatus(codes.Unknown, "boom")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := mustNew(t, tt.layout, "n1")
			element := msg(tt.layout.Metadata, tt.want)
			for streaming, want := range map[bool]string{true: element, false: msg(1, element)} {
				got, err := a.BuildError(streaming, tt.err)
				if err != nil || string(got) != want {
					t.Errorf("BuildError(%v) = %x, %v\nwant %x", streaming, got, err, want)
				}
			}
		})
	}
}

func TestBuildErrorWithoutPlaceFailsTheCall(t *testing.T) {
	for name, a := range map[string]*Annotator{
		"zero annotator":  {},
		"hostname only":   mustNew(t, Layout{Hostname: 1}, "n1"),
		"layout is empty": mustNew(t, Layout{}, "n1"),
	} {
		if got, err := a.BuildError(false, errors.New("boom")); got != nil || err != nil {
			t.Errorf("%s: BuildError = %x, %v, want nil, nil", name, got, err)
		}
	}
	if got, err := mustNew(t, TalosLayout(), "n1").BuildError(true, nil); got != nil || err != nil {
		t.Errorf("BuildError of no error = %x, %v, want nil, nil", got, err)
	}
}

func TestZeroAnnotatorKeepsAnswers(t *testing.T) {
	var a Annotator
	got, err := a.AppendInfo(false, []byte("not protobuf"))
	if err != nil || string(got) != "not protobuf" || a.String() != "" {
		t.Errorf("AppendInfo = %q, %v; String = %q", got, err, a.String())
	}
}

// Answers and errors of several sources, one after another, are one reply.
func TestConcatenation(t *testing.T) {
	for _, api := range apis(t) {
		t.Run(api.name, func(t *testing.T) {
			one := func(value string) []byte {
				m := api.decode(t, false, nil)
				set(api.elementsOf(m).AppendMutable().Message(), "value", value)
				return mustMarshal(t, m)
			}
			var merged []byte
			add := func(b []byte, err error) {
				if err != nil {
					t.Fatal(err)
				}
				merged = append(merged, b...)
			}
			add(mustNew(t, api.layout, "n1").AppendInfo(false, append(one("a"), one("b")...)))
			add(mustNew(t, api.layout, "n2").BuildError(false, status.Error(codes.Unavailable, "down")))
			add(mustNew(t, api.layout, "n3").AppendInfo(false, nil))

			var got []string
			list := api.elementsOf(api.decode(t, false, merged))
			for i := range list.Len() {
				e := list.Get(i).Message()
				md := api.metadataOf(e)
				got = append(got, get(e, "value")+"|"+get(md, "hostname")+"|"+get(md, api.errText))
			}
			want := "a|n1|, b|n1|, |n2|rpc error: code = Unavailable desc = down, |n3|"
			if s := strings.Join(got, ", "); s != want {
				t.Errorf("merged reply has %s\nwant %s", s, want)
			}
		})
	}
}

// However many elements there are, a reply is allocated once, in its exact size.
func TestAppendInfoAllocatesOnce(t *testing.T) {
	a := mustNew(t, TestserviceLayout(), "n1")
	reply := []byte(strings.Repeat(msg(1, msg(1, "value"), varint(2, 7)), 10_000))
	roomy := append(make([]byte, 0, len(reply)+100), reply...)
	for _, tt := range []struct {
		name      string
		streaming bool
		resp      []byte
		allocs    float64
	}{
		{"reply", false, reply, 1},
		{"stream, no room", true, reply[:len(reply):len(reply)], 1},
		{"stream, room", true, roomy, 0},
	} {
		n := testing.AllocsPerRun(5, func() {
			if _, err := a.AppendInfo(tt.streaming, tt.resp); err != nil {
				t.Fatal(err)
			}
		})
		if n != tt.allocs {
			t.Errorf("%s: %v allocations, want %v", tt.name, n, tt.allocs)
		}
	}
	if out, _ := a.AppendInfo(false, reply); cap(out) != len(out) {
		t.Errorf("a reply of %d bytes has a capacity of %d, want no more than that", len(out), cap(out))
	}
}

func BenchmarkAppendInfo(b *testing.B) {
	a := mustNew(b, TestserviceLayout(), "n1")
	element := msg(1, msg(1, strings.Repeat("v", 100)), varint(2, 7))
	for _, n := range []int{1, 100, 10_000} {
		reply := []byte(strings.Repeat(element, n))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(len(reply)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.AppendInfo(false, reply); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
