// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startBackends runs the backends until the test ends.
func startBackends(t testing.TB) (addrs []string) {
	t.Helper()
	for range FanOut {
		addr, stop, err := StartBackend()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		addrs = append(addrs, addr)
	}
	return addrs
}

// connect returns a connection that lives until the test ends.
func connect(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// A side is a way from the client to the backends.
type side struct {
	name string
	do   func(b testing.TB, w Workload) error
}

// sides returns the ways, ready for calls.
func sides(t testing.TB) []side {
	t.Helper()
	addrs := startBackends(t)
	var backends []*grpc.ClientConn
	for _, addr := range addrs {
		backends = append(backends, connect(t, addr))
	}
	all := []side{{"direct", func(t testing.TB, w Workload) error { return w.DoDirect(t.Context(), backends) }}}
	for _, l := range []Library{Ancestor, Moved, Manifold} {
		addr, stop, err := l.Start(addrs)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		conn := connect(t, addr)
		all = append(all, side{string(l), func(t testing.TB, w Workload) error { return w.Do(t.Context(), conn) }})
	}
	return all
}

// Benchmark is every workload over each of the ways, one call at a time.
// cpu-ns/op is of the process, with client and backends.
func Benchmark(b *testing.B) {
	all := sides(b)
	for _, w := range Workloads() {
		for _, s := range all {
			b.Run(w.Name+"/"+s.name, func(b *testing.B) {
				b.ReportAllocs()
				before, err := CurrentUsage()
				if err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					if err := s.do(b, w); err != nil {
						b.Fatal(err)
					}
				}
				after, err := CurrentUsage()
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(after.Sub(before).CPU)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// Each workload gets the right answer each way.
func TestWorkloads(t *testing.T) {
	for _, s := range sides(t) {
		for _, w := range Workloads() {
			t.Run(s.name+"/"+w.Name, func(t *testing.T) {
				if err := s.do(t, w); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A check that accepts anything would let a proxy be fast by losing bytes.
func TestCheckSeesDifferences(t *testing.T) {
	payload := pattern(1000)
	good := append(append([]byte(nil), payload...), payload...)
	if err := newMessage(good).check(payload, 2); err != nil {
		t.Error(err)
	}
	for name, answer := range map[string][]byte{
		"short":       good[:1999],
		"long":        append(good[:2000:2000], 0),
		"one changed": append(append([]byte(nil), good[:1500]...), append([]byte{good[1500] + 1}, good[1501:]...)...),
		"empty":       nil,
	} {
		if newMessage(answer).check(payload, 2) == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
