// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/relay"
)

// timed is a backend that sends messages, "10ms:text", each after its pause.
func timed(t *testing.T, end codes.Code, messages ...string) node {
	return node{handler: func(_ any, st grpc.ServerStream) error {
		for _, m := range messages {
			pause, text, _ := strings.Cut(m, ":")
			select {
			case <-time.After(must(time.ParseDuration(pause))(t)):
			case <-st.Context().Done():
				return st.Context().Err()
			}
			if err := send(st, text); err != nil {
				return err
			}
		}
		if end != codes.OK {
			return fails(end)(nil, st)
		}
		return nil
	}}
}

// Messages of several targets, each in the order of its keys, become one order, whenever they come; a failure comes behind what its target sent, and
// a window or a cap of octets that is too small lets the least go.
func TestFanOrder(t *testing.T) {
	quick, late := []string{"0s:1", "0s:4", "0s:6"}, []string{"50ms:2", "50ms:3", "50ms:5"}
	tests := []struct {
		name  string
		cfg   relay.FanOut
		nodes []node
		want  []string
		code  codes.Code
	}{
		{"two", relay.FanOut{}, []node{timed(t, 0, quick...), timed(t, 0, late...)}, []string{"1@a", "2@b", "3@b", "4@a", "5@b", "6@a"}, 0},
		{"equal keys in the order of targets", relay.FanOut{}, []node{timed(t, 0, "20ms:1", "0s:2"), timed(t, 0, "0s:1", "0s:2")}, []string{"1@a", "1@b", "2@a", "2@b"}, 0},
		{"one fails", relay.FanOut{Policy: fanout.BestEffort()}, []node{timed(t, codes.Aborted, "0s:1", "0s:4"), timed(t, 0, late...)},
			[]string{"1@a", "2@b", "3@b", "4@a", "a!Aborted", "5@b"}, 0},
		{"all, one fails", relay.FanOut{}, []node{timed(t, codes.Aborted, "0s:1", "0s:4"), timed(t, 0, "0s:3", "1h:5")}, []string{"1@a", "3@b"}, codes.Aborted},
		{"nobody waits for the dead", relay.FanOut{Policy: fanout.BestEffort()}, []node{dead, timed(t, 0, quick...)}, []string{"a!Unavailable", "1@b", "4@b", "6@b"}, 0},
		{"a window", relay.FanOut{OrderWindow: 2}, []node{timed(t, 0, quick...), timed(t, 0, late...)}, []string{"1@a", "2@b", "3@b", "4@a", "5@b", "6@a"}, 0},
		{"a small window", relay.FanOut{OrderWindow: 1}, []node{timed(t, 0, quick...), timed(t, 0, "50ms:2", "50ms:7")}, []string{"1@a", "4@a", "2@b", "6@a", "7@b"}, 0},
		{"octets", relay.FanOut{OrderBytes: 16}, []node{timed(t, 0, quick...), timed(t, 0, "50ms:2", "50ms:7")}, []string{"1@a", "2@b", "4@a", "6@a", "7@b"}, 0},
		{"any leaves the rest", relay.FanOut{Policy: fanout.Any()}, []node{timed(t, 0, "0s:1", "10ms:3"), timed(t, 0, "0s:2", "0s:4", "1h:9")}, []string{"1@a", "2@b", "3@a", "4@b"}, 0},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			tt.cfg.Streaming, tt.cfg.OrderKey = true, func(m []byte) string { return string(m) }
			f, cc := fanMemory(t, &tt.cfg, rigConfig{}, tt.nodes...)
			for range 3 {
				got, st, _ := collect(t.Context(), t, cc, "x")
				if !slices.Equal(got, tt.want) || st.Code() != tt.code {
					t.Errorf("%q, %v, want %q, %v", got, st, tt.want, tt.code)
				}
				<-f.stats
			}
			if n := f.Server.Buffered(); n != 0 {
				t.Errorf("%d octets are held after the calls", n)
			}
		})
	}
}

// A key that panics has its target fail, and a message that the client has no room for keeps its place.
func TestFanOrderTrouble(t *testing.T) {
	bubble(t, "panic", func(t *testing.T) {
		_, cc := fanMemory(t, &relay.FanOut{Policy: fanout.BestEffort(), Streaming: true, OrderKey: func(m []byte) string {
			if string(m) == "2" {
				panic("on demand")
			}
			return string(m)
		}}, rigConfig{}, timed(t, 0, "0s:1", "0s:2", "0s:3"), timed(t, 0, "10ms:4"))
		if got, st, _ := collect(t.Context(), t, cc, "x"); fmt.Sprint(got) != "[1@a a!Internal 4@b]" || st.Code() != codes.OK {
			t.Errorf("%q, %v", got, st)
		}
	})
	bubble(t, "a slow client", func(t *testing.T) {
		counting := func(from int) node {
			return node{handler: func(_ any, st grpc.ServerStream) error {
				for i := from; i < 400; i += 2 {
					if err := send(st, fmt.Sprintf("%03d%s", i, strings.Repeat(".", 2000))); err != nil {
						return err
					}
				}
				return nil
			}}
		}
		_, cc := fanMemory(t, &relay.FanOut{Streaming: true, OrderKey: func(m []byte) string { return string(m[:3]) }}, rigConfig{}, counting(0), counting(1))
		st := must(cc.NewStream(t.Context(), bidi, "/a.B/Stream"))(t)
		check(t, send(st, "x"))
		check(t, st.CloseSend())
		for i := range 400 {
			if m, err := recv(st); err != nil || !strings.HasPrefix(m, fmt.Sprintf("%03d", i)) {
				t.Fatalf("message %d is %.10q, %v", i, m, err)
			}
			time.Sleep(time.Millisecond)
		}
	})
}
