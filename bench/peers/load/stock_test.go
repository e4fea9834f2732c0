// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"strings"
	"testing"
	"time"

	"github.com/manifold-grpc/manifold/bench/peers/backend"
	"github.com/manifold-grpc/manifold/bench/peers/wire"
)

// Clients of grpc-go make the same calls as those of package wire.
func TestStock(t *testing.T) {
	for name, call := range kinds {
		t.Run(name, func(t *testing.T) {
			lis := listen(t)
			b := backend.ServeStock(lis)
			defer b.Close()
			var s stock
			defer s.Close()
			err := s.Open(Plan{Addr: lis.Addr().String(), Connections: 3, Streams: 7, Call: call})
			if (err != nil) != call.Hold {
				t.Fatalf("Open: %v", err)
			}
			if call.Hold {
				return
			}
			for range 2 { // the second run uses connections again
				r, err := s.Run(20 * time.Millisecond)
				if err != nil {
					t.Fatal(err)
				}
				if r.Calls < 21 || r.Wall < 20*time.Millisecond || r.P50 <= 0 || r.P99 < r.P50 {
					t.Errorf("result %+v of 21 streams", r)
				}
			}
			if fault := b.Fault(); fault != "" {
				t.Error(fault)
			}
		})
	}
}

func TestStockFinds(t *testing.T) {
	w := worker{call: Call{Size: 64, Trips: 1}, number: 7}
	whole := wire.AppendPayload(nil, w.head(0), 64)
	for _, tt := range []struct {
		name, want string
		response   []byte
	}{
		{"nothing", "", whole},
		{"another call's", "expected {Call:7", wire.AppendPayload(nil, wire.Head{Call: 8}, 64)},
		{"another place's", "expected {Call:7", wire.AppendPayload(nil, w.head(1), 64)},
		{"longer", "of 65 octets", wire.AppendPayload(nil, w.head(0), 65)},
		{"lost octet", "differs", append(whole[:30:30], whole[31:]...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.response = tt.response
			if err := w.check(0); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, expected an error with %q", err, tt.want)
			}
		})
	}
	if carries(map[string][]string{"a": {"b"}}, []string{"a", "b"}) != nil || carries(nil, []string{"a", "b"}) == nil || carries(map[string][]string{"a": {"b", "b"}}, []string{"a", "b"}) == nil {
		t.Error("metadata is not told right from wrong")
	}
}
