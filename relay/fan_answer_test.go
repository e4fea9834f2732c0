// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// inPieces is a backend that answers in DATA frames which end where they like, and OK.
func inPieces(pieces ...string) func(*rawpeer.Peer) {
	return frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
		if !f.End() {
			return nil
		}
		if err := p.Headers(f.StreamID, false, rawpeer.Response()...); err != nil {
			return err
		}
		for _, piece := range pieces {
			if err := p.Data(f.StreamID, false, []byte(piece)); err != nil {
				return err
			}
		}
		return p.Headers(f.StreamID, true, "grpc-status", "0")
	})
}

// A target fails by a message while whole ones behind it are here already: nobody waits for those.
func TestFanFailsInside(t *testing.T) {
	spoil, m := string(rawpeer.Message([]byte("spoil"))), string(rawpeer.Message([]byte("m")))
	const giant, packed = "\x00\xff\xff\xff\xff", "\x01\x00\x00\x00\x01x"
	merger := func(*relay.Call, []string) relay.Merger {
		return func(e relay.MergeEvent, send func([]byte)) error {
			switch {
			case string(e.Message) == "spoil":
				return status.Error(codes.DataLoss, "spoiled")
			case e.Message != nil:
				send(e.Message)
			}
			return nil
		}
	}
	key := func(m []byte) string {
		if string(m) == "spoil" {
			panic("on demand")
		}
		return ""
	}
	tests := []struct {
		name   string
		cfg    relay.FanOut
		pieces []string
		want   string
	}{
		{"merger", relay.FanOut{Merger: merger}, []string{spoil[:3], spoil[3:] + m + m[:4]}, ""},
		{"merger, one before", relay.FanOut{Merger: merger}, []string{m + spoil[:3], spoil[3:] + m}, "m"},
		{"order", relay.FanOut{Streaming: true, OrderKey: key}, []string{spoil[:3], spoil[3:] + m}, "a!Internal"},
		{"annotator", relay.FanOut{Streaming: true}, []string{spoil[:3], spoil[3:] + m}, "a!Internal"},
		{"compressed, and by what", relay.FanOut{Streaming: true}, []string{packed[:3], packed[3:] + m}, "a!Internal"},
		{"too large", relay.FanOut{Streaming: true}, []string{m[:3], m[3:] + giant}, "m@a|a!ResourceExhausted"},
		{"too large, in an envelope", relay.FanOut{Envelope: true}, []string{m[:3], m[3:] + giant}, "*"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Policy = fanout.BestEffort()
			f := fan(t, &tt.cfg, rigConfig{}, raw(t, inPieces(tt.pieces...)).Addr(), serve(t, answers("good")))
			got, st, _ := collect(within(t), t, dial(t, f.addr), "x")
			var own []string
			for _, m := range got {
				if !strings.HasPrefix(m, "good") {
					own = append(own, m)
				}
			}
			if s := strings.Join(own, "|"); st.Code() != codes.OK || s != tt.want && tt.want != "*" {
				t.Errorf("%q, %v, want %q", own, st, tt.want)
			}
			if n := f.Buffered(); n != 0 {
				t.Errorf("%d octets are held after the call", n)
			}
		})
	}
}
