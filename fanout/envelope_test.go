// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
)

func decode(t *testing.T, b []byte) *fanoutpb.FanoutMessage {
	t.Helper()
	m := &fanoutpb.FanoutMessage{}
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEnvelope(t *testing.T) {
	t.Parallel()
	e := NewEnvelope("node\xff", 3)
	target := &fanoutpb.FanoutTarget{Name: "node\uFFFD", Index: 3}

	m := decode(t, append(e.AppendPrefix(nil, 5), "hello"...))
	if !proto.Equal(m, &fanoutpb.FanoutMessage{Target: target, Event: &fanoutpb.FanoutMessage_Payload{Payload: []byte("hello")}}) {
		t.Errorf("payload: %v", m)
	}

	header := metadata.Pairs("k", "1", "k", "2", "x-bin", "\x00\xff")
	m = decode(t, e.Header(header))
	if got := MetadataOf(m.GetHeader().GetMetadata()); !proto.Equal(m.Target, target) || !reflect.DeepEqual(got, header) {
		t.Errorf("header: %v", m)
	}

	o := Outcome{Name: "other", Index: 9, Phase: complete, Status: status.New(codes.NotFound, "none"), Total: time.Second, Trailer: header}
	m = decode(t, e.Outcome(o, true))
	got := m.GetOutcome()
	if !proto.Equal(m.Target, target) || got.GetTarget() != nil || got.GetStatus().GetCode() != 5 || got.GetPhase() != complete ||
		got.GetTotal().GetSeconds() != 1 || !reflect.DeepEqual(MetadataOf(got.GetTrailer()), header) {
		t.Errorf("outcome: %v", m)
	}
	if m = decode(t, e.Outcome(o, false)); m.GetOutcome().GetTrailer() != nil {
		t.Errorf("outcome without metadata: %v", m)
	}
	if m = decode(t, e.Header(nil)); m.GetHeader() == nil {
		t.Errorf("empty header: %v", m)
	}
}

// TestEnvelopeIsShared has two users of one envelope, whose memory must not mix.
func TestEnvelopeIsShared(t *testing.T) {
	t.Parallel()
	e := NewEnvelope("a", 0)
	first := e.Header(metadata.Pairs("k", "1"))
	e.Header(metadata.Pairs("k", "2"))
	e.AppendPrefix(nil, 1)
	if got := MetadataOf(decode(t, first).GetHeader().GetMetadata()).Get("k"); got[0] != "1" {
		t.Errorf("k = %q", got)
	}
}

// FuzzEnvelope has any name and payload: what comes out is what protobuf makes of it.
func FuzzEnvelope(f *testing.F) {
	f.Add("a", uint16(0), []byte(nil))
	f.Add("10.0.0.1:80", uint16(300), []byte(strings.Repeat("x", 300)))
	f.Fuzz(func(t *testing.T, name string, index uint16, payload []byte) {
		got := append(NewEnvelope(name, int(index)).AppendPrefix(nil, len(payload)), payload...)
		want := &fanoutpb.FanoutMessage{
			Target: &fanoutpb.FanoutTarget{Name: strings.ToValidUTF8(name, "\uFFFD"), Index: uint32(index)},
			Event:  &fanoutpb.FanoutMessage_Payload{Payload: payload},
		}
		if m := decode(t, got); !proto.Equal(m, want) {
			t.Fatalf("got %v, want %v", m, want)
		}
	})
}
